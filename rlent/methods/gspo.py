"""GSPO: one importance ratio for a whole response, the geometric mean of its tokens' ratios.

Paper: Group Sequence Policy Optimization, arXiv:2507.18071.
Seat:  loss. Goes with objective.aggregate=seq_mean.
Checked against: verl `compute_policy_loss_gspo`, TRL `_compute_loss` with importance_sampling_level sequence.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.masked import row_mean
from rlent.options import AboveOne, NonNegative, Positive, Share


def sequence_clip(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    adv: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    low: Share,
    high: NonNegative,
    cap: Positive,
    dual: AboveOne | None,
) -> Float[Tensor, "B T"]:
    """max(-A s, -A clip(s, 1 - low, 1 + high)) with s = exp(mean log-ratio of the response), the same at all of its tokens.

    The gradient is the token's own (GSPO-token): s = sg[s_row] exp(logp - sg[logp]), so a response's tokens may differ in
    advantage. ln s is at most `cap`; there is no gradient beyond it. `dual` bounds the loss of a token with negative advantage
    by -A dual.
    """
    mean = row_mean((logp - old_logp).detach(), mask)[:, None]
    ratio = (logp - logp.detach() + mean).clamp(max=cap).exp()
    loss = torch.maximum(-adv * ratio, -adv * ratio.clamp(1 - low, 1 + high))
    if dual is None:
        return loss
    return torch.where(adv < 0, torch.minimum(loss, -adv * dual), loss)
