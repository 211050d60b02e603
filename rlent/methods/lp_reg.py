"""Lp-Reg: shield unlikely but plausible tokens of bad responses, by pulling the policy up to a filtered copy of itself.

Paper: Low-probability Tokens Sustain Exploration in Reinforcement Learning with Verifiable Reward, arXiv:2510.03222.
Seats: probe (`proxy_logp`, `kept_share`), shape (`low_probability`, over the whole minibatch), loss (`uncapped_where_selected`)
       and regularize (`pull_to_proxy`, `forward_divergence`); the last two seats read the selection.
Checked against: the authors' `compute_policy_loss_lp_reg` and `apply_min_p`, which select on each part.

The paper ranks against all sampled tokens and penalises the forward KL(proxy || policy) over the vocabulary. The code ranks
the tokens of bad responses among themselves and takes the estimate k3 at the sampled token.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.masked import pick_smallest
from rlent.math.ratio import clipped, divergence, log_ratio
from rlent.options import NonNegative, Positive, Share

FILTERED = -1e4
"""The logit of a filtered token, as the authors have it: an infinite penalty in effect, a finite number on paper."""


def plausible(logits: Float[Tensor, "t V"], mode: Literal["min_p", "fixed"], threshold: float) -> Bool[Tensor, "t V"]:
    """Which vocabulary entries the filter keeps: p >= threshold * (largest p), or p >= threshold (`fixed`)."""
    p = logits.softmax(-1)
    return p >= (threshold * p.amax(-1, keepdim=True) if mode == "min_p" else threshold)


def proxy_logp(
    logits: Float[Tensor, "t V"], target: Int[Tensor, " t"], *, mode: Literal["min_p", "fixed"], threshold: Share, temperature: Positive
) -> Float[Tensor, " t"]:
    """Log-probability of the sampled token under the filtered, renormalised policy (nats).

    The filter looks at probabilities at temperature 1, whatever the sampling temperature, by which `logits` are divided already.
    A filtered token gets about -1e4 / temperature.
    """
    raw = logits * temperature
    kept = raw.masked_fill(~plausible(raw, mode, threshold), FILTERED) / temperature
    return kept.log_softmax(-1).gather(-1, target[:, None])[:, 0]


def kept_share(
    logits: Float[Tensor, "t V"], *, mode: Literal["min_p", "fixed"], threshold: Share, temperature: Positive
) -> Float[Tensor, " t"]:
    """ln of the probability the filter keeps (nats). Minus it is KL(proxy || policy) with the proxy made of the current policy."""
    kept = plausible((logits * temperature).detach(), mode, threshold)
    return logits.masked_fill(~kept, -torch.inf).logsumexp(-1) - logits.logsumexp(-1)


def low_probability(
    now_logp: Float[Tensor, "N T"],
    old_lp_proxy: Float[Tensor, "N T"],
    adv: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    rho_neg: Share,
    rho_pos: Share,
    faithful: Literal["paper", "released"],
) -> dict[str, Tensor]:
    """`selected`: the least likely tokens of negative advantage on which the proxy is above the policy.

    `released`: of the n tokens with negative advantage the k = int(rho_neg n) least likely, and none unless k > 1. `paper`: those
    at or below the rho_neg-quantile of all response tokens. Noise, which the filter drops, has a proxy far below the policy and is
    never selected. `rho_pos` does the same among tokens of positive advantage.
    """
    logp = now_logp.detach()
    picked = torch.zeros_like(mask)
    for side, rho in ((mask & (adv < 0), rho_neg), (mask & (adv > 0), rho_pos)):
        among = side if faithful == "released" else mask
        count = int(int(among.sum()) * rho)
        if count > 1 or (count and faithful == "paper"):
            picked |= pick_smallest(logp, among, count) & side
    return {"selected": picked & (logp < old_lp_proxy)}


def uncapped_where_selected(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    adv: Float[Tensor, "B T"],
    lp_reg_selected: Bool[Tensor, "B T"],
    *,
    low: Share,
    high: NonNegative,
    clamp: Positive | None,
) -> Float[Tensor, "B T"]:
    """max(-A r, -A clip(r, 1 - low, 1 + high)); -A r on selected tokens, which lose the cap."""
    ratio = log_ratio(logp, old_logp, clamp).exp()
    return torch.where(lp_reg_selected, -adv * ratio, clipped(ratio, adv, low, high))


def pull_to_proxy(
    logp: Float[Tensor, "B T"], old_lp_proxy: Float[Tensor, "B T"], lp_reg_selected: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    """min(e^d - d - 1, 10) with d = proxy - logp on selected tokens, 0 elsewhere: pushes logp up until it meets the proxy.

    Beyond d of about 2.6 the bound holds the value and there is no gradient.
    """
    return divergence(logp, old_lp_proxy, "k3").masked_fill(~lp_reg_selected, 0.0)


def forward_divergence(lp_kept: Float[Tensor, "B T"], lp_reg_selected: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """KL(proxy || policy) over the vocabulary on selected tokens, the proxy being the current policy filtered and held fixed.

    Its value is -ln of the kept probability, and its gradient policy - proxy, which is what differentiating that value gives.
    """
    return -lp_kept.masked_fill(~lp_reg_selected, 0.0)
