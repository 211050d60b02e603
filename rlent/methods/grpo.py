"""GRPO and Dr.GRPO: a response is credited for being better than its group.

Papers: DeepSeekMath (GRPO), arXiv:2402.03300; Understanding R1-Zero-Like Training (Dr.GRPO), arXiv:2503.20783.
Seat:   advantage.
Checked against: verl `compute_grpo_outcome_advantage` (scale group and none), TRL `scale_rewards="batch"` (scale batch).

Dividing by the group's deviation weights very easy and very hard prompts up; Dr.GRPO leaves it out, and pairs with
`objective.aggregate=constant`.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlent.math.group import centred, group_std, standardised
from rlent.options import NonNegative


def group_relative(
    reward: Float[Tensor, " N"],
    group: Int[Tensor, " N"],
    *,
    scale: Literal["group", "batch", "none"],
    epsilon: NonNegative,
    degenerate: Literal["reference", "zero"],
) -> Float[Tensor, " N"]:
    """(reward - group mean) / (standard deviation + epsilon), deviations unbiased.

    `scale` says whose deviation: of the `group`, of all rewards of the step (`batch`), or `none` (no division at all). In a
    group of one the deviation counts as 1, so that the default gives its reward back; see `centred`.
    """
    if scale == "batch":
        return centred(reward, group, degenerate) / (group_std(reward, torch.zeros_like(group)) + epsilon)
    return standardised(reward, group, degenerate, epsilon=epsilon, scale=scale)
