"""Divergence from a frozen reference model, as a penalty on the policy.

Paper: DeepSeekMath (GRPO), arXiv:2402.03300, equations 3 and 4 (the estimator k3).
Seat:  regularize. It needs the named model `ref`.
Checked against: verl `kl_penalty`.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from rlent.math.ratio import divergence


def reference_divergence(
    logp: Float[Tensor, "B T"], ref_logp: Float[Tensor, "B T"], *, estimator: Literal["k1", "k2", "k3", "abs"]
) -> Float[Tensor, "B T"]:
    """An estimate of KL(policy || reference) per token, in nats; see `rlent.math.ratio.divergence`.

    As a loss its gradient is that of the estimate: k1's has mean 0 on policy, so it only adds noise.
    """
    return divergence(logp, ref_logp, estimator)
