"""Metrics of other projects, and the vector files of kind `metric`, which hold their numbers."""

from __future__ import annotations

import inspect
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from rlent.errors import UsageError
from rlent.math.intervals import avg_at_n, clopper_pearson, wilson
from rlent.math.passk import best_at_k, check_counts, pass_at_k
from rlent.math.verl import first_majority, verl_best
from rlent.math.vote import Answer, maj_at_k
from rlent.types import Config
from rlent.verify.compare import Tree

MAX_SUBSETS = 1_000_000


def prefix_maj(answers: Sequence[Answer], correct: Sequence[bool | int | float], k: int) -> float:
    """NeMo-Skills' majority@k: one vote among the first k samples over (answer, verdict) pairs; ties share, None is left out."""
    check_counts(len(answers), 0, k)
    votes = Counter((a, float(c)) for a, c in zip(answers[:k], correct[:k], strict=True) if a is not None)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [verdict for (_, verdict), count in votes.items() if count == most]
    return sum(winners) / len(winners)


def nemo_rl_cons_at_k(answers: Sequence[Answer], correct: Sequence[bool | int | float], k: int) -> float:
    """NeMo-RL's cons@k: mean over all k-subsets; a tie goes to the answer seen first, and no answer votes like an answer.

    Raises:
        UsageError: more than a million subsets.
    """
    n = len(answers)
    check_counts(n, 0, k)
    if math.comb(n, k) > MAX_SUBSETS:
        raise UsageError(f"cons@{k} of {n} samples would enumerate {math.comb(n, k):,} subsets; use maj_at_k")
    number = {a: i for i, a in enumerate(dict.fromkeys(answers))}
    label = np.array([number[a] for a in answers])
    subsets = np.array(list(itertools.combinations(range(n), k)))
    return float(first_majority(label[subsets], np.asarray(correct, dtype=np.float64)[subsets]).mean())


def golden_metric(method: str, config: Config | None, inputs: Config) -> dict[str, Tree]:
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


def _golden_pass(n: int | Sequence[int], c: Sequence[int], k: int | Sequence[int]) -> dict[str, Tree]:
    each = {str(x): pass_at_k(n, c, x) for x in _ks(k)}
    return {"per_problem": {x: v.tolist() for x, v in each.items()}, "mean": {x: float(v.mean()) for x, v in each.items()}}


def _golden_maj(
    answers: Sequence[Sequence[Answer]],
    correct: Sequence[Sequence[bool | int | float]],
    k: int | Sequence[int],
    seed: int = 42,
    n_bootstrap: int = 1000,
) -> dict[str, Tree]:
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


def _golden_avg(scores: Sequence[Sequence[bool | int | float]], k: int | None = None) -> dict[str, Tree]:
    if k is not None:
        check_counts([len(row) for row in scores], 0, k)
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


def _golden_best(
    scores: Sequence[Sequence[bool | int | float]],
    answers: Sequence[Sequence[Answer]] | None = None,
    seed: int = 42,
    n_bootstrap: int = 1000,
) -> dict[str, Tree]:
    found = verl_best(scores, answers, draws=n_bootstrap, seed=seed)
    sizes = sorted({int(name.split("@")[1].split("/")[0]) for name in found if name.startswith("best@")})
    rows = [np.asarray([row], dtype=np.float64) for row in scores]
    countable = [size for size in sizes if all(size <= row.shape[1] for row in rows)]
    return {
        "verl_bootstrap": found,
        "with_replacement_expectation": {str(s): float(np.mean([best_at_k(row, s, replace=True)[0] for row in rows])) for s in sizes},
        "unbiased_pass_at_k": {str(s): float(np.mean([best_at_k(row, s)[0] for row in rows])) for s in countable},
    }


def _golden_interval(pairs: Sequence[Sequence[int]], confidence: float = 0.95) -> dict[str, Tree]:
    return {
        "wilson": [list(wilson(x, n, level=confidence)) for x, n in pairs],
        "clopper_pearson": [list(clopper_pearson(x, n, level=confidence)) for x, n in pairs],
    }


_GOLDEN: dict[str, Callable[..., dict[str, Tree]]] = {
    "pass_at_k": _golden_pass,
    "maj_at_k": _golden_maj,
    "avg_at_k": _golden_avg,
    "best_at_n_bootstrap": _golden_best,
    "binomial_interval": _golden_interval,
}
_GOLDEN_KEYS = {name: frozenset(inspect.signature(f).parameters) for name, f in _GOLDEN.items()}
