"""Values at the end of a run: the one definition of the last steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

LAST = 5
"""Logged steps at the end of a run whose mean is its final value."""

SHARE = 0.05
"""In the comparison of all methods it is this share of the steps, where that is more."""


def at_end(values: Sequence[float], *, last: int = LAST, share: float = 0.0) -> float:
    """Mean of the last `last` values, or of the last `share` of all where that is more; NaN where there are none."""
    tail = values[-max(last, round(share * len(values))) :]
    return math.fsum(tail) / len(tail) if tail else math.nan
