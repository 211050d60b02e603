"""AEnt: pay for the entropy of the likely part of the vocabulary, at a price that keeps it inside a band.

Paper: On Entropy Control in LLM-RL Algorithms, arXiv:2509.03493.
Seats: probe (`clamped_entropy`), regularize (`negative_clamped_entropy`), control (`EntropyBand`).
Checked against: `clamped_softmax_entropy`, `aent_grpo_loss_fn` and the coefficient update of the recipe in AReaL.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.masked import masked_mean
from rlent.options import Count, NonNegative, Share


def clamped_entropy(logits: Float[Tensor, "t V"], target: Int[Tensor, " t"], *, removed: Share) -> Float[Tensor, " t"]:
    """Entropy (nats) of the policy renormalised without the int(removed V) least likely tokens; the gradient goes through the rest.

    A logit of -inf is a token that cannot occur and adds nothing. At least one token is kept.
    """
    count = max(logits.shape[-1] - int(logits.shape[-1] * removed), 1)
    kept = logits.gather(-1, logits.detach().topk(count, dim=-1).indices)
    logp = kept.log_softmax(-1)
    return -(logp.exp() * logp.masked_fill(logp.detach() == -torch.inf, 0.0)).sum(-1)


def negative_clamped_entropy(clamped_entropy: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """-clamped entropy per token (nats), to be minimised."""
    return -clamped_entropy


class EntropyBand:
    """coef <- clip(coef - rate (min(0, E - low) + max(0, E - high)), least, most): nothing inside the band.

    E is the token mean of the clamped entropy (nats) of the step's rollouts when the step begins, which is after the updates
    of the step before. It acts from the first step on that has more than `warmup` + 1 steps before it.
    """

    def __init__(
        self,
        *,
        knob: str,
        start: NonNegative,
        rate: NonNegative,
        low: NonNegative,
        high: NonNegative,
        least: float,
        most: float,
        warmup: Count,
    ) -> None:
        if low > high:
            raise ValueError(f"low={low} is above high={high}; a band from low to high is expected")
        self.knob = knob
        self.start = start
        self.rate = rate
        self.low = low
        self.high = high
        self.least = least
        self.most = most
        self.warmup = warmup
        self.coef = start

    def __call__(self, old_clamped_entropy: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], step: int) -> float:
        """The new value of the knob."""
        if step - 2 > self.warmup:
            level = float(masked_mean(old_clamped_entropy, mask))
            outside = min(0.0, level - self.low) + max(0.0, level - self.high)
            self.coef = min(max(self.coef - self.rate * outside, self.least), self.most)
        return self.coef

    def state_dict(self) -> dict[str, float | int]:
        return {"coef": self.coef}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        self.coef = state["coef"]
