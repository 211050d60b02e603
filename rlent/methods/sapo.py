"""SAPO: a smooth gate on the importance ratio instead of a clip, narrower for tokens with negative advantage.

Paper: Soft Adaptive Policy Optimization, arXiv:2511.20347.
Seat:  loss. Goes with objective.aggregate=seq_mean.
Checked against: verl `compute_policy_loss_sapo`, TRL `_compute_loss` with loss_type sapo.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.ratio import importance
from rlent.options import Positive


def soft_gate(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    adv: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    tau_pos: Positive,
    tau_neg: Positive,
    level: Literal["token", "response"],
    clamp: Positive | None,
) -> Float[Tensor, "B T"]:
    """-A (4 / tau) sigmoid(tau (r - 1)) per token, r = exp(logp - old_logp); tau is `tau_pos` for A > 0, else `tau_neg`.

    The gradient is -A r 4 sigmoid (1 - sigmoid): all of it at r = 1, less on both sides, the sharper the larger tau. `level`
    response takes the response's mean log-ratio for all of its tokens, as TRL can.
    """
    ratio = importance(logp, old_logp, mask, level, clamp)
    tau = torch.where(adv > 0, ratio.new_tensor(tau_pos), ratio.new_tensor(tau_neg))
    gate = 1 / (1 + (-tau * (ratio - 1)).exp())  # sigmoid; torch's own rounds otherwise at the end of a tensor
    return -adv * (4 / tau) * gate
