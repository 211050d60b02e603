"""The report's statistics: values at the end, paired differences, interquartile means.

Two kinds of error are kept apart: over problems (the same weights on other problems) and over seeds (another run). A difference
between methods is taken problem by problem where evaluations are there, else seed by seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from rlent.errors import UsageError
from rlent.eval.compare import by_seed, settings_changed
from rlent.math.intervals import bootstrap_interval, interquartile_interval, interquartile_mean, paired_bootstrap
from rlent.math.passk import Array
from rlent.metrics.final import LAST
from rlent.report.collect import Method, RunData


@dataclass(frozen=True)
class Point:
    """A number with an interval; NaN bounds where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class Paired:
    """label - base. `p`: two-sided, Holm-corrected over the methods compared; `pairs`: problems or seeds."""

    label: str
    metric: str
    value: float
    low: float
    high: float
    p: float
    pairs: int
    over: str


def at_end(method: Method, metric: str) -> Point:
    """Mean over seeds of the final values, and their range."""
    values = [v for v in (r.at_end(metric, LAST) for r in method.runs) if not math.isnan(v)]
    if not values:
        return Point(math.nan)
    return Point(math.fsum(values) / len(values), min(values), max(values))


def problem_values(methods: Sequence[Method], k: int) -> list[Array] | None:
    """pass@k of each seed on each problem [seeds, problems], by method; None unless every seed has an evaluation, and some problem is in all."""
    evals = [[r.final_eval for r in m.runs] for m in methods]
    if any(e is None or e.n < k for side in evals for e in side):
        return None
    try:
        return by_seed([[e for e in side if e] for side in evals], k)
    except UsageError:
        return None


def unlike(methods: Sequence[Method]) -> list[str]:
    """Evaluations that were made otherwise than the first: what differs in them is no difference between methods."""
    made = [(m, r, e) for m in methods for r in m.runs if (e := r.final_eval)]
    return [
        f"{m.label}, seed {r.seed}: its evaluation differs from that of {made[0][0].label}, seed {made[0][1].seed}: {change}"
        for m, r, e in made[1:]
        for change in settings_changed(made[0][2], e)
    ]


def largest_k(methods: Sequence[Method]) -> int | None:
    """The largest k that the evaluations of all methods can estimate with more samples than k, or None without evaluations."""
    evals = [r.final_eval for m in methods for r in m.runs]
    if not evals or any(e is None for e in evals):
        return None
    return min(e.ladder[-1] for e in evals if e)


def paired(methods: Sequence[Method], metrics: Mapping[str, int]) -> list[Paired]:
    """Each method against the first, for metrics `eval/pass@k` by name and k. Problem by problem if possible, else seed by seed."""
    base, out = methods[0], []
    for metric, k in metrics.items():
        found = [d for m in methods[1:] if (d := _by_problem(base, m, metric, k) or _by_seed(base, m, metric))]
        for d, p in zip(found, holm([d.p for d in found]), strict=True):
            out.append(Paired(d.label, d.metric, d.value, d.low, d.high, p, d.pairs, d.over))
    return out


def _by_problem(base: Method, other: Method, metric: str, k: int) -> Paired | None:
    found = problem_values([base, other], k)
    if found is None or found[0].shape[1] < 2:
        return None
    b, a = (values.mean(0) for values in found)
    d = paired_bootstrap(a, b)
    p = float(stats.wilcoxon(a - b).pvalue) if np.any(a != b) else 1.0
    return Paired(other.label, metric, d.value, d.low, d.high, p, d.problems, "problems")


def _by_seed(base: Method, other: Method, metric: str) -> Paired | None:
    """Pairs of the same seed; interval by Student's t, p by flipping signs (exact)."""
    one = {r.seed: v for r in base.runs if not math.isnan(v := r.at_end(metric))}
    two = {r.seed: v for r in other.runs if not math.isnan(v := r.at_end(metric))}
    seeds = sorted(set(one) & set(two))
    if not seeds:
        return None
    d = np.array([two[s] - one[s] for s in seeds])
    low = high = math.nan
    if len(d) > 1 and d.std(ddof=1) > 0:
        half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / math.sqrt(len(d))
        low, high = float(d.mean() - half), float(d.mean() + half)
    return Paired(other.label, metric, float(d.mean()), low, high, sign_flip(d), len(d), "seeds")


def sign_flip(differences: Array) -> float:
    """Two-sided p-value of a mean difference by flipping signs: all 2^n patterns up to n = 16, Student's t above."""
    d = np.asarray(differences, dtype=np.float64)
    if len(d) < 2:
        return 1.0
    if len(d) > 16:
        return float(stats.ttest_1samp(d, 0).pvalue)
    found = stats.permutation_test((d,), np.mean, permutation_type="samples", vectorized=True, n_resamples=np.inf)
    return float(found.pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's correction: family-wise error over the tests. scipy corrects the false discovery rate only."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    out, running = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p) - rank) * p[i]))
        out[i] = running
    return out


def iqm(method: Method, k: int) -> Point | None:
    """Interquartile mean of pass@k over seeds and problems, with a stratified bootstrap over seeds; None without evaluations.

    With one seed there is nothing to draw from, and no interval.
    """
    found = problem_values([method], k)
    if found is None:
        return None
    scores = found[0]
    value = interquartile_mean(scores)
    return Point(value, *interquartile_interval(scores)) if len(scores) > 1 else Point(value)


def pass_curve(method: Method) -> tuple[dict[int, Point], str] | None:
    """pass@k at the end by k, and how its intervals are made; from evaluations if every seed has one, else from the record."""
    evals = [r.final_eval for r in method.runs]
    if evals and all(evals):
        ks = sorted(set.intersection(*({*e.ladder} for e in evals if e)))
        out = {}
        for k in ks:
            found = problem_values([method], k)
            if found is not None:
                mean = found[0].mean(0)
                low, high = bootstrap_interval(mean)
                out[k] = Point(float(mean.mean()), float(low), float(high))
        if out:
            return out, "bootstrap over problems, 95 %"
    return recorded_curve(method, last=True)


def recorded_curve(method: Method, *, last: bool) -> tuple[dict[int, Point], str] | None:
    """pass@k by k in the first or last evaluation of the record: the mean over seeds and their range, or one seed's own interval."""
    rows = [row for r in method.runs if (row := _evaluated(r, last=last))]
    if not rows:
        return None
    ks = sorted({int(n.removeprefix("eval/pass@")) for row in rows for n in row if n.startswith("eval/pass@") and n[10:].isdigit()})
    out = {}
    for k in ks:
        values = [row[f"eval/pass@{k}"] for row in rows if row.get(f"eval/pass@{k}") is not None]
        if len(values) == 1:
            bounds = [rows[0].get(f"eval/pass@{k}_{side}") for side in ("low", "high")]
            out[k] = Point(values[0], *(math.nan if b is None else b for b in bounds))
        elif values:
            out[k] = Point(math.fsum(values) / len(values), min(values), max(values))
    return out, "range over seeds" if len(rows) > 1 else "bootstrap over problems, 95 %"


def _evaluated(run: RunData, *, last: bool) -> dict[str, float] | None:
    rows = [r for r in run.rows if any(k.startswith("eval/pass@") for k in r)]
    return {name: v for name, v in rows[-1 if last else 0].items() if isinstance(v, int | float)} if rows else None


def first_step(method: Method) -> int | None:
    """The step of the first evaluation in the record."""
    row = _evaluated(method.runs[0], last=False)
    return int(row["step"]) if row else None
