import numpy as np
import pytest
import torch

from rlent.methods.dapo import keep_mixed, overlong_soft

VECTORS = ("dapo_filter", "overlong_soft")


def test_agrees_with_the_reference(vector, agree):
    c = vector.config
    if vector.method == "dapo_filter":
        group = vector["group"]
        kept = keep_mixed(vector["metric"], group, tolerance=c["tolerance"], keep_single=c["keep_single"])
        names = group.unique()[kept]
        rows = [i for i, g in enumerate(group.tolist()) if g in names]
        assert rows == vector.outputs["kept_rows"]
    else:
        penalty = overlong_soft(vector["length"], c["max_len"], buffer=c["buffer"], penalty=c["penalty_factor"], cap=None)
        agree(vector["reward"] + penalty, vector.out("rewards"))


def test_groups_judged_alike_are_dropped():
    correct = torch.tensor([True, True, False, True, False, False, True])
    group = torch.tensor([0, 0, 3, 3, 5, 5, 7])  # all right, mixed, all wrong, alone
    assert keep_mixed(correct, group, tolerance=0.0, keep_single=True).tolist() == [False, True, False, True]
    assert keep_mixed(correct, group, tolerance=0.0, keep_single=False).tolist() == [False, True, False, False]


def test_answers_are_in_the_order_of_the_group_ids_wherever_the_rows_stand():
    correct = torch.tensor([True, False, True, True])
    assert keep_mixed(correct, torch.tensor([8, 2, 2, 8]), tolerance=0.0, keep_single=False).tolist() == [True, False]


def test_without_a_tolerance_rounding_passes_as_in_the_reference():
    same, group = torch.tensor([0.1, 0.1, 0.1], dtype=torch.float64), torch.zeros(3, dtype=torch.long)
    assert np.std([0.1, 0.1, 0.1]) > 0
    assert keep_mixed(same, group, tolerance=0.0, keep_single=True).tolist() == [True]
    assert keep_mixed(same, group, tolerance=1e-6, keep_single=True).tolist() == [False]


@pytest.mark.parametrize(("spread", "kept"), [(0.24, False), (0.26, True)])
def test_the_spread_must_exceed_the_tolerance(spread, kept):
    score = torch.tensor([0.0, spread])
    assert keep_mixed(score, torch.tensor([0, 0]), tolerance=0.25, keep_single=True).tolist() == [kept]


def test_punishment_grows_over_the_buffer():
    length = torch.tensor([0, 60, 61, 80, 100, 120])
    found = overlong_soft(length, 100, buffer=40, penalty=2.0, cap=None)
    assert found.tolist() == pytest.approx([0, 0, -0.05, -1, -2, -3])
    assert overlong_soft(length, 100, buffer=40, penalty=2.0, cap=2.0).tolist() == pytest.approx([0, 0, -0.05, -1, -2, -2])
