import math

import pytest
import torch

from rlent.methods.bapo import positive_to_negative, rebalanced_clip, search_bounds
from rlent.methods.ppo_clip import clipped_surrogate

VECTORS = ("bapo",)
RANGES = {"low": (0.5, 0.75, 0.125), "high": (1.25, 2.0, 0.25), "eps": 0.0}


def t(*x):
    return torch.tensor(x, dtype=torch.float64)


def bounds(ratio, adv, target, order="low_then_high", weight=None):
    ratio, adv = t(*ratio), t(*adv)
    return search_bounds(ratio, adv, torch.ones_like(adv) if weight is None else t(*weight), target=target, order=order, **RANGES)


def options(c, **more):
    names = ("low_start", "low_max", "low_step", "high_start", "high_max", "high_step", "eps")
    return {
        **{k: c[k] for k in names},
        "target": c["target_pos_neg_ratio"],
        "order": c["search_order"],
        "prob_weighted": False,
        "dual": c["clip_c"],
        "clamp": 20.0,
        **more,
    }


def test_agrees_with_the_reference(vector, agree, objective):
    c, logp, mask = vector.config, vector.leaf("logp"), vector["mask"]
    ratio, adv = (logp.detach() - vector["old_logp"]).exp()[mask], vector["adv"][mask]
    low = (c["low_start"], c["low_max"], c["low_step"])
    high = (c["high_start"], c["high_max"], c["high_step"])
    found = search_bounds(
        ratio, adv, torch.ones_like(adv), target=c["target_pos_neg_ratio"], low=low, high=high, order=c["search_order"], eps=c["eps"]
    )
    agree(t(*found), t(vector.outputs["clip_low_final"], vector.outputs["clip_high_final"]))
    agree(t(positive_to_negative(ratio, adv, torch.ones_like(adv), *found, c["eps"])), t(vector.outputs["pos_neg_ratio"]))
    objective(vector, rebalanced_clip(logp, vector["old_logp"], vector["adv"], mask, **options(c)), logp)


def test_contributions_by_hand():
    # good: 2 * min(3, 1.25) + 1 * 1; bad: 1 * max(0.1, 0.5)
    assert positive_to_negative(t(3.0, 1.0, 0.1), t(2.0, 1.0, -1.0), t(1.0, 1.0, 1.0), 0.5, 1.25, 0.0) == pytest.approx(3.5 / 0.5)


def test_a_target_met_at_the_start_leaves_the_bounds():
    assert bounds([1.0, 1.0], [1.0, -1.0], 1.0) == (0.5, 1.25)


def test_the_released_order_ends_the_lower_bound_before_the_upper_one_moves():
    assert bounds([3.0, 1.0], [1.0, -1.0], 1.5) == (0.75, 1.5)


def test_the_papers_order_moves_the_upper_bound_first():
    assert bounds([3.0, 1.0], [1.0, -1.0], 1.5, "high_then_low") == (0.5, 1.5)
    assert bounds([3.0, 1.0], [1.0, -1.0], 9.0, "high_then_low") == (0.75, 2.0)


def test_an_unreachable_target_ends_at_both_ends():
    assert bounds([1.0, 1.0], [1.0, -1.0], 9.0) == (0.75, 2.0)


@pytest.mark.parametrize("adv", [(1.0, 1.0), (0.0, 0.0), ()])
def test_without_a_negative_contribution_the_bounds_stay(adv):
    assert bounds([1.0] * len(adv), adv, 9.0) == (0.5, 1.25)


def test_contributions_can_be_weighted_by_the_sampling_probability():
    assert bounds([3.0, 1.0], [1.0, -1.0], 1.5, weight=[1.0, 0.5]) == (0.5, 1.25)  # 1.25 / 0.5
    logp, mask = t(math.log(3.0) - 1.0, -2.0)[None], torch.ones(1, 2).bool()
    given = (logp, t(-1.0, -2.0)[None], t(1.0, -1.0)[None], mask)
    c = {"low_start": 0.5, "low_max": 0.5, "low_step": 0.1, "high_start": 1.25, "high_max": 2.0, "high_step": 0.25, "eps": 0.0}
    c |= {"target_pos_neg_ratio": 1.5, "search_order": "low_then_high", "clip_c": 3.0}
    assert rebalanced_clip(*given, **options(c))[0, 0].item() == pytest.approx(-1.5)
    assert rebalanced_clip(*given, **options(c, prob_weighted=True))[0, 0].item() == pytest.approx(-1.25)  # e^-1 against e^-2: met at once


def test_with_bounds_that_cannot_move_it_is_the_clipped_surrogate():
    g = torch.Generator().manual_seed(0)
    logp = torch.randn(4, 8, generator=g, dtype=torch.float64).requires_grad_(True)
    old, adv = torch.randn(2, 4, 8, generator=g, dtype=torch.float64)
    c = {"low_start": 0.8, "low_max": 0.8, "low_step": 0.1, "high_start": 1.3, "high_max": 1.3, "high_step": 0.1, "eps": 0.0}
    c |= {"target_pos_neg_ratio": 9.0, "search_order": "low_then_high", "clip_c": 3.0}
    ours = rebalanced_clip(logp, old, adv, torch.ones(4, 8).bool(), **options(c))
    plain = clipped_surrogate(logp, old, adv, low=0.2, high=0.3, dual=3.0, clamp=20.0)
    torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(*(torch.autograd.grad(x.sum(), logp)[0] for x in (ours, plain)))


def test_padding_has_no_say_in_the_search():
    given = (
        t(math.log(3.0), 0.0, 5.0)[None],
        torch.zeros(1, 3, dtype=torch.float64),
        t(1.0, -1.0, -50.0)[None],
        torch.tensor([[True, True, False]]),
    )
    c = {"low_start": 0.5, "low_max": 0.5, "low_step": 0.1, "high_start": 1.25, "high_max": 2.0, "high_step": 0.25, "eps": 0.0}
    c |= {"target_pos_neg_ratio": 1.5, "search_order": "low_then_high", "clip_c": 3.0}
    assert rebalanced_clip(*given, **options(c))[0, 0].item() == pytest.approx(-1.5)
