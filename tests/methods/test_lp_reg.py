import math

import pytest
import torch

from rlent.methods.lp_reg import (
    forward_divergence,
    kept_share,
    low_probability,
    plausible,
    proxy_logp,
    pull_to_proxy,
    uncapped_where_selected,
)

VECTORS = ("lp_reg", "lp_reg_proxy")


def t(*x):
    return torch.tensor([x], dtype=torch.float64)


def selected(logp, proxy, adv, *, rho_neg=0.5, rho_pos=0.0, faithful="released", mask=None):
    mask = torch.ones_like(logp).bool() if mask is None else torch.tensor([mask])
    return low_probability(logp, proxy, adv, mask, rho_neg=rho_neg, rho_pos=rho_pos, faithful=faithful)["selected"][0].tolist()


def test_agrees_with_the_reference(vector, agree, objective):
    c = vector.config
    if vector.method == "lp_reg_proxy":
        how = {"mode": c["mode"], "threshold": c["threshold"]}
        agree(plausible(vector["logits"].flatten(0, 1), **how).sum(-1).double(), vector.out("kept").flatten())
        z, target = (vector["logits"] / c["temperature"]).flatten(0, 1), vector["labels"].flatten()
        agree(proxy_logp(z, target, **how, temperature=c["temperature"]), vector.out("proxy_log_prob").flatten())
        return
    logp, mask, proxy = vector.leaf("logp"), vector["mask"], vector["proxy_log_prob"]
    chosen = low_probability(logp, proxy, vector["adv"], mask, rho_neg=c["rho_neg"], rho_pos=c["rho_pos"], faithful="released")["selected"]
    loss = uncapped_where_selected(logp, vector["old_logp"], vector["adv"], chosen, low=c["clip_low"], high=c["clip_high"], clamp=None)
    objective(vector, loss + c["kl_coef"] * pull_to_proxy(logp, proxy, chosen), logp)


def test_the_filter_keeps_what_is_near_the_peak_or_above_a_threshold():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64).log()
    assert plausible(logits, "min_p", 0.29).tolist() == [[True, True, True, False]]  # 0.15 is 0.3 of the peak
    assert plausible(logits, "fixed", 0.29).tolist() == [[True, True, False, False]]


def test_the_proxy_shares_the_kept_probability_out_and_a_filtered_token_is_hopeless():
    logits = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    how = {"mode": "min_p", "threshold": 0.5, "temperature": 1.0}
    assert proxy_logp(logits, torch.tensor([1]), **how).item() == pytest.approx(math.log(0.3 / 0.8))
    assert proxy_logp(logits, torch.tensor([2]), **how).item() < -9000


def test_the_filter_looks_at_temperature_one():
    raw = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    cold = {"mode": "min_p", "threshold": 0.1, "temperature": 0.5}
    # at temperature 1 the second has e^-2 = 0.135 of the peak and is kept; at 0.5 it would have 0.018
    assert proxy_logp(raw / 0.5, torch.tensor([1]), **cold).item() == pytest.approx((raw / 0.5).log_softmax(-1)[0, 1].item())


def test_only_unlikely_tokens_of_bad_responses_below_their_proxy_are_shielded():
    logp, proxy = t(-5.0, -4.0, -1.0, -0.5, -6.0), t(-4.0, -9e3, -0.9, -0.4, -5.0)
    # bad: the first four; int(0.5 * 4) = 2 least likely are -5 and -4; the proxy of the second has filtered it
    assert selected(logp, proxy, t(-1.0, -1.0, -1.0, -1.0, 1.0)) == [True, False, False, False, False]
    assert selected(logp, proxy, t(-1.0, -1.0, -1.0, -1.0, 1.0), mask=[False, True, True, True, True]) == [False] * 5


def test_one_token_is_too_few():
    logp, proxy = t(-5.0, -4.0, -1.0), t(-1.0, -1.0, -0.5)
    assert not any(selected(logp, proxy, t(-1.0, -1.0, -1.0), rho_neg=0.5))  # int(1.5) = 1
    assert selected(logp, proxy, t(-1.0, -1.0, -1.0), rho_neg=0.7) == [True, True, False]  # int(2.1) = 2


def test_the_paper_ranks_among_all_tokens_and_shields_the_bad_ones():
    logp, proxy, adv = t(-5.0, -4.0, -3.0, -1.0), t(-1.0, -1.0, -1.0, -0.5), t(1.0, -1.0, -1.0, -1.0)
    assert selected(logp, proxy, adv, faithful="paper") == [False, True, False, False]  # the two least likely of four
    assert not any(selected(logp, proxy, adv, faithful="released", rho_neg=0.5))  # int(0.5 * 3) = 1 of the bad ones


def test_positive_tokens_are_shielded_when_asked():
    logp, proxy = t(-5.0, -4.0, -3.0), t(-1.0, -1.0, -1.0)
    assert selected(logp, proxy, t(1.0, 1.0, 1.0), rho_neg=0.0, rho_pos=0.7) == [True, True, False]


def test_the_pull_raises_the_policy_until_it_meets_the_proxy():
    logp = t(-3.0, -2.0, -1.0, -9.0).requires_grad_(True)
    value = pull_to_proxy(logp, t(-2.0, -2.0, -2.0, -2.0), torch.tensor([[True, True, False, True]]))
    value.sum().backward()
    assert value[0].tolist() == pytest.approx([math.e - 2, 0.0, 0.0, 10.0])
    assert logp.grad[0].tolist() == pytest.approx([1 - math.e, 0.0, 0.0, 0.0])  # 1 - e^d; none beyond the bound


def test_a_shielded_token_loses_the_cap():
    logp = t(3.0, 3.0).requires_grad_(True)  # a ratio of e^3 = 20, above 10
    uncapped_where_selected(logp, t(0.0, 0.0), t(1.0, 1.0), torch.tensor([[False, True]]), low=1.0, high=9.0, clamp=None).sum().backward()
    assert logp.grad[0].tolist() == pytest.approx([0.0, -math.exp(3.0)])


def test_minus_the_kept_share_has_value_and_gradient_of_the_divergence_from_the_filtered_policy():
    logits = torch.tensor([[1.0, 0.5, -3.0, -4.0]], dtype=torch.float64, requires_grad=True)
    value = forward_divergence(kept_share(logits, mode="min_p", threshold=0.1, temperature=1.0)[None], torch.tensor([[True]]))
    (grad,) = torch.autograd.grad(value.sum(), logits)
    keep = plausible(logits.detach(), "min_p", 0.1)
    proxy = logits.detach().masked_fill(~keep, -torch.inf).softmax(-1)
    logp = logits.log_softmax(-1)
    written_out = torch.where(keep, proxy * (proxy.clamp(min=1e-300).log() - logp), torch.zeros_like(logp)).sum()
    (want,) = torch.autograd.grad(written_out, logits)
    assert value.item() == pytest.approx(written_out.item(), abs=1e-12)
    torch.testing.assert_close(grad, want)
    assert not forward_divergence(t(-0.3), torch.tensor([[False]])).any()
