"""What an evaluation found: counts of each problem, the numbers that follow from them, and how two of them compare."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlent.errors import DataError, UsageError
from rlent.eval.folder import Sample, changes, write_json
from rlent.math import passk

if TYPE_CHECKING:
    from rich.table import Table

LEVEL = 0.95
DRAWS = 10_000


def ladder(most: int) -> list[int]:
    """1, 2, 4, ... up to `most`, and `most`.

    Raises:
        UsageError: `most` below 1.
    """
    if most < 1:
        raise UsageError(f"pass@{most}: k of at least 1 is accepted")
    return sorted({2**i for i in range(most.bit_length())} | {most})


# --- one problem -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tally:
    """What an evaluation keeps of one problem. `verdicts` has a 1 for each correct sample and a 0 for each other, in order."""

    id: str
    source: str
    verdicts: str
    classes: int  # different answers
    maj: Mapping[int, float]
    cut: int
    unanswered: int
    status: Mapping[str, int]
    tokens: int
    nll: float  # summed over tokens

    @property
    def n(self) -> int:
        return len(self.verdicts)

    @property
    def correct(self) -> int:
        return self.verdicts.count("1")


def tally(samples: Sequence[Sample], ks: Sequence[int], equal: Callable[[str, str], bool] | None, *, cut_is_wrong: bool = True) -> Tally:
    """Count one problem's samples and take the votes for each k. A response that was cut off does not vote if it is wrong."""
    samples = sorted(samples, key=lambda s: s.sample)
    votes = [None if cut_is_wrong and s.finish == "length" else s.answer for s in samples]
    correct = [s.correct for s in samples]
    classes = passk.answer_classes(votes, equal, correct)
    maj = passk.maj_at_k([c if c >= 0 else None for c in classes], correct, ks)
    return Tally(
        id=samples[0].problem,
        source=samples[0].source,
        verdicts="".join("1" if c else "0" for c in correct),
        classes=max(classes) + 1,
        maj={k: float(v) for k, v in zip(ks, maj, strict=True)},
        cut=sum(s.finish == "length" for s in samples),
        unanswered=sum(s.status == "no_answer" for s in samples),
        status=dict(sorted(Counter(s.status for s in samples).items())),
        tokens=sum(s.tokens for s in samples),
        nll=math.fsum(s.nll * s.tokens for s in samples),
    )


