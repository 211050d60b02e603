import pytest
import torch

from rlent.methods.grpo import group_relative
from rlent.methods.qae import quantile_baseline

VECTORS = ("qae",)
PLAIN = {"quantile": 0.4, "method": "lower", "scale": "none", "epsilon": 1e-6, "degenerate": "reference"}


def test_agrees_with_the_reference(vector, agree):
    c = vector.config
    adv = quantile_baseline(
        vector["reward"],
        vector["group"],
        quantile=c["quantile_k"],
        method=c["quantile_method"],
        scale="group" if c["norm_by_std"] else "none",
        epsilon=c["epsilon"],
        degenerate="reference",
    )
    agree(adv[:, None] * vector["mask"], vector.out("advantages"))


@pytest.mark.parametrize("right", [1, 9, 10, 15])
def test_hard_prompts_reward_only_and_easy_prompts_punish_only(right):
    # 16 responses, K = 0.4: accuracy up to 0.6 is hard, so 9 right is hard and 10 right is easy
    reward = (torch.arange(16) < right).double()
    adv = quantile_baseline(reward, torch.zeros(16, dtype=torch.long), **PLAIN)
    assert set(adv[reward == 1].tolist()) == {1.0 if right <= 9 else 0.0}
    assert set(adv[reward == 0].tolist()) == {0.0 if right <= 9 else -1.0}


def test_interpolation_lets_the_gate_leak():
    reward = (torch.arange(8) < 5).double()
    leak = quantile_baseline(reward, torch.zeros(8, dtype=torch.long), **{**PLAIN, "method": "linear"})
    assert leak[0].item() == pytest.approx(0.2)
    assert leak[-1].item() == pytest.approx(-0.8)
    gate = quantile_baseline(reward, torch.zeros(8, dtype=torch.long), **PLAIN)
    assert gate[0].item() == 0.0
    assert gate[-1].item() == -1.0


@pytest.mark.parametrize("quantile", [0.0, 1.0, -1.0])
def test_a_quantile_outside_the_open_interval_is_the_mean(quantile):
    torch.manual_seed(0)
    reward, group = torch.randn(9, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 0, 1, 2, 2, 3])
    found = quantile_baseline(reward, group, **{**PLAIN, "quantile": quantile, "scale": "group"})
    torch.testing.assert_close(found, group_relative(reward, group, scale="group", epsilon=1e-6, degenerate="reference"))


@pytest.mark.parametrize(("degenerate", "want"), [("reference", 1.0), ("zero", 0.0)])
@pytest.mark.parametrize("scale", ["group", "none"])
def test_a_group_of_one(degenerate, want, scale):
    found = quantile_baseline(torch.tensor([1.0]), torch.tensor([3]), **{**PLAIN, "scale": scale, "degenerate": degenerate})
    assert found.item() == pytest.approx(want, rel=1e-5)


def test_equal_rewards_earn_exactly_nothing():
    for method in ("linear", "lower"):
        found = quantile_baseline(torch.full((7,), 0.1), torch.zeros(7, dtype=torch.long), **{**PLAIN, "method": method, "scale": "group"})
        assert not found.any()
