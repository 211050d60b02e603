"""Vectors of evaluation metrics, which belong to no recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlent.verify.compare import Check, Tree
from rlent.verify.peers import golden_metric
from rlent.verify.vectors import Vector

METRICS = frozenset({"pass_at_k", "maj_at_k", "avg_at_k", "best_at_n_bootstrap", "binomial_interval"})


def compare_metric(vector: Vector, check: Check) -> None:
    """Compare what the file states of a metric, each number within its own tolerance (1e-9 where the file states none)."""

    def walk(name: str, ours: Any, theirs: Tree, limit: float | Mapping[str, float]) -> None:
        if isinstance(theirs, Mapping):
            for key, value in theirs.items():
                if key not in ours:
                    check.failures.append(f"{name}{key}: not computed")
                    continue
                walk(f"{name}{key}/", ours[key], value, limit.get(key, 1e-9) if isinstance(limit, Mapping) else limit)
        else:
            rtol = float(limit) if not isinstance(limit, Mapping) else 1e-9
            check.compare(name.rstrip("/"), ours, theirs, rtol=rtol, atol=rtol)

    walk("", golden_metric(vector.method, vector.config, vector.inputs), vector.outputs, vector.tolerance)
