import math

import pytest

from rlent.methods.adaptive_think import average_entropy, threshold
from rlent.verify.released.adaptive_think import steps


def test_the_threshold_is_a_share_of_the_largest_term():
    # -p log2 p is largest at p = 1 / e, where it is 1 / (e ln 2) = 0.5307
    p = 1 / math.e
    assert threshold(1.0) == pytest.approx(-p * math.log2(p))


def test_the_average_is_over_candidates_and_a_certain_answer_has_none():
    assert average_entropy([0.5, 0.5]) == 0.5 and average_entropy([1.0, 0.0]) == 0.0 and average_entropy([1.0]) == 0.0


def test_thinking_ends_at_the_first_step_that_is_certain_enough():
    found = steps([[0.5, 0.5], [0.98, 0.02], [0.5, 0.5]], alpha=0.3)
    assert found["stop"] == [False, True, False] and found["first"] == 1 and found["gain"][0] is None
    assert found["gain"][1] == pytest.approx(math.log(2) - 0.0980391, abs=1e-5)
    assert steps([[0.5, 0.5]], alpha=0.1)["first"] is None and steps([], alpha=0.1)["entropy"] == []


def test_steps_may_have_different_numbers_of_candidates():
    assert steps([[0.25] * 4, [1.0]], alpha=0.1)["mean"] == [0.5, 0.0]
