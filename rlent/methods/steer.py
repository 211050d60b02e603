"""STEER: less weight for tokens whose update would move their entropy most, up or down.

Paper: Rethinking Entropy Interventions in RLVR: An Entropy Change Perspective, arXiv:2510.10150.
Seat:  shape. It reads the current policy, so it runs once per minibatch, on all its rows.
Checked against: the authors' `compute_token_weights` and `compute_policy_loss_with_entropy`. They take the extremes of each
       part and rank; here they are the whole minibatch's.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.covariance import sampled_entropy_change
from rlent.options import NonNegative, Positive


def entropy_change(
    now_logp: Float[Tensor, "N T"], old_logp: Float[Tensor, "N T"], old_entropy: Float[Tensor, "N T"], adv: Float[Tensor, "N T"]
) -> Float[Tensor, "N T"]:
    """|(A / q) p (1 - p) (ln p + H)|, the size of the entropy change to expect from a step on the token; 0 where it is not finite.

    p is the sampled token's probability now, q the one it was sampled with, H the entropy (nats) then.
    """
    return sampled_entropy_change(now_logp, old_logp, old_entropy, adv).abs()


def damp_entropy_change(
    now_logp: Float[Tensor, "N T"],
    old_logp: Float[Tensor, "N T"],
    old_entropy: Float[Tensor, "N T"],
    adv: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    mapping: Literal["exp", "linear"],
    least: Positive,
    most: Positive,
    floor: NonNegative,
) -> dict[str, Tensor]:
    """Weights from the entropy change Omega, with the extremes of Omega over the minibatch's response tokens.

        exp     least ^ (Omega / max(max Omega, floor)), never below `least`
        linear  from `most` at min Omega to `least` at max Omega; their middle where all are equal

    The weights are constants. Tokens stay in the denominator of the loss. `change` is Omega.
    """
    change = entropy_change(now_logp, old_logp, old_entropy, adv).masked_fill(~mask, 0.0)
    if not mask.any():
        return {"weight": torch.ones_like(change), "change": change}
    lowest, highest = change[mask].min(), change[mask].max()
    if mapping == "exp":
        weight = torch.exp(math.log(least) * change / highest.clamp(min=max(floor, 1e-30))).clamp(min=least)
    elif highest == lowest:
        weight = torch.full_like(change, (least + most) / 2)
    else:
        weight = (most - (change - lowest) * (most - least) / (highest - lowest)).clamp(least, most)
    return {"weight": torch.where(mask, weight, 1.0), "change": change}
