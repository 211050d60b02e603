import pytest
import torch

from rlent.methods.grpo import group_relative
from rlent.methods.opo import length_weighted
from rlent.methods.passk_grpo import best_of_group
from rlent.methods.rloo import leave_one_out

VECTORS = ("grpo", "dr_grpo", "grpo_batch_std", "grpo_passk", "rloo", "opo")

GRPO = {"scale": "group", "epsilon": 1e-6, "degenerate": "reference"}
REWARD = torch.tensor([1.0, 0.0, 0.0, 5.0, 3.0, 2.0], dtype=torch.float64)
GROUP = torch.tensor([0, 0, 0, 1, 1, 2])  # the last is alone
MASK = torch.ones(6, 1).bool()

ESTIMATORS = {
    "grpo": lambda r, g, m, d: group_relative(r, g, scale="group", epsilon=1e-6, degenerate=d),
    "dr_grpo": lambda r, g, m, d: group_relative(r, g, scale="none", epsilon=1e-6, degenerate=d),
    "grpo_batch_std": lambda r, g, m, d: group_relative(r, g, scale="batch", epsilon=1e-4, degenerate=d),
    "rloo": lambda r, g, m, d: leave_one_out(r, g, degenerate=d),
    "opo": lambda r, g, m, d: length_weighted(r, g, m, degenerate=d),
    "grpo_passk": lambda r, g, m, d: best_of_group(r, g, scale="none", epsilon=1e-6),
}


def test_agrees_with_the_reference(vector, agree):
    reward, group, mask, config = vector["reward"], vector["group"], vector["mask"], vector.config
    scale = "group" if config.get("norm_by_std") else "none"
    match vector.method:
        case "grpo" | "dr_grpo":
            adv = group_relative(reward, group, scale=scale, epsilon=config.get("epsilon", 1e-6), degenerate="reference")
        case "grpo_batch_std":
            adv = group_relative(reward, group, scale=config["scale"], epsilon=config["epsilon"], degenerate="zero")
        case "grpo_passk":
            adv = best_of_group(reward, group, scale=scale, epsilon=config["epsilon"])
        case "rloo":
            adv = leave_one_out(reward, group, degenerate="reference")
        case "opo":
            adv = length_weighted(reward, group, mask, degenerate="reference")
    agree(adv[:, None] * mask, vector.out("advantages"))


def test_grpo_by_hand():
    # (1, 0, 0): mean 1/3, variance (4 + 1 + 1)/9 / 2 = 1/3; (5, 3): mean 4, deviation sqrt 2
    sd = 3**-0.5
    want = [2 / 3 / sd, -1 / 3 / sd, -1 / 3 / sd, 2**-0.5, -(2**-0.5), 2.0]
    found = group_relative(REWARD, GROUP, **{**GRPO, "epsilon": 0.0})
    torch.testing.assert_close(found, torch.tensor(want, dtype=torch.float64))


def test_epsilon_is_added_to_the_deviation_not_to_the_variance():
    found = group_relative(torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0, 0]), **{**GRPO, "epsilon": 0.5})
    assert found[0].item() == pytest.approx(0.5 / (0.5**0.5 + 0.5))


def test_dr_grpo_and_rloo_differ_by_the_size_of_the_group():
    plain = ESTIMATORS["dr_grpo"](REWARD, GROUP, MASK, "zero")
    assert plain.tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3, 1, -1, 0])
    # minus the mean of the others: 1 - 0, 0 - 1/2, 0 - 1/2; 5 - 3, 3 - 5
    assert ESTIMATORS["rloo"](REWARD, GROUP, MASK, "zero").tolist() == pytest.approx([1, -0.5, -0.5, 2, -2, 0])


def test_batch_scale_divides_by_the_deviation_of_all_rewards():
    found = ESTIMATORS["grpo_batch_std"](REWARD, GROUP, MASK, "zero")
    torch.testing.assert_close(found, ESTIMATORS["dr_grpo"](REWARD, GROUP, MASK, "zero") / (REWARD.std() + 1e-4))


def test_opo_weighs_the_baseline_by_length():
    reward = torch.tensor([1.0, 0.0], dtype=torch.float64)
    mask = torch.tensor([[1, 0, 0], [1, 1, 1]]).bool()
    # baseline (1 * 1 + 3 * 0) / 4
    assert length_weighted(reward, torch.tensor([0, 0]), mask, degenerate="reference").tolist() == [0.75, -0.25]


def test_opo_without_any_token_is_the_reward():
    found = length_weighted(REWARD, GROUP, torch.zeros(6, 2).bool(), degenerate="reference")
    assert found.tolist() == REWARD.tolist()


def test_passk_pays_the_lead_of_the_best_alone():
    reward = torch.tensor([0.2, 0.9, 0.5, 1.0, 1.0, 0.3], dtype=torch.float64)
    group = torch.tensor([0, 0, 0, 1, 1, 2])
    found = best_of_group(reward, group, scale="none", epsilon=0.0)
    assert found.tolist() == pytest.approx([0, 0.4, 0, 0, 0, 0])  # a tie at the top pays nobody, and neither does a group of one


@pytest.mark.parametrize("name", [n for n in ESTIMATORS if n != "grpo_passk"])
def test_a_group_of_one_is_its_reward_or_nothing(name):
    reward, group = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64), torch.tensor([0, 0, 1])
    mask = torch.ones(3, 2).bool()
    unit = {"grpo": 1 + 1e-6, "grpo_batch_std": 1 + 1e-4}.get(name, 1.0)  # std of (1, 0, 2) is 1
    assert ESTIMATORS[name](reward, group, mask, "reference")[2].item() == pytest.approx(2 / unit)
    assert ESTIMATORS[name](reward, group, mask, "zero")[2].item() == 0.0


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("value", [0.0, 0.1, 1.0])
def test_equal_rewards_earn_exactly_nothing(name, value):
    reward, group = torch.full((6,), value), torch.tensor([0, 1, 0, 1, 1, 0])
    mask = torch.arange(4) < torch.tensor([[1], [4], [2], [3], [2], [4]])
    adv = ESTIMATORS[name](reward, group, mask, "reference")
    assert adv.abs().max() <= (1e-7 if name == "opo" else 0)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_rows_may_come_in_any_order(name):
    torch.manual_seed(0)
    reward, group = torch.randn(12, dtype=torch.float64), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3])
    mask = torch.arange(5) < torch.randint(1, 6, (12, 1))
    order = torch.randperm(12)
    moved = ESTIMATORS[name](reward[order], group[order], mask[order], "reference")
    torch.testing.assert_close(moved, ESTIMATORS[name](reward, group, mask, "reference")[order])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_advantages_keep_the_rewards_dtype(name):
    assert ESTIMATORS[name](REWARD.float(), GROUP, MASK, "reference").dtype == torch.float32
