"""A price of entropy that moves by a fixed amount, and is paid only while entropy is at or below a target.

Papers: Skywork Open Reasoner 1 (adaptive entropy control), arXiv:2505.22312; TRL's GRPOTrainer has it as `use_adaptive_entropy`.
Seat:   control, of the coefficient of an entropy bonus.
Checked against: an independent transcription of TRL's update, in the test.
"""

from typing import TypedDict

from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.masked import masked_mean
from rlent.options import NonNegative


class State(TypedDict):
    """What `EntropyFloor` remembers: the coefficient, and the entropy of the update before (nats)."""

    coef: float
    last: float | None


class EntropyFloor:
    """c <- min(c + delta, high) if H <= target else max(c - delta, low); an update pays c if the H of the update before was <= target, else 0.

    H is the token mean of the entropy (nats) of a minibatch before its update.
    """

    def __init__(self, *, knob: str, target: NonNegative, delta: NonNegative, low: float, high: float, start: float) -> None:
        self.knob = knob
        self.target = target
        self.delta = delta
        self.low = low
        self.high = high
        self.coef = start
        self.last: float | None = None

    def __call__(self, now_entropy: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]) -> float:
        """The value of the knob for this update."""
        price = self.coef if self.last is None or self.last <= self.target else 0.0
        self.last = float(masked_mean(now_entropy, mask))
        step = self.delta if self.last <= self.target else -self.delta
        self.coef = min(max(self.coef + step, self.low), self.high)
        return price

    def state_dict(self) -> State:
        return {"coef": self.coef, "last": self.last}

    def load_state_dict(self, state: State) -> None:
        self.coef, self.last = state["coef"], state["last"]
