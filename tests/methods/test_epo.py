import math

import pytest
import torch

from rlent.methods.epo import EntropyHistory, history_mean, padded, phase_weight, smoothed_entropy

ENTROPY = torch.tensor([[1.0, 0.7, 1.3, 5.0], [0.81, 1.19, 5.0, 5.0]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
ONES = torch.ones(2, dtype=torch.float64)
OPTIONS = {"low": 0.8, "high": 1.2, "cost": 0.1, "smooth": 1.0, "mode": "token", "over": "tokens", "penalty": "count"}


def charge(**options: object) -> torch.Tensor:
    level, is_open, phase = ONES, ONES.bool(), ONES
    return smoothed_entropy(ENTROPY, MASK, level, is_open, phase, **{**OPTIONS, **options}) + ENTROPY


def test_tokens_outside_the_band_are_charged():
    # the band is (0.8, 1.2): 0.7 and 1.3 are outside, 0.81 and 1.19 inside
    torch.testing.assert_close(charge() * MASK, torch.tensor([[0, 0.1, 0.1, 0], [0, 0, 0, 0]], dtype=torch.float64))
    # by response: means 1 and 1 are inside; over all columns 2 and 3 are not
    torch.testing.assert_close(charge(mode="seq") * MASK, torch.zeros_like(ENTROPY))
    torch.testing.assert_close(charge(mode="seq", over="columns"), torch.full_like(ENTROPY, 0.1))


def test_the_released_charge_has_no_gradient_and_the_hinge_has_one():
    grads = {}
    for penalty in ("count", "hinge"):
        x = ENTROPY.clone().requires_grad_(True)
        smoothed_entropy(x, MASK, ONES, ONES.bool(), ONES, **{**OPTIONS, "penalty": penalty}).sum().backward()
        grads[penalty] = x.grad
    assert (grads["count"] == -1).all()
    # the hinge is 0.8 - H below the band and H - 1.2 above it, on top of the bonus
    assert grads["hinge"][0].tolist() == [-1.0, -2.0, 0.0, 0.0]


def test_a_closed_gate_leaves_the_plain_bonus():
    found = smoothed_entropy(ENTROPY, MASK, ONES, ~ONES.bool(), ONES, **OPTIONS)
    torch.testing.assert_close(found, -ENTROPY)


def test_phases_fall_slowly_then_fast():
    assert phase_weight(0, 150) == 1.0 and phase_weight(9, 0) == 1.0
    assert phase_weight(75, 150) == pytest.approx(1 - 0.2 * (1 - math.exp(-2)))
    assert phase_weight(76, 150) == pytest.approx(0.8 * math.exp(-3 / 75))
    assert phase_weight(200, 150) == phase_weight(150, 150) == pytest.approx(0.8 * math.exp(-3))
    assert phase_weight(0, 1) == 1.0 and phase_weight(1, 1) == pytest.approx(0.8 * math.exp(-3))


def test_history_is_padded_on_the_left_and_cut_to_the_last():
    assert padded([1.0, 2.0], 3) == [0.0, 1.0, 2.0]
    assert padded([1.0, 2.0, 3.0], 2) == [2.0, 3.0]
    assert history_mean([[0.0, 1.0], [4.0, 3.0]]).tolist() == [2.0, 2.0]


def test_the_level_is_the_mean_of_the_training_so_far_also_after_a_resume():
    turn = torch.zeros(2, dtype=torch.long)
    one = EntropyHistory(env_steps=1, gate=0, phases=False, epochs=10)
    assert one(ENTROPY, MASK, turn, 1)["level"].tolist() == pytest.approx([1.0, 1.0])  # (1 + 0.7 + 1.3 + 0.81 + 1.19) / 5
    assert one(3 * ENTROPY, MASK, turn, 2)["level"].tolist() == pytest.approx([2.0, 2.0])
    other = EntropyHistory(env_steps=1, gate=0, phases=False, epochs=10)
    other.load_state_dict(one.state_dict())
    assert other(ENTROPY, MASK, turn, 3)["level"].tolist() == pytest.approx([5 / 3, 5 / 3])


def test_the_gate_asks_for_a_late_environment_step():
    history = EntropyHistory(env_steps=4, gate=4, phases=True, epochs=10)
    assert not history(ENTROPY, MASK, torch.tensor([0, 1]), 1)["open"].any()
    found = history(ENTROPY, MASK, torch.tensor([0, 2]), 4)
    assert found["open"].all()
    assert found["phase"].tolist() == [phase_weight(3, 10)] * 2
