import math

import pytest
import torch

from rlent.math.ratio import divergence, log_ratio


def test_log_ratio_is_bounded_only_when_asked():
    logp, old = torch.tensor([-1.0, -2.0]), torch.tensor([-31.0, -1.0])
    assert log_ratio(logp, old).tolist() == [30.0, -1.0]
    assert log_ratio(logp, old, 20.0).tolist() == [20.0, -1.0]


def test_nothing_is_pulled_beyond_the_clamp():
    logp = torch.tensor([0.0, -1.0], requires_grad=True)
    log_ratio(logp, torch.tensor([-30.0, -1.0]), 20.0).sum().backward()
    assert logp.grad.tolist() == [0.0, 1.0]


@pytest.mark.parametrize(("kind", "want"), [("k1", -0.5), ("k2", 0.125), ("k3", math.exp(0.5) - 1.5), ("abs", 0.5)])
def test_estimates_by_hand(kind, want):
    # logp = -1, other = -0.5: x = 0.5
    found = divergence(torch.tensor([-1.0], dtype=torch.float64), torch.tensor([-0.5], dtype=torch.float64), kind)
    assert found.item() == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize(("kind", "exact"), [("k1", True), ("k3", True), ("k2", False)])
def test_k1_and_k3_average_to_the_divergence_over_the_policy(kind, exact):
    torch.manual_seed(0)
    logp, other = torch.randn(2, 9, dtype=torch.float64).log_softmax(-1)
    kl = (logp.exp() * (logp - other)).sum()
    mean = (logp.exp() * divergence(logp, other, kind)).sum()
    assert (abs(mean - kl) < 1e-12) == exact


def test_k3_stays_precise_near_zero_and_bounded_far_out():
    logp = torch.tensor([-1.0, -40.0], dtype=torch.float64)
    found = divergence(logp, torch.tensor([-1.0 + 1e-9, -1.0], dtype=torch.float64), "k3")
    assert 0 <= found[0].item() < 1e-17  # x^2 / 2 = 5e-19; e^x - x - 1 written out has an error of 1e-16
    assert found[1].item() == 10.0
