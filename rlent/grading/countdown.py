"""The countdown grader: a response is right when it is an expression that uses each number once and equals the target.

The response is parsed to a syntax tree and never executed: only `+ - * /`, parentheses and whole numbers pass, within
limits of length, nesting and digits, and the value is exact (`fractions.Fraction`). A division by zero is a wrong answer.

The extracted answer is a normal form: sums and products are flattened and their operands sorted, so that `5*3+7*2`,
`(2*7)+3*5` and `2*7+(3*5)` are one answer, and `maj@k` or a count of distinct answers sees one idea where there is one.
"""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from rlent.errors import GraderError
from rlent.types import Problem, Verdict

if TYPE_CHECKING:
    from rlent.grading.math import MathGrader

MAX_LENGTH = 256
MAX_NESTING = 32
MAX_DIGITS = 9

_ALLOWED = re.compile(r"[0-9+\-*/() ]+")
_GOLD = re.compile(r"\s*(\d+)\s+from\s+(\d+(?:\s*,\s*\d+)*)\s*")
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_SYMBOLS: dict[type[ast.operator], str] = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


class TooLargeError(ValueError):
    """The text passes a limit, and was not looked at further."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression: its normal form, its value (None: division by zero), and the numbers it uses, sorted."""

    text: str
    value: Fraction | None
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Flat:
    """A value as a sum (`kind` "+") or product ("*") of `plain` and `inverse` operands in normal form; a number has kind ""."""

    kind: str
    plain: tuple[str, ...]
    inverse: tuple[str, ...] = ()

    def __str__(self) -> str:
        if not self.kind:
            return self.plain[0]
        minus = "-" if self.kind == "+" else "/"
        return self.kind.join(sorted(self.plain)) + "".join(minus + x for x in sorted(self.inverse))

    def operands(self, kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The operands as parts of a larger sum or product; another kind becomes one operand, in parentheses where needed."""
        if self.kind == kind:
            return self.plain, self.inverse
        text = str(self)
        return ((f"({text})" if kind == "*" and self.kind == "+" else text,), ())


def _join(left: _Flat, right: _Flat, symbol: str) -> _Flat:
    kind = "+" if symbol in "+-" else "*"
    plain, inverse = left.operands(kind)
    more, less = right.operands(kind)
    if symbol in "-/":
        more, less = less, more
    return _Flat(kind, plain + more, inverse + less)


def _walk(node: ast.expr) -> tuple[_Flat, Fraction | None, tuple[int, ...]]:
    match node:
        case ast.Constant(value=int() as number):
            return _Flat("", (str(number),)), Fraction(number), (number,)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _SYMBOLS:
            symbol = _SYMBOLS[type(op)]
            a_flat, a, a_numbers = _walk(left)
            b_flat, b, b_numbers = _walk(right)
            value: Fraction | None
            if a is None or b is None or (symbol == "/" and b == 0):
                value = None
            else:
                value = {"+": a.__add__, "-": a.__sub__, "*": a.__mul__, "/": a.__truediv__}[symbol](b)
            return _join(a_flat, b_flat, symbol), value, a_numbers + b_numbers
    raise SyntaxError(f"{type(node).__name__} is not allowed")


@lru_cache(maxsize=65_536)
def parse(text: str) -> Expression | None:
    """Read an expression; None when it is not one.

    Raises:
        TooLargeError: longer than 256 characters, nested deeper than 32, or a number of more than 9 digits.
    """
    if not _ALLOWED.fullmatch(text):
        return None
    if len(text) > MAX_LENGTH:
        raise TooLargeError(f"{len(text)} characters")
    depth = deepest = 0
    for char in text:
        depth += (char == "(") - (char == ")")
        deepest = max(deepest, depth)
    if deepest > MAX_NESTING:
        raise TooLargeError(f"nested {deepest} deep")
    if re.search(rf"\d{{{MAX_DIGITS + 1}}}", text):
        raise TooLargeError("a number is too long")
    try:
        flat, value, numbers = _walk(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return Expression(str(flat), value, tuple(sorted(numbers)))


def goal(problem: Problem) -> tuple[int, tuple[int, ...]] | None:
    """Target and sorted numbers of a countdown problem, from `meta` or from a gold such as `29 from 3,5,2,7`; None for another kind."""
    numbers, target = problem.meta.get("numbers"), problem.meta.get("target")
    if isinstance(target, int) and isinstance(numbers, Sequence) and all(isinstance(x, int) for x in numbers):
        return target, tuple(sorted(numbers))
    found = _GOLD.fullmatch(problem.gold) if isinstance(problem.gold, str) else None
    return (int(found[1]), tuple(sorted(map(int, found[2].split(","))))) if found else None


def grade(text: str, target: int, numbers: Sequence[int]) -> Verdict:
    """Judge one expression. `method` is what decided: none, numbers (not each exactly once) or value."""
    if not text.strip():
        return Verdict(False, status="no_answer")
    try:
        expression = parse(text)
    except TooLargeError:
        return Verdict(False, status="limit")
    if expression is None:
        return Verdict(False, status="unparsed")
    if expression.numbers != tuple(sorted(numbers)):
        return Verdict(False, expression.text, "numbers")
    return Verdict(expression.value == target, expression.text, "value")


class CountdownGrader:
    """Grades countdown problems exactly; problems of another kind (a run with `data.path`) go to the mathematics grader.

    `extract` is where the expression is: `whole`, the response is the expression; `tag`, the last `<answer>...</answer>`.
    `others` is the mode of the mathematics grader, which is made only when it is needed.
    """

    def __init__(self, *, extract: Literal["whole", "tag"] = "whole", others: Literal["box", "marker", "any"] = "box") -> None:
        self.extract, self.others = extract, others
        self._math: MathGrader | None = None

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """One verdict per response, in order.

        Raises:
            GraderError: the numbers of responses and problems differ.
        """
        if len(responses) != len(problems):
            raise GraderError(f"{len(responses)} responses for {len(problems)} problems")
        verdicts: list[Verdict | None] = []
        for response, problem in zip(responses, problems, strict=True):
            start, wanted = time.perf_counter(), goal(problem)
            verdict = grade(self._expression(response), *wanted) if wanted else None
            verdicts.append(verdict and _timed(verdict, time.perf_counter() - start))
        rest = [i for i, verdict in enumerate(verdicts) if verdict is None]
        if rest:
            judged = self._mathematics()([responses[i] for i in rest], [problems[i] for i in rest])
            for i, verdict in zip(rest, judged, strict=True):
                verdicts[i] = verdict
        return [verdict for verdict in verdicts if verdict is not None]

    def equal(self, a: str, b: str) -> bool:
        """Whether two extracted answers are the same expression up to the order of operands and needless parentheses."""
        if a == b:
            return True
        try:
            left, right = parse(a), parse(b)
        except TooLargeError:
            return False
        if left is not None and right is not None:
            return left.text == right.text
        return self._math is not None and bool(self._math.equal(a, b))

    def check_golds(self, problems: Sequence[Problem]) -> list[str]:
        """Ids of problems whose gold is not an answer to itself; a countdown problem states its goal and has none."""
        rest = [problem for problem in problems if goal(problem) is None]
        return list(self._mathematics().check_golds(rest)) if rest else []

    def close(self) -> None:
        """Free what the mathematics grader holds, if it was needed."""
        if self._math is not None:
            self._math.close()
            self._math = None

    def _expression(self, response: str) -> str:
        if self.extract == "whole":
            return response
        found = _ANSWER_TAG.findall(response)
        return found[-1] if found else ""

    def _mathematics(self) -> MathGrader:
        if self._math is None:
            from rlent.grading.math import MathGrader

            self._math = MathGrader(mode=self.others)
        return self._math


def _timed(verdict: Verdict, seconds: float) -> Verdict:
    return Verdict(verdict.correct, verdict.answer, verdict.method, verdict.status, seconds)
