"""pass@k by hand, by enumeration and by simulation."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlent.errors import UsageError
from rlent.math.passk import best_at_k, pass_at_k, pass_hat_k


def test_pass_at_k_by_hand() -> None:
    # 4 samples, 1 correct: a pair holds it in 3 of 6 pairs. 2 correct: only 1 of 6 pairs misses both.
    np.testing.assert_allclose(pass_at_k(4, [0, 1, 2, 3, 4], 2), [0, 1 / 2, 5 / 6, 1, 1], atol=1e-15)


@given(st.integers(1, 200), st.data())
def test_pass_at_k_is_the_exact_ratio_of_binomials(n: int, data: st.DataObject) -> None:
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    want = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert pass_at_k(n, [c], k)[0] == pytest.approx(float(want), abs=1e-14)


@given(st.integers(2, 60), st.data())
def test_pass_at_k_grows_with_k_and_with_c_and_starts_at_the_mean(n: int, data: st.DataObject) -> None:
    c = np.arange(n + 1)
    k = data.draw(st.integers(1, n - 1))
    np.testing.assert_allclose(pass_at_k(n, c, 1), c / n, atol=1e-15)
    assert (pass_at_k(n, c, k + 1) >= pass_at_k(n, c, k) - 1e-15).all()
    assert (np.diff(pass_at_k(n, c, k)) >= -1e-15).all()
    np.testing.assert_array_equal(pass_at_k(n, c, n), c > 0)
    assert (pass_hat_k(n, c, k) <= pass_at_k(n, c, k) + 1e-15).all()


def test_pass_at_k_is_unbiased_where_the_power_formula_is_not() -> None:
    """c of n is itself a draw: the estimate from 8 samples must average to 1-(1-p)^4 for the true p."""
    p, n, k = 0.2, 8, 4
    c = np.arange(n + 1)
    chance = np.array([math.comb(n, int(x)) * p**x * (1 - p) ** (n - x) for x in c])
    truth = 1 - (1 - p) ** k
    assert chance @ pass_at_k(n, c, k) == pytest.approx(truth, abs=1e-14)
    assert chance @ (1 - (1 - c / n) ** k) < truth - 0.02


def test_pass_at_k_is_the_share_of_random_subsets_with_a_hit() -> None:
    rng = np.random.default_rng(0)
    n, c, k, draws = 16, 3, 5, 20_000
    subsets = rng.permuted(np.tile(np.arange(n), (draws, 1)), axis=1)[:, :k]
    share = (subsets < c).any(1).mean()
    value = pass_at_k(n, c, k).item()
    assert abs(share - value) < 4 * math.sqrt(value * (1 - value) / draws)


def test_unequal_numbers_of_samples() -> None:
    np.testing.assert_allclose(pass_at_k([4, 8], [1, 1], 2), [0.5, 0.25], atol=1e-15)


@pytest.mark.parametrize(
    ("n", "c", "k", "message"),
    [
        (4, [0], 5, "k = 5 is more than the 4 samples"),
        ([8, 3], [0, 0], 4, "k = 4 is more than the 3 samples"),
        (4, [1], 0, "k = 0: a whole number of at least 1"),
        (4, [5], 1, "must be 0 to n"),
        (4, [-1], 1, "must be 0 to n"),
        (4, [0.5], 1, "whole numbers"),
    ],
)
def test_pass_at_k_refuses(n: object, c: object, k: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        pass_at_k(n, c, k)  # type: ignore[arg-type]


@given(st.lists(st.integers(0, 4), min_size=2, max_size=7), st.data())
def test_best_at_k_is_the_mean_of_the_maxima(scores: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(scores)))
    without = [max(s) for s in itertools.combinations(scores, k)]
    assert best_at_k(np.array([scores]), k)[0] == pytest.approx(np.mean(without), abs=1e-12)
    if len(scores) ** k <= 3000:
        draws = [max(s) for s in itertools.product(scores, repeat=k)]
        assert best_at_k(np.array([scores]), k, replace=True)[0] == pytest.approx(np.mean(draws), abs=1e-12)
