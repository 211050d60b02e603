"""OPO: the group's baseline weighs rewards by response length, which is optimal when gradients add up token by token.

Paper: On-Policy RL with Optimal Reward Baseline, arXiv:2505.23585.
Seat:  advantage.
Checked against: verl `compute_opo_outcome_advantage`.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.group import group_count, group_mean


def length_weighted(
    reward: Float[Tensor, " N"],
    group: Int[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    degenerate: Literal["reference", "zero"],
) -> Float[Tensor, " N"]:
    """reward - sum_j L_j reward_j / sum_j L_j over the group; L counts the tokens of the mask.

    A group of one keeps its reward (`reference`) or gets 0 (`zero`). A group without any token has baseline 0.
    """
    length = mask.sum(1).double()
    share = group_mean(length, group)
    baseline = group_mean(length * reward.double(), group) / share.masked_fill(share == 0, 1.0)
    alone = group_count(group) == 1
    own = reward if degenerate == "reference" else torch.zeros_like(reward)
    return torch.where(alone, own, (reward.double() - baseline).to(reward.dtype))
