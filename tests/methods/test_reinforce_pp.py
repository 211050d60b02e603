import pytest
import torch

from rlent.methods.reinforce_pp import whitened_group_reward, whitened_return

VECTORS = ("reinforce_pp", "reinforce_pp_baseline")


def on_last_token(reward: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(mask.shape, dtype=reward.dtype)
    out[torch.arange(len(mask)), mask.sum(1) - 1] = reward
    return out


def test_agrees_with_the_reference(vector, agree):
    reward, mask = vector["reward"], vector["mask"]
    if vector.method == "reinforce_pp":
        adv = whitened_return(on_last_token(reward, mask), mask, gamma=vector.config["gamma"])
    else:
        adv = whitened_group_reward(reward, vector["group"], mask, degenerate="reference")
    agree(adv, vector.out("advantages"))


def test_returns_by_hand():
    # gamma 1/2: returns (1/4, 1/2, 1) and (0, 0); mean 0.35, squares sum to 1.3125 - 5 * 0.1225, variance 0.175
    token_reward = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 9.0]], dtype=torch.float64)  # 9 stands in the padding
    mask = torch.tensor([[True, True, True], [True, True, False]])
    want = (torch.tensor([[0.25, 0.5, 1.0], [0.0, 0.0, 0.35]], dtype=torch.float64) - 0.35) / 0.175**0.5
    torch.testing.assert_close(whitened_return(token_reward, mask, gamma=0.5), want, rtol=1e-6, atol=1e-9)


def test_a_process_reward_counts_for_the_tokens_before_it():
    reward = torch.tensor([[1.0, 0.0, 2.0, 0.0]], dtype=torch.float64)
    adv = whitened_return(reward, torch.ones(1, 4).bool(), gamma=1.0)[0]
    returns = torch.tensor([3.0, 2.0, 2.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(adv, (returns - returns.mean()) / returns.std(), rtol=1e-6, atol=1e-9)


def test_long_responses_weigh_more_in_the_baseline_variant():
    reward, group = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor([0, 0])
    mask = torch.tensor([[True, False, False], [True, True, True]])
    adv = whitened_group_reward(reward, group, mask, degenerate="zero")
    # tokens (.5, -.5, -.5, -.5): mean -1/4, unbiased variance (9 + 3)/16/3 = 1/4
    assert adv[0].tolist() == pytest.approx([1.5, 0, 0], rel=1e-6)
    assert adv[1].tolist() == pytest.approx([-0.5, -0.5, -0.5], rel=1e-6)


def test_nothing_to_compare_gives_nothing():
    one = torch.tensor([[True, False]])
    assert not whitened_return(torch.tensor([[1.0, 0.0]]), one, gamma=1.0).any()
    assert not whitened_return(torch.ones(2, 2), torch.zeros(2, 2).bool(), gamma=1.0).any()
    # an empty response is not compared, and takes part in its group's mean all the same
    adv = whitened_group_reward(
        torch.tensor([1.0, 0.0]), torch.tensor([0, 0]), torch.tensor([[True, True], [False, False]]), degenerate="zero"
    )
    assert not adv.any()
