"""MAPO: on prompts the policy is sure about, divide by the group's mean instead of its deviation.

Paper: Mixed Advantage Policy Optimization, arXiv:2509.18849.
Seat:  advantage.
Checked against: the authors' `compute_advantage` (GRPOMIXPRO), whose published file had to be mended to run.

Rewards must be 0 and 1. The mean makes rare successes very large: 1 right of 12 earns 8.6 (GRPO 3.2), 11 right of 12 earn 0.15.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlent.math.checks import require_binary
from rlent.math.group import centred, group_count, group_mean, group_std
from rlent.options import NonNegative


def mixed(
    reward: Float[Tensor, " N"],
    group: Int[Tensor, " N"],
    *,
    weighting: Literal["quadratic", "linear"],
    strict: bool,
    epsilon: NonNegative,
    degenerate: Literal["reference", "zero"],
) -> Float[Tensor, " N"]:
    """w (r - mean) / (deviation + epsilon) + (1 - w) (r - mean) / (mean + epsilon) over the group, deviations unbiased.

    With accuracy p, the share of rewards that are 1, w = 4 p (1 - p) (`quadratic`) or 2 min(p, 1 - p) (`linear`): all deviation at p = 1/2, all mean at 0 and 1. In
    a group of one the deviation counts as 1; `centred` says what is left of its reward.

    Raises:
        UsageError: a reward other than 0 or 1 while `strict`; it would leave p at 0 and could divide by a mean below 0.
    """
    if strict:
        require_binary(reward, "MAPO")
    p, mean = group_mean((reward == 1).to(reward.dtype), group), group_mean(reward, group)
    weight = 4 * p * (1 - p) if weighting == "quadratic" else 2 * torch.minimum(p, 1 - p)
    credit = centred(reward, group, degenerate)
    spread = group_std(reward, group).masked_fill(group_count(group) == 1, 1.0)
    return weight * credit / (spread + epsilon) + (1 - weight) * credit / (mean + epsilon)
