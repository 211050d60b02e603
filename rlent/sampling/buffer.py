"""A buffer of good responses and of what groups earned, for self-imitation (SPEAR, arXiv:2509.22601)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from rlent.types import JsonObject

HISTORY = 10240
"""Groups whose mean and deviation are remembered."""


@dataclass
class Item:
    """One stored response: its id, its step, its reward, its advantage then, and whatever is needed to train on it."""

    row: int
    step: int
    reward: float
    adv: float
    data: Any = None


class TrajectoryBuffer:
    """Responses better than their group, with the means and deviations of all groups as a later baseline.

    After each step: store, drop what is more than min(tolerance, 10) steps older than the newest, count. Full when more than
    1.5 `size` stored responses have a reward above the median group mean (with `decay` in (0, 1], all stored ones count).
    """

    def __init__(self, *, group_size: int, tolerance: int, size: int, by_std: bool, decay: float, epsilon: float) -> None:
        self.group_size, self.tolerance, self.capacity = int(group_size), int(tolerance), int(size)
        self.by_std, self.decay, self.epsilon = by_std, decay, epsilon
        self.items: list[Item] = []
        self.means: list[float] = []
        self.stds: list[float] = []

    @property
    def recalibrates(self) -> bool:
        return not 0 < self.decay <= 1

    def add(self, step: int, reward: Sequence[float], tool_call: Sequence[bool], data: Sequence[JsonObject] | None = None) -> JsonObject:
        """One step's responses, group by group. What is stored afterwards."""
        for start in range(0, len(reward), self.group_size):
            group = np.asarray(reward[start : start + self.group_size], dtype=np.float64)
            mean, std = float(group.mean()), float(group.std(ddof=1)) if len(group) > 1 else 0.0
            self.means, self.stds = [*self.means, mean][-HISTORY:], [*self.stds, std][-HISTORY:]
            for i, r in enumerate(group.tolist(), start):
                adv = (r - mean) / (std + self.epsilon) if self.by_std else r - mean
                if adv > 0 and tool_call[i]:
                    self.items.append(Item(1000 * step + i, step, r, adv, data[i] if data is not None else None))
        newest = max((x.step for x in self.items), default=0)
        self.items = [x for x in self.items if newest - x.step <= min(self.tolerance, 10)]
        return {"size": self.count, "full": self.full, "stored_steps": sorted({x.step for x in self.items})}

    @property
    def count(self) -> int:
        """Stored responses that count towards being full."""
        return sum(x.reward > self.baseline for x in self.items) if self.recalibrates else len(self.items)

    @property
    def full(self) -> bool:
        return self.count > 1.5 * self.capacity

    @property
    def baseline(self) -> float:
        """Median of all remembered group means."""
        return float(np.median(self.means)) if self.means else 0.0

    @property
    def baseline_std(self) -> float:
        """Median of all remembered group deviations."""
        return float(np.median(self.stds)) if self.stds else 0.0

    @property
    def stored_rows(self) -> list[int]:
        return [x.row for x in self.items]

    @property
    def old_advantage(self) -> list[float]:
        return [x.adv for x in self.items]

    @property
    def kept(self) -> list[tuple[Item, float]]:
        """The stored responses that may be replayed, with their advantages of now."""
        if not self.recalibrates:
            return [(x, self.decay * x.adv) for x in self.items]
        scale = self.baseline_std + self.epsilon if self.by_std else 1.0
        now = [(x, (x.reward - self.baseline) / scale) for x in self.items]
        return [(x, a) for x, a in now if a > 0]

    @property
    def kept_rows(self) -> list[int]:
        return [x.row for x, _ in self.kept]

    @property
    def new_advantage(self) -> list[float]:
        return [a for _, a in self.kept]

    @property
    def n_replayed(self) -> int:
        """The largest power of two of them, at most the buffer's size; none of one."""
        n = len(self.kept)
        return min(2 ** int(math.log2(n)), self.capacity) if n > 1 else 0

    def take(self, noise: Tensor) -> list[tuple[Item, float]]:
        """A uniform choice among what is kept, by the smallest of the numbers given for each; the buffer is empty afterwards."""
        kept = self.kept
        chosen = sorted(noise[: len(kept)].argsort(stable=True)[: self.n_replayed].tolist())
        self.items = []
        return [kept[i] for i in chosen]

    def state_dict(self) -> JsonObject:
        return {"items": [asdict(x) for x in self.items], "means": self.means, "stds": self.stds}

    def load_state_dict(self, state: JsonObject) -> None:
        self.items = [Item(**x) for x in state["items"]]
        self.means, self.stds = list(state["means"]), list(state["stds"])
