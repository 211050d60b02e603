"""Corrections for an engine whose distribution is not quite the trainer's: importance weights, cut or masked.

Tokens were drawn from the sampler's distribution, the update assumes the trainer's; pi_old / pi_sampler corrects for it and has to be
bounded. Truncated: Your Efficient RL Framework Secretly Brings You Off-Policy RL Training (Yao et al. 2025; F. Yao's TIS), the
truncation of Ionides 2008. Masked: Every Step Evolves, arXiv:2510.18855 (IcePop).
Seat: shape, once per step.
Checked against: the formula written out. Bounds are our choice where the papers' runs differ.
"""

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.masked import row_mean
from rlent.options import NonNegative, Positive


def importance_ratio(
    old_logp: Float[Tensor, "N T"], sampler_logp: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], level: str
) -> Float[Tensor, "N T"]:
    """pi_old / pi_sampler by token; of the whole response, the same for all of its tokens; or its geometric mean by token."""
    log_ratio = (old_logp - sampler_logp).masked_fill(~mask, 0.0)
    if level == "sequence":
        log_ratio = log_ratio.sum(1, keepdim=True).expand_as(log_ratio)
    elif level == "geometric":
        log_ratio = row_mean(log_ratio, mask)[:, None].expand_as(log_ratio)
    return log_ratio.clamp(-20.0, 20.0).exp()


def truncate_importance(
    old_logp: Float[Tensor, "N T"],
    sampler_logp: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    level: Literal["token", "sequence"],
    cap: Positive,
) -> dict[str, Tensor]:
    """Weight min(pi_old / pi_sampler, cap). `selected` are the tokens whose ratio was cut."""
    ratio = importance_ratio(old_logp, sampler_logp, mask, level)
    return {"weight": ratio.clamp(max=cap), "selected": mask & (ratio > cap)}


def mask_importance(
    old_logp: Float[Tensor, "N T"],
    sampler_logp: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    level: Literal["token", "sequence", "geometric"],
    low: NonNegative,
    high: Positive,
) -> dict[str, Tensor]:
    """Weight pi_old / pi_sampler where it lies in [low, high], else 0. `selected` are the tokens left out."""
    ratio = importance_ratio(old_logp, sampler_logp, mask, level)
    kept = (ratio >= low) & (ratio <= high)
    return {"weight": ratio * kept, "selected": mask & ~kept}
