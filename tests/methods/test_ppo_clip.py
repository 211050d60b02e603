import math

import pytest
import torch

from rlent.methods.pg_ratio import ratio_surrogate
from rlent.methods.ppo_clip import clipped_surrogate

VECTORS = ("ppo_clip",)
PPO = {"low": 0.2, "high": 0.28, "dual": 10.0, "clamp": 20.0}


def one(ratio: float, adv: float, **options) -> tuple[float, float]:
    """Loss of a single token, and its gradient by logp."""
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    loss = clipped_surrogate(logp, torch.zeros(1, 1, dtype=torch.float64), torch.tensor([[adv]], dtype=torch.float64), **{**PPO, **options})
    loss.sum().backward()
    return loss.item(), logp.grad.item()


def test_agrees_with_the_reference(vector, objective):
    logp, c = vector.leaf("logp"), vector.config
    loss = clipped_surrogate(
        logp, vector["old_logp"], vector["adv"], low=c["clip_low"], high=c["clip_high"], dual=c["clip_c"], clamp=c["log_ratio_clamp"]
    )
    objective(vector, loss, logp)


@pytest.mark.parametrize(
    ("ratio", "adv", "loss", "grad"),
    [
        (1.27, 1.0, -1.27, -1.27),  # good token, within the range: pushed up
        (1.29, 1.0, -1.28, 0.0),  # beyond the upper end: clipped
        (0.5, 1.0, -0.5, -0.5),  # the lower end does not hold a good token back
        (0.81, -1.0, 0.81, 0.81),  # bad token, within the range: pushed down
        (0.79, -1.0, 0.8, 0.0),  # below the lower end: clipped
        (3.0, -1.0, 3.0, 3.0),  # the upper end does not hold a bad token back ...
        (10.1, -1.0, 10.0, 0.0),  # ... the dual clip does
        (9.9, -1.0, 9.9, 9.9),
        (7.0, 0.0, 0.0, 0.0),  # no advantage, no loss
    ],
)
def test_both_sides_of_each_threshold(ratio, adv, loss, grad):
    assert one(ratio, adv) == (pytest.approx(loss), pytest.approx(grad))


def test_without_the_dual_clip_a_bad_token_is_unbounded():
    assert one(50.0, -1.0, dual=None) == (pytest.approx(50.0), pytest.approx(50.0))


def test_wide_range_keeps_the_ratio_below_two():
    assert one(1.99, 1.0, low=1.0, high=1.0, dual=None, clamp=None)[1] == pytest.approx(-1.99)
    assert one(2.01, 1.0, low=1.0, high=1.0, dual=None, clamp=None) == (-2.0, 0.0)
    assert one(1e-6, -1.0, low=1.0, high=1.0, dual=None, clamp=None)[1] == pytest.approx(1e-6)


def test_the_clamp_holds_the_log_ratio():
    assert one(math.exp(25), -1.0, dual=None)[0] == pytest.approx(math.exp(20))
    assert one(math.exp(25), -1.0, dual=None)[1] == 0.0


def test_on_policy_the_gradient_is_the_plain_one():
    torch.manual_seed(0)
    logp = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    adv = torch.randn(3, 5, dtype=torch.float64)
    (grad,) = torch.autograd.grad(clipped_surrogate(logp, logp.detach(), adv, **PPO).sum(), logp)
    torch.testing.assert_close(grad, -adv)


def test_ratio_surrogate_is_the_surrogate_without_a_range():
    torch.manual_seed(0)
    logp, old, adv = torch.randn(3, 4, 6, dtype=torch.float64).unbind(0)
    open_range = clipped_surrogate(logp, old, adv, low=1.0, high=1e9, dual=None, clamp=None)
    torch.testing.assert_close(ratio_surrogate(logp, old, adv, clamp=None), open_range)
    bound = ratio_surrogate(torch.tensor([[5.0]]), torch.tensor([[0.0]]), torch.tensor([[2.0]]), clamp=1.0)
    assert bound.item() == pytest.approx(-2 * math.e)
