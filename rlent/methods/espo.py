"""ESPO: one importance ratio for the uncertain tokens of a response and one for the rest, each with room by its entropy.

Paper: Entropy Importance Sampling Policy Optimization, arXiv:2512.00499, equations 5 to 10.
Seats: shape (`entropy_groups`), loss (`group_ratio_surrogate`, which reads the groups). Goes with objective.aggregate=seq_mean.
Checked against: a transcription of the equations and their worked example; the authors have released no code.

Two groups, by the share of the most uncertain tokens, are our reading (UNVERIFIED). A group counts as much as the other, so a fifth
of the tokens gets half of the row's weight. Equation 8 prints one token's entropy over the group's size; the text means the average.
"""

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.masked import pick_largest, row_mean
from rlent.math.ratio import clipped, log_ratio
from rlent.options import NonNegative, Positive, Share


def entropy_groups(
    old_entropy: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], vocab: int, *, alpha: NonNegative, share: Share
) -> dict[str, Tensor]:
    """`group` [N,T]: 1 on the ceil(share n) most uncertain of a row's n tokens (at least one), 0 on the rest.

    `width` [N,T] = alpha / ln V * mean entropy of the token's group, its clip range on either side. The weight makes a row's token
    mean the mean over its K groups of their own means: n / (K * tokens of the group).
    """
    counts = (max(1, math.ceil(share * n - 1e-9)) for n in mask.sum(1).tolist())
    high = torch.cat([pick_largest(x[None], m[None], k) for x, m, k in zip(old_entropy, mask, counts, strict=True)])
    low = mask & ~high
    size = torch.where(high, high.sum(1, keepdim=True), low.sum(1, keepdim=True)).clamp(min=1)
    groups = (high.any(1).long() + low.any(1).long()).clamp(min=1)[:, None]
    width = alpha / math.log(vocab) * group_means(old_entropy, high, mask)
    weight = mask.sum(1, keepdim=True).to(old_entropy.dtype) / (groups * size)
    return {"group": high.long(), "width": width, "weight": weight}


def group_means(x: Float[Tensor, "B T"], high: Bool[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """The mean of `x` over the token's own group of its row; 0 outside the mask."""
    return sum((row_mean(x, part)[:, None] * part for part in (high & mask, mask & ~high)), torch.zeros_like(x))


def group_ratio_surrogate(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    adv: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    espo_group: Int[Tensor, "B T"],
    espo_width: Float[Tensor, "B T"],
    *,
    ratio_form: Literal["gspo_token", "product"],
    clamp: Positive | None,
) -> Float[Tensor, "B T"]:
    """max(-A s, -A clip(s, 1 - width, 1 + width)) with s_t = sg[s_group] exp(logp_t - sg[X_t]).

    s_group = exp(mean over the group of logp - old_logp). X is logp (`gspo_token`, as the text means it, so that s_t has the group's
    value) or old_logp (`product`, as equation 9 prints it; it clips most tokens, as widths are near 0.001).
    """
    difference = log_ratio(logp, old_logp, clamp)
    common = group_means(difference.detach(), espo_group == 1, mask)
    own = logp - logp.detach() if ratio_form == "gspo_token" else difference
    return clipped((common + own).exp(), adv, espo_width, espo_width)
