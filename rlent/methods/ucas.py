"""UCAS: right but unsure responses earn more, wrong but sure ones pay more, and tokens the model insisted on pay a little.

Paper: Uncertainty-aware Advantage Shaping, arXiv:2510.10649 (second version).
Seats: probe (`self_certainty`, `token_logit`), advantage (`certainty_shaped`).
Checked against: the authors' `compute_ucas_advantage`.

The token's penalty falls on every response without positive credit, so where all rewards are equal everything drifts down.
Raw logits move with a shift of the head that no probability sees; certainty is summed, so it mostly measures length.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.group import standardised
from rlent.options import NonNegative, Positive


def self_certainty(logits: Float[Tensor, "t V"]) -> Float[Tensor, " t"]:
    """logsumexp(z) - mean(z) per token, z the logits at the sampling temperature: KL(uniform || policy) up to ln V, in nats."""
    return logits.logsumexp(-1) - logits.mean(-1)


def token_logit(logits: Float[Tensor, "t V"], target: Int[Tensor, " t"], *, temperature: Positive) -> Float[Tensor, " t"]:
    """The logit of the sampled token before the division by the temperature."""
    return logits.gather(-1, target[:, None])[:, 0] * temperature


def certainty_shaped(
    reward: Float[Tensor, " N"],
    old_self_certainty: Float[Tensor, "N T"],
    old_token_logit: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    group: Int[Tensor, " N"],
    *,
    beta_pos: NonNegative,
    beta_neg: NonNegative,
    token_coef: NonNegative,
    scale: Literal["group", "none"],
    certainty: Literal["sum", "mean"],
    epsilon: NonNegative,
    degenerate: Literal["reference", "zero"],
) -> Float[Tensor, "N T"]:
    """a w - token_coef n, not below 0 where a w > 0; with a the GRPO advantage of the row.

    w = exp(-beta_pos z) if a > 0 else exp(beta_neg z), with z the row's certainty in deviations from its group's mean, and n
    the sampled tokens' logits scaled to 0 ... 1 over the step (0.5 where all are equal). `scale: none` only centres a and z. A
    group of one keeps its reward and its certainty (`reference`), or gets a = 0 (`zero`).
    """
    total = old_self_certainty.double().masked_fill(~mask, 0.0).sum(1)
    if certainty == "mean":
        total = total / mask.sum(1).clamp(min=1)
    a = standardised(reward.double(), group, degenerate, epsilon=epsilon, scale=scale)
    z = standardised(total, group, "reference", epsilon=epsilon, scale=scale)
    credit = (a * torch.where(a > 0, -beta_pos * z, beta_neg * z).exp())[:, None]
    shaped = credit - token_coef * _unit(old_token_logit.double(), mask)
    return (torch.where(credit > 0, shaped.clamp(min=0.0), shaped) * mask).to(old_token_logit.dtype)


def _unit(x: Tensor, mask: Tensor) -> Tensor:
    """x scaled to 0 ... 1 over the mask, 0.5 where all are equal, 0 outside the mask."""
    if not bool(mask.any()):
        return torch.zeros_like(x)
    low, high = x[mask].min(), x[mask].max()
    unit = (x - low) / (high - low + 1e-6) if high > low else torch.full_like(x, 0.5)
    return unit.masked_fill(~mask, 0.0)
