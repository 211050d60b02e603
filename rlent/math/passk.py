"""pass@k and its relatives, from counts of correct samples.

Letters: P problems, n samples of each, c of them correct. Everything is numpy float64 on the CPU; shares are in 0 to 1, never
percent. A score is a mean over problems, and problems are what intervals resample (`rlent.math.intervals`), so every function
gives values per problem and leaves the mean to the caller. Majority votes are in `rlent.math.vote`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Shaped

from rlent.errors import UsageError

Array = Shaped[np.ndarray, "..."]
Numbers = int | float | np.generic | Sequence[object] | Array


def check_counts(n: Numbers, c: Numbers, k: int) -> tuple[Array, Array]:
    """`n` and `c` as integer arrays of one shape.

    Raises:
        UsageError: counts that are not whole numbers, k below 1 or above a problem's n, c outside 0 to n.
    """
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
    n_, c_ = check_counts(n, c, k)
    value = np.empty(n_.shape)
    for samples in np.unique(n_):
        factors = 1 - k / np.arange(samples, 0, -1, dtype=np.float64)
        none_right = np.concatenate([[1.0], np.cumprod(factors)])  # by c = 0 ... n; exactly 0 from i = k on
        here = n_ == samples
        value[here] = 1 - none_right[c_[here]]
    return value


def pass_hat_k(n: Numbers, c: Numbers, k: int) -> Float[np.ndarray, " *P"]:
    """pass^k: chance that k of the n samples are all correct, C(c, k) / C(n, k) (tau-bench, arXiv:2406.12045)."""
    n_, c_ = check_counts(n, c, k)
    return 1 - pass_at_k(n_, n_ - c_, k)


def best_at_k(scores: Shaped[np.ndarray, "P n"], k: int, *, replace: bool = False) -> Float[np.ndarray, " P"]:
    """Expected highest score among k of the n samples. On 0/1 scores it is pass@k, or 1-(1-c/n)^k with replacement.

    Draws with replacement repeat samples, so that value lies below pass@k; it is what verl's validation estimates.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=1)
    n = ordered.shape[1]
    check_counts(n if not replace else max(n, k), 0, k)
    rank = np.arange(n + 1)
    below = (rank / n) ** k if replace else 1 - pass_at_k(n, n - rank, k)  # chance that all k are among the `rank` lowest
    return np.asarray(ordered @ np.diff(below), dtype=np.float64)
