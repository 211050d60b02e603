"""avg@n, and intervals of a mean over problems.

A problem's samples stay together: its value is the unit that is resampled, so every interval here is over problems, and paired
differences are taken problem by problem. numpy float64 on the CPU; shares are in 0 to 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike
from scipy import special

from rlent.errors import UsageError
from rlent.math.passk import Array, Numbers, check_counts, pass_at_k


@dataclass(frozen=True, slots=True)
class Average:
    """avg@n with its spreads (all ddof 1; NaN where there is too little to estimate one from).

    `se_problems` holds both the choice of problems and the sampling; `se_runs` only the sampling, the problems being fixed;
    `std_runs` is the spread of one run (run j is sample j of every problem), `std_within` the mean spread inside a problem.
    `interval` says what `low` and `high` are: `wilson` or `t`.
    """

    value: float
    se_problems: float
    se_runs: float
    std_runs: float
    std_within: float
    low: float
    high: float
    interval: str


def avg_at_n(scores: Shaped[np.ndarray, "P n"] | Sequence[Sequence[bool | int | float]], *, level: float = 0.95) -> Average:
    """Mean over problems of the mean over a problem's samples.

    The interval is Student's t over problems; Wilson's for one 0/1 sample each. Problems may have different numbers of samples;
    then there are no runs to compare.

    Raises:
        UsageError: no problem, or a problem without a sample.
    """
    rows = [np.asarray(row, dtype=np.float64) for row in scores]
    if not rows or any(row.ndim != 1 or not row.size for row in rows):
        shape = getattr(scores, "shape", [row.shape for row in rows])
        raise UsageError(f"scores of shape {shape}: problems x samples with at least one of each are accepted")
    problems, counts = len(rows), {len(row) for row in rows}
    each = np.array([row.mean() for row in rows])
    value = float(each.mean())
    se = float(each.std(ddof=1) / math.sqrt(problems)) if problems > 1 else math.nan
    n = min(counts)
    std_runs = float(np.stack(rows).mean(0).std(ddof=1)) if n > 1 and len(counts) == 1 else math.nan
    std_within = float(np.mean([row.std(ddof=1) for row in rows])) if n > 1 else math.nan
    if counts == {1} and np.isin(np.stack(rows), (0, 1)).all():
        low, high = wilson(int(each.sum()), problems, level=level)
        kind = "wilson"
    else:
        reach = float(special.stdtrit(problems - 1, 0.5 + level / 2)) * se if problems > 1 else math.nan
        low, high, kind = value - reach, value + reach, "t"
    return Average(value, se, std_runs / math.sqrt(n), std_runs, std_within, low, high, kind)


def normal_quantile(p: float) -> float:
    """Where the standard normal distribution reaches p: 1.959964 for 0.975."""
    return float(special.ndtri(p))


def wilson(x: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval for x successes of n (1927), without continuity correction.

    Raises:
        UsageError: x outside 0 to n.
    """
    return _binomial(x, n, "wilson", level)


