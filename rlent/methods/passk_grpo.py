"""Pass@k GRPO: only the best response of a group is credited, with its lead over the second.

Paper: Optimizing Language Models for Inference Time Objectives using Reinforcement Learning, arXiv:2503.19595.
Seat:  advantage.
Checked against: verl `compute_grpo_passk_outcome_advantage`.
"""

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from rlent.math.group import group_second_largest, group_std
from rlent.options import NonNegative


def best_of_group(
    reward: Float[Tensor, " N"], group: Int[Tensor, " N"], *, scale: Literal["group", "none"], epsilon: NonNegative
) -> Float[Tensor, " N"]:
    """Largest minus second largest reward on the row that has the largest, 0 on all others.

    A tie at the top gives 0 everywhere, and so does a group of one (verl refuses it).
    """
    lead = (reward - group_second_largest(reward, group)).clamp(min=0.0)
    return lead if scale == "none" else lead / (group_std(reward, group) + epsilon)
