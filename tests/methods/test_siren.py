import math

import pytest
import torch

from rlent.methods.ppo_clip import clipped_surrogate
from rlent.methods.siren import PeakAnchor, distance_to_anchor, nucleus_entropy, peak_mean, peaks

VECTORS = ("siren",)

NUCLEUS = {"top_p": 0.8, "top_k": 100}
X = torch.tensor([[1.0, 2.0, 3.0, 4.0, 9.0], [5.0, 1.0, 0.0, 0.0, 0.0], [7.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()


def nucleus(*prob: float, **options) -> float:
    logits = torch.tensor([prob], dtype=torch.float64).log()
    return nucleus_entropy(logits, torch.zeros(1, dtype=torch.long), **{**NUCLEUS, **options}).item()


def test_agrees_with_the_reference(vector, agree, objective):
    c, logits, mask = vector.config, vector.leaf("logits"), vector["mask"]
    z = logits / c["temperature"]
    logp = z.log_softmax(-1).gather(-1, vector["labels"][..., None]).squeeze(-1)
    entropy = nucleus_entropy(z.flatten(0, 1), vector["labels"].flatten(), top_p=c["top_p"], top_k=c["top_k"]).view(mask.shape)
    agree(entropy * mask, vector.out("nucleus_entropy"))
    found = distance_to_anchor(entropy, mask, quantile=c["peak_q"], anchor=c["anchor"])
    agree(found["selected"].double(), vector.out("peak_mask"))
    agree(peak_mean(entropy, mask, c["peak_q"]), vector.outputs["entropy_agg"])
    agree(found["value"], vector.outputs["entropy_term"])
    loss = clipped_surrogate(logp, vector["old_logp"], vector["adv"], low=c["clip_low"], high=c["clip_high"], dual=c["clip_c"], clamp=None)
    # their sum-norm divides by the rows as well
    objective(vector, loss / len(mask), logits, extra=c["coef"] * found["value"])


def test_the_token_that_crosses_top_p_is_left_out():
    # 0.4 + 0.3 = 0.7 < 0.8, and 0.2 crosses it: the nucleus is (4/7, 3/7)
    want = -(4 / 7 * math.log(4 / 7) + 3 / 7 * math.log(3 / 7))
    assert nucleus(0.1, 0.3, 0.4, 0.2) == pytest.approx(want, abs=1e-10)
    assert nucleus(0.1, 0.3, 0.4, 0.2, top_k=1) == pytest.approx(0.0, abs=1e-10)


def test_a_nucleus_that_reaches_top_p_with_equality_ends_there():
    # cumulative sums 0.5, 0.75, ...: at top_p 0.75 the second token is out, just above it is in
    assert nucleus(0.5, 0.25, 0.25, top_p=0.75) == pytest.approx(0.0, abs=1e-10)
    assert nucleus(0.5, 0.25, 0.25, top_p=0.7501) > 0.6


def test_an_empty_nucleus_has_neither_entropy_nor_gradient():
    logits = torch.tensor([[3.0, 0.0, -1.0]], dtype=torch.float64, requires_grad=True)
    value = nucleus_entropy(logits, torch.zeros(1, dtype=torch.long), **NUCLEUS)
    value.sum().backward()
    assert value.item() == 0.0
    assert not logits.grad.any()


def test_impossible_tokens_do_not_spoil_value_or_gradient():
    logits = torch.tensor([[0.3, 0.2, 0.1, -torch.inf]], dtype=torch.float64, requires_grad=True)
    value = nucleus_entropy(logits, torch.zeros(1, dtype=torch.long), **NUCLEUS)
    value.sum().backward()
    assert value.item() > 0.6
    assert torch.isfinite(logits.grad).all()


def test_peaks_are_strictly_above_the_rows_quantile():
    # (1, 2, 3, 4): the 2/3-quantile is 3, so only 4 is above it; (5, 1): 5 is above 3.67; a row of one has no peak
    assert peaks(X, MASK, 2 / 3).nonzero().tolist() == [[0, 3], [1, 0]]
    assert peak_mean(X, MASK, 2 / 3).item() == pytest.approx((4 + 5 + 0) / 3)


def test_the_distance_is_of_the_whole_minibatch():
    whole = distance_to_anchor(X, MASK, quantile=2 / 3, anchor=1.0)["value"]
    assert whole.item() == pytest.approx(4.0)  # (3 - 1)^2
    rows = [distance_to_anchor(X[[i]], MASK[[i]], quantile=2 / 3, anchor=1.0)["value"].item() for i in range(3)]
    assert sum(rows) / 3 == pytest.approx((9 + 16 + 1) / 3)  # what taking it row by row would give


def test_gradient_reaches_the_peaks_only():
    x = X.clone().requires_grad_(True)
    distance_to_anchor(x, MASK, quantile=2 / 3, anchor=1.0)["value"].backward()
    want = torch.zeros_like(X)
    want[0, 3] = want[1, 0] = 2 * (3 - 1) / 3  # 2 (level - anchor) / rows
    torch.testing.assert_close(x.grad, want)


def test_nothing_is_pulled_before_the_anchor_is_known():
    x = X.clone().requires_grad_(True)
    value = distance_to_anchor(x, MASK, quantile=2 / 3, anchor=-1.0)["value"]
    value.backward()
    assert value.item() == 0.0
    assert not x.grad.any()


def test_padding_and_order_of_rows_change_nothing():
    order = torch.tensor([2, 0, 1])
    dirty = torch.nn.functional.pad(X.masked_fill(~MASK, float("nan")), (0, 2), value=float("nan"))
    wide = torch.nn.functional.pad(MASK, (0, 2))
    assert torch.equal(peak_mean(dirty[order], wide[order], 0.5), peak_mean(X, MASK, 0.5))


def test_the_anchor_is_that_of_the_first_step_also_after_a_resume():
    control = PeakAnchor(knob="regularize.siren.anchor", quantile=2 / 3)
    assert control(X, MASK) == pytest.approx(3.0)
    assert control(X * 2, MASK) == pytest.approx(3.0)
    resumed = PeakAnchor(knob="regularize.siren.anchor", quantile=2 / 3)
    resumed.load_state_dict(control.state_dict())
    assert resumed(X * 5, MASK) == control(X, MASK)
