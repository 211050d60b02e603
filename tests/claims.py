"""What a card claims of its method, as data, and how a claim is read in the record of a short run.

    claims:
      - {stream: gradient, where: {clip_cov_selected: true}, sign: zero}
      - {metric: entropy/after, compared_with: grpo, sign: positive}
      - {stream: weight, covaries_with: old_entropy, sign: negative}
      - {given: ["trainer.epochs=2"], because: "...", stream: gradient, ...}

A claim has a `sign` (positive, negative, or zero) and says of what:

    metric           a name in metrics.jsonl, or the difference of two, `entropy/sampler - entropy/mean`
    stream           a stream of the saved batch: its mean over the trained response tokens (zero: each of them is 0)
    where            which tokens: {stream: true | false | positive | negative | zero | high | low | above x | below x | x to y}, all of them together;
                     high and low are above and below the median of the trained response tokens
    covaries_with    the covariance with this stream over those tokens, in the place of the mean
    compared_with    the difference to the same number of another run of the same seed: a recipe with the same `given`, or a list of overrides
    step             the step that is read, 1 if it is not given
    given, because   overrides that make the effect occur on the embedded task in a few steps, and why they are needed

Beside the streams that a batch holds there are, of the last update that a row was in, `gradient` (-d objective / d logp, as if the loss were a
token mean), `pull`, `loss`, `gate`, `weight`, `now_entropy`, `ratio` and `drift` (of the entropy, as a share); of the whole step `moved` and `change`, what it did
to log-probability and entropy; and what `_stream` makes: of tokens `covariance`, `cooling`, `favour`, `lead`; of responses `row_entropy`, `agreement`,
`solved`, `cut`, ...
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import yaml
from runs import SMALL, rows
from torch import Tensor

from rlent.runs import kept
from rlent.system.paths import recipes_dir
from rlent.types import Batch

Sign = Literal["positive", "negative", "zero"]
STEPS = 2
COMMON = (
    *SMALL,
    f"trainer.steps={STEPS}",
    "seed=14",  # three of four groups have right and wrong responses in the first step
    "trainer.minibatches=1",  # one update: what two recipes do to the same weights can be compared
    "sampler.n=8",
    "sampler.max_tokens=16",
    "data.train_size=200",
    "optim.lr=1e-4",
    "track.save_batches=1",
)
"""Overrides of every run in which a claim is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One line of a card's `claims:`."""

    sign: Sign
    metric: str | None = None
    stream: str | None = None
    where: tuple[tuple[str, Any], ...] = ()
    covaries_with: str | None = None
    compared_with: str | tuple[str, ...] | None = None
    step: int = 1
    given: tuple[str, ...] = ()
    because: str | None = None

    def __post_init__(self) -> None:
        if self.sign not in get_args(Sign):
            raise ValueError(f"sign: {self.sign!r} is not one of {', '.join(get_args(Sign))}")
        if (self.metric is None) == (self.stream is None):
            raise ValueError("a claim is of a metric or of a stream")
        if self.metric is not None and (self.where or self.covaries_with):
            raise ValueError("where and covaries_with are of streams")
        if bool(self.given) != bool(self.because):
            raise ValueError("given and because come together")

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Claim:
        """A claim from a card; a key that is not one is an error."""
        made = dict(data)
        made["where"] = tuple((made.get("where") or {}).items())
        for key in ("given", "compared_with"):
            if isinstance(made.get(key), list):
                made[key] = tuple(made[key])
        return cls(**made)


OTHER_MODEL = "OTHER_MODEL"
"""In an override: the path of a model that is not the one that training begins with."""


def claims_of(name: str) -> list[Claim]:
    """The claims of a recipe's card."""
    card = yaml.safe_load((recipes_dir() / "recipe" / f"{name}.yaml").read_text())["card"]
    return [Claim.read(data) for data in card.get("claims") or []]


Runs = Callable[[tuple[str, ...]], Path]
"""From overrides to the folder of the run that they make."""


def value(claim: Claim, name: str, runs: Runs) -> float:
    """The number whose sign is claimed of recipe `name`; for `zero` the largest magnitude.

    Raises:
        AssertionError: no token is what `where` asks for.
    """
    ours = _of(claim, runs((f"recipe={name}", *claim.given)))
    if claim.compared_with is not None:
        base = (f"recipe={claim.compared_with}", *claim.given) if isinstance(claim.compared_with, str) else claim.compared_with
        ours = ours - _of(claim, runs(base))
    if claim.metric is not None:
        return float(ours)
    batch = _batch(runs((f"recipe={name}", *claim.given)), claim.step)
    among = _among(claim, batch)
    assert among.any(), "no token is what the claim is about"
    found = ours[among].double()
    if claim.covaries_with is not None:
        other = _tokens(_stream(batch, claim.covaries_with), batch)[among].double()
        return float(((found - found.mean()) * (other - other.mean())).mean())
    return float(found.abs().max()) if claim.sign == "zero" else float(found.mean())


