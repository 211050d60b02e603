"""Classes of equal answers and majority votes: by hand, by enumeration and by simulation."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlent.errors import UsageError
from rlent.math import vote as votes
from rlent.math.passk import pass_at_k
from rlent.math.vote import answer_classes, maj_at_k


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
    monkeypatch.setattr(votes, "EXACT_VOTES", 10)
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


@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=7))
def test_majority_votes_with_nobody_or_everybody_right(answers: list[str | None]) -> None:
    """All empty scores 0; if every answer is right, a subset scores 1 unless it is empty throughout."""
    ks = list(range(1, len(answers) + 1))
    np.testing.assert_array_equal(maj_at_k(answers, [False] * len(answers), ks), 0)
    right = maj_at_k(answers, [a is not None for a in answers], ks)
    votes = sum(a is not None for a in answers)
    np.testing.assert_allclose(right, [pass_at_k(len(answers), votes, k).item() for k in ks], atol=1e-12)
