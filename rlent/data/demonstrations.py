"""Demonstrations: responses that come with the data, in a field of the row; countdown problems are solved.

A field is a text, a list of texts, or a conversation, of which the last turn of the assistant counts (LUFFY's and OpenR1's data).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlent.data.countdown import solution
from rlent.data.problems import Problems
from rlent.errors import DataError, did_you_mean
from rlent.grading.countdown import goal
from rlent.types import Problem

AUTO = "auto"
FIELDS = ("demonstration", "demonstrations", "solution", "target")
"""Where demonstrations are looked for when no field is named: the first of these that holds one."""

_SHOWN = 3


def texts(value: object) -> list[str]:
    """The demonstrations that a field holds; none where it is empty or holds something else."""
    if isinstance(value, str):
        return [value] if value.strip() else []
    if not isinstance(value, Sequence) or not value:
        return []
    if all(isinstance(turn, Mapping) for turn in value):
        answers = [turn.get("content") for turn in value if turn.get("role") == "assistant"]
        return texts(answers[-1]) if answers and isinstance(answers[-1], str) else []
    return [text for text in value if text.strip()] if all(isinstance(text, str) for text in value) else []


def written(problem: Problem, field: str = AUTO) -> list[str]:
    """The demonstrations in the fields of a problem's row, in their order."""
    return next((found for name in (FIELDS if field == AUTO else (field,)) if (found := texts(problem.meta.get(name)))), [])


def demonstrations(problem: Problem, field: str = AUTO) -> list[str]:
    """What is written, or, of a countdown problem without a field for it, one right expression. None if there is none."""
    found, wanted = written(problem, field), goal(problem)
    if not found and field == AUTO and wanted:
        target, numbers = wanted
        solved = solution(numbers, target)
        return [solved] if solved else []
    return found


def check(problems: Problems, field: str = AUTO, *, all_of_them: bool = True) -> None:
    """Refuse a set without demonstrations, or (`all_of_them`) with a problem that has none. Nothing is solved.

    Raises:
        DataError: how many lack one, the first of them, and the fields they have.
    """
    lack = [p for p in problems if not written(p, field) and not (field == AUTO and goal(p))]
    if not lack or (not all_of_them and len(lack) < len(problems)):
        return
    fields = list(dict.fromkeys(str(name) for p in lack[:_SHOWN] for name in p.meta))
    looked = f"a field {field!r}{did_you_mean(field, fields)}" if field != AUTO else f"any of {', '.join(FIELDS)}"
    some = ", ".join(p.id for p in lack[:_SHOWN]) + (", ..." if len(lack) > _SHOWN else "")
    advice = "name the field with sampler.field" + (
        ", or leave these problems without one with sampler.missing=skip" if len(lack) < len(problems) else ""
    )
    raise DataError(
        f"{problems.name}: {len(lack)} of {len(problems)} problems have no demonstration in {looked} ({some}; beside prompt, answer and id "
        f"their fields are: {', '.join(fields) or 'none'}). A text, a list of texts or the messages of a conversation are accepted; {advice}"
    )
