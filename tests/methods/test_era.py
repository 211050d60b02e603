import math

import pytest
import torch

from rlent.math.entropy import entropy_from_logits
from rlent.methods.era import activated_clip, band, scaled_logp, top_mean
from rlent.methods.ppo_clip import clipped_surrogate

VECTORS = ("era",)
BAND = {"h_low": 0.5, "h_high": 2.0, "k": 2.0, "share": 0.2, "adv_scale": False, "faithful": "paper"}


def t(*x):
    return torch.tensor([x], dtype=torch.float64)


def banded(entropy, adv, **options):
    entropy, adv = t(*entropy), t(*adv)
    return band(entropy, entropy, adv, torch.ones_like(entropy).bool(), **{**BAND, **options})


def test_agrees_with_the_reference(vector, agree, objective):
    c, logits, mask, labels = vector.config, vector.leaf("logits"), vector["mask"], vector["labels"].flatten()
    z = logits / c["temperature"]
    entropy = entropy_from_logits(z.flatten(0, 1)).detach().view(mask.shape)
    agree(entropy * mask, vector.out("entropy"))
    names = ("h_low", "h_high", "k", "adv_scale")
    faithful = "released" if c["int_cast"] else "paper"
    found = band(entropy, entropy, vector["adv"], mask, **{k: c[k] for k in names}, share=0.2, faithful=faithful)
    agree(found["level"], vector.out("response_entropy"))
    agree((found["factor"] != 1).double() * mask, vector.out("modified"))
    adv = found.get("adv", vector["adv"])
    agree(adv * mask, vector.out("advantages_used"))
    top = 20 if c["topk20"] else None
    live = [
        scaled_logp(z.flatten(0, 1), labels, factor=f, inverse=i, top=top).view(mask.shape)
        for f, i in ((1.0, False), (c["k"], False), (c["k"], True))
    ]
    old = [vector["old_logp"]] * 3
    clip = {"low": c["clip_low"], "high": c["clip_high"], "dual": c["clip_c"], "clamp": 20.0}
    objective(vector, activated_clip(*live, *old, found["factor"], found["old_factor"], adv, **clip), logits)


def test_the_level_is_of_the_most_uncertain_fifth():
    entropy = torch.tensor([[0.1, 3.0, 0.2, 0.3, 0.4, 1.0, 0.5, 0.6, 0.7, 0.8], [4.0, 1.0, 9.0, 9.0] + [9.0] * 6, [9.0] * 10])
    mask = torch.zeros(3, 10).bool()
    mask[0] = True
    mask[1, :2] = True  # int(0.2 * 2) = 0: at least one
    assert top_mean(entropy, mask, 0.2).tolist() == pytest.approx([2.0, 4.0, 0.0])


def test_good_responses_outside_the_band_are_scaled():
    assert banded([0.4, 0.1], [1.0, 1.0])["factor"].tolist() == [[2.0, 2.0]]
    assert banded([2.1, 0.1], [1.0, 1.0])["factor"].tolist() == [[0.5, 0.5]]
    assert banded([0.5, 0.1], [1.0, 1.0])["factor"].tolist() == [[1.0, 1.0]]  # the limits themselves are inside
    assert banded([0.4, 0.1], [1.0, -1.0])["factor"].tolist() == [[2.0, 1.0]]


def test_the_released_code_leaves_advantages_below_one_alone():
    assert banded([0.1, 0.1], [0.9, 1.5], faithful="released")["factor"].tolist() == [[1.0, 2.0]]


def test_the_advantage_is_scaled_against_the_logits_by_the_sign_of_its_first_token():
    assert banded([0.1, 0.1], [1.0, 3.0], adv_scale=True)["adv"].tolist() == [[0.5, 1.5]]
    assert banded([2.5, 0.1], [1.0, 3.0], adv_scale=True)["adv"].tolist() == [[2.0, 6.0]]
    assert banded([0.1, 0.1], [-1.0, 3.0], adv_scale=True)["adv"].tolist() == [[-1.0, 3.0]]


def test_the_factor_of_then_is_from_the_entropy_of_then():
    found = band(t(0.1), t(1.0), t(1.0), torch.tensor([[True]]), **BAND)
    assert (found["factor"].item(), found["old_factor"].item()) == (2.0, 1.0)


def test_scaled_log_probabilities():
    logits = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64)
    target = torch.tensor([1])
    want = -math.log(math.exp(2) + 1 + math.exp(-2))
    assert scaled_logp(logits, target, factor=2.0, inverse=False, top=None).item() == pytest.approx(want)
    assert scaled_logp(logits, target, factor=0.5, inverse=True, top=None).item() == pytest.approx(want)
    assert scaled_logp(logits, target, factor=2.0, inverse=False, top=2).item() == pytest.approx(-math.log(math.exp(2) + 1))
    assert scaled_logp(logits, torch.tensor([2]), factor=2.0, inverse=False, top=2).item() == -1e4


def test_a_token_outside_the_top_has_no_gradient():
    logits = torch.tensor([[1.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    scaled_logp(logits, torch.tensor([2]), factor=1.0, inverse=False, top=2).sum().backward()
    assert not logits.grad.any()


def test_inside_the_band_it_is_the_clipped_surrogate():
    g = torch.Generator().manual_seed(0)
    now, old, other, adv = torch.randn(4, 3, 5, generator=g, dtype=torch.float64)
    one = torch.ones(3, 5, dtype=torch.float64)
    clip = {"low": 0.2, "high": 0.3, "dual": 10.0, "clamp": 20.0}
    torch.testing.assert_close(
        activated_clip(now, other, other, old, other, other, one, one, adv, **clip), clipped_surrogate(now, old, adv, **clip)
    )
