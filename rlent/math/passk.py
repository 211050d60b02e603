"""pass@k, maj@k, avg@n and their uncertainty, from counts and votes.

Letters: P problems, n samples of each, c of them correct, K values of k. Everything is numpy float64 on the CPU; shares
are in 0 to 1, never percent. A number is the mean over problems of a number per problem, and problems are what the
intervals resample, so every function here gives values per problem and leaves the mean to the caller unless it says so.

The estimators of other projects (`prefix_maj`, `nemo_rl_cons_at_k`, `verl_best`) are here under their own names, to compare with
their logs; the ones to report are `pass_at_k`, `maj_at_k` and `avg_at_n`.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy import special

from rlent.errors import UsageError

Array = np.ndarray[Any, np.dtype[Any]]
Numbers = int | float | np.number[Any] | Sequence[Any] | Array
Answer = Hashable | None

EXACT_VOTES = 1000  # binomial coefficients up to C(1000, 500) fit in float64
MAX_SUBSETS = 1_000_000


# --- pass@k ----------------------------------------------------------------------------------------------------------


def _counts(n: Numbers, c: Numbers, k: int) -> tuple[Array, Array]:
    """`n` and `c` as integer arrays of one shape, after the checks that every estimator needs."""
    n_, c_ = np.broadcast_arrays(np.asarray(n), np.asarray(c))
    if not all(np.issubdtype(x.dtype, np.integer) or not x.size for x in (n_, c_)):
        raise UsageError("samples and correct samples must be whole numbers")
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
        raise UsageError(f"k = {k!r}: a whole number of at least 1 is accepted")
    if n_.size and k > n_.min():
        raise UsageError(f"k = {k} is more than the {n_.min()} samples of a problem; sample at least k responses to each")
    if n_.size and (c_.min() < 0 or (c_ > n_).any()):
        raise UsageError(f"correct samples must be 0 to n; found {c_.min()} to {c_.max()} for n = {n_.min()} to {n_.max()}")
    return n_.astype(np.int64), c_.astype(np.int64)


def pass_at_k(n: Numbers, c: Numbers, k: int) -> Float[np.ndarray, " *P"]:
    """Chance that k of the n samples, drawn without replacement, hold a correct one: 1 - C(n-c, k) / C(n, k).

    The unbiased estimator of Chen et al. 2021 (arXiv:2107.03374, equation 1) as a product of c factors
    (1 - k/i), i = n-c+1 ... n, which does not overflow and loses less than 1e-14 at n = 1024.

    Args:
        n: samples per problem, one number or [P].
        c: correct samples per problem [P].
        k: 1 to the smallest n.

    Raises:
        UsageError: k below 1 or above a problem's n, c outside 0 to n.
    """
    n_, c_ = _counts(n, c, k)
    value = np.empty(n_.shape)
    for samples in np.unique(n_):
        factors = 1 - k / np.arange(samples, 0, -1, dtype=np.float64)
        none_right = np.concatenate([[1.0], np.cumprod(factors)])  # by c = 0 ... n; exactly 0 from i = k on
        here = n_ == samples
        value[here] = 1 - none_right[c_[here]]
    return value


def pass_hat_k(n: Numbers, c: Numbers, k: int) -> Float[np.ndarray, " *P"]:
    """pass^k: chance that k of the n samples are all correct, C(c, k) / C(n, k) (tau-bench, arXiv:2406.12045)."""
    n_, c_ = _counts(n, c, k)
    return 1 - pass_at_k(n_, n_ - c_, k)


def best_at_k(scores: Shaped[np.ndarray, "P n"], k: int, *, replace: bool = False) -> Float[np.ndarray, " P"]:
    """Expected highest score among k of the n samples. On 0/1 scores it is pass@k, or 1-(1-c/n)^k with replacement.

    Draws with replacement repeat samples, so that value lies below pass@k; it is what `verl_best` estimates.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=1)
    n = ordered.shape[1]
    _counts(n if not replace else max(n, k), 0, k)
    rank = np.arange(n + 1)
    below = (rank / n) ** k if replace else 1 - pass_at_k(n, n - rank, k)  # chance that all k are among the `rank` lowest
    return np.asarray(ordered @ np.diff(below), dtype=np.float64)


