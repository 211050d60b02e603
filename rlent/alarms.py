"""Warnings of a run: numbers that say that it is not doing what its recipe says. Each is given once, with the step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INERT_AFTER = 20
"""Steps after which a function that changed no token's gradient is reported."""

BASE_STEPS = 5
"""Steps whose mean is what a number is compared with later."""

IN_A_ROW = 3
"""Steps in a row above the bound before a warning: single steps are noise."""


@dataclass(frozen=True, slots=True)
class Growth:
    """`metric` is too large above `floor` and above `factor` times its mean over the first steps.

    `never`: above `floor` it is too large from the first step on.
    """

    metric: str
    floor: float
    factor: float
    advice: str
    never: bool = True


_GRADER = "`grader/<status>` in metrics.jsonl, and the responses kept by track.samples, say which answers"
GROWTHS = (
    Growth("mismatch/mean", 0.02, 3.0, "the engine and the trainer drift apart; shape=[truncated_importance] corrects for it"),
    Growth("mismatch/k3", 0.01, 5.0, "the engine and the trainer drift apart; shape=[truncated_importance] corrects for it"),
    *(Growth(f"grader/{status}", 0.05, 3.0, _GRADER) for status in ("timeout", "crash", "limit")),
    # a policy that cannot write answers yet is no fault of the grader; one that could is a format problem
    *(Growth(f"grader/{status}", 0.05, 3.0, _GRADER, never=False) for status in ("unparsed", "no_answer")),
    Growth(
        "grader/gold_unparsed", 0.01, 3.0, "the data has accepted answers that cannot be read; `rlent check` with the same data names them"
    ),
)


class Alarms:
    """Looks at every step's metrics; what it remembers is part of a checkpoint."""

    def __init__(self) -> None:
        self.idle: dict[str, int] = {}
        self.base: dict[str, list[float]] = {}
        self.above: dict[str, int] = {}

    def look(self, step: int, metrics: Mapping[str, float], effects: Mapping[str, str]) -> list[str]:
        """What to say after this step. `effects` maps metrics that count changed gradients to the functions' places."""
        said = []
        for metric, place in effects.items():
            if metric not in metrics:
                continue
            self.idle[place] = self.idle.get(place, 0) + 1 if metrics[metric] == 0 else 0
            if self.idle[place] == INERT_AFTER:
                said.append(f"step {step}: {place} has changed no token's gradient for {INERT_AFTER} steps")
        for rule in GROWTHS:
            value = metrics.get(rule.metric)
            if value is None:
                continue
            base = self.base.setdefault(rule.metric, [])
            if len(base) < BASE_STEPS:
                base.append(value)
            usual = sum(base) / len(base)
            large = value > rule.floor and (value > rule.factor * usual or (rule.never and len(base) < BASE_STEPS))
            self.above[rule.metric] = self.above.get(rule.metric, 0) + 1 if large else 0
            if self.above[rule.metric] == IN_A_ROW:
                said.append(
                    f"step {step}: {rule.metric} is {value:.3g} ({usual:.3g} over the run's first {len(base)} steps): {rule.advice}"
                )
        return said

    def state_dict(self) -> dict[str, Any]:
        return {"idle": self.idle, "base": self.base, "above": self.above}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.idle, self.base, self.above = dict(state["idle"]), {k: list(v) for k, v in state["base"].items()}, dict(state["above"])
