"""Checks of what a method is given, for those that are wrong on anything else."""

from jaxtyping import Float
from torch import Tensor

from rlent.errors import UsageError


def require_binary(reward: Float[Tensor, " N"], method: str) -> None:
    """Check that every reward is 0 or 1.

    Raises:
        UsageError: naming the method and the first other value.
    """
    odd = reward[(reward != 0) & (reward != 1)]
    if len(odd):
        raise UsageError(
            f"{method} needs rewards of exactly 0 and 1, and found {float(odd[0]):g}; use reward=[correct] with right 1 and wrong 0, "
            "without terms for length or format"
        )
