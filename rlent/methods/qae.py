"""QAE: the group's baseline is a quantile of its rewards, so most responses of a group get no credit at all.

Paper:  Quantile Advantage Estimation for Entropy-Safe Reasoning, arXiv:2509.22611.
Seat:   advantage.
Checked against: the authors' patch of verl's GRPO estimator (linear quantile).

With 0/1 rewards and quantile K a hard prompt (accuracy up to 1 - K) credits only its rare successes, an easy one blames
only its rare failures. The paper's quantile is always one of the rewards (`lower`); the released code interpolates
(`linear`). They agree for the authors' 16 responses and K = 0.4; elsewhere interpolation lets the gate leak.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlent.math.group import group_count, group_mean, group_quantile, group_std
from rlent.options import NonNegative


def quantile_baseline(
    reward: Float[Tensor, " N"],
    group: Int[Tensor, " N"],
    *,
    quantile: float,
    method: Literal["linear", "lower"],
    scale: Literal["group", "none"],
    epsilon: NonNegative,
    degenerate: Literal["reference", "zero"],
) -> Float[Tensor, " N"]:
    """(reward - the group's quantile) / (the group's deviation about its mean + epsilon).

    A quantile outside (0, 1) stands for the mean. A group of one keeps its reward (`reference`) or gets 0 (`zero`).
    """
    inside = 0.0 < quantile < 1.0
    baseline = group_quantile(reward, group, quantile, method) if inside else group_mean(reward, group)
    alone = group_count(group) == 1
    own = reward if degenerate == "reference" else torch.zeros_like(reward)
    credit = torch.where(alone, own, reward - baseline)
    if scale == "none":
        return credit
    return credit / (torch.where(alone, torch.ones_like(reward), group_std(reward, group)) + epsilon)
