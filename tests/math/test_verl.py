"""The validation numbers of verl."""

from __future__ import annotations

import numpy as np
import pytest

from rlent.math.passk import pass_at_k
from rlent.math.verl import verl_best


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


def test_verl_numbers_of_unequal_problems_are_means_over_those_that_have_them() -> None:
    one, two = verl_best([[1, 0, 0, 1]], [["a", "b", "b", "a"]]), verl_best([[0, 1]], [[None, "a"]])
    both = verl_best([[1, 0, 0, 1], [0, 1]], [["a", "b", "b", "a"], [None, "a"]])
    assert both["mean@4"] == one["mean@4"] and both["mean@2"] == two["mean@2"]
    assert both["best@2/mean"] == pytest.approx((one["best@2/mean"] + two["best@2/mean"]) / 2)
    assert both["maj@4/mean"] == one["maj@4/mean"]
