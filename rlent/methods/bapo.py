"""BAPO: before each update, widen the clip range until tokens of good responses contribute enough.

Paper: BAPO: Stabilizing Off-Policy Reinforcement Learning for LLMs via Balanced Policy Optimization with Adaptive Clipping,
       arXiv:2510.18927.
Seat:  loss. The search looks at the whole minibatch, so the loss does, too.
Checked against: the authors' `compute_policy_loss_bapo` of January 2026. They search on each part, with sums over ranks.

For a token of negative advantage the clip keeps the larger of ratio and lower bound, so raising the lower bound never raises
the positive share; it takes gradient from tokens that have already become unlikely. In the code's order an unmet target
therefore sends the lower bound to its end before the upper one moves.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.ratio import log_ratio
from rlent.options import AboveOne, NonNegative, Positive, Share


def positive_to_negative(
    ratio: Float[Tensor, " n"], adv: Float[Tensor, " n"], weight: Float[Tensor, " n"], low: float, high: float, eps: float
) -> float:
    """What positive advantages contribute over what negative ones do, A r clipped to [low, high]; infinite without negative ones."""
    share = weight * adv * torch.where(adv >= 0, ratio.clamp(max=high), ratio.clamp(min=low))
    if not (share < 0).any():
        return float("inf")
    return float(share[share > 0].sum()) / (eps - float(share[share < 0].sum()))


def search_bounds(
    ratio: Float[Tensor, " n"],
    adv: Float[Tensor, " n"],
    weight: Float[Tensor, " n"],
    *,
    target: NonNegative,
    low: tuple[float, float, float],
    high: tuple[float, float, float],
    order: str,
    eps: float,
) -> tuple[float, float]:
    """Bounds (low, high) on the ratio, from (start, end, step) of each: the first at which the target is met, or the last.

    `low_then_high` is the released code's order, each bound to its end before the other; `high_then_low` the paper's, where
    steps that would pass the end are not taken.
    """
    lower, upper = low[0], high[0]

    def short() -> bool:
        return positive_to_negative(ratio, adv, weight, lower, upper, eps) < target

    if order == "low_then_high":
        while lower < low[1] and short():
            lower = min(lower + low[2], low[1])
        while upper < high[1] and short():
            upper = min(upper + high[2], high[1])
        return lower, upper
    while lower + low[2] <= low[1] and short():
        if upper + high[2] <= high[1]:
            upper += high[2]
        else:
            lower += low[2]
    return lower, upper


def rebalanced_clip(
    now_logp: Float[Tensor, "N T"],
    old_logp: Float[Tensor, "N T"],
    adv: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    target: NonNegative,
    low_start: Share,
    low_max: Share,
    low_step: Positive,
    high_start: AboveOne,
    high_max: AboveOne,
    high_step: Positive,
    order: Literal["low_then_high", "high_then_low"],
    prob_weighted: bool,
    eps: NonNegative,
    dual: AboveOne | None,
    clamp: Positive | None,
) -> Float[Tensor, "N T"]:
    """max(-A r, -A clip(r, low, high)) with the dual clip, low and high found by `search_bounds` on the minibatch.

    `prob_weighted` counts a token's contribution times the probability it was sampled with, as the paper writes.
    """
    ratio = log_ratio(now_logp, old_logp, clamp).exp()
    weight = old_logp.exp() if prob_weighted else torch.ones_like(old_logp)
    low, high = search_bounds(
        ratio.detach()[mask],
        adv[mask],
        weight[mask],
        target=target,
        low=(low_start, low_max, low_step),
        high=(high_start, high_max, high_step),
        order=order,
        eps=eps,
    )
    loss = torch.maximum(-adv * ratio, -adv * ratio.clamp(low, high))
    if dual is None:
        return loss
    return torch.where(adv < 0, torch.minimum(loss, -adv * dual), loss)
