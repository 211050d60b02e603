import math

import pytest
import torch

from rlent.methods.sapo import soft_gate

VECTORS = ("sapo",)


def one(ratio: float, adv: float, *, tau_pos=2.0, tau_neg=4.0, clamp=None) -> tuple[float, float]:
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    loss = soft_gate(logp, zero, zero + adv, torch.ones_like(zero).bool(), level="token", tau_pos=tau_pos, tau_neg=tau_neg, clamp=clamp)
    loss.sum().backward()
    return loss.item(), logp.grad.item()


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_agrees_with_the_reference(vector, objective):
    c, logp = vector.config, vector.leaf("logp")
    options = {"tau_pos": c["tau_pos"], "tau_neg": c["tau_neg"], "clamp": c["log_ratio_clamp"]}
    objective(vector, soft_gate(logp, vector["old_logp"], vector["adv"], vector["mask"], level="token", **options), logp)


@pytest.mark.parametrize("adv", [2.0, -2.0])
def test_where_nothing_has_drifted_it_is_the_plain_policy_gradient(adv):
    assert one(1.0, adv)[1] == pytest.approx(-adv)


def test_the_value_by_hand_with_a_temperature_for_each_sign():
    assert one(1.5, 1.0)[0] == pytest.approx(-4 / 2 * sigmoid(2 * 0.5))
    assert one(1.5, -1.0)[0] == pytest.approx(4 / 4 * sigmoid(4 * 0.5))


def test_the_gradient_fades_on_both_sides_and_never_ends():
    for ratio in (0.3, 2.5):
        s = sigmoid(2 * (ratio - 1))
        assert one(ratio, 1.0)[1] == pytest.approx(-4 * s * (1 - s) * ratio)
    assert abs(one(4.0, -1.0)[1]) < abs(one(4.0, 1.0)[1])  # the sharper gate of negative advantages


def test_an_advantage_of_zero_has_neither_value_nor_gradient():
    assert one(3.0, 0.0) == (0.0, 0.0)


def test_beyond_the_clamp_there_is_no_gradient():
    assert one(math.exp(3.0), 1.0, clamp=2.0)[1] == 0.0


def test_one_gate_for_a_response_shares_its_gradient_out():
    logp = torch.tensor([[0.0, 0.4, 9.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    zero = torch.zeros(1, 3, dtype=torch.float64)
    loss = soft_gate(logp, zero, zero + 1.0, mask, tau_pos=1.0, tau_neg=1.05, level="response", clamp=None)
    loss[mask].sum().backward()
    ratio = math.exp(0.2)
    s = 1 / (1 + math.exp(-(ratio - 1)))
    assert loss[0, 0].item() == pytest.approx(-4 * s)
    assert logp.grad[0].tolist() == pytest.approx([-4 * s * (1 - s) * ratio] * 2 + [0.0])
