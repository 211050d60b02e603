"""EntroPIC: a proportional-integral controller of entropy, whose lever is the very confident tokens.

Paper: EntroPIC: Towards Stable Long-Term Training of LLMs via Entropy Stabilization with Proportional-Integral Control, arXiv:2511.15248.
Seats: regularize (`confident_push`), control (`EntropyPI`).
Checked against: the authors' `update_policy` and `compute_policy_loss_entropic`. They act once a micro-batch and rank and lose the
       integral at a restart; here it is once a minibatch, on all ranks' rows, and kept.
"""

import math

from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.masked import masked_mean
from rlent.math.ratio import log_ratio
from rlent.options import Positive, Share


def confident_push(
    now_logp: Float[Tensor, "N T"],
    old_logp: Float[Tensor, "N T"],
    adv: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    threshold: Share,
    clamp: Positive | None,
) -> dict[str, Tensor]:
    """-|A| r on tokens of probability above `threshold`, averaged over them alone; r = exp(logp - old_logp) is not clipped.

    With a positive coefficient such tokens are pushed up whatever the sign of A, with a negative one down: positive credit is scaled
    by about 1 + coef, negative credit by 1 - coef. A sequence mean is over all rows; one without such a token adds 0.
    """
    selected = mask & (now_logp.detach() > math.log(threshold) if threshold > 0 else mask)
    return {
        "value": -log_ratio(now_logp, old_logp, clamp).exp() * adv.abs(),
        "mask": selected,
        "rows": mask.any(1),
        "selected": selected,
    }


class EntropyPI:
    """coef = clip(kp e + ki E, low, high) before each update, with e = H - target and E the sum of the earlier errors.

    H is the token mean of the entropy (nats) of the minibatch before its update. A negative target switches the control off:
    coefficient 0, and E stays.
    """

    def __init__(self, *, knob: str, target: float, kp: float, ki: float, low: float, high: float, start: float, anti_windup: bool) -> None:
        self.knob = knob
        self.target = target
        self.kp = kp
        self.ki = ki
        self.low = low
        self.high = high
        self.anti_windup = anti_windup
        self.integral = start

    def __call__(self, now_entropy: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"]) -> float:
        """The new value of the knob."""
        return self.follow(float(masked_mean(now_entropy, mask)))["coef"]

    def follow(self, entropy: float, rows: int = 1, of: int = 1) -> dict[str, float]:
        """One measurement, which is `rows` of the `of` rows of an update; the weights of an update add up to 1.

        With `anti_windup`, E does not grow while the coefficient is at the end that the error pushes to.
        """
        before = self.integral
        if self.target < 0:
            return {"coef": 0.0, "integral": before}
        error = entropy - self.target
        free = self.kp * error + self.ki * self.integral
        coef = min(max(free, self.low), self.high)
        stuck = (free > self.high and error > 0) or (free < self.low and error < 0)
        if not (self.anti_windup and stuck):
            self.integral += error * (rows / of)
        return {"coef": coef, "integral": before}

    def state_dict(self) -> dict[str, float | int]:
        return {"integral": self.integral}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        self.integral = state["integral"]
