r"""The frame of a comparison: questions, outcomes, rules by shape, and the steps that every rule may use.

A comparison is a generator that yields `Question`s and is sent `Reply`s. A rule is tried on a pair whose two shapes are those of its row;
it returns an outcome, a comparison to go on with, or None to leave the pair to the rows below it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Generic, Literal, TypeVar

from rlent.grading.base import GradePolicy, Method, Status
from rlent.grading.braces import braces_balanced
from rlent.grading.expression import parse, same_value
from rlent.grading.extract import code_shaped
from rlent.grading.limits import too_much
from rlent.grading.normalise import Form, base_number, normalise
from rlent.grading.structure import Series, Shape, structure
from rlent.grading.units import unit_scale
from rlent.grading.vocabulary import UNDONE
from rlent.grading.word_rules import words_decide

Reply = Literal["equal", "different", "unparsed", "gold_unparsed", "timeout", "crash"]
Unclear = Literal["unparsed", "gold_unparsed"]


@dataclass(frozen=True, slots=True)
class Question:
    """Is `answer` the same mathematics as `gold`? Both are LaTeX after normalisation."""

    answer: str
    gold: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a comparison: the verdict, the step that decided, and whether it could be carried out."""

    correct: bool
    method: Method
    status: Status = "ok"


Comparison = Generator[Question, Reply, Outcome]
Attempt = Generator[Question, Reply, Outcome | None]
Decision = Outcome | Attempt | Comparison | None

MAX_ITEMS = 256  # of a list; more is a limit
MAX_UNDONE = 2  # sums, products, integrals and limits in one question
_DEPTH = 6

NO_STRUCTURE = Outcome(False, "structure")
_NOT_MATHEMATICS = re.compile(r"\\(?:ldots|text)(?![A-Za-z])")
_VALUE_AT_ZERO = re.compile(r"(?<![A-Za-z\\])[A-Za-z]\s*\(\s*0\s*\)")


class TooMany(Exception):
    """A comparison that asks too much: too many items, too deep, too many questions."""


A = TypeVar("A", bound=Shape)
G = TypeVar("G", bound=Shape)


@dataclass(frozen=True, slots=True)
class Pair(Generic[A, G]):
    """An answer and a gold: their forms, their shapes, and how deep inside the whole answer they stand."""

    a: Form
    g: Form
    answer: A
    gold: G
    depth: int


@dataclass(frozen=True, slots=True)
class Rule(Generic[A, G]):
    """A row of a table: what to do with an answer and a gold of these shapes, under a condition."""

    answer: type[A]
    gold: type[G]
    decide: Callable[[Comparer, Pair[A, G]], Decision]
    when: Callable[[Pair[A, G]], bool] | None = None

    def applies(self, pair: Pair[Any, Any]) -> bool:
        """Whether the shapes are those of the row, and its condition holds."""
        return isinstance(pair.answer, self.answer) and isinstance(pair.gold, self.gold) and (self.when is None or self.when(pair))


