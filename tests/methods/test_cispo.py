import math

import pytest
import torch

from rlent.methods.cispo import clipped_importance
from rlent.methods.pg_ratio import ratio_surrogate

VECTORS = ("cispo",)
TOKEN = {"level": "token"}


def one(ratio: float, adv: float, *, low=0.2, high=0.3, clamp=None, old=-1.0) -> tuple[float, float]:
    logp = torch.tensor([[old + math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    loss = clipped_importance(
        logp,
        torch.full_like(logp, old).detach(),
        torch.full_like(logp, adv).detach(),
        torch.ones_like(logp).bool(),
        **TOKEN,
        low=low,
        high=high,
        clamp=clamp,
    )
    loss.sum().backward()
    return loss.item(), logp.grad.item()


def test_agrees_with_the_reference(vector, objective):
    c, logp = vector.config, vector.leaf("logp")
    options = {"low": c["clip_low"], "high": c["clip_high"], "clamp": c["log_ratio_clamp"]}
    objective(vector, clipped_importance(logp, vector["old_logp"], vector["adv"], vector["mask"], **TOKEN, **options), logp)


@pytest.mark.parametrize(
    ("ratio", "adv", "grad"),
    [
        (1.1, 2.0, -2.2),
        (5.0, 2.0, -2.6),  # the weight stops at 1.3, the gradient does not vanish
        (5.0, -2.0, 2.6),  # on both signs of the advantage
        (0.1, 2.0, -1.6),
        (0.1, -2.0, 1.6),
    ],
)
def test_every_token_keeps_a_gradient_of_the_clipped_weight(ratio, adv, grad):
    assert one(ratio, adv)[1] == pytest.approx(grad)


def test_a_lower_range_of_one_or_more_is_no_bound():
    assert one(0.01, 1.0, low=1.0)[1] == pytest.approx(-0.01)
    assert one(0.01, 1.0, low=10.0)[1] == pytest.approx(-0.01)


def test_the_value_is_the_weighted_log_likelihood():
    assert one(1.0, 2.0, old=-1.5)[0] == pytest.approx(3.0)


def test_the_log_ratio_is_kept_within_the_clamp():
    assert one(math.exp(5), 1.0, high=1e6, clamp=2.0)[1] == pytest.approx(-math.exp(2))


def test_inside_the_range_the_gradient_is_that_of_the_importance_weighted_policy_gradient():
    g = torch.Generator().manual_seed(0)
    logp = (-torch.rand(4, 8, generator=g, dtype=torch.float64)).requires_grad_(True)
    old, adv = torch.randn(2, 4, 8, generator=g, dtype=torch.float64)
    ours = clipped_importance(logp, old, adv, torch.ones_like(logp).bool(), **TOKEN, low=100.0, high=1e9, clamp=None)
    plain = ratio_surrogate(logp, old, adv, clamp=None)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), logp)[0] for x in (ours, plain)))


def test_one_weight_for_a_response():
    logp = torch.tensor([[0.0, 0.4, 9.0]], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    zero = torch.zeros(1, 3, dtype=torch.float64)
    clipped_importance(logp, zero, zero + 1.0, mask, low=10.0, high=0.1, level="response", clamp=None)[mask].sum().backward()
    assert logp.grad[0, :2].tolist() == pytest.approx([-1.1, -1.1])  # exp(mean of 0 and 0.4) = 1.22 is above 1.1
