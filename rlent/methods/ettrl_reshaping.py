"""ETTRL's advantage reshaping: responses more uncertain than their group count less.

Paper: ETTRL: Balancing Exploration and Exploitation in LLM Test-Time Reinforcement Learning via Entropy Mechanism, arXiv:2508.11356.
Seat:  shape, once per step.
Checked against: the formula only; no code was found.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.group import group_mean
from rlent.math.masked import row_mean
from rlent.options import Positive


def entropy_reshaped(
    adv: Float[Tensor, "N T"],
    old_entropy: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    group: Int[Tensor, " N"],
    *,
    floor: float | None,
) -> dict[str, Tensor]:
    """adv (2 - H_i / mean H), with H_i the response's mean entropy (nats) and the mean over its group.

    `floor` is the least factor; without it (null) a response of more than twice the mean entropy has its credit turned round.
    A group without entropy keeps factor 1. `factor` and `entropy` [N] are what was used.
    """
    entropy = row_mean(old_entropy.double(), mask)
    mean = group_mean(entropy, group)
    factor = 2.0 - torch.where(mean > 0, entropy / mean, 1.0)
    if floor is not None:
        factor = factor.clamp(min=floor)
    return {"adv": adv * factor[:, None], "factor": factor, "entropy": entropy}


def clipped(adv: Float[Tensor, "N T"], *, bound: Positive) -> dict[str, Tensor]:
    """The paper's other variant: adv kept within +-bound."""
    return {"adv": adv.clamp(-bound, bound)}