# --- all problems ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems and its percentile bootstrap interval over problems."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Evaluation:
    """Counts of every problem, the settings they were made with, and the numbers that follow.

    `ks` are the k that were asked for (logged); `ladder` has the powers of two up to the largest as well (saved and plotted).
    """

    label: str
    ks: tuple[int, ...]
    problems: tuple[Tally, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Samples of each problem."""
        return self.problems[0].n

    @property
    def ladder(self) -> list[int]:
        return sorted({*ladder(max(self.ks)), *self.ks})

    @cached_property
    def average(self) -> passk.Average:
        """avg@n and its errors."""
        return passk.avg_at_n(np.array([[int(v) for v in t.verdicts] for t in self.problems]), level=LEVEL)

    def pass_values(self, k: int) -> passk.Array:
        """pass@k of each problem [P]."""
        return passk.pass_at_k([t.n for t in self.problems], [t.correct for t in self.problems], k)

    @cached_property
    def pass_at_k(self) -> dict[int, Estimate]:
        return self._estimates(np.stack([self.pass_values(k) for k in self.ladder], 1))

    @cached_property
    def maj_at_k(self) -> dict[int, Estimate]:
        return self._estimates(np.array([[t.maj[k] for k in self.ladder] for t in self.problems]))

    def _estimates(self, values: passk.Array) -> dict[int, Estimate]:
        low, high = passk.bootstrap_interval(values, level=LEVEL, draws=DRAWS)
        columns = zip(self.ladder, values.mean(0), low, high, strict=True)
        return {k: Estimate(float(v), float(lo), float(hi)) for k, v, lo, hi in columns}

    @property
    def rows(self) -> int:
        """Responses in all."""
        return sum(t.n for t in self.problems)

    @property
    def cut(self) -> float:
        """Share of responses that the length limit cut off."""
        return sum(t.cut for t in self.problems) / self.rows

    @property
    def unanswered(self) -> float:
        """Share of responses without an answer."""
        return sum(t.unanswered for t in self.problems) / self.rows

    @property
    def status(self) -> dict[str, int]:
        """Responses by the grader's status."""
        total: Counter[str] = Counter()
        for t in self.problems:
            total.update(t.status)
        return dict(total)

    @property
    def length(self) -> float:
        """Mean response tokens, end of text included."""
        return sum(t.tokens for t in self.problems) / self.rows

    @property
    def nll(self) -> float:
        """Mean -log p of the sampled tokens, over tokens, in nats: an estimate of the sampling distribution's entropy."""
        return math.fsum(t.nll for t in self.problems) / max(1, sum(t.tokens for t in self.problems))

    def by_source(self) -> dict[str, Evaluation]:
        """One evaluation for each data set among the problems."""
        sources = dict.fromkeys(t.source for t in self.problems)
        return {s: Evaluation(self.label, self.ks, tuple(t for t in self.problems if t.source == s), self.settings) for s in sources}

    def metrics(self) -> dict[str, float]:
        """Numbers to log: `eval/avg`, `eval/pass@k` and `eval/maj@k` for the k asked for, intervals of pass@k, and the shares."""
        found = {"eval/avg": self.average.value}
        for k in self.ks:
            one = self.pass_at_k[k]
            found |= {f"eval/pass@{k}": one.value, f"eval/pass@{k}_low": one.low, f"eval/pass@{k}_high": one.high}
            found[f"eval/maj@{k}"] = self.maj_at_k[k].value
        return {**found, "eval/cut": self.cut, "eval/unanswered": self.unanswered, "eval/length": self.length, "eval/nll": self.nll}

    def _summary(self) -> dict[str, Any]:
        return {
            "problems": len(self.problems),
            "samples": self.n,
            "avg": asdict(self.average),
            "pass_at_k": {str(k): asdict(e) for k, e in self.pass_at_k.items()},
            "maj_at_k": {str(k): asdict(e) for k, e in self.maj_at_k.items()},
            "cut": self.cut,
            "unanswered": self.unanswered,
            "timed_out": self.status.get("timeout", 0) / self.rows,
            "status": self.status,
            "length": self.length,
            "nll": self.nll,
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything, as plain values (no NaN: what cannot be estimated is None)."""
        parts = self.by_source()
        document = {
            "label": self.label,
            "ks": list(self.ks),
            "level": LEVEL,
            **self._summary(),
            "by_source": {source: part._summary() for source, part in parts.items()} if len(parts) > 1 else {},
            "seconds": dict(self.seconds),
            "settings": dict(self.settings),
            "per_problem": [
                {**asdict(t), "n": t.n, "correct": t.correct, "maj": {str(k): v for k, v in t.maj.items()}} for t in self.problems
            ],
        }
        return _without_nan(document)  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Evaluation:
        """The evaluation that `to_dict` described. Numbers are computed again from the counts."""
        tallies = tuple(
            Tally(**{**{name: row[name] for name in Tally.__slots__}, "maj": {int(k): v for k, v in row["maj"].items()}})
            for row in document["per_problem"]
        )
        return cls(document["label"], tuple(document["ks"]), tallies, document["settings"], document.get("seconds", {}))

    @classmethod
    def load(cls, path: Path | str) -> Evaluation:
        """Read `eval.json`, given the file or its folder.

        Raises:
            DataError: no such file, or one that is not an evaluation.
        """
        path = Path(path)
        path = path / "eval.json" if path.is_dir() else path
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise DataError(f"{path}: there is no evaluation; `rlent eval` writes one") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: not an evaluation ({type(error).__name__}: {error})") from error

    def save(self, path: Path) -> None:
        """Write the document at once: either all of it is there, or what was there before."""
        write_json(path, self.to_dict())

    def size(self) -> str:
        """`64 problems x 128 samples, T 1, seed 0`: what belongs beside every number."""
        decoding = self.settings.get("decoding", {})
        said = [f"{len(self.problems)} problems x {self.n} sample{'s' if self.n > 1 else ''}"]
        if decoding:
            said.append(f"T {decoding['temperature']:g}")
            said += [f"top-p {decoding['top_p']:g}"] if decoding["top_p"] < 1 else []
            said += [f"top-k {decoding['top_k']}"] if decoding["top_k"] else []
        if "seed" in self.settings:
            said.append(f"seed {self.settings['seed']}")
        return ", ".join(said)

    def plain(self) -> list[tuple[str, ...]]:
        """Rows of text for a pipe, a header first: name, value, low, high."""

        def number(value: float) -> str:
            return "" if math.isnan(value) else f"{value:.4f}"

        a = self.average
        rows = [("metric", "value", "low", "high"), (f"avg@{self.n}", number(a.value), number(a.low), number(a.high))]
        rows += [(f"pass@{k}", number(e.value), number(e.low), number(e.high)) for k, e in self.pass_at_k.items()]
        rows += [(f"maj@{k}", number(e.value), number(e.low), number(e.high)) for k, e in self.maj_at_k.items()]
        shares = {"cut": self.cut, "unanswered": self.unanswered, "length": self.length, "nll": self.nll}
        rows += [(name, number(value), "", "") for name, value in shares.items()]
        return [*rows, ("se_problems", number(a.se_problems), "", ""), ("se_runs", number(a.se_runs), "", "")]

    def table(self) -> Table:
        """pass@k and maj@k with intervals, for a person."""
        from rich.table import Table

        a = self.average
        spread = [f"±{a.se_problems:.3f} over problems"] if not math.isnan(a.se_problems) else []
        spread += [f"±{a.se_runs:.3f} over runs"] if not math.isnan(a.se_runs) else []
        odd = {s: c for s, c in self.status.items() if s not in ("ok", "no_answer")}
        table = Table(
            title=f"{self.label or 'evaluation'}: {self.size()}",
            caption=f"avg@{self.n} {a.value:.3f} {', '.join(spread)}\n"
            f"cut {self.cut:.1%}, unanswered {self.unanswered:.1%}, {self.length:.1f} tokens, nll {self.nll:.3f} nats/token"
            + "".join(f", {s} {c}" for s, c in odd.items()),
            caption_justify="left",
            title_justify="left",
        )
        table.add_column("k", justify="right")
        for name in ("pass@k", f"{LEVEL:.0%} interval", "maj@k", f"{LEVEL:.0%} interval"):
            table.add_column(name, justify="right", no_wrap=True)
        for k in self.ladder:
            p, m = self.pass_at_k[k], self.maj_at_k[k]
            table.add_row(str(k), f"{p.value:.3f}", f"{p.low:.3f} .. {p.high:.3f}", f"{m.value:.3f}", f"{m.low:.3f} .. {m.high:.3f}")
        return table


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# --- comparing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Paired differences, label - base, on the problems that all evaluations share."""

    base: str
    problems: int
    differences: Mapping[str, Mapping[int, passk.Difference]]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        rows = {label: {str(k): asdict(d) for k, d in by_k.items()} for label, by_k in self.differences.items()}
        document = {"base": self.base, "problems": self.problems, "level": LEVEL, "pass_at_k": rows, "notes": list(self.notes)}
        return _without_nan(document)  # type: ignore[no-any-return]

    def plain(self) -> list[tuple[str, ...]]:
        """Rows of text for a pipe, a header first."""
        rows: list[tuple[str, ...]] = [("evaluation", "base", "k", "difference", "low", "high", "problems")]
        for label, by_k in self.differences.items():
            rows += [
                (label, self.base, str(k), f"{d.value:+.4f}", f"{d.low:+.4f}", f"{d.high:+.4f}", str(d.problems)) for k, d in by_k.items()
            ]
        return rows

    def table(self) -> Table:
        """One row for each k, one column for each evaluation; differences whose interval leaves out 0 are bold."""
        from rich.table import Table

        caption = "\n".join([f"paired bootstrap over problems, {LEVEL:.0%}", *self.notes])
        title = f"pass@k, difference from {self.base}, {self.problems} common problems"
        table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
        table.add_column("k", justify="right")
        for label in self.differences:
            table.add_column(label, justify="right", no_wrap=True)
        for k in next(iter(self.differences.values())):
            cells = []
            for by_k in self.differences.values():
                d = by_k[k]
                text = f"{d.value:+.3f}  ({d.low:+.3f} .. {d.high:+.3f})"
                cells.append(f"[bold]{text}[/bold]" if d.low > 0 or d.high < 0 else text)
            table.add_row(str(k), *cells)
        return table


def compare(evals: Sequence[Evaluation], *, seed: int = 0) -> Comparison:
    """Each evaluation against the first, problem by problem, at every k that all of them have.

    Settings that differ and change scores (template, decoding, data, grader) are named in `notes`.

    Raises:
        UsageError: fewer than two evaluations, two with the same label, or no common problem or k.
    """
    if len(evals) < 2:
        raise UsageError("a comparison needs at least two evaluations")
    labels = [e.label or f"evaluation {i + 1}" for i, e in enumerate(evals)]
    if len(set(labels)) < len(labels):
        raise UsageError(f"evaluations need different labels; found {', '.join(labels)}")
    rows = [{(t.source, t.id): i for i, t in enumerate(e.problems)} for e in evals]
    common = [key for key in rows[0] if all(key in r for r in rows)]
    ks = sorted(set.intersection(*({*e.ladder} for e in evals)))
    if not common or not ks:
        raise UsageError("the evaluations have no problem in common" if not common else "the evaluations have no k in common")
    picked = [[r[key] for key in common] for r in rows]
    base = {k: evals[0].pass_values(k)[picked[0]] for k in ks}
    differences = {
        label: {k: passk.paired_bootstrap(e.pass_values(k)[index], base[k], level=LEVEL, draws=DRAWS, seed=seed) for k in ks}
        for label, e, index in zip(labels[1:], evals[1:], picked[1:], strict=True)
    }
    notes = [
        f"{label} differs from {labels[0]}: {change}"
        for label, e in zip(labels[1:], evals[1:], strict=True)
        for part in ("decoding", "template", "grader", "data", "cut_is_wrong")
        for change in changes(evals[0].settings.get(part), e.settings.get(part), part)
    ]
    return Comparison(labels[0], len(common), differences, tuple(notes))
