import math

import pytest
import torch

from rlent.methods.arpo import branch_value, turn_entropy
from rlent.verify.released.arpo import branch_test


def test_the_entropy_of_a_turn_is_a_sum_over_its_first_tokens():
    assert turn_entropy([0.5, 0.5, 9.0], vocab=100, first_tokens=2) == pytest.approx(1 / math.log(100))


def test_a_rise_of_entropy_makes_a_branch_more_likely():
    # u = 0.6: stays at 0.6 > 0.5 without a rise, 0.6 - 0.2 * 1 = 0.4 with one; values are kept in [0, 1]
    assert float(branch_value(0.6, 0.0, 0.2)) == 0.6 and float(branch_value(0.6, 1.0, 0.2)) == pytest.approx(0.4)
    assert float(branch_value(0.1, 5.0, 0.2)) == 0.0 and float(branch_value(0.9, -5.0, 0.2)) == 1.0


def test_only_the_listed_tokens_count_up_to_top_k():
    turn = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log()
    found = branch_test(turn, turn, torch.tensor([0.5]), weight=0.2, probability=0.5, top_k=2, first_tokens=20, vocab=3)
    assert float(found["entropy"]) == pytest.approx((0.5 * math.log(2) + 0.25 * math.log(4)) / math.log(3))
    assert float(found["delta"]) == 0.0 and found["branch"].tolist() == [True]
