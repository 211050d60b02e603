import math

import pytest
import torch

from rlent.methods.grpo import group_relative
from rlent.methods.hapo import adaptive_clip, adaptive_temperature, entropy_score, ranges, redistribute, temperature_statistics, token_group
from rlent.methods.ppo_clip import clipped_surrogate

VECTORS = ("hapo_aac", "hapo_tga")
TGA = {"scale": "group", "fallback": 5.0, "epsilon": 1e-6, "degenerate": "reference", "faithful": "paper"}


def t(*x):
    return torch.tensor([x], dtype=torch.float64)


def score(*logs, pivot=0.5, faithful="paper", mask=None):
    entropy = t(*logs).exp()
    mask = torch.ones_like(entropy).bool() if mask is None else torch.tensor([mask])
    return entropy_score(entropy, mask, pivot=pivot, epsilon=1e-8, faithful=faithful)["score"][0].tolist()


def test_agrees_with_the_reference(vector, agree, objective):
    c, mask = vector.config, vector["mask"]
    if vector.method == "hapo_tga":
        scale = "group" if c["norm_by_std"] else "none"
        options = {**TGA, "scale": scale, "fallback": c["fallback_abs"], "epsilon": c["epsilon"], "faithful": "released"}
        agree(token_group(vector["reward"], mask, vector["group"], **options)[:, None] * mask, vector.out("advantages"))
        return
    logp = vector.leaf("logp")
    faithful = {"intended": "paper", "released": "released"}[c["h_sign"]]
    found = entropy_score(vector["entropy"], mask, pivot=c["entropy_pivot"], epsilon=1e-8, faithful=faithful)["score"]
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
    found = entropy_score(entropy, torch.ones(1, 3).bool(), pivot=0.5, epsilon=1e-8, faithful="paper")["score"]
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


def tga(reward, lengths, group, width=None, **options):
    mask = torch.arange(width or max(lengths)) < torch.tensor(lengths)[:, None]
    return token_group(torch.tensor(reward, dtype=torch.float64), mask, torch.tensor(group), **{**TGA, "epsilon": 0.0, **options}).tolist()


def test_credit_is_measured_against_the_groups_tokens():
    # three tokens of reward 1, one of reward 0: mean 0.75, biased variance 3 / 16
    assert tga([1.0, 0.0], [3, 1], [0, 0]) == pytest.approx([0.25 / (3**0.5 / 4), -0.75 / (3**0.5 / 4)])
    assert tga([1.0, 0.0], [3, 1], [0, 0], scale="none") == pytest.approx([0.25, -0.75])


def test_a_rare_reward_on_few_tokens_falls_back_to_grpo():
    reward, lengths, group = [1.0, 0.0, 0.0], [1, 20, 20], [0, 0, 0]
    want = group_relative(
        torch.tensor(reward, dtype=torch.float64), torch.tensor(group), scale="group", epsilon=0.0, degenerate="reference"
    ).tolist()
    assert tga(reward, lengths, group) == pytest.approx(want)  # 1 token of 41: (1 - 1/41) / sqrt(40) * 41 = 6.3
    assert tga(reward, [9, 9, 9], group) == pytest.approx([2**0.5, -(0.5**0.5), -(0.5**0.5)])


def test_padding_triggers_the_released_fallback():
    # rewards 3 and 4: the mean is seven deviations from 0, which is what padding holds there
    ordinary = [-(0.5**0.5), 0.5**0.5]
    assert tga([3.0, 4.0], [9, 10], [0, 0], faithful="released") == pytest.approx(ordinary)
    assert tga([3.0, 4.0], [9, 10], [0, 0]) != pytest.approx(ordinary)
    assert tga([3.0, 4.0], [9, 9], [0, 0], faithful="released") == pytest.approx([-1.0, 1.0])  # no padding, no fallback
    assert tga([3.0, 4.0], [9, 9], [0, 0], width=10, faithful="released") == pytest.approx(ordinary)


def test_a_response_without_tokens_has_no_say_about_the_token_mean():
    assert tga([1.0, 0.0, 9.0], [2, 2, 0], [0, 0, 0])[:2] == pytest.approx([1.0, -1.0])


def statistics(*entropies, pivot=0.5):
    found = temperature_statistics(t(*entropies), torch.ones(1, len(entropies)).bool(), knob="decode.h.median", pivot=pivot, floor=1e-8)
    return {name.removeprefix("decode.h."): value for name, value in found.items()}


def cooled(known, logits, faithful="paper"):
    asked = torch.ones(len(logits), dtype=torch.float64)
    return adaptive_temperature(logits, asked, tau=0.05, **known, epsilon=1e-6, faithful=faithful)["temperature"].tolist()


def test_the_temperature_moves_by_how_far_a_token_is_from_the_pivot_of_the_step_before():
    known = statistics(math.exp(-2.0), math.exp(-1.0), 1.0)  # ln entropies -2, -1, 0 about a pivot of -1
    assert known["median"] == pytest.approx(-1.0) and known["std"] == pytest.approx(math.sqrt(2 / 3))
    assert known["scale_pos"] == pytest.approx(known["std"]) and known["scale_neg"] == pytest.approx(-known["std"])
    flat, sure = torch.zeros(1, 3, dtype=torch.float64), torch.tensor([[40.0, 0.0, 0.0]], dtype=torch.float64)
    # flat: H = ln 3, ln H = 0.094, above the highest of the step before, so h = 1; sure: far below the lowest, h = -1
    assert cooled(known, torch.cat((flat, sure))) == pytest.approx([1.05, 0.95])
    assert cooled(known, torch.cat((flat, sure)), "released") == pytest.approx([1.05, 1.05])


def test_at_the_first_step_nothing_is_known_and_the_temperature_stays():
    nothing = {"median": 0.0, "std": 0.0, "scale_pos": 0.0, "scale_neg": 0.0}
    assert cooled(nothing, torch.zeros(2, 3, dtype=torch.float64)) == [1.0, 1.0]
    assert temperature_statistics(t(1.0), torch.zeros(1, 1).bool(), knob="decode.h.median", pivot=0.8, floor=1e-8) is None


def test_equal_entropies_give_finite_scales():
    known = statistics(0.5, 0.5)
    assert all(math.isfinite(v) for v in known.values())
    assert all(0.95 <= x <= 1.05 for x in cooled(known, torch.randn(5, 4, dtype=torch.float64)))


def test_padding_does_not_enter_the_statistics():
    mask = torch.tensor([[True, True, False]])
    with_pad = temperature_statistics(t(0.3, 0.6, 99.0), mask, knob="median", pivot=0.8, floor=1e-8)
    without = temperature_statistics(t(0.3, 0.6), mask[:, :2], knob="median", pivot=0.8, floor=1e-8)
    assert with_pad == without
