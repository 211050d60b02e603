"""A model on several sets: a line for each, two averages, and the paired comparison of several models.

`mean_of_sets` gives every set the same weight. `mean_of_rows` gives a set the weight of its rows, problems times samples: it is the mean
over all responses, and what the Entropy Mechanism's tables call "Avg." (a validation file with 32 copies of each sampled problem).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlent.errors import DataError, UsageError
from rlent.eval.compare import Comparison, columns, compare, labels_of, shared, shown
from rlent.eval.folder import write_json
from rlent.eval.result import DRAWS, INTERVALS, LEVEL, Evaluation, without_nan
from rlent.math import intervals
from rlent.types import JsonObject

if TYPE_CHECKING:
    from rich.table import Table

MEANS = {"mean_of_sets": "mean of sets, each the same weight", "mean_of_rows": 'mean of rows, the paper\'s "Avg."'}


def weights(evals: Mapping[str, Evaluation], kind: str) -> dict[str, float]:
    """The weight of each set in one of the `MEANS`; they add up to 1."""
    raw = {name: 1.0 if kind == "mean_of_sets" else float(e.rows) for name, e in evals.items()}
    return {name: w / math.fsum(raw.values()) for name, w in raw.items()}


@dataclass(frozen=True, slots=True)
class Mean:
    """A weighted mean of avg@n over sets. Problems of different sets are independent, so variances add; the interval is normal, and
    NaN where no set has a spread.
    """

    value: float
    se_problems: float
    low: float
    high: float
    weights: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """One model on several sets. `notes` are what a reader of a set's number should know, `clean` the numbers without problems that
    are in the training data."""

    label: str
    sets: Mapping[str, Evaluation]
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    clean: Mapping[str, JsonObject] = field(default_factory=dict)

    @cached_property
    def means(self) -> dict[str, Mean]:
        found = {}
        for kind in MEANS:
            share = weights(self.sets, kind)
            value = math.fsum(share[name] * e.average.value for name, e in self.sets.items())
            se = math.sqrt(math.fsum((share[name] * e.average.se_problems) ** 2 for name, e in self.sets.items()))
            reach = intervals.normal_quantile(0.5 + LEVEL / 2) * se
            low, high = (float(np.clip(x, 0, 1)) if se > 0 else math.nan for x in (value - reach, value + reach))
            found[kind] = Mean(value, se, low, high, share)
        return found

    def metrics(self) -> dict[str, float]:
        """Numbers to log: those of each set under `eval/<set>/`, and the two means."""
        one = {name: value for s, e in self.sets.items() for name, value in e.metrics(f"eval/{s}").items()}
        return one | {f"eval/{kind}": mean.value for kind, mean in self.means.items()}

    def to_dict(self) -> JsonObject:
        """Plain values: no NaN, what cannot be estimated is None. Problems and responses are in the folders of the sets."""
        rows = {}
        for name, e in self.sets.items():
            how = {key: e.settings.get(key) for key in ("decoding", "template", "seed", "stop", "stop_texts", "rendered", "grader", "data")}
            rows[name] = {**e.summary(), **how, "notes": list(self.notes.get(name, ())), "without_training_problems": self.clean.get(name)}
        first = next(iter(self.sets.values()))
        document = {
            "label": self.label,
            "level": LEVEL,
            "model": first.settings.get("about"),
            "versions": first.settings.get("versions"),
            "sets": rows,
            "means": {kind: {"meaning": MEANS[kind], **asdict(mean)} for kind, mean in self.means.items()},
        }
        return without_nan(document)  # type: ignore[no-any-return]

    def save(self, folder: Path) -> None:
        write_json(folder / "suite.json", self.to_dict())

    @classmethod
    def load(cls, folder: Path) -> Report:
        """Read a suite's folder: `suite.json`, and `eval.json` of each set.

        Raises:
            DataError: there is none, or it is broken.
        """
        try:
            document = json.loads((folder / "suite.json").read_text(encoding="utf-8"))
            notes = {name: row["notes"] for name, row in document["sets"].items()}
            clean = {name: row["without_training_problems"] for name, row in document["sets"].items() if row["without_training_problems"]}
            return cls(document["label"], {name: Evaluation.load(folder / name) for name in document["sets"]}, notes, clean)
        except FileNotFoundError:
            raise DataError(f"{folder}: there is no suite.json; `rlent eval eval=paper ...` writes one") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder}: suite.json is not a suite ({type(error).__name__}: {error})") from error

    def table(self) -> Table:
        """One row for each set, then the two means."""
        from rich.table import Table

        notes = [f"{name}: {note}" for name, said in self.notes.items() for note in said]
        kinds = {e.average.interval for e in self.sets.values()}
        how = " or ".join(INTERVALS[k] for k in sorted(kinds)) + " over problems; means: normal, from se_problems"
        table = Table(
            title=f"{self.label}: {len(self.sets)} sets", title_justify="left", caption_justify="left",
            caption="\n".join([f"{LEVEL:.0%} intervals: {how}", *notes]),
        )  # fmt: skip
        table.add_column("set", no_wrap=True)
        table.add_column("problems x samples", no_wrap=True)
        for name in ("avg@n", "interval", "se_problems", "se_runs", "pass@k", "cut", "no answer", "timed out"):
            table.add_column(name, justify="right", no_wrap=True)
        for name, e in self.sets.items():
            a, k, decoding = e.average, e.ladder[-1], e.settings.get("decoding") or {}
            heat = f", T {decoding['temperature']:g}" if decoding.get("temperature") else ", greedy" if decoding else ""
            table.add_row(
                name, f"{len(e.problems)} x {e.n}{heat}", f"{a.value:.3f}", _range(a.low, a.high), _number(a.se_problems), _number(a.se_runs),
                f"@{k} {e.pass_at_k[k].value:.3f}" if k > 1 else "", f"{e.cut:.1%}", f"{e.unanswered:.1%}", f"{e.timed_out:.1%}",
            )  # fmt: skip
        table.add_section()
        for kind, mean in self.means.items():
            table.add_row(kind, MEANS[kind].partition(", ")[2], f"{mean.value:.3f}", _range(mean.low, mean.high), _number(mean.se_problems))
        return table

    def plain(self) -> list[tuple[str, ...]]:
        """Rows of text for a pipe or a CSV file, a header first."""
        rows: list[tuple[str, ...]] = [("set", "metric", "value", "low", "high", "problems", "samples")]
        for name, e in self.sets.items():
            rows += [(name, *row, str(len(e.problems)), str(e.n)) for row in e.plain()[1:]]
        rows += [(kind, "avg", *(_number(x, 4) for x in (m.value, m.low, m.high)), "", "") for kind, m in self.means.items()]
        return rows


def _number(value: float, digits: int = 3) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def _range(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"{low:.3f} .. {high:.3f}"


# --- several models --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SuiteComparison:
    """Paired differences of several models from the first: on each set, and of the two means, whose bootstrap resamples the problems
    of each set by themselves."""

    base: str
    sets: Mapping[str, Comparison]
    means: Mapping[str, Mapping[str, intervals.Difference]]  # by label, by kind of mean
    values: Mapping[str, float]  # the base's two means, on shared problems

    def to_dict(self) -> JsonObject:
        means = {label: {kind: asdict(d) for kind, d in found.items()} for label, found in self.means.items()}
        document = {"base": self.base, "sets": {name: c.to_dict() for name, c in self.sets.items()}, "means": means, "level": LEVEL}
        return without_nan(document)  # type: ignore[no-any-return]

    def plain(self) -> list[tuple[str, ...]]:
        """Rows of text for a pipe or a CSV file, a header first."""
        first = next(iter(self.sets.values()))
        rows = [("set", *first.plain()[0])]
        rows += [(name, *row) for name, c in self.sets.items() for row in c.plain()[1:]]
        for label, found in self.means.items():
            for kind, d in found.items():
                rows.append((kind, label, self.base, "avg", *(f"{x:+.4f}" for x in (d.value, d.se, d.low, d.high)), str(d.problems)))
        return rows

    def table(self) -> Table:
        """avg@n: one row for each set and mean, one column for each model; differences whose interval leaves out 0 are bold."""
        from rich.table import Table

        notes = [f"{name}: {note}" for name, c in self.sets.items() for note in c.notes]
        caption = "\n".join([f"difference (se of the paired difference, {LEVEL:.0%} paired bootstrap over problems)", *notes])
        table = Table(title=f"avg@n, difference from {self.base}", caption=caption, title_justify="left", caption_justify="left")
        table.add_column("set", no_wrap=True)
        table.add_column("problems x samples", no_wrap=True)
        for label in (self.base, *self.means):
            table.add_column(label, justify="right", no_wrap=True)
        for name, c in self.sets.items():
            size = f"{c.problems} x {'/'.join(dict.fromkeys(map(str, c.samples.values())))}"
            table.add_row(name, size, f"{c.values[c.base]['avg']:.3f}", *(shown(found["avg"]) for found in c.differences.values()))
        table.add_section()
        for kind in MEANS:
            text = MEANS[kind].partition(", ")[2]
            table.add_row(kind, text, f"{self.values[kind]:.3f}", *(shown(found[kind]) for found in self.means.values()))
        return table


def compare_reports(reports: Sequence[Report], *, seed: int = 0) -> SuiteComparison:
    """Each report against the first, on the sets that all of them have.

    Raises:
        UsageError: fewer than two, two with one label, or no set in common.
    """
    names = [name for name in reports[0].sets if all(name in r.sets for r in reports)]
    if not names:
        raise UsageError("the evaluations have no set in common")
    evals = {name: [r.sets[name] for r in reports] for name in names}
    labels = labels_of([r.sets[names[0]] for r in reports])
    sets = {name: compare(found, seed=seed) for name, found in evals.items()}
    base = {name: found[0] for name, found in evals.items()}
    accuracy = {
        name: [columns(e, ())["avg"][index] for e, index in zip(found, shared(found), strict=True)] for name, found in evals.items()
    }
    means: dict[str, dict[str, intervals.Difference]] = {label: {} for label in labels[1:]}
    values = {}
    for kind in MEANS:
        share = weights(base, kind)
        values[kind] = math.fsum(share[name] * float(accuracy[name][0].mean()) for name in names)
        for i, label in enumerate(labels[1:], start=1):
            pairs = [(accuracy[name][i], accuracy[name][0]) for name in names]
            means[label][kind] = intervals.paired_bootstrap_of_sets(
                pairs, [share[name] for name in names], level=LEVEL, draws=DRAWS, seed=seed
            )
    return SuiteComparison(labels[0], sets, means, values)
