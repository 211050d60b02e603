"""avg@n and intervals over problems: by hand, against scipy and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rlent.errors import UsageError
from rlent.math.intervals import (
    avg_at_n,
    bootstrap_interval,
    bootstrap_means,
    clopper_pearson,
    estimate_pass_at_k,
    interquartile_interval,
    interquartile_mean,
    paired_bootstrap,
    paired_bootstrap_of_sets,
    wilson,
)


def test_average_by_hand() -> None:
    # two problems, two samples: per problem 0.5 and 1, per run 1 and 0.5
    found = avg_at_n(np.array([[1, 0], [1, 1]]))
    assert found.value == 0.75
    assert found.se_problems == pytest.approx(np.std([0.5, 1], ddof=1) / math.sqrt(2))
    assert found.se_runs == pytest.approx(np.std([1, 0.5], ddof=1) / math.sqrt(2))
    assert found.std_within == pytest.approx(math.sqrt(0.5) / 2)
    assert found.high - found.value == pytest.approx(12.706204736432095 * found.se_problems)  # t with one degree of freedom


def test_one_greedy_sample_per_problem_gets_wilson() -> None:
    found = avg_at_n(np.array([[1], [0], [1]]))
    assert (found.low, found.high) == wilson(2, 3)
    assert math.isnan(found.se_runs)


@given(st.integers(1, 300), st.data())
def test_binomial_intervals_hold_the_share_and_mirror(n: int, data: st.DataObject) -> None:
    x = data.draw(st.integers(0, n))
    for interval in (wilson, clopper_pearson):
        low, high = interval(x, n)
        assert 0 <= low <= x / n <= high + 1e-15 <= 1 + 1e-15
        other = interval(n - x, n)
        np.testing.assert_allclose([1 - high, 1 - low], other, atol=1e-10)
        wide = interval(x, n, level=0.99)
        assert wide[0] <= low + 1e-15 and wide[1] >= high - 1e-15
    assert clopper_pearson(0, n)[0] == 0 and clopper_pearson(n, n)[1] == 1


def test_binomial_intervals_by_their_formulas() -> None:
    # Wilson, 2 of 10 at z = 1.959964: (p + z^2/2n -+ z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)
    z = 1.959963984540054
    middle, reach, below = 0.2 + z * z / 20, z * math.sqrt(0.016 + z * z / 400), 1 + z * z / 10
    assert wilson(2, 10) == pytest.approx(((middle - reach) / below, (middle + reach) / below), abs=1e-12)
    # Clopper-Pearson, 0 of n: (1 - high)^n is half of what the level leaves
    assert clopper_pearson(0, 10, level=0.9) == pytest.approx((0.0, 1 - 0.05 ** (1 / 10)), abs=1e-12)
    with pytest.raises(UsageError, match="must be 0 to n"):
        wilson(4, 3)


def test_clopper_pearson_covers_at_least_its_level() -> None:
    n, p = 20, 0.13
    chance = [math.comb(n, x) * p**x * (1 - p) ** (n - x) for x in range(n + 1)]
    covered = sum(c for x, c in enumerate(chance) if clopper_pearson(x, n)[0] <= p <= clopper_pearson(x, n)[1])
    assert covered >= 0.95


def test_bootstrap_interval_matches_the_normal_one_for_many_problems() -> None:
    values = np.random.default_rng(0).random(400)
    low, high = bootstrap_interval(values, seed=5)
    se = values.std() / math.sqrt(400)
    np.testing.assert_allclose([low, high], values.mean() + np.array([-1.96, 1.96]) * se, atol=0.1 * se)


def test_bootstrap_is_seeded_and_columns_share_draws() -> None:
    values = np.random.default_rng(0).random((30, 1))
    both = bootstrap_means(np.hstack([values, 2 * values + 1]), draws=500, seed=1)
    np.testing.assert_allclose(both[:, 1], 2 * both[:, 0] + 1, rtol=1e-12)
    np.testing.assert_array_equal(both, bootstrap_means(np.hstack([values, 2 * values + 1]), draws=500, seed=1))
    assert (both[:, 0] != bootstrap_means(values, draws=500, seed=2)[:, 0]).any()


def test_bootstrap_draws_are_those_of_scipy() -> None:
    values = np.random.default_rng(0).random((40, 3))
    found = stats.bootstrap((values,), np.mean, axis=0, n_resamples=300, method="percentile", rng=np.random.default_rng(4))
    np.testing.assert_allclose(bootstrap_means(values, draws=300, seed=4), found.bootstrap_distribution.T, atol=1e-14)
    np.testing.assert_allclose(bootstrap_interval(values, draws=300, seed=4), found.confidence_interval, atol=1e-14)


def test_bootstrap_draws_do_not_depend_on_the_chunk() -> None:
    values = np.random.default_rng(0).random(3000)  # 4,000,000 / 3000 = 1333 draws at a time
    means = bootstrap_means(values, draws=3000, seed=1)
    assert means.shape == (3000,)
    assert means.std() == pytest.approx(values.std() / math.sqrt(3000), rel=0.1)
    assert len(np.unique(means)) > 2990


def test_paired_bootstrap_sees_what_two_intervals_hide() -> None:
    rng = np.random.default_rng(0)
    b = rng.random(60)
    a = b + 0.02 + 0.01 * rng.standard_normal(60)
    found = paired_bootstrap(a, b)
    assert 0.015 < found.low < found.value < found.high < 0.025 and found.above == 1.0
    alone = bootstrap_interval(a), bootstrap_interval(b)
    assert alone[0][0] < alone[1][1]  # the separate intervals overlap
    back = paired_bootstrap(b, a)
    np.testing.assert_allclose([back.value, back.low, back.high], [-found.value, -found.high, -found.low], atol=1e-12)
    with pytest.raises(UsageError, match="same problems"):
        paired_bootstrap(a, b[:-1])


def test_interquartile_mean_cuts_a_quarter_from_each_end() -> None:
    assert interquartile_mean([100, 1, 2, 3, -50, 4, 2, 2]) == pytest.approx((2 + 2 + 2 + 3) / 4)
    values = np.random.default_rng(0).standard_normal(37)
    assert interquartile_mean(values) == pytest.approx(np.sort(values)[9:-9].mean())
    with pytest.raises(UsageError, match="at least one value"):
        interquartile_mean([])


def test_interquartile_interval_keeps_tasks_apart() -> None:
    # tasks differ and runs do not: strata leave nothing to draw, a plain bootstrap over all scores would
    scores = np.tile(np.array([0.1, 0.4, 0.5, 0.9]), (5, 1))
    assert interquartile_interval(scores, draws=200) == pytest.approx((0.45, 0.45))
    noisy = scores + 0.05 * np.random.default_rng(0).standard_normal(scores.shape)
    low, high = interquartile_interval(noisy, draws=2000)
    assert low < interquartile_mean(noisy) < high and high - low < 0.1


def test_average_of_unequal_numbers_is_over_problems() -> None:
    found = avg_at_n([[1, 0], [1, 1, 1, 0], [0]])
    assert found.value == pytest.approx((1 / 2 + 3 / 4 + 0) / 3)
    assert found.se_problems == pytest.approx(np.std([1 / 2, 3 / 4, 0], ddof=1) / math.sqrt(3))
    assert math.isnan(found.se_runs) and math.isnan(found.std_within)  # there are no runs, and one problem has a single sample
    assert found.interval == "t" and avg_at_n([[1], [0]]).interval == "wilson" and avg_at_n([[0.5], [0.25]]).interval == "t"
    with pytest.raises(UsageError, match="at least one of each"):
        avg_at_n([[1], []])


def test_thirty_problems_get_students_t() -> None:
    scores = np.tile([[1, 0], [0, 0], [1, 1]], (10, 1))
    found = avg_at_n(scores)
    assert (found.high - found.value) / found.se_problems == pytest.approx(2.0452296, abs=1e-6)  # t of 29 degrees of freedom at 0.975


def test_difference_over_sets_by_hand() -> None:
    small, large = (np.array([1.0, 0.0]), np.array([0.0, 0.0])), (np.array([0.0, 1.0, 0.0, 0.0]), np.array([1.0, 1.0, 0.0, 0.0]))
    found = paired_bootstrap_of_sets([small, large], [0.75, 0.25])
    assert found.value == pytest.approx(0.75 * 0.5 - 0.25 * 0.25) and found.problems == 6
    se = [np.std(a - b, ddof=1) / math.sqrt(len(a)) for a, b in (small, large)]
    assert found.se == pytest.approx(math.hypot(0.75 * se[0], 0.25 * se[1]))
    # the means of the small set are 0, 1/2, 1 with chances 1/4, 1/2, 1/4; those of the large lie in -1/4 * (0 ... 1)
    assert found.low == pytest.approx(-0.25 * 0.75, abs=0.07) and found.high <= 0.75
    assert found.above == pytest.approx(0.75, abs=0.02)  # unless the small set gave 0
    rng = np.random.default_rng(0)
    pair = (rng.random(50), rng.random(50))
    one, two = paired_bootstrap_of_sets([pair], [1.0]), paired_bootstrap_of_sets([pair, pair], [0.5, 0.5])
    assert (two.high - two.low) / (one.high - one.low) == pytest.approx(math.sqrt(0.5), abs=0.03)  # sets are resampled by themselves
    alone = paired_bootstrap_of_sets([small], [1.0], seed=3)
    assert alone == paired_bootstrap(*small, seed=3)
    with pytest.raises(UsageError, match="2 sets and 1 weights"):
        paired_bootstrap_of_sets([small, large], [1.0])


def test_pass_at_k_of_a_matrix_by_hand() -> None:
    # of 4 samples, 1, 2 and 0 are right: a pair holds one in 3, 5 and 0 of 6 pairs
    correct = [[1, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]
    found = estimate_pass_at_k(correct)
    assert list(found) == [1, 2, 4]
    assert [e.value for e in found.values()] == pytest.approx([3 / 12, (3 / 6 + 5 / 6) / 3, 2 / 3])
    each = np.array([3 / 6, 5 / 6, 0])
    assert (found[2].low, found[2].high) == pytest.approx(bootstrap_interval(each))
    assert estimate_pass_at_k(np.array(correct, dtype=bool), [2]) == {2: found[2]} == estimate_pass_at_k(torch.tensor(correct), [2])


def test_pass_at_k_where_every_problem_agrees_gets_wilsons_interval() -> None:
    found = estimate_pass_at_k(np.ones((20, 4)), [1])[1], estimate_pass_at_k(np.zeros((20, 4)), [1])[1]
    assert [(e.low, e.high) for e in found] == [wilson(20, 20), wilson(0, 20)]
