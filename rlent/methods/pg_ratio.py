"""The importance-weighted policy gradient without any clipping, as KL-Cov is run.

Seat: loss.
"""

from jaxtyping import Float
from torch import Tensor

from rlent.math.ratio import log_ratio
from rlent.options import Positive


def ratio_surrogate(
    logp: Float[Tensor, "B T"], old_logp: Float[Tensor, "B T"], adv: Float[Tensor, "B T"], *, clamp: Positive | None
) -> Float[Tensor, "B T"]:
    """-A exp(logp - old_logp) per token. Nothing bounds the ratio from above: watch its maximum."""
    return -adv * log_ratio(logp, old_logp, clamp).exp()
