"""Entropy-augmented advantage: uncertain tokens get a little more credit, never enough to turn its sign.

Paper: Reasoning with Exploration: An Entropy Perspective, arXiv:2506.14758.
Seat:  shape. It reads `entropy`, so it runs inside the update, with the entropy of the pass that is differentiated.
Checked against: a third party's line (Linn3a/siren, baseline `entropy_adv`, kappa made an option); no code of the authors was found.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from rlent.options import NonNegative, Positive


def entropy_bonus(
    adv: Float[Tensor, "B T"], entropy: Float[Tensor, "B T"], *, alpha: NonNegative, kappa: Positive
) -> dict[str, Float[Tensor, "B T"]]:
    """adv + min(alpha entropy, |adv| / kappa), entropy in nats and without gradient.

    With kappa above 1 the sign of the advantage stays. A token without advantage gets no bonus.
    """
    bonus = torch.minimum(alpha * entropy.detach(), adv.abs() / kappa)
    return {"adv": adv + bonus}
