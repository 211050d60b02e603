"""CISPO: clip the importance weight, not the token; every token keeps a gradient.

Paper: MiniMax-M1, arXiv:2506.13585.
Seat:  loss.
Checked against: verl `compute_policy_loss_cispo`, TRL `_compute_loss` with loss_type cispo.
"""

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.ratio import importance
from rlent.options import NonNegative, Positive


def clipped_importance(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    adv: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    low: NonNegative,
    high: NonNegative,
    level: Literal["token", "response"],
    clamp: Positive | None,
) -> Float[Tensor, "B T"]:
    """-A sg[clip(r, 1 - low, 1 + high)] logp per token: a weighted log-likelihood, whose value is no surrogate of anything.

    r = exp(logp - old_logp), the log-ratio kept in +-clamp. `level` response takes the response's mean log-ratio for all of its
    tokens, as TRL can. With `low` at 1 or more nothing bounds the weight from below.
    """
    ratio = importance(logp.detach(), old_logp, mask, level, clamp)
    return -adv * ratio.clamp(1 - low, 1 + high) * logp