# --- votes -----------------------------------------------------------------------------------------------------------


def answer_classes(
    answers: Sequence[str | None],
    equal: Callable[[str, str], bool] | None = None,
    correct: Sequence[bool] | None = None,
) -> list[int]:
    """Class of each answer, -1 for none: an answer joins the first class whose representative equals it, else opens one.

    Strings are compared first; `equal(answer, representative)` is asked only about different strings, once for each pair.
    With `correct`, an accepted and a rejected answer are never asked about: both cannot equal the same thing.
    """
    representatives: list[int] = []
    known: dict[tuple[str, bool], int] = {}
    classes: list[int] = []
    for i, answer in enumerate(answers):
        if answer is None:
            classes.append(-1)
            continue
        right = bool(correct[i]) if correct is not None else False
        if (answer, right) not in known:
            for number, j in enumerate(representatives):
                alike = correct is None or bool(correct[j]) == right
                if equal is not None and alike and equal(answer, str(answers[j])):
                    known[answer, right] = number
                    break
            else:
                known[answer, right] = len(representatives)
                representatives.append(i)
        classes.append(known[answer, right])
    return classes


def maj_at_k(
    answers: Sequence[Answer], correct: Sequence[Any], ks: Sequence[int], *, draws: int = 1000, seed: int = 0
) -> Float[np.ndarray, " K"]:
    """Expected verdict of a majority vote among k of one problem's n samples, for each k.

    `answers` are labels of classes (any hashable; None does not vote); a class is correct if its first sample is. Classes that
    tie for the most votes share the credit equally, a subset without a vote scores 0. The expectation is over all k-subsets:
    exact, by counting subsets with generating functions, up to n = 1000; above that over `draws` subsets drawn
    from `seed`.

    Example: answers a a b c, b correct. Of the 6 pairs, ab (twice) and bc tie with b in them, so maj@2 = 3 * 0.5 / 6 = 0.25.

    Raises:
        UsageError: a k below 1 or above n.
    """
    n = len(answers)
    for k in ks:
        _counts(n, 0, k)
    first: dict[Answer, int] = {}
    for i, answer in enumerate(answers):
        if answer is not None:
            first.setdefault(answer, i)
    votes = Counter(a for a in answers if a is not None)
    sizes = [votes[a] for a in first]
    right = [bool(correct[i]) for i in first.values()]
    if not any(right):
        return np.zeros(len(ks))
    if n > EXACT_VOTES:
        return _sampled_votes(answers, first, right, ks, draws, seed)
    if all(right):
        return np.array([1 - special.comb(n - sum(sizes), k) / special.comb(n, k) for k in ks])
    return _exact_votes(n, sizes, right, ks)


