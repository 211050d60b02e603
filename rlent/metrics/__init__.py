"""Metrics: their definitions, and the functions that compute them from a step's streams (which need torch, so they come late)."""

from typing import TYPE_CHECKING, Any

from rlent.metrics.definitions import METRICS, Metric, all_metrics, describe, explain

if TYPE_CHECKING:
    from rlent.metrics.compute import mismatch_metrics, step_metrics, update_metrics

__all__ = ["METRICS", "Metric", "all_metrics", "describe", "explain", "mismatch_metrics", "step_metrics", "update_metrics"]


def __getattr__(name: str) -> Any:
    if name in ("mismatch_metrics", "step_metrics", "update_metrics"):
        from rlent.metrics import compute

        return getattr(compute, name)
    raise AttributeError(f"module 'rlent.metrics' has no attribute '{name}'")
