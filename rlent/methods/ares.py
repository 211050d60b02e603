"""ARES: pay for windows of high entropy where a problem is hard, charge for them where it is easy.

Paper: ARES: Multimodal Adaptive Reasoning via Difficulty-Aware Token-Level Entropy Shaping, arXiv:2510.08457.
Seats: reward (`window_reward`, with `Hierarchy` for its targets and prices), shape (`DifficultyKL`, the price of divergence by difficulty).
Checked against: the authors' `vllm_rollout_spmd.py`, `ray_trainer.py`, `dp_actor.py` and `aepo.py`.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from rlent.math.masked import row_mean
from rlent.math.ratio import divergence
from rlent.options import NonNegative, Positive, PositiveCount, Share

BUCKETS = ("easy", "medium", "hard")


# ---- windows ----------------------------------------------------------------------------------------------------------


def window_counts(
    entropy: Sequence[float | int],
    plain: Sequence[float | int],
    triggers: Sequence[bool],
    *,
    window: int,
    threshold: float,
    percentile: float,
) -> dict[str, float]:
    """Windows of one response: the mean entropy (nats) of the `window` tokens after each trigger.

    `valid_count` windows reach the threshold, `invalid_count` do not, and `soft_cost` is what the means exceed it by, summed. A window that
    the response cuts off is not counted. `sample_threshold` is the percentile of the windows after every token, of the entropies
    without the tail (`plain`); a window cut off is replaced by the mean of those before it, the first by its own token.
    """
    means = [float(np.mean(entropy[t + 1 : t + 1 + window])) for t in range(len(entropy) - window) if triggers[t]]
    every: list[float] = []
    for t in range(len(plain)):
        after = plain[t + 1 : t + 1 + window]
        every.append(float(np.mean(after)) if len(after) == window else float(np.mean(every)) if every else plain[t])
    return {
        "mean_entropy": float(np.mean(entropy)) if len(entropy) else 0.0,
        "valid_count": sum(m >= threshold for m in means),
        "invalid_count": sum(m < threshold for m in means),
        "soft_cost": sum(max(m - threshold, 0.0) for m in means),
        "sample_threshold": float(np.percentile(every, percentile)) if every else 0.0,
    }


def is_trigger(text: str, words: Sequence[str]) -> bool:
    """Whether a token is one of the words, in lower case and without the mark of a leading space."""
    return text.lstrip("Ġ▁ ").strip().lower() in words


# ---- reward -----------------------------------------------------------------------------------------------------------


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))


def huber(x: float | int, k: float) -> float:
    """x^2 / (2k) up to k, then x - k/2; 0 below 0."""
    x = max(x, 0.0)
    return x * x / (2.0 * k) if x <= k else x - k / 2.0


def entropy_score(
    correct: bool,
    bucket: str,
    count: float | int,
    target: float | int,
    *,
    alpha: float,
    margin: Mapping[str, float],
    kappa: Mapping[str, float],
    temperature: Mapping[str, float],
    scale: Mapping[str, float],
    least_margin: float,
    gain: Mapping[str, float],
) -> float:
    """The entropy term of one response, from its count of windows and its bucket's target; formulas in the file's vectors and card.

    A wrong answer always gets at least half of what it can.
    """
    distance, k, tau, cap = count - target, kappa[bucket], temperature[bucket], alpha * scale[bucket]
    m = max(least_margin, margin[bucket] * max(target, 1.0))
    if not correct:
        return gain[bucket] * cap * _sigmoid(max(distance - m, 0.0) / tau)
    if bucket == "hard":
        if distance >= -m:
            return cap * _sigmoid((distance + m) / tau)
        return -min(cap, 0.5 * cap * huber(-distance - m, k) / (m + k))
    off = distance if bucket == "easy" else abs(distance)
    return -min(cap, cap * huber(max(off - m, 0.0), k) / (m + k))


# ---- controllers --------------------------------------------------------------------------------------------------------


class HierarchyState(TypedDict):
    """What `Hierarchy` remembers from step to step."""

    alpha: dict[str, float]
    target: dict[str, int]
    threshold: float
    fresh: bool


class Levels(TypedDict):
    """What a step has led to: difficulty by group, target and price by difficulty, and the threshold of a window (nats)."""

    difficulty: dict[Hashable, str]
    target: dict[str, int]
    alpha: dict[str, float]
    threshold: float


class PricesState(TypedDict):
    """What `KLPrices` remembers from update to update, by difficulty."""

    beta: dict[str, float]
    kl: dict[str, float | None]
    error: dict[str, float]
    calls: int


class Hierarchy:
    """Difficulty of each group, and by difficulty the target count, the price alpha, and the threshold of a window (nats).

    Buckets by the group's accuracy: easy from `easy_min` on, medium from `medium_min`, else hard. The target of a bucket is the
    mean over its groups of their mean counts, rounded half to even, of the same batch; so alpha is moved by the rounding alone.
    """

    def __init__(
        self,
        *,
        easy_min: float,
        medium_min: float,
        rate: float,
        low: float,
        high: float,
        start: float,
        decay: float,
        threshold: float = 1.5,
    ) -> None:
        self.easy_min, self.medium_min = easy_min, medium_min
        self.rate, self.low, self.high, self.decay = rate, low, high, decay
        self.alpha = dict.fromkeys(BUCKETS, float(start))
        self.target: dict[str, int] = {}
        self.threshold = threshold
        self.fresh = True

    def follow(
        self, group: Sequence[Hashable], accuracy: Sequence[float | int], count: Sequence[float | int], thresholds: Sequence[float | int]
    ) -> Levels:
        """Take up one step's rows; what it has led to."""
        rows: dict[Hashable, list[int]] = {}
        for i, g in enumerate(group):
            rows.setdefault(g, []).append(i)
        difficulty = {g: self.bucket(sum(accuracy[i] for i in at) / len(at)) for g, at in rows.items()}
        for bucket in BUCKETS:
            means = [sum(count[i] for i in at) / len(at) for g, at in rows.items() if difficulty[g] == bucket]
            if means:
                mean = sum(means) / len(means)
                self.target[bucket] = round(mean)
                error = self.target[bucket] - mean if bucket == "hard" else mean - self.target[bucket]
                self.alpha[bucket] = min(max(self.alpha[bucket] + self.rate * error, self.low), self.high)
        if len(thresholds):
            middle = float(np.median(thresholds))
            self.threshold = middle if self.fresh else self.decay * self.threshold + (1.0 - self.decay) * middle
            self.fresh = False
        return {"difficulty": difficulty, "target": dict(self.target), "alpha": dict(self.alpha), "threshold": self.threshold}

    def bucket(self, accuracy: float) -> str:
        """easy, medium or hard."""
        return "easy" if accuracy >= self.easy_min else "medium" if accuracy >= self.medium_min else "hard"

    def state_dict(self) -> HierarchyState:
        return {"alpha": dict(self.alpha), "target": dict(self.target), "threshold": self.threshold, "fresh": self.fresh}

    def load_state_dict(self, state: HierarchyState) -> None:
        self.alpha, self.target = dict(state["alpha"]), dict(state["target"])
        self.threshold, self.fresh = state["threshold"], state["fresh"]