def _exact_votes(n: int, sizes: Sequence[int], right: Sequence[bool], ks: Sequence[int]) -> Float[np.ndarray, " K"]:
    """Counts, for each winning number of votes m, the subsets of each size by how many classes tie at m.

    A class of s samples contributes sum_{i<m} C(s, i) x^i when it stays below m and C(s, m) x^m y when it ties; samples that
    cannot reach m contribute (1 + x) each. The coefficient of x^k y^t counts k-subsets with t winners; the state's first axis
    says whether one winner has been marked as correct, so that each subset counts (correct winners) times, to be divided by t.
    """
    top = max(ks)
    total = np.zeros(top + 1)
    for m in range(1, min(top, max(sizes)) + 1):
        big = [(s, r) for s, r in zip(sizes, right, strict=True) if s >= m]
        if not any(r for _, r in big):
            break
        rest = n - sum(s for s, _ in big)
        ties = min(top // m, len(big))
        state = np.zeros((2, ties + 1, top + 1))  # [a correct winner is marked, t, k]
        state[0, 0] = special.comb(rest, np.arange(top + 1))
        for s, r in big:
            after = _times(state, special.comb(s, np.arange(m)))
            win = special.comb(s, m) * state[:, :-1, : top + 1 - m]
            after[:, 1:, m:] += win
            if r:
                after[1, 1:, m:] += win[0]
            state = after
        total += (state[1, 1:] / np.arange(1, ties + 1)[:, None]).sum(0)
    return np.asarray(total[list(ks)] / special.comb(n, np.asarray(ks)), dtype=np.float64)


def _times(state: Float[np.ndarray, "two t k"], polynomial: Float[np.ndarray, " m"]) -> Float[np.ndarray, "two t k"]:
    """The state's polynomials in x times another, cut to the state's degree."""
    size, m = state.shape[-1], len(polynomial)
    if 8 * m < size:
        product = np.zeros_like(state)
        for i, factor in enumerate(polynomial):
            product[..., i:] += factor * state[..., : size - i]
        return product
    rows = state.reshape(-1, size)
    return np.stack([np.convolve(row, polynomial)[:size] for row in rows]).reshape(state.shape)


def _sampled_votes(
    answers: Sequence[Answer], first: Mapping[Answer, int], right: Sequence[bool], ks: Sequence[int], draws: int, seed: int
) -> Float[np.ndarray, " K"]:
    """The same expectation over `draws` random orders of the samples: the first k of an order are a k-subset."""
    number = {a: i for i, a in enumerate(first)}
    label = np.array([number[a] if a is not None else len(number) for a in answers])
    good = np.array(right, dtype=np.float64)
    rng = np.random.default_rng(seed)
    value = np.zeros(len(ks))
    for _ in range(draws):
        order = label[rng.permutation(len(label))]
        for j, k in enumerate(ks):
            counts = np.bincount(order[:k], minlength=len(number) + 1)[:-1]
            if counts.max() > 0:
                value[j] += good[counts == counts.max()].mean()
    return value / draws


def prefix_maj(answers: Sequence[Answer], correct: Sequence[Any], k: int) -> float:
    """NeMo-Skills' majority@k: one vote among the first k samples over (answer, verdict) pairs; ties share, None is left out."""
    _counts(len(answers), 0, k)
    votes = Counter((a, float(c)) for a, c in zip(answers[:k], correct[:k], strict=True) if a is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [verdict for (_, verdict), count in votes.items() if count == most]
    return sum(winners) / len(winners)


def nemo_rl_cons_at_k(answers: Sequence[Answer], correct: Sequence[Any], k: int) -> float:
    """NeMo-RL's cons@k: mean over all k-subsets; a tie goes to the answer seen first, and no answer votes like an answer.

    Raises:
        UsageError: more than a million subsets.
    """
    n = len(answers)
    _counts(n, 0, k)
    if math.comb(n, k) > MAX_SUBSETS:
        raise UsageError(f"cons@{k} of {n} samples would enumerate {math.comb(n, k):,} subsets; use maj_at_k")
    number = {a: i for i, a in enumerate(dict.fromkeys(answers))}
    label = np.array([number[a] for a in answers])
    subsets = np.array(list(itertools.combinations(range(n), k)))
    return float(_first_majority(label[subsets], np.asarray(correct, dtype=np.float64)[subsets]).mean())


def _first_majority(label: Int[np.ndarray, "D k"], value: Float[np.ndarray, "D k"]) -> Float[np.ndarray, " D"]:
    """Per row, the value of the first sample of the most frequent label; of several, of the label that comes first."""
    count = (label[:, :, None] == label[:, None, :]).sum(2) if label.shape[1] <= 16 else _row_counts(label)
    winner = count.argmax(1)  # argmax takes the first of equals
    return np.asarray(value[np.arange(len(value)), winner], dtype=np.float64)


def _row_counts(label: Int[np.ndarray, "D k"]) -> Int[np.ndarray, "D k"]:
    """How often the label at each place occurs in its row."""
    rows, labels = len(label), int(label.max()) + 1
    flat = label + labels * np.arange(rows)[:, None]
    return np.asarray(np.bincount(flat.ravel(), minlength=rows * labels)[flat])


def verl_best(
    scores: Shaped[np.ndarray, "P n"] | Sequence[Sequence[Any]],
    answers: Sequence[Sequence[Answer]] | None = None,
    *,
    draws: int = 1000,
    seed: int = 42,
) -> dict[str, float]:
    """verl's validation numbers, bit for bit: `mean@n`, `std@n`, and `best@N`, `worst@N`, `maj@N` (mean and std) by bootstrap.

    N is 2, 4, 8, ... below n, then n. N of the n samples are drawn with replacement, `draws` times, with numpy's legacy
    generator started from `seed` again for every problem and N. Standard deviations (ddof 0) are over draws or samples of one
    problem, averaged over problems: they are not errors of the score. `best@N` estimates 1-(1-c/n)^N, below pass@N. Where
    problems have different n, a number is the mean over the problems that have it.
    """
    found: dict[str, list[float]] = {}
    drawn: dict[tuple[int, int], Array] = {}

    def note(name: str, values: Array) -> None:
        found.setdefault(f"{name}/mean", []).append(float(values.mean()))
        found.setdefault(f"{name}/std", []).append(float(values.std()))

    for i, row in enumerate(scores):
        row = np.asarray(row, dtype=np.float64)
        n = len(row)
        found.setdefault(f"mean@{n}", []).append(float(row.mean()))
        if n == 1:
            continue
        found.setdefault(f"std@{n}", []).append(float(row.std()))
        label = None
        if answers is not None:
            number = {a: j for j, a in enumerate(dict.fromkeys(answers[i]))}
            label = np.array([number[a] for a in answers[i]])
        for size in [*itertools.takewhile(lambda s, n=n: s < n, (2**j for j in itertools.count(1))), n]:  # type: ignore[misc]
            if (n, size) not in drawn:
                drawn[n, size] = np.random.RandomState(seed).choice(n, size=(draws, size))
            index = drawn[n, size]
            note(f"best@{size}", row[index].max(1))
            note(f"worst@{size}", row[index].min(1))
            if label is not None:
                note(f"maj@{size}", _first_majority(label[index], row[index]))
    return {name: float(np.mean(values)) for name, values in found.items()}


# --- avg@n and intervals ---------------------------------------------------------------------------------------------


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


def avg_at_n(scores: Shaped[np.ndarray, "P n"] | Sequence[Sequence[Any]], *, level: float = 0.95) -> Average:
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
    """Wilson's interval for x successes of n (1927), exact normal quantile, no continuity correction."""
    _counts(n, x, 1)
    z = normal_quantile(0.5 + level / 2)
    p, d = x / n, 1 + z * z / n
    middle, reach = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (middle - reach) / d if x > 0 else 0.0, (middle + reach) / d if x < n else 1.0


def clopper_pearson(x: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """The exact binomial interval of Clopper and Pearson (1934) for x successes of n."""
    _counts(n, x, 1)
    tail = (1 - level) / 2
    low = float(special.betaincinv(x, n - x + 1, tail)) if x > 0 else 0.0
    high = float(special.betaincinv(x + 1, n - x, 1 - tail)) if x < n else 1.0
    return low, high


def bootstrap_means(values: Shaped[np.ndarray, "P ..."], *, draws: int = 10_000, seed: int = 0) -> Float[np.ndarray, "draws ..."]:
    """Means over P problems drawn with replacement, `draws` times. Columns share the draws, so they stay comparable."""
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


def _percentiles(draws: Float[np.ndarray, "draws ..."], level: float) -> tuple[Any, Any]:
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def bootstrap_interval(values: Shaped[np.ndarray, "P ..."], *, level: float = 0.95, draws: int = 10_000, seed: int = 0) -> tuple[Any, Any]:
    """Percentile interval (low, high) of the mean over problems, floats or one per column (Efron 1979).

    A problem's samples stay together: its value is the unit that is drawn.
    """
    return _percentiles(bootstrap_means(values, draws=draws, seed=seed), level)


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
    """Mean of what is left when a quarter of the values (rounded down) is cut from each end."""
    ordered = np.sort(np.asarray(values, dtype=np.float64).ravel())
    if not ordered.size:
        raise UsageError("an interquartile mean needs at least one value")
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def interquartile_interval(
    scores: Shaped[np.ndarray, "R M"], *, level: float = 0.95, draws: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Stratified percentile bootstrap of the interquartile mean over R runs (seeds) of M tasks.

    Runs are drawn with replacement inside each task, so that every task keeps its weight (Agarwal et al. 2021,
    arXiv:2108.13264).
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


# --- vector files ----------------------------------------------------------------------------------------------------


def golden_metric(method: str, config: Mapping[str, Any] | None, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The outputs of a vector file of kind `metric`, by the names that the files use; keys of inner dicts are strings.

    Raises:
        UsageError: a method or an option that is not known here.
    """
    if method not in _GOLDEN:
        raise UsageError(f"no metric '{method}'; accepted: {', '.join(sorted(_GOLDEN))}")
    given = {**(config or {}), **inputs}
    accepted = _GOLDEN_KEYS[method]
    unknown = sorted(set(given) - accepted)
    if unknown:
        raise UsageError(f"metric '{method}' has no {', '.join(map(repr, unknown))}; accepted: {', '.join(sorted(accepted))}")
    return _GOLDEN[method](**given)


def _ks(k: int | Sequence[int]) -> list[int]:
    return [k] if isinstance(k, int) else list(k)


def _golden_pass(n: Any, c: Sequence[int], k: Any) -> dict[str, Any]:
    each = {str(x): pass_at_k(n, c, x) for x in _ks(k)}
    return {"per_problem": {x: v.tolist() for x, v in each.items()}, "mean": {x: float(v.mean()) for x, v in each.items()}}


def _golden_maj(
    answers: Sequence[Sequence[Answer]], correct: Sequence[Sequence[Any]], k: Any, seed: int = 42, n_bootstrap: int = 1000
) -> dict[str, Any]:
    rows = list(zip(answers, correct, strict=True))
    ks = _ks(k)
    subset = np.mean([maj_at_k(a, c, ks) for a, c in rows], axis=0)
    countable = [x for x in ks if all(math.comb(len(a), x) <= MAX_SUBSETS for a in answers)]
    return {
        "subset_maj": {str(x): float(v) for x, v in zip(ks, subset, strict=True)},
        "prefix_maj": {str(x): float(np.mean([prefix_maj(a, c, x) for a, c in rows])) for x in ks if x > 1},
        "nemo_rl_cons_at_k": {str(x): float(np.mean([nemo_rl_cons_at_k(a, c, x) for a, c in rows])) for x in countable},
        "verl_bootstrap": verl_best(correct, answers, draws=n_bootstrap, seed=seed),
    }


def _golden_avg(scores: Sequence[Sequence[Any]], k: int | None = None) -> dict[str, Any]:
    if k is not None:
        _counts([len(row) for row in scores], 0, k)
    scores = [row[:k] for row in scores]
    found = asdict(avg_at_n(scores))
    return {
        "avg_at_n": found["value"],
        "nemo_avg_percent": 100 * found["value"],
        "std_dev_across_runs": found["std_runs"],
        "std_err_across_runs": found["se_runs"],
        "avg_sample_std_dev": found["std_within"],
        "stderr_over_problems": found["se_problems"],
        "pass_at_n": float(np.mean([max(row) for row in scores])),
    }


def _golden_best(scores: Sequence[Sequence[Any]], answers: Any = None, seed: int = 42, n_bootstrap: int = 1000) -> dict[str, Any]:
    found = verl_best(scores, answers, draws=n_bootstrap, seed=seed)
    sizes = sorted({int(name.split("@")[1].split("/")[0]) for name in found if name.startswith("best@")})
    rows = [np.asarray([row], dtype=np.float64) for row in scores]
    countable = [size for size in sizes if all(size <= row.shape[1] for row in rows)]
    return {
        "verl_bootstrap": found,
        "with_replacement_expectation": {str(s): float(np.mean([best_at_k(row, s, replace=True)[0] for row in rows])) for s in sizes},
        "unbiased_pass_at_k": {str(s): float(np.mean([best_at_k(row, s)[0] for row in rows])) for s in countable},
    }


def _golden_interval(pairs: Sequence[Sequence[int]], confidence: float = 0.95) -> dict[str, Any]:
    return {
        "wilson": [list(wilson(x, n, level=confidence)) for x, n in pairs],
        "clopper_pearson": [list(clopper_pearson(x, n, level=confidence)) for x, n in pairs],
    }


_GOLDEN: dict[str, Callable[..., dict[str, Any]]] = {
    "pass_at_k": _golden_pass,
    "maj_at_k": _golden_maj,
    "avg_at_k": _golden_avg,
    "best_at_n_bootstrap": _golden_best,
    "binomial_interval": _golden_interval,
}
_GOLDEN_KEYS = {name: frozenset(inspect.signature(f).parameters) for name, f in _GOLDEN.items()}
