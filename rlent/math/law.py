"""The law of policy entropy: R = -a exp(H) + b.

The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models, arXiv:2505.22617, section 2.4, equation 6. It is
linear in exp(H), so least squares is the whole fit; the paper does not say how it was fitted, and gives no intervals.
b - a is the score that is left when all entropy is spent: the ceiling of a run without intervention.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlent.math.passk import Array, Numbers

LEVEL, DRAWS = 0.95, 2_000

FEW_POINTS = 8
"""Fewer points than this do not show a line."""

NARROW = 2.0
"""The entropy should have changed by this factor at least."""


@dataclass(frozen=True, slots=True)
class Law:
    """A fit. `spread` is the standard deviation of the residuals (ddof 2), in units of R; intervals are bootstrapped over points."""

    a: float
    b: float
    r2: float
    spread: float
    points: int
    entropy_low: float
    entropy_high: float
    a_interval: tuple[float, float]
    b_interval: tuple[float, float]
    ceiling_interval: tuple[float, float]

    @property
    def ceiling(self) -> float:
        """b - a, the law's score at zero entropy."""
        return self.b - self.a

    def at(self, entropy: float) -> float:
        """The law's score at an entropy (nats)."""
        return float(self.b - self.a * np.exp(entropy))

    def doubts(self) -> list[str]:
        """Why this fit should not be used for a ceiling; empty if it may be."""
        found = []
        if self.points < FEW_POINTS:
            found.append(f"{self.points} points; {FEW_POINTS} or more are wanted")
        if self.entropy_high < NARROW * self.entropy_low:
            found.append(f"entropy went from {self.entropy_high:.3g} to {self.entropy_low:.3g} nats only; a factor of {NARROW:g} is wanted")
        if not self.a > 0:
            found.append(f"a is {self.a:.3g}: the score does not rise as entropy falls, and there is no ceiling")
        return found


@dataclass(frozen=True, slots=True)
class Forecast:
    """A fit on the first `used` points, against the rest: root mean square error in units of R."""

    used: int
    rest: int
    rmse: float


def line(x: Array, y: Array) -> tuple[Any, Any]:
    """Slope and intercept by least squares along the last axis; NaN where x is constant.

    `scipy.stats.linregress` gives the same numbers one line at a time; the bootstrap needs 2,000 at once.
    """
    mx, my = x.mean(-1, keepdims=True), y.mean(-1, keepdims=True)
    var = ((x - mx) ** 2).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = ((x - mx) * (y - my)).sum(-1) / np.where(var > 0, var, np.nan)
    return slope, my[..., 0] - slope * mx[..., 0]


def fit_law(entropy: Numbers, score: Numbers, *, seed: int = 0) -> Law:
    """Fit R = -a exp(H) + b to pairs of entropy (nats) and score.

    Raises:
        ValueError: fewer than three points, lengths that differ, a value that is not finite, or an entropy that never changes.
    """
    h, y = np.asarray(entropy, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if h.shape != y.shape or h.ndim != 1:
        raise ValueError(f"as many entropies as scores are needed; found shapes {h.shape} and {y.shape}")
    if len(h) < 3:
        raise ValueError(f"{len(h)} points cannot show a line and its spread; 3 or more are needed, {FEW_POINTS} are wanted")
    if not (np.isfinite(h).all() and np.isfinite(y).all()):
        raise ValueError("an entropy or a score is not finite")
    x = np.exp(h)
    slope, b = line(x, y)
    if not np.isfinite(slope):
        raise ValueError(f"entropy is {h[0]:.4g} nats at every point; a line needs two different ones")
    residual = y - (slope * x + b)
    total = ((y - y.mean()) ** 2).sum()
    rng = np.random.default_rng(seed)
    picked = rng.integers(0, len(x), (DRAWS, len(x)))
    slopes, bs = line(x[picked], y[picked])
    good = np.isfinite(slopes)
    slopes, bs = slopes[good], bs[good]

    def interval(values: Array) -> tuple[float, float]:
        low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)

    return Law(
        a=float(-slope),
        b=float(b),
        r2=float(1 - (residual**2).sum() / total) if total > 0 else float("nan"),
        spread=float(np.sqrt((residual**2).sum() / (len(x) - 2))),
        points=len(x),
        entropy_low=float(h.min()),
        entropy_high=float(h.max()),
        a_interval=interval(-slopes),
        b_interval=interval(bs),
        ceiling_interval=interval(bs + slopes),
    )


def forecast(entropy: Numbers, score: Numbers, share: float = 0.15) -> Forecast | None:
    """Fit on the first `share` of the points (three at least), predict the rest from their entropy. None with too few points."""
    h, y = np.asarray(entropy, dtype=np.float64), np.asarray(score, dtype=np.float64)
    used = max(3, round(share * len(h)))
    if used >= len(h):
        return None
    slope, b = line(np.exp(h[:used]), y[:used])
    if not np.isfinite(slope):
        return None
    error = y[used:] - (slope * np.exp(h[used:]) + b)
    return Forecast(used, len(h) - used, float(np.sqrt((error**2).mean())))


@dataclass(frozen=True, slots=True)
class AcrossSizes:
    """a and b as lines in the natural logarithm of the parameter count: value = first + second * ln N."""

    a: tuple[float, float]
    b: tuple[float, float]
    sizes: int

    def ceiling(self, parameters: float) -> float:
        """The ceiling that the lines give for a model of this size."""
        log = float(np.log(parameters))
        return (self.b[0] - self.a[0]) + (self.b[1] - self.a[1]) * log


def across_sizes(parameters: Numbers, laws: Sequence[Law]) -> AcrossSizes:
    """Log-linear coefficients (the paper's figure 7), from laws of models of at least two sizes.

    Raises:
        ValueError: all models have the same size.
    """
    x = np.log(np.asarray(parameters, dtype=np.float64))
    lines = []
    for values in ([law.a for law in laws], [law.b for law in laws]):
        slope, first = line(x, np.asarray(values))
        if not np.isfinite(slope):
            raise ValueError("coefficients across sizes need models of at least two sizes")
        lines.append((float(first), float(slope)))
    return AcrossSizes(lines[0], lines[1], int(np.unique(x).size))
