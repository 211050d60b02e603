import math

import pytest
import torch

from rlent.methods.hapo import adaptive_clip, entropy_score, ranges, redistribute
from rlent.methods.ppo_clip import clipped_surrogate

VECTORS = ("hapo_aac",)


def t(*x):
    return torch.tensor([x], dtype=torch.float64)


def score(*logs, pivot=0.5, faithful="paper", mask=None):
    entropy = t(*logs).exp()
    mask = torch.ones_like(entropy).bool() if mask is None else torch.tensor([mask])
    return entropy_score(entropy, mask, pivot=pivot, faithful=faithful)["score"][0].tolist()


def test_agrees_with_the_reference(vector, agree, objective):
    c, logp, mask = vector.config, vector.leaf("logp"), vector["mask"]
    faithful = {"intended": "paper", "released": "released"}[c["h_sign"]]
    found = entropy_score(vector["entropy"], mask, pivot=c["entropy_pivot"], faithful=faithful)["score"]
    agree(found, vector.out("h_hat"))
    clip = {"low": c["clip_low"], "high": c["clip_high"], "alpha": c["clip_alpha"]}
    down, up = ranges(found, **clip)
    agree(down * mask, vector.out("eps_low"))
    agree(up * mask, vector.out("eps_high"))
    adv = vector["adv"]
    if c["adaptive_advantage"]:
        adv = redistribute(logp.detach(), vector["old_logp"], adv, found, beta=c["adv_beta"], **clip)["adv"]
    objective(vector, adaptive_clip(logp, vector["old_logp"], adv, found, **clip, dual=c["clip_c"], clamp=None), logp)


def test_the_score_is_the_share_of_the_largest_distance_from_the_pivot_on_its_side():
    assert score(-4.0, -1.0, 0.0, 1.0, 4.0) == pytest.approx([-1.0, -0.25, 0.0, 0.25, 1.0])
    assert score(-4.0, -2.0, 0.0, 1.0) == pytest.approx([-1.0, -0.5, 0.0, 1.0])


def test_the_released_score_has_lost_its_sign():
    assert score(-4.0, -1.0, 0.0, 1.0, 4.0, faithful="released") == pytest.approx([1.0, 0.25, 0.0, 0.25, 1.0])


def test_the_pivot_is_the_nearest_token_with_halves_rounded_to_even():
    # index 0.5 * 1 = 0.5 rounds to 0, 0.5 * 3 = 1.5 to 2
    assert score(0.0, 1.0) == pytest.approx([0.0, 1.0])
    assert score(0.0, 1.0, 2.0, 3.0) == pytest.approx([-1.0, -0.5, 0.0, 1.0])


@pytest.mark.parametrize("logs", [(1.0,), (0.5, 0.5, 0.5)])
def test_equal_entropies_have_no_score(logs):
    assert score(*logs) == [0.0] * len(logs)


def test_tokens_without_entropy_count_as_1e_8_nats():
    entropy = torch.tensor([[0.0, 1e-8, 1.0]], dtype=torch.float64)
    found = entropy_score(entropy, torch.ones(1, 3).bool(), pivot=0.5, faithful="paper")["score"]
    assert found[0].tolist() == pytest.approx([0.0, 0.0, 1.0])


def test_padding_has_no_say_and_no_score():
    assert score(-4.0, 0.0, 4.0, 99.0, mask=[True, True, True, False]) == pytest.approx([-1.0, 0.0, 1.0, 0.0])
    assert score(-4.0, 4.0, mask=[False, False]) == [0.0, 0.0]


def test_uncertain_tokens_get_room_above_and_certain_ones_below():
    down, up = ranges(t(-1.0, -0.5, 0.0, 0.5, 1.0), 0.2, 0.3, 1.0)
    assert down[0].tolist() == pytest.approx([0.4, 0.3, 0.2, 0.2, 0.2])
    assert up[0].tolist() == pytest.approx([0.3, 0.3, 0.3, 0.45, 0.6])


@pytest.mark.parametrize(
    ("ratio", "adv", "kind", "moves"),
    [
        (1.5, 1.0, 1.0, True),
        (1.5, 1.0, 0.0, False),
        (0.7, -1.0, -1.0, True),
        (0.7, -1.0, 0.0, False),
        (0.7, -1.0, 1.0, False),
        (1.5, 1.0, -1.0, False),
    ],
)
def test_gradient_inside_and_outside_a_tokens_own_range(ratio, adv, kind, moves):
    logp = t(math.log(ratio)).requires_grad_(True)
    adaptive_clip(logp, t(0.0), t(adv), t(kind), low=0.2, high=0.3, alpha=1.0, dual=None, clamp=None).sum().backward()
    assert logp.grad.item() == pytest.approx(-adv * ratio if moves else 0.0)


def test_advantages_follow_tokens_that_behave_as_their_kind():
    # uncertain tokens: moved, stayed; certain tokens: moved, stayed; half of the ranges are 0.2 above and below
    found = redistribute(
        t(0.5, 0.0, -0.5, 0.0),
        t(0.0, 0.0, 0.0, 0.0),
        t(2.0, 2.0, 2.0, 2.0),
        t(0.5, 0.5, -0.5, -0.5),
        beta=1.0,
        low=0.2,
        high=0.2,
        alpha=1.0,
    )
    assert found["adv"][0].tolist() == pytest.approx([3.0, 2.0, 2.0, 1.0])


def test_without_widening_it_is_the_clipped_surrogate():
    g = torch.Generator().manual_seed(0)
    logp, old, adv, kind = torch.randn(4, 5, 6, generator=g, dtype=torch.float64)
    ours = adaptive_clip(logp, old, adv, kind, low=0.2, high=0.3, alpha=0.0, dual=10.0, clamp=None)
    torch.testing.assert_close(ours, clipped_surrogate(logp, old, adv, low=0.2, high=0.3, dual=10.0, clamp=None))