class KLPrices:
    """A price of divergence for each bucket: log beta moves with a smoothed relative error, every `interval`-th call.

    The error EMA stands still inside the dead zone; a bucket without rows is left alone.
    """

    def __init__(
        self,
        *,
        target: float,
        start: float,
        low: float,
        high: float,
        decay: float,
        rate: float,
        clip: float,
        interval: int,
        deadzone: float,
    ) -> None:
        self.goal, self.low, self.high = target, low, high
        self.decay, self.rate, self.clip, self.interval, self.deadzone = decay, rate, clip, int(interval), deadzone
        self.beta = dict.fromkeys(BUCKETS, float(start))
        self.kl: dict[str, float | None] = dict.fromkeys(BUCKETS)
        self.error = dict.fromkeys(BUCKETS, 0.0)
        self.calls = 0

    def follow(self, difficulty: Sequence[str], seq_kl: Sequence[float | int]) -> dict[str, dict[str, float | None]]:
        """Take up one update's rows (each row's mean KL, nats); the prices and smoothed divergences."""
        self.calls += 1
        for bucket in BUCKETS:
            mine = [k for d, k in zip(difficulty, seq_kl, strict=True) if d == bucket]
            if mine:
                self._move(bucket, sum(mine) / len(mine))
        return {b: {"beta": self.beta[b], "kl_ema": self.kl[b]} for b in BUCKETS}

    def _move(self, bucket: str, mean: float) -> None:
        before = self.kl[bucket]
        level = mean if before is None else self.decay * before + (1.0 - self.decay) * mean
        self.kl[bucket] = level
        error = level / self.goal - 1.0
        if abs(error) < self.deadzone or self.calls % self.interval:
            return
        self.error[bucket] = self.decay * self.error[bucket] + (1.0 - self.decay) * error
        step = self.rate * min(max(self.error[bucket], -self.clip), self.clip)
        self.beta[bucket] = min(max(math.exp(math.log(self.beta[bucket]) + step), self.low), self.high)

    def state_dict(self) -> PricesState:
        return {"beta": dict(self.beta), "kl": dict(self.kl), "error": dict(self.error), "calls": self.calls}

    def load_state_dict(self, state: PricesState) -> None:
        self.beta, self.kl, self.error, self.calls = dict(state["beta"]), dict(state["kl"]), dict(state["error"]), state["calls"]


# ---- seats ----------------------------------------------------------------------------------------------------------------

MARGIN = {"easy": 0.15, "medium": 0.25, "hard": 0.35}
KAPPA = {"easy": 2.0, "medium": 3.0, "hard": 4.0}
TEMPERATURE = {"easy": 2.0, "medium": 2.5, "hard": 3.0}
SCALE = {"easy": 1.0, "medium": 1.0, "hard": 1.2}
GAIN = {"easy": 0.6, "medium": 0.8, "hard": 1.0}


