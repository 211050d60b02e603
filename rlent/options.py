"""Types of options, so that a recipe's numbers are checked before anything is loaded.

A function states the range of an option in its signature (`fraction: Share`), and the recipe loader refuses a value
outside it by name. Plain `float`, `int`, `bool`, `str`, `Literal[...]` and `X | None` need nothing from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True)
class Range:
    """A numeric interval; `low_open`/`high_open` exclude the end."""

    low: float = float("-inf")
    high: float = float("inf")
    low_open: bool = False
    high_open: bool = False

    def holds(self, value: float) -> bool:
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return bool(above and below)

    def __str__(self) -> str:
        left, right = "(" if self.low_open else "[", ")" if self.high_open else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"


Share = Annotated[float, Range(0.0, 1.0)]
"""A fraction of tokens, rows or probability: 0 to 1, never percent."""

NonNegative = Annotated[float, Range(0.0)]
AboveOne = Annotated[float, Range(1.0, low_open=True)]
Positive = Annotated[float, Range(0.0, low_open=True)]
Count = Annotated[int, Range(0)]
PositiveCount = Annotated[int, Range(1)]
