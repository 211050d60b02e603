"""TRL's adaptive price of entropy and verl's adaptive price of KL, beside transcriptions of their rules."""

import pytest
import torch

from rlent.methods.adaptive_entropy import EntropyFloor
from rlent.methods.adaptive_kl import AdaptiveKL

MASK = torch.tensor([[True, True, False], [True, False, False]])
TRL = {"knob": "k", "target": 0.5, "delta": 0.1, "low": 0.0, "high": 0.25, "start": 0.05}
KL = {"knob": "k", "target": 0.1, "horizon": 100.0, "bound": 0.2, "start": 0.5, "estimator": "k1"}


def entropy(mean: float) -> torch.Tensor:
    return torch.tensor([[mean - 0.2, mean + 0.1, 99.0], [mean + 0.1, 99.0, 99.0]], dtype=torch.float64)


def trl(means: list[float]) -> list[float]:
    """The coefficient each update uses: GRPOTrainer looks at the last entropy, then moves after the update."""
    coef, last, used = TRL["start"], None, []
    for mean in means:
        used.append(0.0 if last is not None and last > TRL["target"] else coef)
        coef = min(coef + TRL["delta"], TRL["high"]) if mean <= TRL["target"] else max(coef - TRL["delta"], TRL["low"])
        last = mean
    return used


def test_the_price_of_entropy_is_trls():
    means = [0.6, 0.4, 0.3, 0.3, 0.3, 0.7, 0.49, 0.9, 0.9]
    control = EntropyFloor(**TRL)
    assert [control(entropy(m), MASK) for m in means] == pytest.approx(trl(means))
    # by hand: 0.6 is above, so 0.05 - 0.1 -> 0 and nothing is paid next; then up by 0.1 an update to 0.25 at most
    assert trl(means)[:6] == pytest.approx([0.05, 0.0, 0.1, 0.2, 0.25, 0.25]) and trl(means)[6] == 0.0


def test_a_resumed_floor_goes_on_where_it_was():
    one, other = EntropyFloor(**TRL), EntropyFloor(**TRL)
    for mean in (0.3, 0.3, 0.8):
        one(entropy(mean), MASK)
    other.load_state_dict(one.state_dict())
    assert [other(entropy(0.3), MASK) for _ in range(3)] == [one(entropy(0.3), MASK) for _ in range(3)]


def test_the_price_of_kl_follows_the_relative_error_within_its_bound():
    # responses of 2 and 1 tokens with k1 = 0.2, 0.0 | 0.14: means 0.1 and 0.14, together 0.12
    old = torch.zeros(2, 3, dtype=torch.float64)
    ref = torch.tensor([[-0.2, 0.0, 9.0], [-0.14, 9.0, 9.0]], dtype=torch.float64)
    control = AdaptiveKL(**KL)
    assert control(old, ref, MASK) == pytest.approx(0.5 * (1 + 0.2 * 2 / 100))  # 0.12 / 0.1 - 1 = 0.2
    assert control(old, 10 * ref, MASK) == pytest.approx(0.5 * (1 + 0.2 * 2 / 100) ** 2)  # bounded
    again = AdaptiveKL(**KL)
    assert again(old, 0.0 * ref, MASK) == pytest.approx(0.5 * (1 - 0.2 * 2 / 100))
    again.load_state_dict(control.state_dict())
    assert again.coef == control.coef


def test_rows_without_tokens_are_left_out_of_the_divergence():
    old, ref = torch.zeros(2, 3, dtype=torch.float64), torch.full((2, 3), -0.11, dtype=torch.float64)
    with_empty = torch.tensor([[True, True, False], [False, False, False]])
    assert AdaptiveKL(**KL)(old, ref, with_empty) == pytest.approx(0.5 * (1 + 0.1 * 2 / 100))
