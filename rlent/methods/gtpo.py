"""GTPO and GRPO-S: share out a group's reward by entropy, so that uncertain right tokens gain and certain wrong ones lose.

Paper:  GTPO and GRPO-S: Token and Sequence-Level Reward Shaping with Policy Entropy, arXiv:2508.04349.
Seats:  advantage (`token_shaped`, `sequence_shaped`), loss (`mean_ratio_surrogate`, which GRPO-S needs).
Checked against: a third party's transcription of the paper's equations 3, 5 and 6 (teilomillet/textpolicy), GTPO with `separate`;
        GRPO-S against a worked example of the formula. No code of the authors was found.

With `separate` normalisation right and wrong responses are indistinguishable: within each set the mean credit is 0, so a sure
token of a right response is punished and an unsure one of a wrong response rewarded. `joint` keeps the contrast; it is ours.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.group import group_sum
from rlent.math.masked import across, row_mean
from rlent.math.ratio import clipped, log_ratio
from rlent.options import NonNegative, Positive, Share


def token_shaped(
    reward: Float[Tensor, " N"],
    old_entropy: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    group: Int[Tensor, " N"],
    *,
    alpha_1: NonNegative,
    alpha_2: NonNegative,
    normalize: Literal["separate", "joint"],
    success_threshold: float,
    entropy_floor: NonNegative,
    epsilon: Positive,
) -> dict[str, Tensor]:
    """Shaped rewards per token, normalised over the tokens of the group. `shaped` are the rewards before that.

    At position t, among the d right rows that reach it, s = alpha_1 reward + alpha_2 d H / sum H; among the h wrong ones
    s = -alpha_1 - alpha_2 h (1/H) / sum (1/H), with 1/H read as 1 / (max(H, entropy_floor) + epsilon). Then
    (s - mean) / sqrt(biased variance + epsilon), over the tokens of right and of wrong rows by themselves (`separate`) or
    over all tokens of the group (`joint`).
    """
    right, side = _sides(reward, group, success_threshold)
    reward, entropy = reward.double(), old_entropy.double().masked_fill(~mask, 0.0)
    share = torch.where(right[:, None], entropy, mask / (entropy.clamp(min=entropy_floor) + epsilon))
    active = group_sum(mask.double(), side)
    split = active * share / _nonzero(group_sum(share, side))
    shaped = torch.where(right[:, None], alpha_1 * reward[:, None] + alpha_2 * split, -alpha_1 - alpha_2 * split) * mask
    adv = _normalised(shaped, mask, side if normalize == "separate" else group, epsilon)
    return {"adv": adv.to(old_entropy.dtype), "shaped": shaped}


def sequence_shaped(
    reward: Float[Tensor, " N"],
    old_entropy: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    group: Int[Tensor, " N"],
    *,
    beta_1: NonNegative,
    beta_2: NonNegative,
    normalize: Literal["separate", "joint"],
    success_threshold: float,
    entropy_floor: NonNegative,
    epsilon: Positive,
) -> dict[str, Tensor]:
    """The same with one number per response: its mean entropy takes the place of H, and rows are counted instead of tokens.

    Rows without tokens get 0 and do not count.
    """
    right, side = _sides(reward, group, success_threshold)
    some = mask.any(1)
    mean = row_mean(old_entropy.double(), mask)
    share = torch.where(right, mean, some / (mean.clamp(min=entropy_floor) + epsilon))
    split = group_sum(some.double(), side) * share / _nonzero(group_sum(share, side))
    shaped = torch.where(right, beta_1 * reward.double() + beta_2 * split, -beta_1 - beta_2 * split) * some
    adv = _normalised(shaped[:, None], some[:, None], side if normalize == "separate" else group, epsilon)[:, 0]
    return {"adv": adv.to(old_entropy.dtype), "shaped": shaped}


def mean_ratio_surrogate(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    adv: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    low: Share,
    high: NonNegative,
    clamp: Positive | None,
) -> Float[Tensor, "B T"]:
    """PPO's clipped surrogate with one ratio per response, the mean of its tokens' ratios."""
    ratio = across(row_mean(log_ratio(logp, old_logp, clamp).exp(), mask), logp.shape[1])
    return clipped(ratio, adv, low, high)


def _sides(reward: Tensor, group: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Which rows are right [N], and an id for the right and one for the wrong rows of each group [N]."""
    right = reward > threshold
    return right, 2 * group.long() + right


def _nonzero(x: Tensor) -> Tensor:
    return x.masked_fill(x == 0, 1.0)


def _normalised(shaped: Tensor, mask: Tensor, over: Tensor, epsilon: float) -> Tensor:
    """(s - mean) / sqrt(biased variance + epsilon) over the masked entries of the rows that share an id."""
    count = _nonzero(group_sum(mask.sum(1).double(), over))
    # Twice, so that equal values leave a deviation of exactly 0.
    rest = (shaped - (group_sum((shaped * mask).sum(1), over) / count)[:, None]) * mask
    rest = (rest - (group_sum(rest.sum(1), over) / count)[:, None]) * mask
    variance = group_sum(rest.square().sum(1), over) / count
    return rest / (variance + epsilon).sqrt()[:, None]
