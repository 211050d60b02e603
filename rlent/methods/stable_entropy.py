"""Entropy-aware decoding: greedy while the entropy lies in the zone in which people write, and something else outside it.

Paper: The Stable Entropy Hypothesis and Entropy-Aware Decoding: An Analysis and Algorithm for Robust Natural Language Generation,
       arXiv:2302.06784.
Seat:  decode: `sample_above` inside the engine (upper bound), `step_back` around it (lower bound, and upper if wanted).
Checked against: the authors' `entropy_aware_decoding` and its helpers.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlent.math.drawing import Request, Rollouts
from rlent.math.entropy import entropy_from_logits
from rlent.options import Count, NonNegative


@overload
def zone(position: float, mean: Sequence[float], std: Sequence[float], band: float) -> tuple[float, float]: ...
@overload
def zone(position: Tensor, mean: Sequence[float], std: Sequence[float], band: float) -> tuple[Tensor, Tensor]: ...
def zone(
    position: float | int | Tensor, mean: Sequence[float], std: Sequence[float], band: float
) -> tuple[float | int | Tensor, float | int | Tensor]:
    """Lower and upper bound of the entropy (nats) at a position: mu(i) -+ b sigma(i), polynomials, highest power first."""
    mu, sigma = _polynomial(mean, position), _polynomial(std, position)
    return mu - band * sigma, mu + band * sigma


def _polynomial(coefficients: Sequence[float], x: float | int | Tensor) -> float | int | Tensor:
    total = 0.0 * x
    for c in coefficients:
        total = total * x + c
    return total


def sample_above(
    logits: Float[Tensor, "n V"],
    temperature: Float[Tensor, " n"],
    position: Int[Tensor, " n"],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    band: NonNegative,
    greedy_until: int,
) -> dict[str, Tensor]:
    """Greedy, but where H > mu(i) + b sigma(i) a draw at the request's temperature. Positions up to `greedy_until` are greedy."""
    entropy = entropy_from_logits(logits)
    _, upper = zone(position.to(entropy), mean, std, band)
    drawn = (entropy > upper) & (position > greedy_until)
    return {"temperature": torch.where(drawn, temperature, 0.0), "drawn": drawn.float(), "entropy": entropy}


def step_back(
    requests: Sequence[Request],
    generate: Callable[..., Rollouts],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    band: NonNegative,
    patience: Count,
    greedy_until: int,
    upper: bool,
    lower: bool,
    backoffs: Count,
) -> Rollouts:
    """Greedy decoding that goes back when the entropy has been below the zone for more than `patience` tokens.

    It then takes, at the oldest position kept, the token one rank lower, up to `backoffs` times in a response. `upper` as in
    `sample_above`. Every token is a call of the engine with the text so far as prefix: cheap with a prefix cache only.
    """
    bounds = partial(zone, mean=mean, std=std, band=band)
    paths = [_Path(r, bounds, patience, greedy_until, upper, lower, backoffs) for r in requests]
    while going := [p for p in paths if p.going]:
        rows = [replace(p.request, prefix=[*p.request.prefix, *p.ids], max_tokens=1) for p in going]
        found = generate(rows, _look)
        for i, path in enumerate(going):
            if not found.tokens[i]:
                path.going = False  # the model has no position left
                continue
            spread = found.sampler_entropy[i][0] if found.sampler_entropy is not None else None
            path.advance(
                _Draw(found.tokens[i][0], found.sampler_logp[i][0], spread, found.notes["entropy"][i][0], found.notes["ranked"][i][0])
            )
    out = generate([replace(p.request, max_tokens=0) for p in paths])
    for i, path in enumerate(paths):
        out.tokens[i], out.sampler_logp[i] = path.ids, [logp for logp, _ in path.drawn]
        out.finish[i] = "stop" if path.ids and path.ids[-1] in path.request.stop else "length"
        if out.sampler_entropy is not None:
            out.sampler_entropy[i] = [spread or 0.0 for _, spread in path.drawn]
    out.notes = {"entropy": [p.entropies for p in paths]}
    out.counts = {
        "model_calls": [p.calls for p in paths],
        "backoffs": [len(p.backed) for p in paths],
        "backoff_indexes": [p.backed for p in paths],
        "above": [p.above for p in paths],
    }
    return out


_DEPTH = 256


def _look(logits: Float[Tensor, "n V"]) -> Mapping[str, Tensor]:
    """The entropy of each row, and its most likely tokens in order; a token ranked below them counts as the last of them."""
    return {"entropy": entropy_from_logits(logits), "ranked": logits.sort(dim=1, descending=True, stable=True).indices[:, :_DEPTH]}


@dataclass(frozen=True)
class _Draw:
    """What one call of the model says of one position: the token that was drawn, and what might have been."""

    token: int
    logp: float
    spread: float | None
    entropy: float
    ranked: list[int]


@dataclass(frozen=True)
class _Saved:
    ids: list[int]
    below: int
    rank: int
    draw: _Draw


class _Path:
    """One response on its way. `below`: tokens in a row whose entropy was under the zone."""

    def __init__(
        self,
        request: Request,
        bounds: Callable[[int], tuple[float, float]],
        patience: int,
        greedy_until: int,
        upper: bool,
        lower: bool,
        backoffs: int,
    ) -> None:
        self.request, self.bounds, self.patience, self.greedy_until = request, bounds, patience, greedy_until
        self.upper, self.lower, self.backoffs = upper, lower, backoffs
        self.ids: list[int] = []
        self.drawn: list[tuple[float, float | None]] = []  # log-probability and entropy of the distribution of each token
        self.entropies: list[float] = []
        self.above: list[int] = []
        self.backed: list[int] = []
        self.saved: deque[_Saved] = deque(maxlen=patience + 1)
        self.below = self.calls = 0
        self.going = request.max_tokens > 0

    def advance(self, draw: _Draw) -> None:
        """Take the next token, or another one in place of an earlier one."""
        self.calls += 1
        i = len(self.ids) + len(self.request.prefix)
        token, rank, how = draw.ranked[0], 0, (0.0, 0.0)
        if i > self.greedy_until:
            low, high = self.bounds(i)
            self.above.append(int(draw.entropy > high))
            if self.upper and draw.entropy > high:
                token, how = draw.token, (draw.logp, draw.spread)
                rank = draw.ranked.index(token) if token in draw.ranked else len(draw.ranked) - 1
            if self.lower:
                self.below = self.below + 1 if draw.entropy < low else 0
                if self.below > self.patience and len(self.backed) < self.backoffs and self.saved:
                    self.backed.append(i)
                    old = self.saved.popleft()
                    draw, rank, how = old.draw, min(old.rank + 1, len(old.draw.ranked) - 1), (0.0, 0.0)
                    token, self.below = draw.ranked[rank], old.below
                    self.ids, self.drawn, self.entropies = old.ids, self.drawn[: len(old.ids)], self.entropies[: len(old.ids)]
                self.saved.append(_Saved(list(self.ids), self.below, rank, draw))
        self.ids.append(token)
        self.drawn.append(how)
        self.entropies.append(draw.entropy)
        self.going = token not in self.request.stop and len(self.ids) < self.request.max_tokens
