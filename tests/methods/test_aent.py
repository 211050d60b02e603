import json
import math

import pytest
import torch
from conftest import GOLDEN

from rlent.math.entropy import entropy_from_logits
from rlent.methods.aent import EntropyBand, clamped_entropy, negative_clamped_entropy
from rlent.methods.ppo_clip import clipped_surrogate

VECTORS = ("aent",)
BAND = {"knob": "k", "start": 0.1, "rate": 0.1, "low": 0.5, "high": 1.0, "least": 0.05, "most": 0.12, "warmup": 0}
MASK = torch.tensor([[True, True, False]])


def clamped(*prob: float, removed: float) -> float:
    return clamped_entropy(torch.tensor([prob], dtype=torch.float64).log(), torch.zeros(1, dtype=torch.long), removed=removed).item()


def entropy(mean: float) -> torch.Tensor:
    return torch.tensor([[mean - 0.1, mean + 0.1, 99.0]], dtype=torch.float64)  # the last is padding


def test_agrees_with_the_reference(vector, agree, objective):
    c, logits, mask = vector.config, vector.leaf("logits"), vector["mask"]
    z = logits / c["temperature"]
    logp = z.log_softmax(-1).gather(-1, vector["labels"][..., None]).squeeze(-1)
    level = clamped_entropy(z.flatten(0, 1), vector["labels"].flatten(), removed=c["clamp_p"]).view(mask.shape)
    agree(level * mask, vector.out("clamped_entropy"))
    bonus = (negative_clamped_entropy(level) * mask).sum() / mask.sum()
    loss = clipped_surrogate(logp, vector["old_logp"], vector["adv"], low=c["clip_low"], high=c["clip_high"], dual=c["clip_c"], clamp=None)
    objective(vector, loss, logits, extra=c["coef"] * bonus)


def test_the_controller_agrees_with_the_reference():
    file = json.loads((GOLDEN / "aent_coef_1.json").read_text())
    c = file["config"]
    options = {"rate": c["coef_lr"], "low": c["ent_low"], "high": c["ent_high"], "least": c["coef_min"], "most": c["coef_max"]}
    band = EntropyBand(knob="k", start=c["coef"], warmup=c["warmup_steps"], **options)
    levels = file["inputs"]["clamped_entropy_by_step"]
    found = [band(torch.full((1, 1), x, dtype=torch.float64), torch.ones(1, 1).bool(), i + 2) for i, x in enumerate(levels)]
    assert found == pytest.approx(file["outputs"]["coef_after_step"])


def test_the_least_likely_tokens_are_left_out_and_the_rest_renormalised():
    # int(0.5 * 5) = 2 tokens go; 0.2, 0.3 and 0.4 stay
    want = -sum(p / 0.9 * math.log(p / 0.9) for p in (0.4, 0.3, 0.2))
    assert clamped(0.06, 0.3, 0.4, 0.04, 0.2, removed=0.5) == pytest.approx(want)


def test_with_nothing_left_out_it_is_the_entropy_and_with_all_but_one_it_is_0():
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = clamped_entropy(logits, torch.zeros(4, dtype=torch.long), removed=0.0)
    torch.testing.assert_close(whole, entropy_from_logits(logits))
    assert clamped(0.5, 0.3, 0.2, removed=1.0) == 0.0


def test_tokens_left_out_get_no_gradient_and_impossible_ones_spoil_nothing():
    logits = torch.tensor([[0.3, 0.2, 0.1, -3.0, -torch.inf]], dtype=torch.float64, requires_grad=True)
    clamped_entropy(logits, torch.zeros(1, dtype=torch.long), removed=0.4).sum().backward()
    assert logits.grad[0].bool().tolist() == [True, True, True, False, False]
    logits.grad = None
    value = clamped_entropy(logits, torch.zeros(1, dtype=torch.long), removed=0.0)
    value.sum().backward()
    torch.testing.assert_close(value, entropy_from_logits(logits.detach()[:, :4]))
    assert logits.grad.isfinite().all()


def test_the_price_moves_outside_the_band_only_and_stays_in_its_box():
    band = EntropyBand(**BAND)
    assert band(entropy(0.7), MASK, 5) == 0.1
    assert band(entropy(0.4), MASK, 6) == pytest.approx(0.11)  # 0.1 nats too little
    assert band(entropy(0.1), MASK, 7) == pytest.approx(0.12)  # 0.15 is too much
    assert band(entropy(1.2), MASK, 8) == pytest.approx(0.1)
    assert band(entropy(9.0), MASK, 9) == pytest.approx(0.05)


def test_the_price_stays_during_the_warm_up():
    band = EntropyBand(**{**BAND, "warmup": 2})
    assert [band(entropy(0.4), MASK, step) for step in range(1, 6)] == pytest.approx([0.1, 0.1, 0.1, 0.1, 0.11])


def test_a_resumed_controller_goes_on_where_it_was():
    one, other = EntropyBand(**BAND), EntropyBand(**BAND)
    one(entropy(0.4), MASK, 9)
    other.load_state_dict(one.state_dict())
    assert other(entropy(0.7), MASK, 10) == one(entropy(0.7), MASK, 10) == pytest.approx(0.11)


def test_a_band_upside_down_is_refused():
    with pytest.raises(ValueError, match="low=2.0 is above high=1.0"):
        EntropyBand(**{**BAND, "low": 2.0})
