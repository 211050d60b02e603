"""pass@k, maj@k, avg@n and intervals: by hand, against the reference vectors, by enumeration and by simulation."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlent.errors import UsageError
from rlent.math import passk
from rlent.math.passk import (
    answer_classes,
    avg_at_n,
    best_at_k,
    bootstrap_interval,
    bootstrap_means,
    clopper_pearson,
    golden_metric,
    interquartile_interval,
    interquartile_mean,
    maj_at_k,
    nemo_rl_cons_at_k,
    paired_bootstrap,
    paired_bootstrap_of_sets,
    pass_at_k,
    pass_hat_k,
    prefix_maj,
    verl_best,
    wilson,
)

GOLDEN = Path(__file__).parents[1] / "golden"
VECTORS = sorted(
    path
    for name in ("pass_at_k", "maj_at_k", "avg_at_k", "best_at_n_bootstrap", "binomial_interval")
    for path in GOLDEN.glob(f"{name}_*.json")
)


def worst(found: object, want: object) -> float:
    """Largest absolute difference between two nested structures; the keys of `want` decide."""
    if isinstance(want, dict):
        assert isinstance(found, dict)
        return max((worst(found[key], value) for key, value in want.items()), default=0.0)
    if isinstance(want, list):
        assert isinstance(found, list) and len(found) == len(want)
        return max((worst(f, w) for f, w in zip(found, want, strict=True)), default=0.0)
    return abs(float(found) - float(want))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", VECTORS, ids=lambda p: p.stem)
def test_reference_vectors(path: Path) -> None:
    case = json.loads(path.read_text())
    found = golden_metric(case["method"], case.get("config"), case["inputs"])
    tolerance = case["tolerance"]
    for name, want in case["outputs"].items():
        limit = tolerance[name] if isinstance(tolerance, dict) else tolerance
        assert worst(found[name], want) <= limit, name


def test_all_vector_files_are_there() -> None:
    assert len(VECTORS) == 9


def test_unknown_metric_and_option_are_refused_by_name() -> None:
    with pytest.raises(UsageError, match="no metric 'pass_at_j'; accepted: avg_at_k"):
        golden_metric("pass_at_j", {}, {})
    with pytest.raises(UsageError, match="'pass_at_k' has no 'seeds'; accepted: c, k, n"):
        golden_metric("pass_at_k", {"seeds": 1}, {"n": 4, "c": [1], "k": [1]})


# --- pass@k


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


# --- votes


def vote(answers: list[str | None], right: dict[str, bool]) -> float:
    """The verdict of one vote, written the long way."""
    votes = Counter(a for a in answers if a is not None)
    winners = [a for a in votes if votes[a] == max(votes.values())]
    return sum(right[a] for a in winners) / len(winners) if winners else 0.0


answers_and_truth = st.tuples(
    st.lists(st.sampled_from(["a", "b", "c", "d", None]), min_size=1, max_size=9),
    st.fixed_dictionaries({name: st.booleans() for name in "abcd"}),
)


@settings(max_examples=150)
@given(answers_and_truth)
def test_maj_at_k_equals_the_mean_over_all_subsets(case: tuple[list[str | None], dict[str, bool]]) -> None:
    answers, right = case
    correct = [a is not None and right[a] for a in answers]
    ks = list(range(1, len(answers) + 1))
    want = [np.mean([vote(list(s), right) for s in itertools.combinations(answers, k)]) for k in ks]
    np.testing.assert_allclose(maj_at_k(answers, correct, ks), want, atol=1e-12)


def test_maj_at_k_by_hand() -> None:
    # pairs of a a b c: aa, ab x2, ac x2, bc. b is right: it ties in ab, ab, bc -> 1.5 / 6
    assert maj_at_k(["a", "a", "b", "c"], [0, 0, 1, 0], [2])[0] == pytest.approx(0.25, abs=1e-15)
    # no answer does not vote: pairs of a - -: a wins in 2 of 3, nobody in one
    assert maj_at_k(["a", None, None], [1, 0, 0], [2])[0] == pytest.approx(2 / 3, abs=1e-15)
    assert maj_at_k([None, None], [0, 0], [1, 2]).tolist() == [0, 0]


def test_sampled_votes_agree_with_the_exact_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    answers = [int(x) if x else None for x in rng.integers(0, 5, size=40)]
    correct = [a == 2 for a in answers]
    exact = maj_at_k(answers, correct, [1, 5, 20])
    monkeypatch.setattr(passk, "EXACT_VOTES", 10)
    sampled = maj_at_k(answers, correct, [1, 5, 20], draws=4000, seed=3)
    assert 0 < np.abs(sampled - exact).max() < 4 * 0.5 / math.sqrt(4000)
    np.testing.assert_array_equal(sampled, maj_at_k(answers, correct, [1, 5, 20], draws=4000, seed=3))
    one_vote = ["a"] * 11 + ["b"] * 10  # without replacement, all of them is one vote
    assert maj_at_k(one_vote, [a == "a" for a in one_vote], [21], draws=50)[0] == 1.0


def test_many_samples_stay_finite() -> None:
    answers = ["a"] * 400 + ["b"] * 300 + [f"x{i}" for i in range(300)]
    value = maj_at_k(answers, [a == "a" for a in answers], [1, 2, 64])
    assert value[0] == pytest.approx(0.4, rel=1e-12)
    assert value[1] == pytest.approx(0.4, rel=1e-12)  # of two votes, one alone shares with the other
    assert 0.8 < value[2] < 1


def test_maj_at_k_refuses_more_votes_than_samples() -> None:
    with pytest.raises(UsageError, match="k = 3 is more than the 2 samples"):
        maj_at_k(["a", "b"], [1, 0], [1, 3])


def test_cons_at_k_gives_a_tie_to_the_first_answer_and_lets_no_answer_vote() -> None:
    answers, correct = ["b", "a", None, None], [0, 1, 0, 0]
    assert nemo_rl_cons_at_k(answers, correct, 4) == 0.0  # None has two votes
    assert nemo_rl_cons_at_k(answers, correct, 2) == pytest.approx(2 / 6)  # a- and a-: a comes first; ba goes to b
    with pytest.raises(UsageError, match="use maj_at_k"):
        nemo_rl_cons_at_k(["a"] * 64, [1] * 64, 32)


def test_prefix_maj_votes_with_the_verdict() -> None:
    # the same string judged differently is two candidates
    assert prefix_maj(["a", "a", "a", "b"], [1, 0, 1, 0], 4) == 1.0
    assert prefix_maj(["a", "a", "b", None], [1, 0, 0, 0], 4) == pytest.approx(1 / 3)


def test_classes_join_the_first_equal_representative() -> None:
    asked: list[tuple[str, str]] = []

    def same_value(a: str, b: str) -> bool:
        asked.append((a, b))
        return float(a) == float(b)

    answers = ["0.5", None, ".50", "2", "0.5", ".50", "2.0"]
    assert answer_classes(answers, same_value) == [0, -1, 0, 1, 0, 0, 1]
    assert len(asked) == len(set(asked)) == 4  # .50/0.5, 2/0.5, 2.0/0.5, 2.0/2: equal strings are never asked about
    assert answer_classes(answers) == [0, -1, 1, 2, 0, 1, 3]


def test_accepted_and_rejected_answers_never_share_a_class() -> None:
    assert answer_classes(["1", "1.0", "1"], lambda a, b: True, [True, False, True]) == [0, 1, 0]


# --- verl


def test_verl_best_repeats_the_draws_of_its_generator() -> None:
    scores = np.array([[1.0, 0.0, 0.0, 0.5]])
    np.random.seed(42)
    means = []
    for size in (2, 4):
        np.random.seed(42)
        means.append(np.mean([scores[0, np.random.choice(4, size, replace=True)].max() for _ in range(1000)]))
    found = verl_best(scores)
    assert [found["best@2/mean"], found["best@4/mean"]] == means
    assert set(verl_best(scores[:, :1])) == {"mean@1"}


def test_verl_best_leaves_the_global_generator_alone() -> None:
    np.random.seed(7)
    before = np.random.get_state()[1].copy()
    verl_best(np.eye(3))
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_verl_best_lies_below_pass_at_k() -> None:
    scores = np.array([[1.0] + [0.0] * 7])
    assert verl_best(scores)["best@8/mean"] == pytest.approx(1 - (7 / 8) ** 8, abs=0.04)
    assert pass_at_k(8, [1], 8)[0] == 1.0


# --- avg@n and intervals


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
    from scipy.stats import trim_mean

    values = np.random.default_rng(0).standard_normal(37)
    assert interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25))


def test_interquartile_interval_keeps_tasks_apart() -> None:
    # tasks differ and runs do not: strata leave nothing to draw, a plain bootstrap over all scores would
    scores = np.tile(np.array([0.1, 0.4, 0.5, 0.9]), (5, 1))
    assert interquartile_interval(scores, draws=200) == pytest.approx((0.45, 0.45))
    noisy = scores + 0.05 * np.random.default_rng(0).standard_normal(scores.shape)
    low, high = interquartile_interval(noisy, draws=2000)
    assert low < interquartile_mean(noisy) < high and high - low < 0.1


# --- unequal numbers of samples, and several sets


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


def test_verl_numbers_of_unequal_problems_are_means_over_those_that_have_them() -> None:
    one, two = verl_best([[1, 0, 0, 1]], [["a", "b", "b", "a"]]), verl_best([[0, 1]], [[None, "a"]])
    both = verl_best([[1, 0, 0, 1], [0, 1]], [["a", "b", "b", "a"], [None, "a"]])
    assert both["mean@4"] == one["mean@4"] and both["mean@2"] == two["mean@2"]
    assert both["best@2/mean"] == pytest.approx((one["best@2/mean"] + two["best@2/mean"]) / 2)
    assert both["maj@4/mean"] == one["maj@4/mean"]


def test_golden_average_takes_the_first_k_samples() -> None:
    found = golden_metric("avg_at_k", {}, {"scores": [[1, 0, 0], [1, 1, 0]], "k": 2})
    assert found["avg_at_n"] == 0.75 and found["pass_at_n"] == 1.0
    with pytest.raises(UsageError, match="k = 4 is more than the 3 samples"):
        golden_metric("avg_at_k", {}, {"scores": [[1, 0, 0]], "k": 4})


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


@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=7))
def test_majority_votes_with_nobody_or_everybody_right(answers: list[str | None]) -> None:
    """All empty scores 0; if every answer is right, a subset scores 1 unless it is empty throughout."""
    ks = list(range(1, len(answers) + 1))
    np.testing.assert_array_equal(maj_at_k(answers, [False] * len(answers), ks), 0)
    right = maj_at_k(answers, [a is not None for a in answers], ks)
    votes = sum(a is not None for a in answers)
    np.testing.assert_allclose(right, [pass_at_k(len(answers), votes, k).item() for k in ks], atol=1e-12)