class WindowReward:
    """The verdict plus `entropy_score`, with targets and prices from `Hierarchy`, once a step.

    Entropies are exact, and a trigger is a sampled token (the authors take the ten likeliest, and the likeliest one).
    """

    def __init__(
        self,
        *,
        words: list[str],
        window: PositiveCount,
        percentile: float,
        threshold: NonNegative,
        decay: Share,
        easy_min: Share,
        medium_min: Share,
        rate: NonNegative,
        low: float,
        high: float,
        start: float,
    ) -> None:
        self.words, self.window, self.percentile = words, window, percentile
        self.state = Hierarchy(
            easy_min=easy_min, medium_min=medium_min, rate=rate, low=low, high=high, start=start, decay=decay, threshold=threshold
        )

    def __call__(
        self,
        correct: Shaped[Tensor, " N"],
        old_entropy: Float[Tensor, "N T"],
        mask: Bool[Tensor, "N T"],
        pieces: Sequence[Sequence[str]],
        group: Int[Tensor, " N"],
    ) -> dict[str, Tensor]:
        """`value` [N], `bucket` [N] (0 easy, 1 medium, 2 hard), `count` [N] and `cost` [N] of high-entropy windows."""
        found = []
        for row, length, texts in zip(old_entropy.double().tolist(), mask.sum(1).tolist(), pieces, strict=True):
            entropy, triggers = row[:length], [is_trigger(t, self.words) for t in texts[:length]]
            found.append(
                window_counts(entropy, entropy, triggers, window=self.window, threshold=self.state.threshold, percentile=self.percentile)
            )
        right = [float(c) for c in correct.tolist()]
        counts, groups = [f["valid_count"] for f in found], group.tolist()
        now = self.state.follow(groups, right, counts, [f["sample_threshold"] for f in found])
        buckets = [now["difficulty"][g] for g in groups]
        options = {"margin": MARGIN, "kappa": KAPPA, "temperature": TEMPERATURE, "scale": SCALE, "gain": GAIN, "least_margin": 1.0}
        value = [
            c + entropy_score(c > 0, b, n, now["target"][b], alpha=now["alpha"][b], **options)
            for c, b, n in zip(right, buckets, counts, strict=True)
        ]
        return {
            "value": torch.tensor(value),
            "bucket": torch.tensor([BUCKETS.index(b) for b in buckets]),
            "count": torch.tensor(counts),
            "cost": torch.tensor([float(f["soft_cost"]) for f in found]),
        }

    def state_dict(self) -> HierarchyState:
        return self.state.state_dict()

    def load_state_dict(self, state: HierarchyState) -> None:
        self.state.load_state_dict(state)


class DifficultyKL:
    """beta of the row's difficulty, times `relax` on easy wrong responses with much entropy, once an update; `price` [N]."""

    def __init__(
        self,
        *,
        target: Positive,
        start: Positive,
        low: Positive,
        high: Positive,
        decay: Share,
        rate: NonNegative,
        clip: NonNegative,
        interval: PositiveCount,
        deadzone: NonNegative,
        relax: NonNegative,
        relax_cost: NonNegative,
    ) -> None:
        self.relax, self.relax_cost = relax, relax_cost
        self.prices = KLPrices(
            target=target, start=start, low=low, high=high, decay=decay, rate=rate, clip=clip, interval=interval, deadzone=deadzone
        )

    def __call__(
        self,
        now_logp: Float[Tensor, "N T"],
        ref_logp: Float[Tensor, "N T"],
        mask: Bool[Tensor, "N T"],
        correct: Shaped[Tensor, " N"],
        ares_bucket: Int[Tensor, " N"],
        ares_cost: Float[Tensor, " N"],
    ) -> dict[str, Tensor]:
        """Streams of the rows; the weights stay as they are."""
        kl = row_mean(divergence(now_logp, ref_logp, "k3"), mask).tolist()
        buckets = [BUCKETS[b] for b in ares_bucket.tolist()]
        self.prices.follow(buckets, kl)
        price = torch.tensor([self.prices.beta[b] for b in buckets], dtype=now_logp.dtype)
        easy = (ares_bucket == 0) & ~correct.bool() & (ares_cost >= self.relax_cost)
        return {"price": torch.where(easy, price * self.relax, price)}

    def state_dict(self) -> PricesState:
        return self.prices.state_dict()

    def load_state_dict(self, state: PricesState) -> None:
        self.prices.load_state_dict(state)


def priced_divergence(
    logp: Float[Tensor, "B T"], ref_logp: Float[Tensor, "B T"], ares_kl_price: Float[Tensor, " B"]
) -> Float[Tensor, "B T"]:
    """price times the k3 estimate of KL(policy || reference) per token, in nats."""
    return ares_kl_price[:, None] * divergence(logp, ref_logp, "k3")