def clopper_pearson(x: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """The exact binomial interval of Clopper and Pearson (1934) for x successes of n.

    Raises:
        UsageError: x outside 0 to n.
    """
    return _binomial(x, n, "exact", level)


def _binomial(x: int, n: int, method: Literal["wilson", "exact"], level: float) -> tuple[float, float]:
    from scipy.stats import binomtest  # half a second to import, which training does without

    check_counts(n, x, 1)
    found = binomtest(x, n).proportion_ci(level, method)
    return float(found.low), float(found.high)


def bootstrap_means(values: Shaped[np.ndarray, "P ..."], *, draws: int = 10_000, seed: int = 0) -> Float[np.ndarray, "draws ..."]:
    """Means over P problems drawn with replacement, `draws` times. Columns share the draws, so they stay comparable.

    The draws of `scipy.stats.bootstrap` with `rng=np.random.default_rng(seed)`, as one matrix product: over the 8 columns of a
    pass@k ladder it takes a twentieth of the time.
    """
    values = np.asarray(values, dtype=np.float64)
    problems = len(values)
    if not problems:
        raise UsageError("a bootstrap needs at least one problem")
    rng = np.random.default_rng(seed)
    chunk = max(1, 4_000_000 // problems)
    means = []
    for start in range(0, draws, chunk):
        rows = min(chunk, draws - start)
        picked = rng.integers(0, problems, size=(rows, problems)) + problems * np.arange(rows)[:, None]
        weight = np.bincount(picked.ravel(), minlength=rows * problems).reshape(rows, problems)
        means.append(weight @ values / problems)
    return np.concatenate(means)


def _percentiles(draws: Float[np.ndarray, "draws ..."], level: float) -> tuple[np.float64 | Array, np.float64 | Array]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def bootstrap_interval(values: Shaped[np.ndarray, "P ..."], *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> tuple[Any, Any]:
    """Percentile interval (low, high) of the mean over problems, floats or one per column (Efron 1979).

    A problem's samples stay together: its value is the unit that is drawn.
    """
    return _percentiles(bootstrap_means(values, draws=draws, seed=seed), level)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems and its interval."""

    value: float
    low: float
    high: float


def estimate_pass_at_k(
    correct: ArrayLike, ks: Sequence[int] | None = None, *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> dict[int, Estimate]:
    """pass@k of a matrix of verdicts [P problems, n samples], by k, with percentile bootstrap intervals over problems.

    Where pass@k is 0, or 1, on every problem no draw differs, and the interval is Wilson's for P trials.

    Args:
        correct: bools or 0 and 1, a tensor, an array or lists.
        ks: 1 to n; the powers of two up to n where none are given.

    Raises:
        UsageError: not a matrix, another value than 0 and 1, a k below 1 or above n.
    """
    table = np.asarray(correct)
    if table.ndim != 2 or not table.size:
        raise UsageError(f"verdicts of shape {list(table.shape)}: a matrix is needed, one row for each problem, one column for each sample")
    if not np.isin(table, (0, 1)).all():
        raise UsageError(f"a verdict is {table[~np.isin(table, (0, 1))][0]!s}; right is 1 (or True) and wrong is 0 (or False)")
    problems, n = table.shape
    chosen = [1 << i for i in range(n.bit_length())] if ks is None else list(ks)
    each = np.stack([pass_at_k(n, table.astype(np.int64).sum(1), k) for k in chosen], 1)
    low, high = bootstrap_interval(each, level=level, draws=draws, seed=seed)
    found = {}
    for i, k in enumerate(chosen):
        value = float(each[:, i].mean())
        ends = wilson(round(value) * problems, problems, level=level) if value in (0.0, 1.0) else (float(low[i]), float(high[i]))
        found[k] = Estimate(value, *ends)
    return found


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean paired difference, its standard error (ddof 1) and a bootstrap interval; `above` is the share of draws above 0."""

    value: float
    low: float
    high: float
    se: float
    above: float
    problems: int


def paired_bootstrap(
    a: Shaped[np.ndarray, " _"], b: Shaped[np.ndarray, " _"], *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> Difference:
    """a - b on the same problems, in the same order. Not two intervals that overlap or do not.

    Raises:
        UsageError: different numbers of problems.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise UsageError(f"a paired comparison needs the same problems on both sides; found shapes {a.shape} and {b.shape}")
    difference = a - b
    means = bootstrap_means(difference, draws=draws, seed=seed)
    low, high = _percentiles(means, level)
    se = float(difference.std(ddof=1) / math.sqrt(len(a))) if len(a) > 1 else math.nan
    return Difference(float(difference.mean()), float(low), float(high), se, float((means > 0).mean()), len(a))


def paired_bootstrap_of_sets(
    pairs: Sequence[tuple[Shaped[np.ndarray, " _"], Shaped[np.ndarray, " _"]]],
    weights: Sequence[float],
    *,
    level: float = 0.95,
    draws: int = 10_000,
    seed: int = 0,
) -> Difference:
    """The weighted sum over sets of the mean of a - b; problems are resampled inside each set, so every set keeps its weight.

    Raises:
        UsageError: a pair of different lengths, or not one weight for each pair.
    """
    if len(pairs) != len(weights):
        raise UsageError(f"{len(pairs)} sets and {len(weights)} weights; one for each is needed")
    parts = [paired_bootstrap(a, b, level=level, draws=1) for a, b in pairs]
    means = sum(
        w * bootstrap_means(np.subtract(a, b, dtype=np.float64), draws=draws, seed=seed + i)
        for i, ((a, b), w) in enumerate(zip(pairs, weights, strict=True))
    )
    low, high = _percentiles(np.asarray(means), level)
    value = math.fsum(w * p.value for w, p in zip(weights, parts, strict=True))
    se = math.sqrt(math.fsum((w * p.se) ** 2 for w, p in zip(weights, parts, strict=True)))
    return Difference(value, float(low), float(high), se, float((np.asarray(means) > 0).mean()), sum(p.problems for p in parts))


def interquartile_mean(values: Numbers) -> float:
    """Mean of what is left when a quarter of the values (rounded down) is cut from each end.

    Raises:
        UsageError: no value.
    """
    from scipy.stats import trim_mean

    flat = np.asarray(values, dtype=np.float64).ravel()
    if not flat.size:
        raise UsageError("an interquartile mean needs at least one value")
    return float(trim_mean(flat, 0.25))


def interquartile_interval(
    scores: Shaped[np.ndarray, "R M"], *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Stratified percentile bootstrap of the interquartile mean over R runs (seeds) of M tasks.

    Runs are drawn with replacement inside each task, so that every task keeps its weight (Agarwal et al. 2021,
    arXiv:2108.13264); `scipy.stats.bootstrap` has no strata.
    """
    scores = np.asarray(scores, dtype=np.float64)
    runs, tasks = scores.shape
    rng = np.random.default_rng(seed)
    cut = scores.size // 4
    means = []
    chunk = max(1, 4_000_000 // scores.size)
    for start in range(0, draws, chunk):
        index = rng.integers(0, runs, size=(min(chunk, draws - start), runs, tasks))
        drawn = np.sort(scores[index, np.arange(tasks)].reshape(len(index), -1), axis=1)
        means.append(drawn[:, cut : scores.size - cut].mean(1))
    low, high = _percentiles(np.concatenate(means), level)
    return float(low), float(high)
