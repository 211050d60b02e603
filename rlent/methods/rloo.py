"""RLOO: the baseline of a response is the mean reward of the others in its group.

Paper: Back to Basics: Revisiting REINFORCE-Style Optimization, arXiv:2402.14740.
Seat:  advantage.
Checked against: verl `compute_rloo_outcome_advantage`.
"""

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from rlent.math.group import centred, group_count


def leave_one_out(
    reward: Float[Tensor, " N"], group: Int[Tensor, " N"], *, degenerate: Literal["reference", "zero"]
) -> Float[Tensor, " N"]:
    """reward - mean of the other n - 1 rewards of the group, which is (reward - mean) n / (n - 1)."""
    n = group_count(group)
    return centred(reward, group, degenerate) * (n / (n - 1).clamp(min=1)).to(reward.dtype)
