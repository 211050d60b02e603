"""Deciding that a response is right. `MathGrader` is the one to use; `equal` and `extract.extract` stand on their own.

Names are loaded when first used: the worker processes import this package, and must start without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlent.grading.base import GradePolicy, Grader, Mode
    from rlent.grading.math import MathGrader, equal, grade, grade_batch

_HOME = {
    "GradePolicy": "base", "Grader": "base", "Mode": "base",
    "MathGrader": "math", "equal": "math", "grade": "math", "grade_batch": "math",
}  # fmt: skip

__all__ = ["GradePolicy", "Grader", "MathGrader", "Mode", "equal", "grade", "grade_batch"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
