import pytest
import torch

from rlent.methods.dler import stop_penalised, whitened_and_boosted
from rlent.methods.reinforce_pp import whitened_group_reward

VECTORS = ("dler",)
OPTIONS = {"boost": 0.0, "threshold": 1.0, "degenerate": "reference"}


def finish(stopped):
    return ["stop" if s else "length" for s in stopped]


def test_agrees_with_the_authors_code(vector, agree):
    c, score = vector.config, vector["scores"]
    reward = stop_penalised(score, finish(vector["finished"]), penalty=c["stop_penalty_coef"])
    agree(reward, vector.out("rewards"))
    given = {**OPTIONS, "boost": c["correct_boost"], "threshold": c["correct_threshold"]}
    agree(whitened_and_boosted(reward, score, vector["group"], vector["mask"], **given), vector.out("advantages"))


def test_a_right_response_that_was_cut_keeps_a_share_and_a_wrong_one_nothing():
    found = stop_penalised(torch.tensor([True, True, False, False]), finish([1, 0, 1, 0]), penalty=0.1)
    assert found.tolist() == pytest.approx([1.0, 0.1, 0.0, 0.0])


def test_the_boost_comes_after_whitening_and_looks_at_the_unpenalised_score():
    reward = torch.tensor([1.0, 0.1, 0.0], dtype=torch.float64)
    correct, group = torch.tensor([True, True, False]), torch.zeros(3).long()
    mask = torch.tensor([[1, 1], [1, 0], [1, 1]]).bool()
    plain = whitened_and_boosted(reward, correct, group, mask, **OPTIONS)
    torch.testing.assert_close(plain, whitened_group_reward(reward, group, mask, degenerate="reference"))
    boosted = whitened_and_boosted(reward, correct, group, mask, **{**OPTIONS, "boost": 0.25})
    torch.testing.assert_close(boosted - plain, torch.tensor([[0.25, 0.25], [0.25, 0.0], [0.0, 0.0]], dtype=torch.float64))


def test_order_and_padding_do_not_matter():
    g = torch.Generator().manual_seed(0)
    correct, group = torch.rand(12, generator=g) < 0.5, torch.arange(12) % 3
    mask = torch.arange(4) < torch.randint(0, 5, (12, 1), generator=g)
    given = {**OPTIONS, "boost": 0.1}
    found = whitened_and_boosted(correct.double(), correct, group, mask, **given)
    order = torch.randperm(12, generator=g)
    turned = whitened_and_boosted(correct[order].double(), correct[order], group[order], mask[order], **given)
    torch.testing.assert_close(turned, found[order])
    wide = whitened_and_boosted(correct.double(), correct, group, torch.nn.functional.pad(mask, (0, 3)), **given)
    torch.testing.assert_close(wide, torch.nn.functional.pad(found, (0, 3)))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_rewards_groups_of_one_and_empty_rows(value):
    group, mask = torch.tensor([0, 0, 0, 1]), torch.tensor([[True], [True], [False], [True]])
    found = whitened_and_boosted(torch.full((4,), value), torch.zeros(4), group, mask, **{**OPTIONS, "degenerate": "zero"})
    assert not found.any()
