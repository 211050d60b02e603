"""What an evaluation found: counts of each problem, the numbers that follow from them, and how two of them compare."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlent.errors import DataError, UsageError
from rlent.eval.folder import Sample, write_json
from rlent.math import intervals, passk, vote
from rlent.math.verl import verl_best
from rlent.types import Config, Json, JsonObject

if TYPE_CHECKING:
    from rich.table import Table

LEVEL = 0.95
DRAWS = 10_000
INTERVALS = {"wilson": "Wilson", "t": "Student's t"}


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
    votes: str = ""  # the class of each sample's answer, `-` for none, separated by spaces
    decode: Mapping[str, float] = field(default_factory=dict)  # what decode functions said, summed over samples

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
    classes = vote.answer_classes(votes, equal, correct)
    maj = vote.maj_at_k([c if c >= 0 else None for c in classes], correct, ks)
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
        votes=" ".join(str(c) if c >= 0 else "-" for c in classes),
        decode={name: math.fsum(s.decode.get(name, 0.0) for s in samples) for name in sorted({n for s in samples for n in s.decode})},
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
    settings: Config = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Samples of each problem; where problems have different numbers, the smallest."""
        return min(t.n for t in self.problems)

    @property
    def ladder(self) -> list[int]:
        return sorted({*ladder(max(self.ks)), *self.ks})

    @cached_property
    def average(self) -> intervals.Average:
        """avg@n and its errors; the interval is cut to 0 ... 1. Where no response, or every one, is right there is no spread to
        estimate an error from: then it is Wilson's for as many trials as there are problems.
        """
        found = intervals.avg_at_n([[int(v) for v in t.verdicts] for t in self.problems], level=LEVEL)
        if found.value in (0.0, 1.0):
            low, high = self._certain(found.value)
            return replace(found, low=low, high=high, interval="wilson")
        low, high = (float(np.clip(x, 0, 1)) for x in (found.low, found.high))  # NaN stays NaN
        return replace(found, low=low, high=high)

    @property
    def accuracy(self) -> passk.Array:
        """Share of correct samples of each problem [P]."""
        return np.array([t.correct / t.n for t in self.problems])

    def pass_values(self, k: int) -> passk.Array:
        """pass@k of each problem [P]."""
        return passk.pass_at_k([t.n for t in self.problems], [t.correct for t in self.problems], k)

    def maj_values(self, k: int) -> passk.Array:
        """maj@k of each problem [P]."""
        return np.array([t.maj[k] for t in self.problems])

    @cached_property
    def pass_at_k(self) -> dict[int, Estimate]:
        """pass@k for the k of the ladder. Of one sample each it is the average, with the average's interval (Wilson's)."""
        if self.n == 1 and self.ladder == [1]:
            return {1: Estimate(self.average.value, self.average.low, self.average.high)}
        return self._estimates([self.pass_values(k) for k in self.ladder])

    @cached_property
    def maj_at_k(self) -> dict[int, Estimate]:
        return self._estimates([self.maj_values(k) for k in self.ladder])

    @cached_property
    def pass_hat_k(self) -> dict[int, Estimate]:
        """pass^k: all of k samples are right."""
        n, c = [t.n for t in self.problems], [t.correct for t in self.problems]
        return self._estimates([passk.pass_hat_k(n, c, k) for k in self.ladder])

    def verl(self) -> dict[str, float]:
        """`verl_best@N/mean` and the like: what verl's validation would log. Votes are over classes of equal answers."""
        votes = [[None if v == "-" else v for v in t.votes.split()] for t in self.problems]
        whole = all(len(v) == t.n for v, t in zip(votes, self.problems, strict=True))
        found = verl_best([[int(v) for v in t.verdicts] for t in self.problems], votes if whole else None)
        return {f"verl_{name}": value for name, value in found.items()}

    def _certain(self, value: float) -> tuple[float, float]:
        """The interval of a mean over problems that all have the value 0, or all 1."""
        return intervals.wilson(round(value) * len(self.problems), len(self.problems), level=LEVEL)

    def _estimates(self, of_k: Sequence[passk.Array]) -> dict[int, Estimate]:
        """Means over problems with bootstrap intervals; where all problems have 0, or all 1, no draw differs, and Wilson's stand."""
        values = np.stack(of_k, 1)
        low, high = intervals.bootstrap_interval(values, level=LEVEL, draws=DRAWS)
        means = values.mean(0)
        ends = [self._certain(v) if v in (0.0, 1.0) else (float(x), float(y)) for v, x, y in zip(means, low, high, strict=True)]
        return {k: Estimate(float(v), *end) for k, v, end in zip(self.ladder, means, ends, strict=True)}

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
    def timed_out(self) -> float:
        """Share of responses on which the grader ran out of time."""
        return sum(t.status.get("timeout", 0) for t in self.problems) / self.rows

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

    @property
    def decode(self) -> dict[str, float]:
        """What decode functions said of the responses, mean over responses."""
        names = sorted({name for t in self.problems for name in t.decode})
        return {name: math.fsum(t.decode.get(name, 0.0) for t in self.problems) / self.rows for name in names}

    def by_source(self) -> dict[str, Evaluation]:
        """One evaluation for each data set among the problems."""
        sources = dict.fromkeys(t.source for t in self.problems)
        return {s: Evaluation(self.label, self.ks, tuple(t for t in self.problems if t.source == s), self.settings) for s in sources}

    def metrics(self, prefix: str = "eval") -> dict[str, float]:
        """Numbers to log: `eval/avg`, `eval/pass@k` and `eval/maj@k` for the k asked for, intervals of pass@k, and the shares."""
        found = {"avg": self.average.value}
        for k in self.ks:
            one = self.pass_at_k[k]
            found |= {f"pass@{k}": one.value, f"pass@{k}_low": one.low, f"pass@{k}_high": one.high}
            found[f"maj@{k}"] = self.maj_at_k[k].value
        found |= {"cut": self.cut, "unanswered": self.unanswered, "length": self.length, "nll": self.nll}
        found |= {f"decode/{name}": value for name, value in self.decode.items()}
        return {f"{prefix}/{name}": value for name, value in found.items()}

    def summary(self) -> JsonObject:
        """Every number but those of single problems."""
        found = {
            "problems": len(self.problems),
            "samples": self.n,
            "responses": self.rows,
            "avg": asdict(self.average),
            "pass_at_k": {str(k): asdict(e) for k, e in self.pass_at_k.items()},
            "maj_at_k": {str(k): asdict(e) for k, e in self.maj_at_k.items()},
            "pass_hat_k": {str(k): asdict(e) for k, e in self.pass_hat_k.items()},
            "cut": self.cut,
            "unanswered": self.unanswered,
            "timed_out": self.timed_out,
            "status": self.status,
            "length": self.length,
            "nll": self.nll,
            **({"decode": self.decode} if self.decode else {}),
        }
        if all(t.n == 1 for t in self.problems):
            x, n = sum(t.correct for t in self.problems), len(self.problems)
            found["wilson"], found["clopper_pearson"] = intervals.wilson(x, n, level=LEVEL), intervals.clopper_pearson(x, n, level=LEVEL)
        return found

    def to_dict(self) -> JsonObject:
        """Everything, as plain values (no NaN: what cannot be estimated is None)."""
        parts = self.by_source()
        document = {
            "label": self.label,
            "ks": list(self.ks),
            "level": LEVEL,
            **self.summary(),
            "by_source": {source: part.summary() for source, part in parts.items()} if len(parts) > 1 else {},
            "seconds": dict(self.seconds),
            "settings": dict(self.settings),
            "per_problem": [
                {**asdict(t), "n": t.n, "correct": t.correct, "maj": {str(k): v for k, v in t.maj.items()}} for t in self.problems
            ],
        }
        return without_nan(document)  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, document: Mapping[str, Json]) -> Evaluation:
        """The evaluation that `to_dict` described. Numbers are computed again from the counts."""
        tallies = tuple(
            Tally(**{**{name: row[name] for name in Tally.__slots__ if name in row}, "maj": {int(k): v for k, v in row["maj"].items()}})
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

    def counts(self) -> str:
        """`64 problems x 128 samples`: what belongs beside every number."""
        most = max(t.n for t in self.problems)
        samples = f"{self.n} to {most}" if most > self.n else f"{self.n}"
        return f"{_many(len(self.problems), 'problem')} x {samples} sample{'s' if most > 1 else ''}"

    def size(self) -> str:
        """`counts`, and how the samples were drawn."""
        decoding = self.settings.get("decoding") or {}
        said = [self.counts()]
        if decoding:
            said.append(f"T {decoding['temperature']:g}" if decoding["temperature"] else "greedy")
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
        for name, found in (("pass@", self.pass_at_k), ("maj@", self.maj_at_k), ("pass^", self.pass_hat_k)):
            rows += [(f"{name}{k}", number(e.value), number(e.low), number(e.high)) for k, e in found.items()]
        shares = {"cut": self.cut, "unanswered": self.unanswered, "timed_out": self.timed_out, "length": self.length, "nll": self.nll}
        shares |= {f"decode/{name}": value for name, value in self.decode.items()}
        rows += [(name, number(value), "", "") for name, value in shares.items()]
        return [*rows, ("se_problems", number(a.se_problems), "", ""), ("se_runs", number(a.se_runs), "", "")]

    def table(self) -> Table:
        """pass@k and maj@k with intervals, for a person."""
        from rich.table import Table

        a = self.average
        spread = [f"({a.low:.3f} .. {a.high:.3f}, {INTERVALS[a.interval]})"] if not math.isnan(a.low) else []
        spread += [f"se_problems {a.se_problems:.3f}"] if not math.isnan(a.se_problems) else []
        spread += [f"se_runs {a.se_runs:.3f}"] if not math.isnan(a.se_runs) else []
        odd = {s: c for s, c in self.status.items() if s not in ("ok", "no_answer", "timeout")}
        table = Table(
            title=f"{self.label or 'evaluation'}: {self.size()}",
            caption=f"avg@{self.n} {' '.join([f'{a.value:.3f}', *spread])}\n"
            f"cut {self.cut:.1%}, unanswered {self.unanswered:.1%}, timed out {self.timed_out:.1%}, "
            f"{self.length:.1f} tokens, nll {self.nll:.3f} nats/token"
            + "".join(f", {s} {c}" for s, c in odd.items())
            + "".join(f"\n{name} {value:.4g}" for name, value in self.decode.items()),
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


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def without_nan(value: object) -> Any:
    if isinstance(value, Mapping):
        return {key: without_nan(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
