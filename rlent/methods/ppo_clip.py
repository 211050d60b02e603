"""The clipped surrogate of PPO, with the dual clip and DAPO's separate upper range.

Papers: PPO, arXiv:1707.06347; dual clip, arXiv:1912.09729; clip-higher (DAPO), arXiv:2503.14476.
Seat:   loss.
Checked against: verl `compute_policy_loss_vanilla`.
"""

from jaxtyping import Float
from torch import Tensor

from rlent.math.ratio import clipped, log_ratio
from rlent.options import AboveOne, NonNegative, Positive, Share


def clipped_surrogate(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    adv: Float[Tensor, "B T"],
    *,
    low: Share,
    high: NonNegative,
    dual: AboveOne | None,
    clamp: Positive | None,
) -> Float[Tensor, "B T"]:
    """max(-A r, -A clip(r, 1 - low, 1 + high)) per token, with r = exp(logp - old_logp) and the log-ratio kept in +-clamp.

    `dual` bounds the loss of a token with negative advantage by -A dual; beyond it there is no gradient.
    """
    return clipped(log_ratio(logp, old_logp, clamp).exp(), adv, low, high, dual)
