"""The law R = -a e^H + b of a run: which numbers are its pairs, what in a recipe acts against it, and its forecast while the run goes on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rlent.math.law import FEW_POINTS, fit_law
from rlent.types import Config, JsonObject

ENTROPY = "entropy/mean"


SCORE = "eval/pass@1"


def pairs(rows: Sequence[JsonObject], *, x: str = ENTROPY, y: str = SCORE) -> tuple[list[int], list[float], list[float]]:
    """Steps, entropies and scores of the same weights.

    A step's entropy is that of the policy that sampled, before its update; its score is taken after the update. So the score of
    step t belongs to the entropy of step t + 1. The last step's score has no partner, and is left out.
    """
    entropy = {int(r["step"]): float(r[x]) for r in rows if r.get(x) is not None}
    scored = [(int(r["step"]), float(r[y])) for r in rows if r.get(y) is not None]
    found = [(step, entropy[step + 1], value) for step, value in scored if step + 1 in entropy]
    return [s for s, _, _ in found], [h for _, h, _ in found], [v for _, _, v in found]


PLAIN = {"rlent.methods.grpo", "rlent.methods.rloo", "rlent.methods.opo", "rlent.methods.reinforce_pp"}
"""Modules of advantages that only credit reward: the paper finds GRPO, RLOO and REINFORCE++ on one curve."""


PLAIN_SAMPLERS = {"rlent.sampling.group", "rlent.sampling.reference", "rlent.sampling.vote"}
"""Modules of samplers that train on nothing but what the policy has just drawn."""


def interventions(config: Config) -> list[str]:
    """What in a recipe acts on entropy besides a policy gradient with symmetric clip: the law is about runs without it."""
    found = [f"{seat}={name}" for seat in ("shape", "regularize", "control") for name in config.get(seat) or {}]
    for seat, plain in (("loss", {"rlent.methods.ppo_clip", "rlent.methods.pg_ratio"}), ("advantage", PLAIN), ("sampler", PLAIN_SAMPLERS)):
        target = (config.get(seat) or {}).get("_target_")
        if target and target.rpartition(".")[0] not in plain:
            found.append(f"{seat}={target.rpartition('.')[2]}")
    loss = config.get("loss") or {}
    if loss.get("high") is not None and loss.get("high") != loss.get("low"):
        found.append(f"loss.high={loss['high']} above loss.low={loss['low']}")
    return found


class LiveLaw:
    """The law while a run goes on: a forecast of its ceiling, once there are enough points and for runs without intervention."""

    def __init__(self, config: Config) -> None:
        self.acting = interventions(config)
        self.entropy: list[float] = []
        self.score: list[float] = []
        self.waiting: float | None = None

    def see(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """`law/*` of the runs' pairs so far, at steps that were evaluated; otherwise nothing."""
        if self.waiting is not None:
            self.entropy.append(metrics[ENTROPY])
            self.score.append(self.waiting)
        self.waiting = metrics.get(SCORE)
        return {} if self.waiting is None else self.coefficients()

    def coefficients(self) -> dict[str, float]:
        """`law/*` of the pairs so far; empty for a run with an intervention, with too few points, or with a fit that is in doubt."""
        if self.acting or len(self.score) < FEW_POINTS:
            return {}
        try:
            law = fit_law(self.entropy, self.score)
        except ValueError:
            return {}
        if law.doubts():
            return {}
        low, high = law.ceiling_interval
        found = {"a": law.a, "b": law.b, "r2": law.r2, "ceiling": law.ceiling, "ceiling_low": low, "ceiling_high": high}
        return {f"law/{k}": v for k, v in found.items() if math.isfinite(v)}

    def state_dict(self) -> JsonObject:
        return {"entropy": self.entropy, "score": self.score, "waiting": self.waiting}

    def load_state_dict(self, state: JsonObject) -> None:
        self.entropy, self.score, self.waiting = list(state["entropy"]), list(state["score"]), state["waiting"]
