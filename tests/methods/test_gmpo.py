import math

import pytest
import torch

from rlent.methods.gmpo import geometric_mean_clip

VECTORS = ("geo_mean",)


def run(drift, adv, mask=None, *, low=0.4, high=0.2):
    """The loss of each response [N] and its gradient by token, averaged over the response's tokens."""
    drift = torch.tensor(drift, dtype=torch.float64)
    mask = torch.ones_like(drift).bool() if mask is None else torch.tensor(mask)
    logp = (drift - 1.0).requires_grad_(True)
    adv = torch.tensor(adv, dtype=torch.float64)
    adv = adv[:, None].expand_as(drift) if adv.ndim == 1 else adv
    loss = geometric_mean_clip(logp, torch.full_like(drift, -1.0), adv, mask, low=low, high=high)
    rows = torch.where(mask, loss, 0.0).sum(1) / mask.sum(1).clamp(min=1)
    (grad,) = torch.autograd.grad(rows.sum(), logp)
    return rows.tolist(), grad


def test_agrees_with_the_reference(vector, agree):
    c, logp = vector.config, vector.leaf("logp")
    loss = geometric_mean_clip(logp, vector["old_logp"], vector["adv"], vector["mask"], low=c["clip_low"], high=c["clip_high"])
    mask = vector["mask"]
    total = ((loss * mask).sum(1) / mask.sum(1).clamp(min=1)).mean()  # over all rows, empty ones too
    agree(total, vector.outputs["loss"])
    agree(torch.autograd.grad(total, logp)[0], vector.out("grad_log_prob"))


def test_ratios_are_averaged_geometrically():
    rows, grad = run([[0.1, -0.3]], [2.0])
    assert rows == pytest.approx([-2 * math.exp(-0.1)])
    assert grad[0].tolist() == pytest.approx([-math.exp(-0.1)] * 2)  # -A ratio / 2 tokens


def test_each_token_is_clipped_on_the_side_of_its_advantage_only():
    rows, grad = run([[0.5, 0.1, -0.9]], [1.0])  # 0.5 counts as 0.2; -0.9 is left
    assert rows == pytest.approx([-math.exp((0.2 + 0.1 - 0.9) / 3)])
    assert grad[0].bool().tolist() == [False, True, True]
    rows, grad = run([[0.5, 0.1, -0.9]], [-1.0])  # -0.9 counts as -0.4; 0.5 is left
    assert rows == pytest.approx([math.exp((0.5 + 0.1 - 0.4) / 3)])
    assert grad[0].bool().tolist() == [True, True, False]


def test_the_advantage_of_a_response_is_the_mean_over_its_tokens():
    rows, _ = run([[0.0, 0.0, 0.0]], [[1.0, 3.0, -1.0]])
    assert rows == pytest.approx([-1.0])


def test_no_advantage_and_no_tokens_give_no_loss():
    rows, grad = run([[0.3, 0.1], [0.3, 0.1]], [0.0, 1.0], mask=[[True, True], [False, False]])
    assert rows == pytest.approx([0.0, 0.0])
    assert not grad.any()


def test_padding_is_no_part_of_either_mean():
    rows, grad = run([[0.1, 7.0]], [[2.0, 50.0]], mask=[[True, False]])
    assert rows == pytest.approx([-2 * math.exp(0.1)])
    assert grad[0, 1].item() == 0.0
