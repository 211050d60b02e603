"""What every grader has in common: modes, settings, and the protocol a run calls.

A grader turns responses into verdicts, one each, in order, whatever the responses hold. It never raises because of
what a model wrote, and it never runs it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from rlent.types import Problem, Verdict

Mode = Literal["box", "marker", "any"]
MODES: tuple[Mode, ...] = ("box", "marker", "any")

Status = Literal["ok", "no_answer", "unparsed", "limit", "timeout", "crash", "gold_unparsed"]
STATUSES: tuple[Status, ...] = ("ok", "no_answer", "unparsed", "limit", "timeout", "crash", "gold_unparsed")

Method = Literal["string", "choice", "number", "structure", "equation", "symbolic", "any", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GradePolicy:
    """The choices on which sound graders differ.

    strip_think: read only what follows the last `</think>`; thinking that never ends is no answer. None: as the prompt template
        has it, and no where there is none.
    opened: the prompt has opened `<think>` already, so that a response begins inside it.
    decimal_comma: `3,5` is three and a half.
    relation_for_interval: an inequality may answer a gold that is an interval. Off, because the inequality can be the
        question itself; the other direction is always allowed.
    """

    strip_think: bool | None = None
    opened: bool = False
    decimal_comma: bool = False
    relation_for_interval: bool = False

    def for_template(self, opens_thinking: bool) -> GradePolicy:
        """The policy for responses to a template; what it states itself stays."""
        return replace(self, strip_think=True, opened=True) if opens_thinking and self.strip_think is None else self


class Grader(Protocol):
    """What a run needs of a grader. `equal` groups answers for majority votes; `close` gives processes back.

    One whose work is in other processes or on other machines (a sandbox, a model that judges) may have `parallel = True`: it is then called with responses as they finish, several times and
    in another thread, while the engine samples the others, as long as that gains something (`rlent.grading.early`).
    """

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]: ...

    def equal(self, a: str, b: str) -> bool: ...

    def check_golds(self, problems: Sequence[Problem]) -> list[str]: ...

    def close(self) -> None: ...


def accepted(gold: object) -> list[str]:
    """The accepted answers of a problem: one string (or number), or a list of them."""
    if isinstance(gold, (list, tuple, set, frozenset)):
        return [str(one) for one in gold]
    return [] if gold is None else [str(gold)]
