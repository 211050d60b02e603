"""Metrics: their definitions, and the functions that compute them from a step's streams."""

from rlent.metrics.compute import step_metrics, update_metrics
from rlent.metrics.definitions import METRICS, Metric, all_metrics, describe, explain

__all__ = ["METRICS", "Metric", "all_metrics", "describe", "explain", "step_metrics", "update_metrics"]
