"""Comparing evaluations: paired differences, problem by problem. Not two intervals that overlap or do not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from rlent.errors import UsageError
from rlent.eval.folder import changes
from rlent.eval.result import DRAWS, LEVEL, Evaluation, without_nan
from rlent.math import intervals, passk
from rlent.types import JsonObject

if TYPE_CHECKING:
    from rich.table import Table

SETTINGS = ("decoding", "template", "grader", "data", "cut_is_wrong")
"""Settings that change scores: a difference in one of them is no difference between models."""


def shown(d: intervals.Difference) -> str:
    """`+0.120 (se 0.031, +0.060 .. +0.180)`, bold where the interval leaves out 0."""
    se = "" if math.isnan(d.se) else f"se {d.se:.3f}, "
    text = f"{d.value:+.3f} ({se}{d.low:+.3f} .. {d.high:+.3f})"
    return f"[bold]{text}[/bold]" if d.low > 0 or d.high < 0 else text


@dataclass(frozen=True)
class Comparison:
    """Paired differences, label - base, by metric (`avg`, `pass@k`, `maj@k`), on the problems that all evaluations share."""

    base: str
    problems: int
    samples: Mapping[str, int]  # by label
    values: Mapping[str, Mapping[str, float]]  # of each evaluation on the shared problems, by metric
    differences: Mapping[str, Mapping[str, intervals.Difference]]
    notes: tuple[str, ...]

    def to_dict(self) -> JsonObject:
        """Plain values: no NaN, what cannot be estimated is None."""
        rows = {label: {name: asdict(d) for name, d in found.items()} for label, found in self.differences.items()}
        document = {
            "base": self.base,
            "problems": self.problems,
            "samples": dict(self.samples),
            "level": LEVEL,
            "interval": "percentile bootstrap over problems of the paired difference",
            "values": {label: dict(found) for label, found in self.values.items()},
            "differences": rows,
            "notes": list(self.notes),
        }
        return without_nan(document)

    def plain(self) -> list[tuple[str, ...]]:
        """Rows of text for a pipe or a CSV file, a header first."""
        rows: list[tuple[str, ...]] = [("evaluation", "base", "metric", "difference", "se", "low", "high", "problems")]
        for label, found in self.differences.items():
            rows += [
                (label, self.base, name, *(f"{x:+.4f}" for x in (d.value, d.se, d.low, d.high)), str(d.problems))
                for name, d in found.items()
            ]
        return rows

    def table(self) -> Table:
        """One row for each metric, one column for each evaluation; differences whose interval leaves out 0 are bold."""
        from rich.table import Table

        caption = "\n".join([f"difference (se of the paired difference, {LEVEL:.0%} paired bootstrap over problems)", *self.notes])
        sizes = ", ".join(f"{label} {n}" for label, n in self.samples.items())
        table = Table(
            title=f"difference from {self.base}, {self.problems} shared problems; samples of each: {sizes}",
            caption=caption,
            title_justify="left",
            caption_justify="left",
        )
        table.add_column("metric")
        table.add_column(self.base, justify="right", no_wrap=True)
        for label in self.differences:
            table.add_column(label, justify="right", no_wrap=True)
        for name, value in self.values[self.base].items():
            table.add_row(name, f"{value:.3f}", *(shown(found[name]) for found in self.differences.values()))
        return table


def labels_of(evals: Sequence[Evaluation]) -> list[str]:
    """A label for each.

    Raises:
        UsageError: fewer than two, or two with the same.
    """
    if len(evals) < 2:
        raise UsageError("a comparison needs at least two evaluations")
    labels = [e.label or f"evaluation {i + 1}" for i, e in enumerate(evals)]
    if len(set(labels)) < len(labels):
        raise UsageError(f"evaluations need different labels; found {', '.join(labels)}")
    return labels


def shared(evals: Sequence[Evaluation]) -> list[list[int]]:
    """Where the problems that all evaluations have stand in each of them, in the order of the first.

    Raises:
        UsageError: there is none.
    """
    rows = [{(t.source, t.id): i for i, t in enumerate(e.problems)} for e in evals]
    common = [key for key in rows[0] if all(key in r for r in rows)]
    if not common:
        raise UsageError("the evaluations have no problem in common, so nothing can be paired")
    return [[r[key] for key in common] for r in rows]


def by_seed(sides: Sequence[Sequence[Evaluation]], k: int) -> list[passk.Array]:
    """pass@k [seeds, problems] of each side (the evaluations of a method's seeds), on the problems that all of them have, in one order.

    Raises:
        UsageError: there is none, or one has fewer than k samples.
    """
    picked = iter(shared([e for side in sides for e in side]))
    return [np.stack([e.pass_values(k)[next(picked)] for e in side]) for side in sides]


def settings_changed(one: Evaluation, other: Evaluation) -> list[str]:
    """Settings that change scores and differ between two evaluations."""
    return [c for part in SETTINGS for c in changes(one.settings.get(part), other.settings.get(part), part)]


def columns(e: Evaluation, ks: Sequence[int]) -> dict[str, passk.Array]:
    """Values per problem [P] of the metrics that are compared. pass@1 and maj@1 are avg and are left out."""
    more = [k for k in ks if k > 1]
    return {"avg": e.accuracy, **{f"pass@{k}": e.pass_values(k) for k in more}, **{f"maj@{k}": e.maj_values(k) for k in more}}


def compare(evals: Sequence[Evaluation], *, seed: int = 0) -> Comparison:
    """Each evaluation against the first, problem by problem: avg, and pass@k and maj@k at every k that all of them have.

    Settings that differ and change scores (template, decoding, data, grader) are named in `notes`.

    Raises:
        UsageError: fewer than two evaluations, two with the same label, or no common problem.
    """
    labels = labels_of(evals)
    picked = shared(evals)
    ks = sorted(set.intersection(*({*e.ladder} for e in evals)))
    found = [{name: v[index] for name, v in columns(e, ks).items()} for e, index in zip(evals, picked, strict=True)]
    differences = {
        label: {name: intervals.paired_bootstrap(v, found[0][name], level=LEVEL, draws=DRAWS, seed=seed) for name, v in mine.items()}
        for label, mine in zip(labels[1:], found[1:], strict=True)
    }
    notes = [
        f"{label} differs from {labels[0]}: {change}"
        for label, e in zip(labels[1:], evals[1:], strict=True)
        for change in settings_changed(evals[0], e)
    ]
    values = {label: {name: float(v.mean()) for name, v in mine.items()} for label, mine in zip(labels, found, strict=True)}
    return Comparison(labels[0], len(picked[0]), {x: e.n for x, e in zip(labels, evals, strict=True)}, values, differences, tuple(notes))
