"""EGSW: within a group, weight responses by a softmax of advantage plus entropy.

Paper: Entropy-Guided Sequence Weighting for Efficient Exploration in RL-Based LLM Fine-Tuning, arXiv:2503.22456.
Seat:  shape. It reads `now_entropy`, so it runs once per minibatch, which holds whole groups.
Checked against: a worked example of the formula; no code was found. Alpha, P, the entropy's moment and the scale are ours.

Responses with negative advantage get tiny weights: at advantages of +-1 and P = 1 the ratio is e^2, so bad responses hardly count.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.group import group_max, group_sum
from rlent.math.masked import row_mean
from rlent.options import NonNegative, Positive


def softmax_weight(
    adv: Float[Tensor, "N T"],
    now_entropy: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    group: Int[Tensor, " N"],
    *,
    alpha: NonNegative,
    temperature: Positive,
    level: Literal["sequence", "step"],
    renormalise: bool,
) -> Float[Tensor, "N T"]:
    """w = softmax over the group of (adv + alpha H) / temperature, times the number of rows in it if `renormalise`.

    H is the entropy in nats: at level `sequence` the response's mean, with the mean of its advantage, one weight for all of
    its tokens; at level `step` the token's, among the rows of the group that reach the position. Rows without tokens take no
    part, and padding gets weight 0.
    """
    score = (adv.double() + alpha * now_entropy.double()) / temperature
    if level == "sequence":
        score, active = row_mean(score, mask)[:, None].expand(mask.shape), mask.any(1, keepdim=True).expand(mask.shape)
    else:
        active = mask
    score = score.masked_fill(~active, -torch.inf)
    top = group_max(score, group)
    raw = (score - top.masked_fill(top == -torch.inf, 0.0)).exp()
    total = group_sum(raw, group)
    weight = raw / total.masked_fill(total == 0, 1.0)
    if renormalise:
        weight = weight * group_sum(active, group)
    return (weight * mask).to(adv.dtype)
