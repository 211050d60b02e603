"""GSPO: one importance ratio for a whole response, the geometric mean of its tokens' ratios.

Paper: Group Sequence Policy Optimization, arXiv:2507.18071.
Seat:  loss. Goes with objective.aggregate=seq_mean.
Checked against: verl `compute_policy_loss_gspo`, TRL `_compute_loss` with importance_sampling_level sequence.
"""

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.masked import across, row_mean
from rlent.math.ratio import clipped
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
    gradient: Literal["token", "response"],
) -> Float[Tensor, "B T"]:
    """max(-A s, -A clip(s, 1 - low, 1 + high)) with s = exp(mean log-ratio of the response), the same at all of its tokens.

    `gradient` token: the token's own (GSPO-token), s = sg[s_row] exp(logp - sg[logp]); response: of s itself, spread evenly
    over the response. They differ only where tokens of a response differ in advantage, weight or gate. ln s is at most `cap`;
    there is no gradient beyond it. `dual` bounds the loss of a token with negative advantage by -A dual.
    """
    mean = across(row_mean(logp - old_logp, mask), logp.shape[1])
    level = mean if gradient == "response" else logp - logp.detach() + mean.detach()
    return clipped(level.clamp(max=cap).exp(), adv, low, high, dual)
