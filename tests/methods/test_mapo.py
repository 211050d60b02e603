import pytest
import torch

from rlent.errors import UsageError
from rlent.methods.grpo import group_relative
from rlent.methods.mapo import mixed

VECTORS = ("mapo",)
OPTIONS = {"strict": True, "weighting": "quadratic", "epsilon": 1e-6, "degenerate": "zero"}


def rewards(right, of):
    return (torch.arange(of) < right).double()


def test_agrees_with_the_authors_code(vector, agree):
    found = mixed(vector["reward"], vector["group"], **{**OPTIONS, **vector.config})
    agree(found[:, None] * vector["mask"], vector.out("advantages"))


@pytest.mark.parametrize(("right", "good", "bad"), [(1, 8.61, -0.78), (11, 0.15, -1.66)])
def test_hard_prompts_are_pushed_and_easy_ones_softened(right, good, bad):
    found = mixed(rewards(right, 12), torch.zeros(12).long(), **OPTIONS)
    assert found[0].item() == pytest.approx(good, abs=5e-3)
    assert found[-1].item() == pytest.approx(bad, abs=5e-3)


@pytest.mark.parametrize("weighting", ["quadratic", "linear"])
def test_a_prompt_solved_half_of_the_time_is_grpo(weighting):
    reward, group = rewards(3, 6), torch.zeros(6).long()
    want = group_relative(reward, group, scale="group", epsilon=1e-6, degenerate="zero")
    torch.testing.assert_close(mixed(reward, group, **{**OPTIONS, "weighting": weighting}), want)


def test_linear_weighting_by_hand():
    # p = 1/4: half of (3/4) / std, std = 1/2, and half of (3/4) / (1/4)
    found = mixed(rewards(1, 4), torch.zeros(4).long(), **{**OPTIONS, "weighting": "linear", "epsilon": 0.0})
    assert found[0].item() == pytest.approx(0.5 * 1.5 + 0.5 * 3.0)


@pytest.mark.parametrize("value", [-1.0, 0.5, 1.1])
def test_rewards_other_than_0_and_1_are_refused_by_value(value):
    with pytest.raises(UsageError, match=rf"MAPO needs rewards of exactly 0 and 1, and found {value:g};"):
        mixed(torch.tensor([1.0, value]), torch.zeros(2).long(), **OPTIONS)


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_equal_rewards_and_groups_of_one_earn_nothing(reward):
    group = torch.tensor([0, 0, 0, 1])
    assert not mixed(torch.full((4,), reward), group, **OPTIONS).any()


def test_a_group_of_one_may_keep_its_reward():
    # p = 1, so only the mean's term is left: 1 / (1 + 1e-6)
    found = mixed(torch.ones(1), torch.zeros(1).long(), **{**OPTIONS, "degenerate": "reference"})
    assert found.item() == pytest.approx(1.0, rel=1e-5)


def test_the_order_of_rows_does_not_matter():
    g = torch.Generator().manual_seed(0)
    reward, group = (torch.rand(12, generator=g) < 0.5).double(), torch.arange(12) % 3
    order = torch.randperm(12, generator=g)
    torch.testing.assert_close(mixed(reward[order], group[order], **OPTIONS), mixed(reward, group, **OPTIONS)[order])


def test_as_released_accuracy_counts_rewards_of_exactly_one():
    found = mixed(
        torch.tensor([1.0, 0.5, 0.5, 0.0], dtype=torch.float64), torch.zeros(4).long(), **{**OPTIONS, "strict": False, "epsilon": 0.0}
    )
    # p = 1/4: weight 3/4 of the deviation sqrt(1/6), 1/4 of the mean 1/2
    want = 0.75 * 0.5 / (1 / 6) ** 0.5 + 0.25 * 0.5 / 0.5
    assert found.tolist() == pytest.approx([want, 0.0, 0.0, -want])
