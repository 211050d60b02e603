"""ERC: train on a token only while its entropy stays near where it was sampled.

Paper: Entropy Ratio Clipping as a Soft Global Constraint for Stable Reinforcement Learning, arXiv:2512.05591.
Seat:  shape. It reads `entropy`, so it runs inside the update, token by token.
Checked against: the authors' `compute_policy_loss_grpo_erc` and `compute_policy_loss_gppo_erc`. They detach the loss of a
       closed token: the value stays, the gradient stops. That is a gate.
"""

from jaxtyping import Bool, Float
from torch import Tensor

from rlent.options import NonNegative, Positive


def entropy_ratio_gate(
    entropy: Float[Tensor, "B T"],
    old_entropy: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    *,
    low: NonNegative,
    high: NonNegative,
    eps: Positive,
) -> dict[str, Bool[Tensor, "B T"]]:
    """Close the gate (no gradient) on tokens whose entropy ratio is not strictly between `low` and `high`.

    `eps` is added to both entropies. `selected` are the closed tokens. Nearly certain tokens have noisy ratios and are
    closed in bulk; both entropies must come from the same kernel in the same precision.
    """
    ratio = (entropy.detach() + eps) / (old_entropy + eps)
    gate = (ratio > low) & (ratio < high)
    return {"gate": gate, "selected": mask & ~gate}
