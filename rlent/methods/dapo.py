"""DAPO: clip-higher, dynamic sampling and a soft punishment of overlong responses.

Paper: DAPO: An Open-Source LLM Reinforcement Learning System at Scale, arXiv:2503.14476.
Seats: loss (`ppo_clip.clipped_surrogate` with a wider upper range), the sampler's `keep`, reward.
Checked against: the dynamic-sampling block of verl's DAPO recipe and verl's DAPORewardManager.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from rlent.options import NonNegative, PositiveCount


def keep_mixed(correct: Shaped[Tensor, " N"], group: Int[Tensor, " N"], *, tolerance: NonNegative, keep_single: bool) -> Bool[Tensor, " P"]:
    """Keep a group when its responses were judged differently. One entry per group, in ascending order of the ids.

    Feed it `reward` instead of `correct` (`streams: {correct: reward}`) to filter on the reward. With `tolerance` 0 the rule is
    the reference's, numpy's population deviation above 0, which rounding can pass: [0.1, 0.1, 0.1] is kept. With a
    tolerance the spread max - min must exceed it. `keep_single` keeps groups of one, which have no spread.
    """
    value, index = correct.double().cpu().numpy(), group.cpu().numpy()
    kept = []
    for g in np.unique(index):
        rows = value[index == g]
        spread = rows.max() - rows.min() if tolerance > 0 else rows.std()
        kept.append(bool(spread > tolerance) or (keep_single and len(rows) == 1))
    return torch.tensor(kept, dtype=torch.bool)


def overlong_soft(
    length: Int[Tensor, " N"],
    max_tokens: int,
    *,
    buffer: PositiveCount,
    penalty: NonNegative,
    cap: NonNegative | None,
) -> Float[Tensor, " N"]:
    """0 up to max_tokens - buffer response tokens, then falling linearly to -penalty at max_tokens; added to the other rewards.

    Beyond max_tokens it goes on falling, to -cap where `cap` is given.
    """
    over = (length.double() - (max_tokens - buffer)) / buffer
    reward = -penalty * over.clamp(min=0.0)
    if cap is not None:
        reward = reward.clamp(min=-cap)
    return reward.to(torch.get_default_dtype())
