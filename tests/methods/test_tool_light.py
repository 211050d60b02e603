import pytest
import torch

from rlent.methods.tool_light import largest, step_entropy
from rlent.verify.released.tool_light import positions


def test_the_entropy_of_a_step_is_its_largest_mean_over_a_beginning():
    # means of the first 1, 2, 4 (the whole step of 3): 1, 2, 1.5
    assert step_entropy([1.0, 3.0, 0.5], [1, 2, 4]) == ([1.0, 2.0, 1.5], 2.0, 2)
    assert step_entropy([2.0, 2.0], [1, 2])[2] == 1, "the first on ties"


def test_the_most_uncertain_steps_come_first_and_the_earlier_on_ties():
    assert largest([1.0, 3.0, 3.0, 2.0], 3) == [1, 2, 3] and largest([1.0], 3) == [0]


def test_steps_of_different_length_are_compared():
    def step(p, n):
        return torch.tensor([[p, 1 - p]] * n, dtype=torch.float64).log().tolist()

    found = positions([step(0.9, 3), step(0.5, 1), step(0.6, 2)], prefix_lengths=[2], top_k=2, branch_steps=2)
    assert found["branch_steps"] == [1, 2] and found["step_entropy"][1] == pytest.approx(0.693147, abs=1e-6)