class Comparer:
    """One comparison of a whole answer with a whole gold, under a policy and a table of rules; the first row that decides wins."""

    def __init__(self, policy: GradePolicy, rules: Sequence[Rule[Any, Any]]) -> None:
        self.policy = policy
        self.rules = rules
        self.unclear: Unclear | None = None

    def normal(self, text: str) -> Form:
        """The one spelling of a text under the policy."""
        return normalise(text, self.policy.decimal_comma)

    def texts(self, answer: str, gold: str, depth: int) -> Comparison:
        """Compare two texts; raises `TooMany` when they stand too deep inside the answer."""
        if depth > _DEPTH:
            raise TooMany
        return (yield from self.forms(self.normal(answer), self.normal(gold), depth))

    def forms(self, a: Form, g: Form, depth: int, read: bool = False) -> Comparison:
        """Steps 0 to 3, and then the rules. read: without the step for equal text."""
        if not a.compact or not g.compact:
            return Outcome(False, "none")
        scale = unit_scale(a.unit, g.unit)
        if a.compact == g.compact and scale == 1 and not read:
            return Outcome(True, "string")
        if (decided := words_decide(a, g)) is not None:
            return Outcome(decided, "choice")
        if (refused := _refused(a, g)) is not None:
            return refused
        if scale is None:
            return Outcome(False, "number")
        if (value := compare_values(a, g, a.text, g.text, scale)) is not None:
            return value
        return (yield from self.shapes(Pair(a, g, structure(a.text), structure(g.text), depth)))

    def shapes(self, pair: Pair[Shape, Shape]) -> Comparison:
        """Steps 4 to 6: the first rule that decides."""
        if any(isinstance(shape, Series) and len(shape.items) > MAX_ITEMS for shape in (pair.answer, pair.gold)):
            raise TooMany
        for rule in self.rules:
            if rule.applies(pair):
                decided = rule.decide(self, pair)
                if isinstance(decided, Generator):
                    decided = yield from decided
                if decided is not None:
                    return decided
        return NO_STRUCTURE

    def ordered(self, answers: tuple[str, ...], golds: tuple[str, ...], depth: int) -> Comparison:
        """Equal one by one."""
        if len(answers) != len(golds):
            return NO_STRUCTURE
        if len(answers) > MAX_ITEMS:
            raise TooMany
        for answer, gold in zip(answers, golds, strict=True):
            outcome: Outcome = yield from self.texts(answer, gold, depth + 1)
            if not outcome.correct:
                return Outcome(False, "structure", outcome.status)
        return Outcome(True, "structure")

    def unordered(self, answers: tuple[str, ...], golds: tuple[str, ...], depth: int) -> Comparison:
        """Equal as sets: every element of one side has an equal in the other. Repeats do not count."""
        free = list({self.normal(item).compact: item for item in answers}.values())
        right = list({self.normal(item).compact: item for item in golds}.values())
        status: Status = "ok"
        for gold in right:
            text = self.normal(gold).compact
            free.sort(key=lambda item: self.normal(item).compact != text)  # the same text first (the sort is stable)
            for i, item in enumerate(free):
                outcome: Outcome = yield from self.texts(item, gold, depth + 1)
                if outcome.correct:
                    del free[i]
                    break
                status = outcome.status if outcome.status != "ok" else status
            else:
                return Outcome(False, "structure", status)
        for item in free:  # an element written twice in two ways
            for gold in right:
                if (yield from self.texts(item, gold, depth + 1)).correct:
                    break
            else:
                return Outcome(False, "structure", status)
        return Outcome(True, "structure")

    def ask(self, answer: str, gold: str) -> Comparison:
        """A question for a worker, unless the answer to it is known to be no."""
        both = answer + gold
        if _NOT_MATHEMATICS.search(both):  # words or dots inside mathematics: only the same text is equal
            return Outcome(False, "none")
        if _VALUE_AT_ZERO.search(both):  # the worker would read y(0) as a product
            return Outcome(False, "none")
        if UNDONE.search(answer) and not UNDONE.search(gold):  # the question written down again
            return Outcome(False, "symbolic")
        if max(len(UNDONE.findall(answer)), len(UNDONE.findall(gold))) > MAX_UNDONE:
            return Outcome(False, "none", "limit")
        reply = yield Question(answer, gold)
        return Outcome(reply == "equal", "symbolic")


def _refused(a: Form, g: Form) -> Outcome | None:
    """The verdict on numbers of another base and on what no parser should see, else None."""
    based = base_number(g)
    if based or base_number(a):
        return Outcome(based == base_number(a), "number")
    if code_shaped(a.text) or not braces_balanced(a.text):
        return Outcome(False, "none", "unparsed")
    if too_much(a.text) or too_much(g.text):
        return Outcome(False, "none", "limit")
    return None


def compare_values(a: Form, g: Form, answer: str, gold: str, scale: Fraction = Fraction(1)) -> Outcome | None:
    """Step 3 on the texts of two forms, or of pieces of them: the verdict on two expressions, None when they cannot be told apart."""
    x, y = parse(answer), parse(gold)
    if x is None or y is None:
        return None
    same = same_value(x, y, a.percent, g.percent, scale)
    return None if same is None else Outcome(same, "symbolic" if x.symbols or y.symbols else "number")
