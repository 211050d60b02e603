import torch

from rlent.methods.ce_gppo import gradient_preserving_clip
from rlent.methods.erc import entropy_ratio_gate
from rlent.methods.ppo_clip import clipped_surrogate

VECTORS = ("erc",)


def gate(entropy, old=None, *, mask=None, low=0.8, high=1.25, eps=1e-8):
    entropy = torch.tensor([entropy], dtype=torch.float64)
    old = torch.ones_like(entropy) if old is None else torch.tensor([old], dtype=torch.float64)
    mask = torch.ones_like(entropy).bool() if mask is None else torch.tensor([mask])
    found = entropy_ratio_gate(entropy, old, mask, low=low, high=high, eps=eps)
    return found["gate"][0].tolist(), found["selected"][0].tolist()


def test_agrees_with_the_reference(vector, agree, objective):
    c, logp = vector.config, vector.leaf("logp")
    given = (logp, vector["old_logp"], vector["adv"])
    clip = {"low": c["clip_low"], "high": c["clip_high"], "dual": c["clip_c"], "clamp": 20.0}
    loss = (
        clipped_surrogate(*given, **clip) if c["base"] == "ppo" else gradient_preserving_clip(*given, **clip, beta_low=1.0, beta_high=1.0)
    )
    found = entropy_ratio_gate(vector["entropy"], vector["old_entropy"], vector["mask"], low=c["ent_low"], high=c["ent_high"], eps=1e-8)
    agree(1 - found["selected"].sum() / vector["mask"].sum(), vector.outputs["kept_frac"])
    objective(vector, loss, logp, gate=found["gate"])


def test_gate_opens_only_inside_the_band():
    assert gate([0.79, 0.81, 1.24, 1.26])[0] == [False, True, True, False]


def test_the_band_excludes_its_ends():
    assert gate([0.75, 1.25], low=0.75, high=1.25, eps=2.0**-60)[0] == [False, False]


def test_only_response_tokens_count_as_closed():
    assert gate([5.0, 1.0, 5.0], mask=[True, True, False])[1] == [True, False, False]


def test_eps_settles_tokens_without_entropy():
    assert gate([0.0, 1e-9, 1e-4], [0.0, 0.0, 1e-6])[0] == [True, True, False]


def test_eps_is_added_to_both_entropies():
    assert gate([1.4, 1.6], [1.0, 1.0], eps=1.0)[0] == [True, False]  # 2.4 / 2 and 2.6 / 2 against 1.25


def test_entropy_gets_no_gradient():
    entropy = torch.ones(1, 2, requires_grad=True)
    found = entropy_ratio_gate(entropy, torch.ones(1, 2), torch.ones(1, 2).bool(), low=0.8, high=1.2, eps=1e-8)
    assert not any(x.requires_grad for x in found.values())
