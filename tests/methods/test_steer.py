import math

import pytest
import torch

from rlent.methods.ppo_clip import clipped_surrogate
from rlent.methods.steer import damp_entropy_change, entropy_change

VECTORS = ("steer",)


def t(*x):
    return torch.tensor([x], dtype=torch.float64)


def weights(change, *, mask=None, mapping="exp", least=0.5, most=1.5, floor=0.0):
    """The weights of tokens with the given entropy changes: p = q = 1/2 and H = ln 2 + 2 make the change |A|."""
    adv = t(*change)
    mask = torch.ones_like(adv).bool() if mask is None else torch.tensor([mask])
    half = torch.full_like(adv, math.log(0.5))
    options = {"mapping": mapping, "least": least, "most": most, "floor": floor}
    return damp_entropy_change(half, half, torch.full_like(adv, math.log(2) + 2), adv, mask, **options)["weight"][0].tolist()


def test_agrees_with_the_reference(vector, agree, objective):
    c, logp = vector.config, vector.leaf("logp")
    found = damp_entropy_change(
        logp.detach(),
        vector["old_logp"],
        vector["entropy"],
        vector["adv"],
        vector["mask"],
        mapping=c["mapping"],
        least=c["w_min"],
        most=c["w_max"],
        floor=0.02,
    )
    agree(found["weight"] * vector["mask"], vector.out("token_weights"))
    loss = clipped_surrogate(logp, vector["old_logp"], vector["adv"], low=c["clip_low"], high=c["clip_high"], dual=c["clip_c"], clamp=20.0)
    objective(vector, loss * found["weight"], logp)


def test_the_change_by_hand():
    # p = 0.25, q = 0.5, H = 2, A = -3: 3 / 0.5 * 0.25 * 0.75 * (2 - ln 4)
    found = entropy_change(t(math.log(0.25)), t(math.log(0.5)), t(2.0), t(-3.0))
    assert found.item() == pytest.approx(6 * 0.1875 * (2 - math.log(4)))


def test_exp_falls_from_one_to_the_least_weight():
    assert weights([0.0, 1.0, -2.0]) == pytest.approx([1.0, math.sqrt(0.5), 0.5])


def test_below_the_floor_changes_are_measured_against_the_floor():
    assert weights([0.0, 1.0, 2.0], floor=4.0) == pytest.approx([1.0, 0.5**0.25, 0.5**0.5])


def test_linear_goes_from_the_most_to_the_least_weight():
    assert weights([1.0, -2.0, 3.0], mapping="linear") == pytest.approx([1.5, 1.0, 0.5])


def test_equal_changes_get_the_middle_under_linear_and_the_least_under_exp():
    assert weights([2.0, -2.0], mapping="linear", most=1.1) == pytest.approx([0.8, 0.8])
    assert weights([2.0, -2.0]) == pytest.approx([0.5, 0.5])


def test_extremes_are_of_response_tokens_only():
    assert weights([0.0, 2.0, 9.0], mask=[True, True, False]) == pytest.approx([1.0, 0.5, 1.0])


@pytest.mark.parametrize("mapping", ["exp", "linear"])
def test_without_advantages_or_tokens_all_weights_are_equal(mapping):
    level = {"exp": 1.0, "linear": 1.0}[mapping]
    assert weights([0.0, 0.0], mapping=mapping) == [level, level]
    assert weights([1.0, 2.0], mask=[False, False], mapping=mapping) == [1.0, 1.0]


def test_order_of_rows_does_not_matter():
    g = torch.Generator().manual_seed(0)
    logp, old, entropy = -torch.rand(3, 6, 5, generator=g, dtype=torch.float64)
    adv = torch.randn(6, 5, generator=g, dtype=torch.float64)
    mask, order = torch.rand(6, 5, generator=g) < 0.7, torch.randperm(6, generator=g)
    options = {"mapping": "exp", "least": 0.8, "most": 1.2, "floor": 0.02}
    straight = damp_entropy_change(logp, old, -entropy, adv, mask, **options)["weight"]
    turned = damp_entropy_change(logp[order], old[order], -entropy[order], adv[order], mask[order], **options)["weight"]
    assert torch.equal(straight[order], turned)
