import math
from dataclasses import replace

import pytest
import torch
from streams import random_batch

from rlent.methods.ce_gppo import gradient_preserving_clip, positive_nll
from rlent.methods.ppo_clip import clipped_surrogate
from rlent.recipe.compose import load
from rlent.train.objective import Objective

VECTORS = ("ce_gppo",)
OPTIONS = {"low": 0.2, "high": 0.3, "beta_low": 0.5, "beta_high": 0.75, "dual": 10.0, "clamp": None}


def one(ratio: float, adv: float, **options) -> tuple[float, float]:
    logp = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    loss = gradient_preserving_clip(
        logp, torch.zeros(1, 1, dtype=torch.float64), torch.tensor([[adv]], dtype=torch.float64), **{**OPTIONS, **options}
    )
    loss.sum().backward()
    return loss.item(), logp.grad.item()


def test_agrees_with_the_reference(vector, objective):
    logp, c = vector.leaf("logp"), vector.config
    loss = gradient_preserving_clip(
        logp,
        vector["old_logp"],
        vector["adv"],
        low=c["clip_low"],
        high=c["clip_high"],
        beta_low=c["beta1"],
        beta_high=c["beta2"],
        dual=c["clip_c"],
        clamp=None,
    )
    objective(vector, loss, logp)


@pytest.mark.parametrize(
    ("ratio", "adv", "grad"),
    [
        (0.1, -2.0, 0.5 * 0.8 * 2),  # clipped below: constant, whatever the ratio
        (0.79, -2.0, 0.5 * 0.8 * 2),
        (0.81, -2.0, 0.81 * 2),
        (1.29, 2.0, -1.29 * 2),
        (1.31, 2.0, -0.75 * 1.3 * 2),  # clipped above
        (9.0, 2.0, -0.75 * 1.3 * 2),
        (0.1, 2.0, -0.1 * 2),  # each side belongs to one sign of the advantage
        (3.0, -2.0, 3.0 * 2),
        (10.1, -2.0, 0.0),  # dual clip
    ],
)
def test_gradient_on_both_sides_of_each_threshold(ratio, adv, grad):
    assert one(ratio, adv)[1] == pytest.approx(grad)


def test_the_value_of_a_clipped_token_is_its_gradient():
    assert one(0.1, -1.0)[0] == pytest.approx(0.5 * 0.8)
    assert one(5.0, 1.0)[0] == pytest.approx(-0.75 * 1.3)


def test_with_both_betas_zero_the_gradient_is_that_of_ppo():
    torch.manual_seed(0)
    logp = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    old, adv = torch.randn(2, 4, 8, dtype=torch.float64)
    grads = [
        torch.autograd.grad(loss.sum(), logp)[0]
        for loss in (
            gradient_preserving_clip(logp, old, adv, **{**OPTIONS, "beta_low": 0.0, "beta_high": 0.0}),
            clipped_surrogate(logp, old, adv, low=0.2, high=0.3, dual=10.0, clamp=None),
        )
    ]
    torch.testing.assert_close(*grads)


def test_imitation_is_of_correct_responses_only():
    logp = torch.tensor([[-1.0, -2.0], [-3.0, -4.0]])
    mask = torch.tensor([[True, False], [True, True]])
    found = positive_nll(logp, torch.tensor([True, False]), mask)
    assert found["value"].tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert found["mask"].tolist() == [[True, False], [False, False]]


def test_imitation_is_averaged_over_the_tokens_of_correct_responses():
    """The formula written out: loss + 0.1 sum(-logp over correct rows) / their tokens, through the composed recipe."""
    batch = random_batch(5)
    plan = load(["recipe=positivenll"]).plan
    grads = []
    for nodes in ({**plan.nodes, "regularize": []}, plan.nodes):
        live = batch["live_logp"].clone().requires_grad_(True)
        objective = Objective(replace(plan, nodes=nodes), aggregate="token_mean", length=16.0)
        rows = objective.shape(batch.with_(now_logp=live.detach()), "step")
        rows, scale = objective.prepare(rows)
        objective(rows, {"logp": live}, scale).loss.backward()
        grads.append(live.grad)
    good = batch["mask"] & batch["correct"][:, None]
    assert good.any() and not good.all()
    torch.testing.assert_close(grads[1] - grads[0], -0.1 * good.double() / good.sum())
