"""REINFORCE++: returns whitened over all tokens of the step, without or with a group baseline.

Paper: REINFORCE++: Stabilizing Critic-Free Policy Optimization, arXiv:2501.03262.
Seat:  advantage.
Checked against: verl `compute_reinforce_plus_plus_outcome_advantage` and its baseline variant.

Mean and variance are per token, so long responses weigh more, and a filter that drops groups changes every advantage.
"""

from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.group import centred
from rlent.math.masked import discounted_sum, whiten
from rlent.options import Share


def whitened_return(token_reward: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], *, gamma: Share) -> Float[Tensor, "N T"]:
    """Discounted sum of the rewards from each token on, then whitening over the response tokens of the step."""
    return whiten(discounted_sum(token_reward.masked_fill(~mask, 0.0), gamma), mask)


def whitened_group_reward(
    reward: Float[Tensor, " N"],
    group: Int[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    degenerate: Literal["reference", "zero"],
) -> Float[Tensor, "N T"]:
    """Reward minus the group's mean, on every token of the response, then whitening over the response tokens of the step."""
    credit = centred(reward, group, degenerate)
    return whiten(credit[:, None].expand(mask.shape), mask)
