"""GMPO: the geometric mean of a response's token ratios, each clipped beforehand in log space.

Paper: Geometric-Mean Policy Optimization, arXiv:2507.20673.
Seat:  loss. Goes with objective.aggregate=seq_mean and objective.empty_rows=true.
Checked against: verl `compute_policy_loss_geo_mean`.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.masked import across, row_mean
from rlent.options import NonNegative


def geometric_mean_clip(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    adv: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    low: NonNegative,
    high: NonNegative,
) -> Float[Tensor, "B T"]:
    """-A_row exp(mean over the response of u), the same at all of its tokens.

    u = s min(s x, s clip(x, -low, high)) with x = logp - old_logp and s = sign(A): the pessimistic clip, in nats. A_row is
    the mean advantage of the response. A response without tokens, or with advantage 0, has loss 0.
    """
    drift, sign = logp - old_logp, adv.sign()
    clipped = sign * torch.minimum(sign * drift, sign * drift.clamp(-low, high))
    loss = -row_mean(adv, mask) * row_mean(clipped, mask).exp()
    return across(loss, logp.shape[1])
