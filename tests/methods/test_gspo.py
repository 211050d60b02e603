import math

import pytest
import torch

from rlent.methods.gspo import sequence_clip

VECTORS = ("gspo",)
CLIP = {"low": 0.2, "high": 0.3, "cap": 10.0, "dual": None, "gradient": "token"}


def run(drift, adv, mask=None, **options):
    """Value and gradient by token for rows of log-ratios."""
    drift = torch.tensor(drift, dtype=torch.float64)
    mask = torch.ones_like(drift).bool() if mask is None else torch.tensor(mask)
    logp = (drift - 1.0).requires_grad_(True)
    adv = torch.tensor(adv, dtype=torch.float64)[:, None].expand_as(drift) if not isinstance(adv, torch.Tensor) else adv
    loss = sequence_clip(logp, torch.full_like(drift, -1.0), adv, mask, **{**CLIP, **options})
    loss.masked_fill(~mask, 0.0).sum().backward()
    return loss.detach(), logp.grad


def test_agrees_with_the_reference(vector, objective):
    c, logp = vector.config, vector.leaf("logp")
    loss = sequence_clip(
        logp,
        vector["old_logp"],
        vector["adv"],
        vector["mask"],
        low=c["clip_low"],
        high=c["clip_high"],
        cap=c["log_ratio_max"],
        dual=None,
        gradient="token",
    )
    objective(vector, loss, logp)


def test_the_ratio_is_the_geometric_mean_over_the_response():
    loss, grad = run([[0.3, -0.1]], [2.0])
    assert loss[0].tolist() == pytest.approx([-2 * math.exp(0.1)] * 2)
    assert grad[0].tolist() == pytest.approx([-2 * math.exp(0.1)] * 2)


@pytest.mark.parametrize(
    ("drift", "adv", "moves"), [(0.25, 1.0, True), (0.3, 1.0, False), (0.3, -1.0, True), (-0.25, -1.0, False), (-0.25, 1.0, True)]
)
def test_a_response_is_clipped_as_a_whole_on_the_side_of_its_advantage(drift, adv, moves):
    grad = run([[drift + 0.5, drift - 0.5]], [adv])[1]
    assert grad.bool().tolist() == [[moves, moves]]


def test_padding_is_no_part_of_the_mean():
    loss, grad = run([[0.1, float("nan")], [0.2, 0.0]], [1.0, 1.0], mask=[[True, False], [True, True]])
    assert loss[0, 0].item() == pytest.approx(-math.exp(0.1))
    assert loss[1].tolist() == pytest.approx([-math.exp(0.1)] * 2)


def test_summed_over_a_response_the_gradient_is_that_of_the_papers_sequence_ratio():
    g = torch.Generator().manual_seed(0)
    logp = torch.randn(3, 5, generator=g, dtype=torch.float64).requires_grad_(True)
    old, adv = torch.randn(3, 5, generator=g, dtype=torch.float64), torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)
    mask = torch.tensor([5, 3, 1])[:, None] > torch.arange(5)
    count = mask.sum(1, keepdim=True)
    ratio = (((logp - old) * mask).sum(1, keepdim=True) / count).exp()
    paper = torch.maximum(-adv * ratio, -adv * ratio.clamp(0.8, 1.3)).sum()
    ours = (sequence_clip(logp, old, adv.expand(3, 5), mask, **CLIP) * mask / count).sum()
    torch.testing.assert_close(ours, paper)
    torch.testing.assert_close(torch.autograd.grad(ours, logp)[0], torch.autograd.grad(paper, logp)[0])


def test_beyond_the_cap_there_is_no_gradient():
    loss, grad = run([[3.0, 3.0]], [-1.0], cap=2.0)
    assert loss[0, 0].item() == pytest.approx(math.exp(2.0))
    assert not grad.any()


def test_the_dual_clip_bounds_responses_with_negative_advantage_only():
    drift = [[0.8, 0.8], [0.2, 0.2]]
    loss, grad = run(drift, [-1.0, 1.0], dual=2.0)
    assert loss[:, 0].tolist() == pytest.approx([2.0, -math.exp(0.2)])
    assert grad.bool().tolist() == [[False, False], [True, True]]


def test_the_ratios_own_gradient_spreads_over_the_response():
    drift = torch.full((1, 4), 0.1, dtype=torch.float64)
    adv = torch.tensor([[1.0, 0.0, 0.0, 9.0]], dtype=torch.float64)
    mask = [[True, True, True, False]]
    own, spread = (run(drift.tolist(), adv, mask=mask, gradient=g)[1][0].tolist() for g in ("token", "response"))
    assert own == pytest.approx([-math.exp(0.1), 0.0, 0.0, 0.0])
    assert spread == pytest.approx([-math.exp(0.1) / 3] * 3 + [0.0])


def test_an_empty_response_spoils_nothing():
    loss, grad = run([[0.1, 0.1], [5.0, 5.0]], [1.0, 1.0], mask=[[True, True], [False, False]])
    assert grad[0].tolist() == pytest.approx([-math.exp(0.1)] * 2)
    assert not grad[1].any() and loss.isfinite().all()
