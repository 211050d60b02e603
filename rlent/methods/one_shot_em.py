"""One-shot entropy minimisation: ten steps on samples to one prompt, with entropy as the only loss.

Paper: One-shot Entropy Minimization, arXiv:2505.20282.
Seats: probe (`tempered_entropy`), regularize (`tempered_entropy_itself`).
Checked against: the authors' `train.py`.

The loss is over the tokens that were generated. The released mask takes in more; see `rlent/verify/released/one_shot_em.py`.
"""

from jaxtyping import Float, Int
from torch import Tensor

from rlent.options import NonNegative, Positive


def tempered_entropy(
    logits: Float[Tensor, "t V"], target: Int[Tensor, " t"], *, temperature: Positive, heat: Positive, epsilon: NonNegative
) -> Float[Tensor, " t"]:
    """-sum p log(p + epsilon) in nats, with p the policy at temperature `heat`; `temperature` undoes the sampling temperature."""
    prob = (logits * (temperature / heat)).softmax(-1)
    return -(prob * (prob + epsilon).log()).sum(-1)


def tempered_entropy_itself(tempered_entropy: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Tempered entropy per token (nats), to be minimised."""
    return tempered_entropy
