"""The update: AdamW against its formula, clipping, schedules, the non-finite guard, masters, state."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from rlent.errors import CheckpointError, NonFinite
from rlent.policy.optim import Update, lr_at


def params(dtype: torch.dtype = torch.float64) -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter(torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype))
        for name, shape in (("matrix", (3, 2)), ("bias", (2,)))
    }


def give(named: dict[str, nn.Parameter], value: float) -> None:
    for p in named.values():
        p.grad = torch.full_like(p, value)


def test_first_updates_follow_the_formula():
    named = params()
    before = {k: p.detach().clone() for k, p in named.items()}
    update = Update(named.items(), lr=0.1, betas=[0.8, 0.9], eps=1e-3, weight_decay=0.5, max_norm=None)
    m = v = 0.0
    want = before
    for t, g in enumerate((2.0, -1.0), start=1):
        give(named, g)
        update.step()
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        move = 0.1 * (m / (1 - 0.8**t)) / (math.sqrt(v / (1 - 0.9**t)) + 1e-3)
        want = {"matrix": want["matrix"] * (1 - 0.1 * 0.5) - move, "bias": want["bias"] - move}  # the bias does not decay
    for name, p in named.items():
        torch.testing.assert_close(p.detach(), want[name], rtol=1e-12, atol=1e-12)
        assert p.grad is None


def test_the_gradient_is_scaled_to_the_norm_over_all_parameters():
    named = params()
    update = Update(named.items(), lr=0.1, max_norm=1.0, betas=[0.0, 0.0], eps=1.0)
    give(named, 3.0)  # 8 numbers: norm 3 sqrt 8
    before = named["bias"].detach().clone()
    found = update.step()
    assert found["grad_norm"] == pytest.approx(3 * math.sqrt(8), rel=1e-12)
    assert found["clipped"] == 1.0
    g = 1 / math.sqrt(8)  # after clipping; with betas 0 and eps 1 the move is lr g / (g + 1)
    torch.testing.assert_close(before - named["bias"].detach(), torch.full((2,), 0.1 * g / (g + 1), dtype=torch.float64), rtol=1e-6, atol=0)


def test_a_small_gradient_is_not_scaled_and_null_turns_clipping_off():
    for max_norm, value in ((1.0, 0.1), (None, 100.0)):
        named = params()
        update = Update(named.items(), lr=0.1, max_norm=max_norm, betas=[0.0, 0.0], eps=1.0)
        give(named, value)
        before = named["bias"].detach().clone()
        assert update.step()["clipped"] == 0.0
        torch.testing.assert_close(before - named["bias"].detach(), torch.full((2,), 0.1 * value / (value + 1), dtype=torch.float64))


def test_a_non_finite_gradient_is_named_and_changes_nothing():
    named = params()
    before = copy.deepcopy({k: p.detach() for k, p in named.items()})
    update = Update(named.items(), lr=0.1)
    give(named, 1.0)
    named["matrix"].grad[1, 0] = math.nan
    with pytest.raises(NonFinite, match=r"gradient of matrix \(1 of 6\) is not finite; the weights were not changed"):
        update.step()
    assert all(torch.equal(p.detach(), before[k]) for k, p in named.items())
    assert update.count == 0


def test_schedules_by_hand():
    rate = {"lr": 2.0, "warmup_steps": 2, "final_share": 0.1, "steps": 7}
    # two stairs up, then 5 steps from the full rate to a tenth of it
    assert [lr_at(i, schedule="linear", **rate) for i in range(8)] == pytest.approx([1.0, 2.0, 2.0, 1.55, 1.1, 0.65, 0.2, 0.2])
    assert [lr_at(i, schedule="cosine", **rate) for i in (2, 4, 6, 9)] == pytest.approx([2.0, 1.1, 0.2, 0.2])
    assert [lr_at(i, schedule="constant", **rate) for i in (0, 1, 2, 90)] == [1.0, 2.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="'step'; one of constant, linear, cosine"):
        lr_at(0, lr=1.0, schedule="step")


def test_a_falling_schedule_needs_to_know_how_long():
    with pytest.raises(ValueError, match="optim.schedule is cosine, which falls over the steps of the run"):
        Update(params().items(), lr=0.1, schedule="cosine")


def test_updates_of_a_step_share_a_learning_rate():
    named = params()
    update = Update(named.items(), lr=1.0, schedule="linear", steps=3, per_step=2)
    rates = []
    for _ in range(6):
        give(named, 1.0)
        rates.append(update.step()["lr"])
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.5, 0.0, 0.0])


def test_half_precision_weights_move_by_less_than_their_rounding():
    """Steps of 1e-4 at weights near 1 are lost in bfloat16; with masters, 40 of them are seen."""
    named = {"w": nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))}
    update = Update(named.items(), lr=1e-4, max_norm=None)
    for _ in range(40):
        give(named, 1.0)
        update.step()
    torch.testing.assert_close(named["w"].detach(), torch.full((4, 4), 1 - 40e-4, dtype=torch.bfloat16))
    assert float(named["w"].detach()[0, 0]) < 1.0


def test_the_norm_of_half_precision_gradients_is_not_rounded_to_half_precision():
    named = {"w": nn.Parameter(torch.ones(3, 3, dtype=torch.bfloat16)), "v": nn.Parameter(torch.ones(2, 1, dtype=torch.bfloat16))}
    give(named, 1.0)  # 11 ones: a bfloat16 norm of the first, 3, is exact, and of the second sqrt 2 is 1.4140625
    assert Update(named.items(), lr=1e-4).step()["grad_norm"] == pytest.approx(math.sqrt(11), rel=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stopped_and_resumed_equals_never_stopped_bit_for_bit(dtype):
    options = {"lr": 0.05, "weight_decay": 0.1, "schedule": "cosine", "steps": 6, "warmup_steps": 1}

    def train(named, update, upto):
        while update.count < upto:
            give(named, 0.3 * (update.count + 1))
            update.step()

    whole, first, second = params(dtype), params(dtype), params(dtype)
    updates = [Update(p.items(), **options) for p in (whole, first, second)]
    train(whole, updates[0], 6)
    train(first, updates[1], 3)
    for name, p in second.items():
        p.data.copy_(first[name].data)
    updates[2].load(copy.deepcopy(updates[1].tensors()), updates[1].plain())
    train(second, updates[2], 6)
    assert all(torch.equal(whole[k], second[k]) for k in whole)


def test_a_state_of_other_parameters_is_refused():
    update = Update(params().items(), lr=0.1)
    state = copy.deepcopy(update.tensors())
    state["state"]["other"] = state["state"].pop("bias")
    with pytest.raises(CheckpointError, match="bias, other"):
        update.load(state, update.plain())
    state = copy.deepcopy(update.tensors())
    state["state"]["bias"]["exp_avg"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=r"exp_avg of bias has shape \(3,\) in the checkpoint; the model has \(2,\)"):
        update.load(state, update.plain())
