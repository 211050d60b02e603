"""RENT: the reward is confidence alone, minus the response's mean entropy.

Paper: Maximizing Confidence Alone Improves Reasoning, arXiv:2505.22660.
Seat:  reward. It sees no label.
Checked against: the authors' `minimize_entropy` block of `RayPPOTrainer.fit`.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.masked import row_mean


def confidence(
    old_entropy: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    answer: Sequence[str | None],
    *,
    base_format: bool,
    set_entropy_zero: bool,
    entropy_base: float,
) -> Float[Tensor, " N"]:
    """-mean entropy of the response's tokens, in nats.

    With `base_format` a response without an answer gets -entropy_base; with `set_entropy_zero` one with an answer gets 0 (a control
    that rewards the format alone). The two are independent.
    """
    reward = -row_mean(old_entropy, mask)
    found = torch.tensor([a is not None for a in answer], dtype=torch.bool)
    if set_entropy_zero:
        reward = reward.masked_fill(found, 0.0)
    if base_format:
        reward = reward.masked_fill(~found, -entropy_base)
    return reward
