"""AAPO: add to the group's credit how far a response beats one of the model that training began with.

Paper: Advantage-Augmented Policy Optimization, arXiv:2505.14264. Its "momentum" has no memory of earlier steps.
Seats: advantage (`augmented`), loss (`policy_gradient`); sampler=reference brings `ref_reward`.
Checked against: the authors' AAPOTrainer, advantage arithmetic and loss.

Groups in which all rewards are equal go on teaching while the reference model does better or worse. Credit does not sum to zero over
a group: once the policy beats the reference everywhere, every response gets up to `high`.
"""

from typing import Literal

from jaxtyping import Float, Int
from torch import Tensor

from rlent.math.group import group_mean, standardised
from rlent.options import NonNegative


def augmented(
    reward: Float[Tensor, " N"],
    ref_reward: Float[Tensor, " N"],
    group: Int[Tensor, " N"],
    *,
    low: float,
    high: float,
    scale: Literal["group", "none"],
    pairing: Literal["index", "mean"],
    epsilon: NonNegative,
    degenerate: Literal["reference", "zero"],
) -> dict[str, Tensor]:
    """`adv` = (reward - group mean) [/ (deviation + epsilon)] + clip(gap, low, high); `gap` [N] = reward - ref_reward.

    `ref_reward` is that of the reference's response of the same number (`index`), or the mean over the group (`mean`). A group of one
    has no deviation and, as in TRL, no credit of its own.
    """
    credit = standardised(reward, group, degenerate, epsilon=epsilon, scale=scale)
    gap = reward - (group_mean(ref_reward, group) if pairing == "mean" else ref_reward)
    return {"adv": credit + gap.clamp(low, high), "gap": gap}


def policy_gradient(logp: Float[Tensor, "B T"], adv: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """-A logp per token: no ratio, no clip. Its value is no measure of progress."""
    return -adv * logp
