"""AER: pay for entropy on hard prompts only, at a price that keeps the mean near a share of what it was at first.

Paper: Adaptive Entropy Regularization, arXiv:2510.10959.
Seats: shape (`difficulty`, a number per response), regularize (`weighted_entropy`), control (`AdaptiveCoefficient`).
Checked against: nothing. No code was found; the paper's three components are kept, the formulas for them are ours.
"""

from typing import TypedDict

from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from rlent.math.group import group_mean
from rlent.math.masked import masked_mean
from rlent.options import NonNegative, Positive, Share


def difficulty(correct: Shaped[Tensor, " N"], group: Int[Tensor, " N"], *, threshold: Positive) -> dict[str, Tensor]:
    """max(0, 1 - accuracy / threshold) of the row's group: 1 for an unsolved prompt, 0 from accuracy `threshold` on."""
    return {"difficulty": (1.0 - group_mean(correct.float(), group) / threshold).clamp(min=0.0)}


def weighted_entropy(entropy: Float[Tensor, "B T"], aer_difficulty: Float[Tensor, " B"]) -> Float[Tensor, "B T"]:
    """-difficulty * entropy per token (nats), to be minimised."""
    return -aer_difficulty.to(entropy.dtype)[:, None] * entropy


class State(TypedDict):
    """What `AdaptiveCoefficient` remembers: the coefficient, and the entropy of the first step (nats)."""

    coef: float
    first: float | None


class AdaptiveCoefficient:
    """Integral control of a coefficient: coef <- clip(coef + gain (share H_0 - H), low, high), once a step, before its updates.

    H is the token mean of the entropy (nats) when the step began, H_0 that of the first step.
    """

    def __init__(self, *, knob: str, share: Share, gain: NonNegative, start: float, low: float, high: float) -> None:
        self.knob = knob
        self.share = share
        self.gain = gain
        self.low = low
        self.high = high
        self.coef = start
        self.first: float | None = None

    def __call__(self, old_entropy: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]) -> float:
        """The new value of the knob."""
        mean = float(masked_mean(old_entropy, mask))
        if self.first is None:
            self.first = mean
        self.coef = min(max(self.coef + self.gain * (self.share * self.first - mean), self.low), self.high)
        return self.coef

    def state_dict(self) -> State:
        return {"coef": self.coef, "first": self.first}

    def load_state_dict(self, state: State) -> None:
        self.coef, self.first = state["coef"], state["first"]
