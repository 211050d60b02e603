"""The entropy ledger: what theory says an update does to the entropy, beside what it did.

For each sampled token the theorems of The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models
(arXiv:2505.22617, section 3, tabular softmax) give a change of entropy per unit logit step. The step's true size in logits
is unknown for a network with shared weights, so the means `d1` and `d2` are kept beside the change measured on the same rows,
with the slope that turns one into the other, their correlation and the share of equal signs. A forecast in nats uses the slope of
earlier steps only.

`account` says on which tokens of those rows the change fell, and on which the predictions lie (`rlent budget`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlent.math import attribution, covariance, noise
from rlent.math.covariance import entropy_change_terms, sampled_entropy_change
from rlent.types import Batch, JsonObject

__all__ = ["TERMS", "EntropyLedger", "account", "entropy_change_terms", "sample_rows", "second_moment", "token_terms"]

TERMS = ("measured", "d1", "d2", "steer")
"""What is accounted for: the measured change (nats), and three predictions per unit step (theorems 1 and 2, and STEER's)."""

TOKENS_KEPT = 64


def second_moment(logits: Float[Tensor, "t V"], target: Int[Tensor, " t"]) -> Float[Tensor, " t"]:
    """sum_v p_v^2 (log p_v + H), in float32 or better; a probe (the sampled token `target` does not enter)."""
    logits = logits if logits.element_size() >= 4 else logits.float()
    return covariance.second_moment(logits.log_softmax(-1))


def sample_rows(n_rows: int, count: int, seed: int, step: int) -> list[int]:
    """`count` of range(n_rows), ascending, drawn from (seed, step); all of them when there are fewer."""
    return sorted(noise.permutation(n_rows, "ledger", seed, step)[: max(count, 0)])


def token_terms(rows: Batch) -> dict[str, Float[Tensor, " n"]]:
    """`TERMS` at every response token of some rows, in float64, in the order of rows and positions.

    Reads mask, adv, gradient (the step's whole pull), and logp, entropy, second (before the updates) and after (entropy, after them).
    """
    mask = rows["mask"]
    logp, entropy, second, adv, pull = (rows[k].double()[mask] for k in ("logp", "entropy", "second", "adv", "gradient"))
    d1, d2 = entropy_change_terms(logp, entropy, adv, pull, second)
    change = rows["after"].double()[mask] - entropy
    return {"measured": change, "d1": d1, "d2": d2, "steer": sampled_entropy_change(logp, logp, entropy, adv)}


def account(rows: Batch, accuracy: Mapping[int, float]) -> JsonObject:
    """A step's entry of the budget: for each way to divide the tokens, [tokens, *`TERMS`] of each part, where the terms are shares of the mean.

    `rows` as for `token_terms`, with tokens and group; `accuracy` is the share of correct responses of each group of the step.
    """
    terms = {k: v.numpy() for k, v in token_terms(rows).items()}
    mask = rows["mask"]
    length = mask.sum(1)
    row, position = (x.numpy() for x in mask.nonzero(as_tuple=True))
    group = torch.tensor([accuracy[int(g)] for g in rows["group"]], dtype=torch.float64)
    places = {
        "advantage": attribution.by_sign(rows["adv"].double()[mask].numpy()),
        "probability": attribution.by_probability(rows["logp"].double()[mask].exp().numpy()),
        "position": attribution.by_third(position, length.numpy()[row]),
        "accuracy": attribution.by_accuracy(group.numpy()[row]),
    }
    parts = {name: attribution.sums(place, attribution.DIVISIONS[name], terms) for name, place in places.items()}
    parts["token"] = attribution.by_token(rows["tokens"][mask].numpy(), terms, TOKENS_KEPT)
    return {"tokens": int(mask.sum()), **{k: float(v.mean()) for k, v in terms.items()}, "by": parts}


class EntropyLedger:
    """Running statistics of predicted against measured entropy changes.

    `window` is the number of latest steps they are over; None: all steps. The state is the list of the entries, so a resumed ledger
    goes on exactly where it stopped.
    """

    def __init__(self, window: int | None = None) -> None:
        if window is not None and window < 1:
            raise ValueError(f"window is {window}; it must be at least 1, or None for all steps")
        self.window = window
        self.entries: list[tuple[float, float, float]] = []

    def update(self, d1: float, d2: float, measured: float) -> dict[str, float]:
        """Add a step's means and its measured change in nats; returns the `ledger/*` metrics.

        A step with a value that is not finite is reported but not kept. Statistics that are not defined yet (a slope without any
        prediction, a correlation of fewer than three steps) are left out.
        """
        found = {"ledger/d1": d1, "ledger/d2": d2, "ledger/measured": measured}
        for index, d in ((1, d1), (2, d2)):
            earlier = self._slope(index)
            if earlier is not None:
                found[f"ledger/predicted{index}"] = earlier * d
        if all(map(math.isfinite, (d1, d2, measured))):
            self.entries.append((float(d1), float(d2), float(measured)))
            if self.window is not None:
                del self.entries[: -self.window]
        for index in (1, 2):
            for name, value in (("slope", self._slope(index)), ("corr", self._correlation(index)), ("sign", self._same_sign(index))):
                if value is not None:
                    found[f"ledger/{name}{index}"] = value
        return found

    def state_dict(self) -> JsonObject:
        return {"window": self.window, "entries": [list(e) for e in self.entries]}

    def load_state_dict(self, state: JsonObject) -> None:
        self.window = state["window"]
        self.entries = [(float(a), float(b), float(c)) for a, b, c in state["entries"]]

    def _columns(self, index: int) -> tuple[list[float], list[float]]:
        return [e[index - 1] for e in self.entries], [e[2] for e in self.entries]

    def _slope(self, index: int) -> float | None:
        """Least squares through the origin, from the first step on (`statistics.linear_regression` wants two)."""
        d, measured = self._columns(index)
        square = _dot(d, d)
        return _dot(d, measured) / square if square > 0 else None

    def _correlation(self, index: int) -> float | None:
        d, measured = self._columns(index)
        if len(d) < 3:
            return None
        d, measured = _centred(d), _centred(measured)
        scale = math.sqrt(_dot(d, d)) * math.sqrt(_dot(measured, measured))
        return max(-1.0, min(1.0, _dot(d, measured) / scale)) if scale > 0 else None

    def _same_sign(self, index: int) -> float | None:
        d, measured = self._columns(index)
        return sum(_sign(a) == _sign(b) for a, b in zip(d, measured, strict=True)) / len(d) if d else None


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def _centred(values: Sequence[float]) -> list[float]:
    mean = math.fsum(values) / len(values)
    return [v - mean for v in values]


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
