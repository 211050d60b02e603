"""AEPO (arbitrary entropy): pull the policy towards its own tempered distribution, hotter or colder as entropy asks.

Paper: Arbitrary Entropy Policy Optimization Breaks The Exploration Bottleneck of Reinforcement Learning, arXiv:2510.08141.
Seats: sampler (`rlent.sampling.tempered`, a second rollout), control (`BangBang`), shape (`with_tempered`, or `tempered_credit` without
       a second rollout), probe (`tempered_logp`, for the latter).
Checked against: the authors' `RayPPOTrainer.fit` and `_select_by_advantage`.

No entropy bonus: right responses drawn at temperature T count with advantage 1, which is a step of REINFORCE towards pi^T.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.options import Count, NonNegative, Positive, Share


def heat(last: float, *, target: float, hot: float, cold: float) -> float:
    """The temperature for an entropy of `last` nats: hot at or below the target, cold above it."""
    return hot if last <= target else cold


class BangBang:
    """After each step, switch the second rollout between two temperatures by the step's nll (nats a token, a sampled estimate).

    A cold rollout replaces half as many responses. Before the first measurement the entropy counts as 0, so it begins hot.
    """

    def __init__(self, *, knob: str, portion: str | None, level: str | None, target: NonNegative, hot: Positive, cold: Positive) -> None:
        self.knob = knob
        self.portion = portion
        self.level = level
        self.target = target
        self.hot = hot
        self.cold = cold
        self.last = 0.0

    def __call__(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """The new values of the knobs."""
        self.last = metrics.get("nll/mean", self.last)
        temperature = heat(self.last, target=self.target, hot=self.hot, cold=self.cold)
        turned = {self.knob: temperature}
        if self.portion is not None:
            turned[self.portion] = 1.0 if temperature == self.hot else 0.5
        if self.level is not None:
            turned[self.level] = self.last
        return turned

    def state_dict(self) -> dict[str, float | int]:
        return {"last": self.last}

    def load_state_dict(self, state: dict[str, float | int]) -> None:
        self.last = state["last"]


def picked(adv: Float[Tensor, " n"], *, threshold: float, most: int, portion: float) -> Int[Tensor, " k"]:
    """Which of the tempered responses take part, in their order: advantage above `threshold`, the first min(most, all) * portion."""
    good = (adv > threshold).nonzero()[:, 0]
    return good[: int(min(most, len(good)) * portion)]


def with_tempered(
    adv: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    source: Sequence[str],
    *,
    threshold: float,
    most: Count,
    portion: Share,
) -> dict[str, Tensor]:
    """Advantage 1 on the picked tempered responses; the others leave the loss, and so do as many of the first ordinary ones.

    `selected` are the tokens of the picked ones.
    """
    tempered = torch.tensor([s == "tempered" for s in source], dtype=torch.bool)
    extra, main = tempered.nonzero()[:, 0], (~tempered).nonzero()[:, 0]
    own = adv.masked_fill(~mask, 0.0).sum(1) / mask.sum(1).clamp(min=1)
    chosen = extra[picked(own[extra], threshold=threshold, most=most, portion=portion)]
    counts = ~tempered
    counts[main[: len(chosen)]] = False
    counts[chosen] = True
    selected = torch.zeros_like(mask)
    selected[chosen] = mask[chosen]
    return {"adv": torch.where(selected, torch.ones_like(adv), adv), "mask": counts[:, None] & mask, "selected": selected}


def tempered_logp(logits: Float[Tensor, "t V"], target: Int[Tensor, " t"], *, temperature: Positive, heat: Positive) -> Float[Tensor, " t"]:
    """Log-probability of the sampled token under the policy at temperature `heat`; `temperature` undoes the sampling temperature."""
    return (logits * (temperature / heat)).log_softmax(-1).gather(-1, target[:, None]).squeeze(-1)


def tempered_credit(
    adv: Float[Tensor, "N T"],
    reward: Float[Tensor, " N"],
    old_logp: Float[Tensor, "N T"],
    old_tempered_logp: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    *,
    target: float,
    level: float,
    cap: NonNegative,
    threshold: float,
) -> dict[str, Tensor | float]:
    """DCPO: (1 - a) adv + a f on good responses, f = pi^T / pi of the token, instead of a second rollout.

    With a0 = min(|target - level|, cap) / share of responses with a reward above `threshold`, a = a0 / (1 + a0). Without any such
    response nothing is changed (the released code divides by 0).
    """
    good = (reward > threshold).to(adv.dtype)
    share = float(good.double().mean()) if len(good) else 0.0
    if share == 0.0:
        return {"adv": adv, "alpha": 0.0}
    a0 = min(abs(target - level), cap) / share
    alpha = a0 / (1.0 + a0)
    factor = (old_tempered_logp - old_logp).exp()
    return {"adv": ((1.0 - alpha) * adv + alpha * good[:, None] * factor) * mask, "alpha": alpha}
