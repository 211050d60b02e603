"""The verifiable reward: one number for a response the grader accepts, another for any other.

Seat: reward.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def outcome(correct: Bool[Tensor, " N"], *, right: float, wrong: float) -> Float[Tensor, " N"]:
    """`right` for an accepted response, `wrong` for the rest."""
    return torch.where(correct.bool(), float(right), float(wrong))
