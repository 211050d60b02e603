"""DLER: the plainest length penalty, a hard cut, made to work by better optimisation.

Paper: DLER: Doing Length pEnalty Right, arXiv:2510.15110.
Seats: reward (`stop_penalised`), advantage (`whitened_and_boosted`); the filter is DAPO's, on the unpenalised score.
Checked against: vectors made with the authors' `_apply_stop_properly_penalty`, REINFORCE++ baseline and `boost_high_score_advantages`.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from rlent.math.group import centred
from rlent.math.masked import whiten
from rlent.options import Share


def stop_penalised(correct: Shaped[Tensor, " N"], finish: Sequence[str], *, penalty: Share) -> Float[Tensor, " N"]:
    """1 for a right response that stopped by itself, `penalty` for a right one that was cut at the length limit, 0 for the rest."""
    score = correct if correct.is_floating_point() else correct.float()
    cut = torch.tensor([reason == "length" for reason in finish], dtype=torch.bool, device=score.device)
    return torch.where(cut, score * penalty, score)


def whitened_and_boosted(
    reward: Float[Tensor, " N"],
    correct: Shaped[Tensor, " N"],
    group: Int[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    boost: float,
    threshold: float,
    degenerate: Literal["reference", "zero"],
) -> Float[Tensor, "N T"]:
    """Reward minus the group's mean, whitened over all response tokens of the step, plus `boost` where the score reaches `threshold`.

    The score is the grader's verdict before any penalty, so a right response that was cut is boosted too.
    """
    credit = whiten(centred(reward, group, degenerate)[:, None].expand(mask.shape), mask)
    reached = correct.to(credit.dtype) >= threshold - 1e-5
    return credit + boost * (reached[:, None] & mask)
