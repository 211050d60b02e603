"""Keep the divergence from the reference near a target by moving its price in proportion to the error.

Paper: Fine-Tuning Language Models from Human Preferences, arXiv:1909.08593, section 2.2.
Seat:  control, of the coefficient of the reference divergence.
Checked against: an independent transcription of verl's `AdaptiveKLController`, in the test.
"""

from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.masked import row_mean
from rlent.math.ratio import divergence
from rlent.options import NonNegative, Positive


class AdaptiveKL:
    """coef <- coef (1 + clip(KL / target - 1, -bound, bound) n / horizon), once a step, n being its responses.

    KL is the mean over responses of the response's token mean, in nats, when the step begins.
    """

    def __init__(
        self,
        *,
        knob: str,
        target: Positive,
        horizon: Positive,
        bound: NonNegative,
        start: NonNegative,
        estimator: Literal["k1", "k2", "k3", "abs"],
    ) -> None:
        self.knob = knob
        self.target = target
        self.horizon = horizon
        self.bound = bound
        self.estimator = estimator
        self.coef = start

    def __call__(self, old_logp: Float[Tensor, "N T"], ref_logp: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]) -> float:
        """The new value of the knob."""
        there = mask.any(1)
        kl = float(row_mean(divergence(old_logp, ref_logp, self.estimator), mask)[there].double().mean()) if bool(there.any()) else 0.0
        error = min(max(kl / self.target - 1.0, -self.bound), self.bound)
        self.coef *= 1.0 + error * len(mask) / self.horizon
        return self.coef

    def state_dict(self) -> dict[str, float | int]:
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        self.coef = state["coef"]
