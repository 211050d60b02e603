"""The entropy bonus: pay for entropy, the same at every token.

Seat: regularize; `coef` is the price in reward per nat. A negative coefficient minimises entropy.
Checked against: verl's actor loss with `entropy_coeff`.
"""

from jaxtyping import Float
from torch import Tensor


def negative_entropy(entropy: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """-entropy per token (nats), to be minimised; the gradient goes through the exact entropy."""
    return -entropy
