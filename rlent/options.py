"""Types of options, so that a recipe's numbers are checked before anything is loaded.

A function states the range of an option in its signature (`fraction: Share`), and the recipe loader refuses a value
outside it by name. Plain `float`, `int`, `bool`, `str`, `Literal[...]` and `X | None` need nothing from here; any other range is
written with `annotated_types`: `Annotated[float, Interval(gt=0, le=1)]`.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Interval

Share = Annotated[float, Interval(ge=0.0, le=1.0)]
"""A fraction of tokens, rows or probability: 0 to 1, never percent."""

PositiveShare = Annotated[float, Interval(gt=0.0, le=1.0)]
NonNegative = Annotated[float, Ge(0.0)]
AboveOne = Annotated[float, Gt(1.0)]
Positive = Annotated[float, Gt(0.0)]
Count = Annotated[int, Ge(0)]
PositiveCount = Annotated[int, Ge(1)]
