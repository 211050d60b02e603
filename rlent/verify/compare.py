"""Comparing numbers, texts, and trees of them with what a vector file states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

RTOL, ATOL = 1e-6, 1e-8
Through = Literal["recipe", "metric", "call", ""]

Tree: TypeAlias = "None | bool | int | float | str | Tensor | NDArray[np.generic] | Sequence[Tree] | Mapping[str, Tree]"
"""What is compared: numbers, texts, arrays, and sequences and mappings of them."""


@dataclass
class Check:
    """One vector's result: the largest error, how many comparisons there were, and what failed.

    `through` says what was run: a function mounted by the composed recipe, a metric, or only functions that a card names under `call:`.
    """

    file: str
    method: str
    reference: str
    error: float = 0.0
    compared: int = 0
    failures: list[str] = field(default_factory=list)
    through: Through = ""

    def compare(self, name: str, found: Tree, expected: Tree, rtol: float = RTOL, atol: float = ATOL) -> None:
        """Compare numbers, element by element; a mismatch is a failure with its place."""
        self.compared += 1
        a, b = np.asarray(_plain(found), dtype=float), np.asarray(_plain(expected), dtype=float)
        if a.shape != b.shape:
            self.failures.append(f"{name}: shape {a.shape}, expected {b.shape}")
            return
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        gap = np.where(same, 0.0, np.abs(a - b))
        gap = np.where(np.isnan(gap), np.inf, gap)
        self.error = max(self.error, float(gap.max(initial=0.0)))
        bad = gap > atol + rtol * np.abs(b)
        if bad.any():
            at = tuple(int(i) for i in np.argwhere(bad)[0])
            where = f" at {list(at)}" if at else ""
            self.failures.append(f"{name}{where}: {a[at]:.10g}, expected {b[at]:.10g} ({int(bad.sum())} of {a.size} differ)")

    def compare_tree(self, name: str, ours: Any, theirs: Tree) -> None:
        """Compare numbers, texts, and lists and mappings of them; of a mapping, what the file states."""
        if isinstance(theirs, Mapping):
            for key, value in theirs.items():
                self.compare_tree(f"{name}/{key}", ours[key], value)
        elif isinstance(theirs, list) and any(isinstance(x, list | Mapping | str) or x is None for x in theirs):
            ours = ours.tolist() if isinstance(ours, Tensor) else list(ours)
            if len(ours) != len(theirs):
                self.failures.append(f"{name}: {len(ours)} elements, expected {len(theirs)}")
            for i, (a, b) in enumerate(zip(ours, theirs, strict=False)):
                self.compare_tree(f"{name}[{i}]", a, b)
        elif isinstance(theirs, str) or theirs is None:
            self.compared += 1
            if ours != theirs:
                self.failures.append(f"{name}: {ours!r}, expected {theirs!r}")
        else:
            self.compare(name, ours, theirs)


def _plain(value: Tree) -> object:
    if isinstance(value, Tensor):
        return value.detach().cpu().numpy()
    return value


def states(tree: Mapping[str, Any], path: str) -> bool:
    """Whether a file states an output; a dotted path leads into a mapping."""
    head, _, rest = path.partition(".")
    return path in tree or (head in tree and isinstance(tree[head], Mapping) and states(tree[head], rest))


def stated(tree: Mapping[str, Any], path: str) -> Tree:
    """The output at a dotted path."""
    head, _, rest = path.partition(".")
    return tree[path] if path in tree else stated(tree[head], rest)
