"""Alarms: numbers that say that a run is not doing what its recipe says, or is about to lose its entropy.

Each is said when it begins, with the step, and is 1 in `alarm/<name>` while it lasts. The names are those of `NAMES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scipy.stats import linregress

from rlent.types import JsonObject

NAMES = ("forecast", "collapse", "explosion", "inert", "starving", "mismatch", "grader")

INERT_AFTER = 20
"""Steps after which a function that changed no token's gradient is reported."""

BASE_STEPS = 5
"""Steps whose mean is what a number is compared with later."""

IN_A_ROW = 3
"""Steps in a row above the bound before a warning: single steps are noise."""

AWAY = 20
"""Steps in a row that a condition must be away before it is said again."""

ENTROPY = "entropy/mean"

WINDOW = 50
"""Steps whose log-entropies the forecast is fitted to; it waits for 20."""

FEWEST = 20
AHEAD = 100
"""Steps that the forecast looks ahead."""

KEPT_TOO_FEW = 0.2
"""Share of prompts kept by the sampler's filter below which most generation is wasted."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """What began: one of `NAMES`, and the line to say."""

    name: str
    text: str


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
    """Looks at every step's metrics; what it remembers is part of a checkpoint.

    `collapse`: entropy below this share of that of the first steps is a collapse. `explosion`: entropy above it by this many nats, and
    above twice it, is an explosion. Both are means over five steps.
    """

    def __init__(self, *, collapse: float = 0.2, explosion: float = 1.0) -> None:
        self.collapse, self.explosion = collapse, explosion
        self.idle: dict[str, int] = {}
        self.base: dict[str, list[float]] = {}
        self.above: dict[str, int] = {}
        self.entropy: list[float] = []
        self.said: set[str] = set()

    def look(self, step: int, metrics: Mapping[str, float], effects: Mapping[str, str]) -> list[Alarm]:
        """What began with this step. `effects` maps metrics that count changed gradients to the functions' places."""
        began: list[Alarm] = []

        def say(name: str, text: str) -> None:
            began.append(Alarm(name, f"step {step}: {text}"))

        for metric, place in effects.items():
            if metric in metrics:
                self.idle[place] = self.idle.get(place, 0) + 1 if metrics[metric] == 0 else 0
                if self.idle[place] == INERT_AFTER:
                    say("inert", f"{place} has changed no token's gradient for {INERT_AFTER} steps")
        for rule in GROWTHS:
            value = metrics.get(rule.metric)
            if value is None:
                continue
            base, usual = self._base(rule.metric, value)
            large = value > rule.floor and (value > rule.factor * usual or (rule.never and base < BASE_STEPS))
            if self._begins(rule.metric, large, IN_A_ROW):
                name = rule.metric.partition("/")[0]
                say(name, f"{rule.metric} is {value:.3g} ({usual:.3g} over the run's first {base} steps): {rule.advice}")
        self._starving(metrics, say)
        self._entropy(step, metrics.get(ENTROPY), say)
        return began

    def states(self) -> dict[str, float]:
        """`alarm/<name>`: 1 while the alarm lasts, else 0."""
        on = dict.fromkeys(NAMES, False)
        on["inert"] = any(count >= INERT_AFTER for count in self.idle.values())
        for key, count in self.above.items():
            group = key.partition("/")[0]
            name = "starving" if group in ("sampler", "select") else group
            on[name] = on[name] or count >= (INERT_AFTER if group == "select" else 1 if group == "forecast" else IN_A_ROW)
        return {f"alarm/{name}": float(state) for name, state in on.items()}

    def _base(self, metric: str, value: float) -> tuple[int, float]:
        """How many of the first steps are known, this one included, and their mean."""
        base = self.base.setdefault(metric, [])
        if len(base) < BASE_STEPS:
            base.append(value)
        return len(base), sum(base) / len(base)

    def _begins(self, key: str, holds: bool, after: int) -> bool:
        """Whether a condition has now held for `after` steps in a row, for the first time or after it was away for AWAY steps."""
        count = self.above.get(key, 0)
        self.above[key] = max(count, 0) + 1 if holds else min(count, 0) - 1
        if self.above[key] == -AWAY:
            self.said.discard(key)
        if self.above[key] != after or key in self.said:
            return False
        self.said.add(key)
        return True

    def _starving(self, metrics: Mapping[str, float], say: Callable[[str, str], None]) -> None:
        kept = metrics.get("sampler/kept")
        if kept is not None and self._begins("sampler/kept", kept < KEPT_TOO_FEW, IN_A_ROW):
            say(
                "starving",
                f"the sampler's filter keeps {kept:.1%} of the prompts it draws: the data is too easy or too hard for this policy",
            )
        for metric, value in metrics.items():
            if metric.startswith("select/") and metric.endswith("/share"):
                known, usual = self._base(metric, value)
                low = known == BASE_STEPS and usual > 0 and value < usual / 10
                if self._begins(metric, low, INERT_AFTER):
                    node = metric.split("/")[1]
                    say(
                        "starving",
                        f"{node} has selected less than a tenth of its first steps' tokens for {INERT_AFTER} steps ({value:.2g})",
                    )

    def _entropy(self, step: int, value: float | None, say: Callable[[str, str], None]) -> None:
        if value is None or not math.isfinite(value):
            return
        known, start = self._base(ENTROPY, value)
        self.entropy = [*self.entropy[-(WINDOW - 1) :], value]
        if known < BASE_STEPS:
            return
        now, limit = sum(self.entropy[-BASE_STEPS:]) / BASE_STEPS, self.collapse * start
        fallen = now < limit
        if self._begins("collapse", fallen, IN_A_ROW):
            say("collapse", f"entropy has collapsed: {now:.3g} nats per token, {now / start:.0%} of the first steps' {start:.3g}")
        if self._begins("explosion", now > start + max(start, self.explosion), IN_A_ROW):
            times = f"{now / start:.1f} times " if start > 0 else ""
            say("explosion", f"entropy explodes: {now:.3g} nats per token, {times or 'from '}the first steps' {start:.3g}")
        when = None if fallen else reaches(self.entropy, limit)
        if self._begins("forecast", when is not None and when <= AHEAD, 1):
            say(
                "forecast",
                f"entropy fell to {now:.3g} nats per token (from {start:.3g}); at this rate it is below {limit:.3g} by step {step + (when or 0)}",
            )

    def state_dict(self) -> JsonObject:
        return {"idle": self.idle, "base": self.base, "above": self.above, "entropy": self.entropy, "said": sorted(self.said)}

    def load_state_dict(self, state: JsonObject) -> None:
        self.idle, self.base, self.above = dict(state["idle"]), {k: list(v) for k, v in state["base"].items()}, dict(state["above"])
        self.entropy, self.said = list(state.get("entropy", [])), set(state.get("said", []))


def reaches(entropy: list[float], limit: float) -> int | None:
    """In how many steps an exponential through the last entropies is below `limit`; None if it never is or the fall is within its noise.

    Least squares of ln(entropy) on the step; the slope must be below 0 by three standard errors.
    """
    n = len(entropy)
    if n < FEWEST or min(entropy) <= 0 or limit <= 0:
        return None
    line = linregress(range(n), [math.log(v) for v in entropy])
    if line.slope >= 0 or -line.slope < 3 * line.stderr:
        return None
    return max(1, math.ceil((line.intercept + line.slope * (n - 1) - math.log(limit)) / -line.slope))