def holds(claim: Claim, found: float) -> bool:
    """Whether a number has the sign that is claimed; rounding is no sign."""
    sign = 0 if abs(found) < 1e-7 else (1 if found > 0 else -1)
    return {"positive": sign > 0, "negative": sign < 0, "zero": sign == 0}[claim.sign]


def _of(claim: Claim, folder: Path) -> Tensor:
    """The metric [] or the stream [N,T] of a run."""
    if claim.stream is not None:
        batch = _batch(folder, claim.step)
        return _tokens(_stream(batch, claim.stream), batch)
    first, _, second = str(claim.metric).partition(" - ")
    row = rows(folder)[claim.step - 1]
    less = 0.0 if not second else row[second] if second in row else float(second)
    return torch.tensor(row[first] - less, dtype=torch.float64)


def _batch(folder: Path, step: int) -> Batch:
    return kept.load(folder / "batches" / kept.file_name(step))


def _stream(batch: Batch, name: str) -> Tensor:
    """A stream of the batch, or one that is made of others."""
    last = max(int(k.removeprefix("update")[0]) for k in batch if k.startswith("update"))
    mask = batch["mask"]

    def rowwise(values: Tensor) -> Tensor:
        return torch.where(mask, values, 0.0).sum(1) / mask.sum(1).clamp(min=1)

    def within_group(found: Callable[[int, list[int]], float]) -> Tensor:
        members = [[j for j, g in enumerate(batch["group"].tolist()) if g == own] for own in batch["group"].tolist()]
        return torch.tensor([found(i, rows) for i, rows in enumerate(members)])

    made: dict[str, Callable[[], Tensor]] = {
        "now_entropy": lambda: batch[f"update{last}:entropy"],
        "ratio": lambda: (batch[f"update{last}:logp"] - batch["old_logp"]).exp(),
        "moved": lambda: batch["after_logp"] - batch["old_logp"],
        "change": lambda: batch["after_entropy"] - batch["old_entropy"],
        "drift": lambda: (batch[f"update{last}:entropy"] / batch["old_entropy"].clamp(min=1e-9) - 1).abs(),
        "cooling": lambda: batch["old_entropy"] - batch["sampler_entropy"],
        "position": lambda: torch.arange(batch.width).expand(len(batch), -1),
        "prob": lambda: batch["old_logp"].exp(),
        "favour": lambda: batch["sampler_logp"] - batch["old_logp"],
        "lead": lambda: (batch["rm_logp"] - batch["ref_logp"]).masked_fill(~mask, 0.0).flip(1).cumsum(1).flip(1),
        "covariance": lambda: _centred(batch["old_logp"], mask) * _centred(batch["adv"], mask),
        "row_entropy": lambda: rowwise(batch["old_entropy"]),
        "row_certainty": lambda: rowwise(batch["old_self_certainty"]) * mask.sum(1),
        "cut": lambda: torch.tensor([f == "length" for f in batch["finish"]]),
        "demonstration": lambda: torch.tensor([s == "demo" for s in batch["source"]]),
        "replayed": lambda: torch.tensor([s == "replay" for s in batch["source"]]),
        "agreement": lambda: within_group(lambda i, rows: sum(batch["answer"][j] == batch["answer"][i] for j in rows) / len(rows)),
        "paper": lambda: torch.stack([batch["reward"][batch["sample"] == n].sum() for n in batch["sample"]]),
        "solved": lambda: within_group(lambda _, rows: float(batch["correct"][rows].double().mean())),
    }
    made |= {k: lambda k=k: batch[f"update{last}:{k}"] for k in ("gradient", "loss", "pull", "gate", "weight")}
    if name in made:
        return made[name]()
    assert name in batch, f"there is no stream '{name}'; the streams are {', '.join(sorted(batch))}"
    return torch.as_tensor(batch[name])


def _centred(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values - values[mask].mean(), 0.0)


def _tokens(stream: Tensor, batch: Batch) -> Tensor:
    """A stream of rows or tokens as one of tokens [N,T]."""
    return (stream[:, None].expand(-1, batch.width) if stream.ndim == 1 else stream).to(torch.float64)


def _among(claim: Claim, batch: Batch) -> Tensor:
    """The trained response tokens that `where` names [N,T]."""
    tokens = batch["mask"] & batch["train"][:, None]
    chosen = tokens.clone()
    for name, condition in claim.where:
        chosen &= _is(_tokens(_stream(batch, name), batch), str(condition).lower(), tokens)
    return chosen


def _is(found: Tensor, condition: str, tokens: Tensor) -> Tensor:
    word, _, number = condition.partition(" ")
    bounds = {"above": operator.gt, "below": operator.lt}
    if number.startswith("to "):
        return (found > float(word)) & (found < float(number.removeprefix("to ")))
    if word in bounds:
        return bounds[word](found, float(number))
    tests: dict[str, Callable[[], Tensor]] = {
        "true": lambda: found != 0,
        "false": lambda: found == 0,
        "zero": lambda: found == 0,
        "positive": lambda: found > 0,
        "negative": lambda: found < 0,
        "high": lambda: found > found[tokens].median(),
        "low": lambda: found < found[tokens].median(),
    }
    return tests[word]()
