r"""When an answer equals a gold. The first step that applies decides.

0. an empty side: no
1. the same text
2. letters and words: compared as words, never as mathematics
3. numbers: exact rationals, then constants to many digits, then expressions at fixed points
4. structure: tuples and intervals in order, sets and lists in any order, matrices by shape, element by element
5. equations and inequalities
6. symbolic: a question for a worker

Steps 0 to 5 run here. Step 6 is a question: `compare` is a generator that yields `Question`s and is sent `Reply`s, so
that one caller can keep many comparisons open and many workers busy. `settle` runs one comparison to its end.

Where both readings are possible the answer is no: a false negative costs one sample, a false positive is found and
repeated by the policy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from rlent.grading.base import GradePolicy, Method, Status
from rlent.grading.expression import Expression, equal_constants, evaluate, identical, parse, proportional
from rlent.grading.extract import code_shaped
from rlent.grading.limits import too_much
from rlent.grading.normalise import MAX_ANSWER, Form, base_number, choice, normalise
from rlent.grading.structure import (
    Described,
    Matrix,
    Plain,
    Ratio,
    Relation,
    Series,
    Structure,
    Tuple_,
    Union_,
    braces_balanced,
    is_function_name,
    is_name,
    structure,
)

Reply = Literal["equal", "different", "unparsed", "gold_unparsed", "timeout", "crash"]


@dataclass(frozen=True, slots=True)
class Question:
    """Is `answer` the same mathematics as `gold`? Both are LaTeX after normalisation."""

    answer: str
    gold: str


@dataclass(frozen=True, slots=True)
class Outcome:
    correct: bool
    method: Method
    status: Status = "ok"


Comparison = Generator[Question, Reply, Outcome]

MAX_ITEMS = 256  # of a list; more is a limit
MAX_QUESTIONS = 64  # of one comparison
MAX_UNDONE = 2  # sums, products, integrals and limits in one of them
_DEPTH = 6


class _TooMany(Exception):
    """A comparison that asks too much: too many items, too deep, too many questions."""


def compare(answer: str, gold: str, policy: GradePolicy = GradePolicy(), *, read: bool = False) -> Comparison:
    """Compare an extracted answer with one accepted answer. Yields questions, returns an `Outcome`.

    read: leave out the first step for the whole answer, so that the mathematics must be read (to check golds).
    """
    if answer.strip() and answer.strip() == gold.strip() and not read:
        return Outcome(True, "string")
    if len(answer) > MAX_ANSWER or len(gold) > MAX_ANSWER:
        return Outcome(False, "none", "limit")
    comparison = _Comparer(policy)
    a, g = normalise(answer, policy.decimal_comma), normalise(gold, policy.decimal_comma)
    inner = comparison.forms(a, g, 0, read=read)
    asked = 0
    reply: Reply | None = None
    try:
        question = next(inner)
        while True:
            asked += 1
            if asked > MAX_QUESTIONS:
                raise _TooMany
            reply = yield question
            if reply in ("timeout", "crash"):
                return Outcome(False, "symbolic", reply)
            comparison.unclear = comparison.unclear or (reply if reply in ("unparsed", "gold_unparsed") else None)
            question = inner.send(reply)
    except StopIteration as stop:
        outcome: Outcome = stop.value
    except (_TooMany, RecursionError):
        return Outcome(False, "none", "limit")
    if not outcome.correct and outcome.status == "ok" and comparison.unclear:
        return Outcome(False, outcome.method, comparison.unclear)
    return outcome


def settle(comparison: Comparison, ask: Callable[[Question], Reply]) -> Outcome:
    """Run one comparison to its end; `ask` answers its questions."""
    try:
        question = next(comparison)
        while True:
            question = comparison.send(ask(question))
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


_YES_STRING = Outcome(True, "string")
_NO_STRUCTURE = Outcome(False, "structure")
_CLAUSE = re.compile(
    r"\s*,?\s*(?:\\text\{\s*,?\s*(?:for|where|with|when|if)\b.*|\b(?:for|where|when)\s+(?:all|some|any|every|[a-z]\b).*|,\s*[a-z]\s*\\in\s*\\mathbb\{[ZN]\}.*)$"
)
_ALTERNATIVE = re.compile(r"\b(?:if|otherwise|else|or)\b")
_UNDONE = re.compile(r"\\(?:int|iint|iiint|oint|sum|prod|lim)(?![A-Za-z])")
_FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


class _Comparer:
    def __init__(self, policy: GradePolicy) -> None:
        self.policy = policy
        self.unclear: Literal["unparsed", "gold_unparsed"] | None = None

    def texts(self, answer: str, gold: str, depth: int) -> Comparison:
        if depth > _DEPTH:
            raise _TooMany
        comma = self.policy.decimal_comma
        return (yield from self.forms(normalise(answer, comma), normalise(gold, comma), depth))

    def forms(self, a: Form, g: Form, depth: int, read: bool = False) -> Comparison:
        if not a.compact or not g.compact:
            return Outcome(False, "none")
        scale = _unit_scale(a, g)
        if a.compact == g.compact and scale == 1 and not read:
            return _YES_STRING
        if (decided := _words(a, g)) is not None:
            return decided
        based = base_number(g)
        if based or base_number(a):
            return Outcome(based == base_number(a), "number")
        if code_shaped(a.text) or not braces_balanced(a.text):
            return Outcome(False, "none", "unparsed")
        if too_much(a.text) or too_much(g.text):
            return Outcome(False, "none", "limit")
        if scale is None:
            return Outcome(False, "number")
        x, y = parse(a.text), parse(g.text)
        if x is not None and y is not None and (same := _expressions(x, y, a.percent, g.percent, scale)) is not None:
            return Outcome(same, "number" if not x.symbols | y.symbols else "symbolic")
        return (yield from self.structures(a, g, structure(a.text), structure(g.text), depth))

    # --- structure --------------------------------------------------------------------------------------------------

    def structures(self, a: Form, g: Form, sa: Structure, sg: Structure, depth: int) -> Comparison:
        if isinstance(sa, Series) and len(sa.items) > MAX_ITEMS or isinstance(sg, Series) and len(sg.items) > MAX_ITEMS:
            raise _TooMany
        clause_a, clause_g = _CLAUSE.search(a.text), _CLAUSE.search(g.text)
        if (clause_a is None) != (clause_g is None) and depth < 2:
            if clause_a and _ALTERNATIVE.search(clause_a[0]):
                return _NO_STRUCTURE
            short_a = a.text[: clause_a.start()] if clause_a else a.text
            short_g = g.text[: clause_g.start()] if clause_g else g.text
            if short_a and short_g:
                return (yield from self.texts(short_a, short_g, depth + 2))
        if isinstance(sa, Described) or isinstance(sg, Described):
            return (yield from self.described(a, g, sa, sg, depth))
        if isinstance(sa, Series) and (zipped := _zipped(sg)) or isinstance(sg, Series) and (zipped := _zipped(sa)):
            pair = (sa, zipped) if isinstance(sa, Series) else (zipped, sg)
            return (yield from self.series(*pair, depth))  # type: ignore[arg-type]
        if isinstance(sg, Series) and isinstance(sa, Tuple_) and (sa.open, sa.close) == ("(", ")") and _named_one_by_one(sg.items):
            return (yield from self.ordered(sa.items, sg.items, depth))
        if isinstance(sa, Relation) or isinstance(sg, Relation):
            return (yield from self.relations(a, g, sa, sg, depth))
        if isinstance(sa, Series) and isinstance(sg, Series):
            return (yield from self.series(sa, sg, depth))
        if isinstance(sa, Tuple_) and isinstance(sg, Tuple_):
            if (sa.open, sa.close) != (sg.open, sg.close):
                return _NO_STRUCTURE
            return (yield from self.ordered(sa.items, sg.items, depth))
        if isinstance(sa, Matrix) and isinstance(sg, Matrix):
            if [len(row) for row in sa.rows] != [len(row) for row in sg.rows]:
                return _NO_STRUCTURE
            flat_a = tuple(cell for row in sa.rows for cell in row)
            flat_g = tuple(cell for row in sg.rows for cell in row)
            return (yield from self.ordered(flat_a, flat_g, depth))
        if isinstance(sa, Ratio) and isinstance(sg, Ratio):
            same_parts: Outcome = yield from self.ordered(sa.parts, sg.parts, depth)
            if same_parts.correct or not len(sa.parts) == len(sg.parts) == 2:
                return same_parts
            left, right = (rf"\frac{{{ratio.parts[0]}}}{{{ratio.parts[1]}}}" for ratio in (sa, sg))
            return (yield from self.texts(left, right, depth + 1))
        if isinstance(sa, Ratio) != isinstance(sg, Ratio) and isinstance(sa, Ratio | Plain) and isinstance(sg, Ratio | Plain):
            ratio = sa if isinstance(sa, Ratio) else sg
            if isinstance(ratio, Ratio) and len(ratio.parts) == 2:
                quotient = rf"\frac{{{ratio.parts[0]}}}{{{ratio.parts[1]}}}"
                pair = (quotient, g.text) if isinstance(sa, Ratio) else (a.text, quotient)
                return (yield from self.texts(*pair, depth + 1))
            return _NO_STRUCTURE
        # a bare list may stand for a tuple of three or more in the same order; of two it could be an interval
        if isinstance(sa, Series) and isinstance(sg, Tuple_) and sa.bare and len(sg.items) > 2 and (sg.open, sg.close) == ("(", ")"):
            return (yield from self.ordered(sa.items, sg.items, depth))
        if isinstance(sg, Series) and not sg.bare and len(sg.items) == 1 and isinstance(sa, Plain):
            return (yield from self.texts(sa.text, sg.items[0], depth + 1))
        if isinstance(sa, Series) and not sa.bare and len(sa.items) == 1 and isinstance(sg, Plain):
            return (yield from self.texts(sa.items[0], sg.text, depth + 1))
        if _is_set(sa) and _is_set(sg):
            if isinstance(sg, Series) and isinstance(sa, Union_) and (spans := self._spans(sg)) is not None:
                return (yield from self.unordered(sa.parts, spans, depth))
            if isinstance(sa, Union_) and isinstance(sg, Union_):
                same: Outcome = yield from self.unordered(sa.parts, sg.parts, depth)
                if same.correct:
                    return same
            elif not isinstance(sa, Plain) and not isinstance(sg, Plain):
                if not (isinstance(sa, Union_ | Tuple_) and isinstance(sg, Union_ | Tuple_)) or type(sa) is type(sg):
                    return _NO_STRUCTURE
            return (yield from self.ask(a.text, g.text))
        if isinstance(sa, Plain) and isinstance(sg, Plain):
            # parentheses around one value were read through by `structure`
            x, y = parse(sa.text), parse(sg.text)
            if x is not None and y is not None and (same_value := _expressions(x, y, a.percent, g.percent, Fraction(1))) is not None:
                return Outcome(same_value, "symbolic" if x.symbols or y.symbols else "number")
            return (yield from self.ask(sa.text, sg.text))
        if (isinstance(sa, Plain) and isinstance(sg, Matrix) and parse(sa.text) is None) or (
            isinstance(sa, Matrix) and isinstance(sg, Plain) and parse(sg.text) is None
        ):
            return (yield from self.ask(a.text, g.text))
        return _NO_STRUCTURE

    def described(self, a: Form, g: Form, sa: Structure, sg: Structure, depth: int) -> Comparison:
        """Sets by a condition: as the set that the condition solves to, else condition against condition."""
        if isinstance(sa, Described) and isinstance(sg, Described):
            if sa.name == sg.name:
                return (yield from self.texts(sa.condition, sg.condition, depth + 1))
            return _NO_STRUCTURE
        one, other = (sa, sg) if isinstance(sa, Described) else (sg, sa)
        if not isinstance(one, Described) or not (_is_set(other) or isinstance(other, Relation)):
            return _NO_STRUCTURE
        if isinstance(sg, Described) and isinstance(other, Relation):  # the condition alone
            return (yield from self.texts(a.text, one.condition, depth + 1))
        shape = structure(normalise(one.condition).text)
        span = _span(shape) if isinstance(shape, Relation) else None
        if span is None:
            return (yield from self.ask(a.text, g.text))
        return (yield from (self.texts(span, g.text, depth + 1) if one is sa else self.texts(a.text, span, depth + 1)))

    def ordered(self, answers: tuple[str, ...], golds: tuple[str, ...], depth: int) -> Comparison:
        if len(answers) != len(golds):
            return _NO_STRUCTURE
        if len(answers) > MAX_ITEMS:
            raise _TooMany
        for answer, gold in zip(answers, golds, strict=True):
            outcome: Outcome = yield from self.texts(answer, gold, depth + 1)
            if not outcome.correct:
                return Outcome(False, "structure", outcome.status)
        return Outcome(True, "structure")

    def series(self, sa: Series, sg: Series, depth: int) -> Comparison:
        if not any(_name_of(item) for item in sa.items) and _named_one_by_one(sg.items):
            return (yield from self.ordered(sa.items, sg.items, depth))  # values without names must come in that order
        return (yield from self.unordered(sa.items, sg.items, depth))

    def unordered(self, answers: tuple[str, ...], golds: tuple[str, ...], depth: int) -> Comparison:
        """Equal as sets: every element of one side has an equal in the other. Repeats do not count."""
        comma = self.policy.decimal_comma
        left = list({normalise(item, comma).compact: item for item in answers}.values())
        right = list({normalise(item, comma).compact: item for item in golds}.values())
        status: Status = "ok"
        free = list(left)
        for gold in right:
            text = normalise(gold, comma).compact
            free.sort(key=lambda item: normalise(item, comma).compact != text)  # the same text first (the sort is stable)
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

    # --- equations and inequalities ---------------------------------------------------------------------------------

    def relations(self, a: Form, g: Form, sa: Structure, sg: Structure, depth: int) -> Comparison:
        equation_a = isinstance(sa, Relation) and set(sa.ops) <= {"=", "~", "in"}
        equation_g = isinstance(sg, Relation) and set(sg.ops) <= {"=", "~", "in"}
        if isinstance(sa, Relation) and isinstance(sg, Relation):
            if equation_a and equation_g:
                return (yield from self.equations(sa, sg, depth))
            if not equation_a and not equation_g:
                return (yield from self.inequalities(a, g, sa, sg, depth))
            if equation_g and sg.ops == ("in",) and (span := _span(sa)) is not None:
                return (yield from self.texts(span, sg.parts[1], depth + 1))
            if equation_a and sa.ops == ("in",) and (span := _span(sg)) is not None:
                return (yield from self.texts(sa.parts[1], span, depth + 1))
            return Outcome(False, "equation")
        if equation_g and isinstance(sg, Relation):
            for value in _values(sg, loose=False):
                outcome: Outcome = yield from self.texts(a.text, value, depth + 1)
                if outcome.correct or outcome.status != "ok":
                    return Outcome(outcome.correct, outcome.method, outcome.status)
            return Outcome(False, "equation")
        if equation_a and isinstance(sa, Relation):
            number = (y := parse(g.text)) is not None and not y.symbols
            for value in _values(sa, loose=number):
                outcome = yield from self.texts(value, g.text, depth + 1)
                if outcome.correct or outcome.status != "ok":
                    return Outcome(outcome.correct, outcome.method, outcome.status)
            return Outcome(False, "equation")
        if isinstance(sg, Relation):  # an inequality, answered by a set
            if not _is_set(sa):
                return Outcome(False, "equation")
            if (span := _span(sg)) is not None:
                return (yield from self.texts(a.text, span, depth + 1))
            return (yield from self.ask(a.text, g.text))
        if isinstance(sa, Relation) and self.policy.relation_for_interval and _is_set(sg) and (span := _span(sa)) is not None:
            return (yield from self.texts(span, g.text, depth + 1))
        return Outcome(False, "equation")

    def _spans(self, series: Series) -> tuple[str, ...] | None:
        """`x < 1 \\text{ or } x > 7` as intervals."""
        spans = []
        for item in series.items:
            shape = structure(item)
            span = _span(shape) if isinstance(shape, Relation) else None
            if span is None:
                return None
            spans.append(span)
        return tuple(spans)

    def equations(self, sa: Relation, sg: Relation, depth: int) -> Comparison:
        name_a, name_g = _name_of_relation(sa), _name_of_relation(sg)
        if name_a and name_g:
            same = _plain(name_a) == _plain(name_g)
            value_a, value_g = _values(sa, loose=False), _values(sg, loose=False)
            if (same or (is_function_name(name_a) and is_function_name(name_g))) and value_a and value_g:
                answer = value_a[0]
                if not same and (renamed := _rename_argument(answer, name_a, name_g)) is not None:
                    answer = renamed
                return (yield from self.texts(answer, value_g[0], depth + 1))
        if len(sa.parts) == len(sg.parts) == 2 and sa.ops == sg.ops == ("=",):
            x, y = _difference(sa), _difference(sg)
            if x is not None and y is not None:
                ratio = proportional(x, y)
                if ratio is not None:
                    return Outcome(ratio is not False and ratio != 0, "equation")
            return (yield from self.ask(" = ".join(sa.parts), " = ".join(sg.parts)))
        if name_a and name_g:
            return Outcome(False, "equation")
        value_a, value_g = _values(sa, loose=False), _values(sg, loose=False)
        if value_a and value_g and not (name_a or name_g):
            return (yield from self.texts(value_a[0], value_g[0], depth + 1))
        return Outcome(False, "equation")

    def inequalities(self, a: Form, g: Form, sa: Relation, sg: Relation, depth: int) -> Comparison:
        ra, rg = _ascending(sa), _ascending(sg)
        if ra.ops == rg.ops and len(ra.parts) > 1:
            outcome: Outcome = yield from self.ordered(ra.parts, rg.parts, depth)
            if outcome.correct:
                return Outcome(True, "equation")
            if len(ra.parts) > 2:
                return Outcome(False, "equation", outcome.status)
        if len(ra.parts) == len(rg.parts) == 2:
            if ra.ops != rg.ops:
                return Outcome(False, "equation")
            x, y = _difference(ra), _difference(rg)
            if x is not None and y is not None:
                ratio = proportional(x, y)
                if ratio is not None:
                    real = ratio is not False and getattr(ratio, "imag", 0) == 0
                    return Outcome(bool(real and (ratio != 0 if ra.ops == ("!=",) else ratio.real > 0)), "equation")
        if (span_a := _span(sa)) is not None and (span_g := _span(sg)) is not None:  # |x| < 2 and -2 < x < 2
            return (yield from self.texts(span_a, span_g, depth + 1))
        return (yield from self.ask(a.text, g.text))

    # --- symbolic ---------------------------------------------------------------------------------------------------

    def ask(self, answer: str, gold: str) -> Comparison:
        if re.search(r"\\(?:ldots|text)(?![A-Za-z])", answer + gold):  # words or dots inside mathematics: only the same text is equal
            return Outcome(False, "none")
        if re.search(r"(?<![A-Za-z\\])[A-Za-z]\s*\(\s*0\s*\)", answer + gold):  # the worker would read y(0) as a product
            return Outcome(False, "none")
        if _UNDONE.search(answer) and not _UNDONE.search(gold):  # the question written down again
            return Outcome(False, "symbolic")
        if max(len(_UNDONE.findall(answer)), len(_UNDONE.findall(gold))) > MAX_UNDONE:
            return Outcome(False, "none", "limit")
        reply = yield Question(answer, gold)
        return Outcome(reply == "equal", "symbolic")


# --- pieces -----------------------------------------------------------------------------------------------------------


def _words(a: Form, g: Form) -> Outcome | None:
    """Step 2: a verdict when the gold is a letter or words, or the answer is words and the gold is not; else None."""
    letters_a, letters_g = (re.sub(r"[()\s]", "", form.compact.replace("and", ",")) for form in (a, g))
    if _LETTERS.fullmatch(letters_a) and _LETTERS.fullmatch(letters_g) and ("," in letters_a or "," in letters_g):  # several choices
        return Outcome(set(letters_a) - {","} == set(letters_g) - {","}, "choice")
    if re.fullmatch(r"[\(\[]?[A-J][\)\]]?[.:]?", g.compact) or (g.quoted and choice(g)) or re.match(r"\([A-J]\)", g.compact):
        letter = choice(g)
        if structure(a.text).__class__ is Relation:
            return None
        return Outcome(choice(a).upper() == letter.upper() != "", "choice")
    if re.fullmatch(r"\([a-j]\)", g.compact):
        return Outcome(choice(a) == choice(g), "choice")
    if g.words:
        if a.words == g.words or _bare_words(a) == _bare_words(g) != "":
            return Outcome(True, "choice")
        left, right = _word_list(a.words), _word_list(g.words)
        if len(right) > 1 and len(left) > 1:
            return Outcome(left == right, "choice")
        if not g.quoted and len(g.compact) <= 4 and sorted(g.compact) == sorted(a.compact):
            return None  # `abc` may be a product of three variables
        if structure(a.text).__class__ is Relation or a.text.count("\\") > 0 and not a.words:
            return None if not g.quoted and len(g.compact) <= 4 else Outcome(False, "choice")
        return Outcome(False, "choice")
    if a.words and (a.quoted or len(a.words) > 4 or " " in a.words) and not re.search(r"\\text", g.text):
        return Outcome(False, "choice")
    return None


_LETTERS = re.compile(r"[A-J](?:,?[A-J])+")


def _word_list(words: str) -> list[str]:
    return sorted(filter(None, (word.strip() for word in re.split(r",|;|\band\b|\bor\b", words))))


def _bare_words(form: Form) -> str:
    return re.sub(r"^(?:the|a|an) ", "", re.sub(r"[^\w ]", "", form.words)).replace(" ", "")


def _unit_scale(a: Form, g: Form) -> Fraction | None:
    """What one unit of the gold is in units of the answer; 1 when at most one side has a known unit; None: incompatible."""
    if a.unit is None or g.unit is None or a.unit == g.unit:
        return Fraction(1)
    if a.unit[0] != g.unit[0] or a.unit[2] != g.unit[2]:
        return None
    return Fraction((g.unit[1] / a.unit[1]) ** a.unit[2])


def _expressions(x: Expression, y: Expression, percent_x: bool, percent_y: bool, scale: Fraction) -> bool | None:
    """Step 3. A value with a percent sign equals the bare number and its hundredth; without a sign 10 and 0.1 differ."""
    if x.symbols or y.symbols:
        return identical(x, y)
    same = equal_constants(x, y, scale=scale)
    if same or percent_x == percent_y:
        return same
    other = equal_constants(x, y, scale=Fraction(100)) if percent_x else equal_constants(x, y, scale=Fraction(1, 100))
    return True if other else (None if same is None or other is None else False)


def _is_set(shape: Structure) -> bool:
    if isinstance(shape, Series | Union_) or (isinstance(shape, Tuple_) and len(shape.items) == 2):
        return True
    return isinstance(shape, Plain) and re.search(r"\\(?:mathbb|setminus|emptyset|cap)(?![A-Za-z])|^\\\{", shape.text) is not None


def _plain(text: str) -> str:
    return normalise(text).compact


def _name_of_relation(relation: Relation) -> str | None:
    if set(relation.ops) <= {"=", "~", "in"}:
        if is_name(relation.parts[0]):
            return relation.parts[0]
        if relation.ops == ("=",) and is_name(relation.parts[1]):
            return relation.parts[1]
    return None


def _name_of(text: str) -> str | None:
    shape = structure(text)
    return _name_of_relation(shape) if isinstance(shape, Relation) else None


def _named_one_by_one(items: tuple[str, ...]) -> bool:
    """`x = 1, y = 2`: values of different things."""
    names = [_name_of(item) for item in items]
    return all(names) and len({re.sub(r"[_^(].*", "", name or "") for name in names}) == len(names)


def _zipped(shape: Structure) -> Series | None:
    """`(a, b) = (1, 2)` as `a = 1, b = 2`, else None."""
    if not isinstance(shape, Relation) or shape.ops != ("=",):
        return None
    names, values = structure(shape.parts[0]), structure(shape.parts[1])
    if (
        not isinstance(names, Tuple_)
        or not isinstance(values, Tuple_)
        or len(names.items) != len(values.items)
        or not is_name(shape.parts[0])
    ):
        return None
    return Series(tuple(f"{name} = {value}" for name, value in zip(names.items, values.items, strict=True)))


def _values(relation: Relation, *, loose: bool) -> list[str]:
    """What an equation says the value is; empty for an equation that is an answer in itself (`2x + z = 1`).

    `name = v`, `v = name`, `name = ... = v`, identities (`1 + 1 = 2`), `x \\in S`. After `\\approx` comes a rounding: the
    value is what stands before it. loose: the left side may be a sum of letters (`m + n = 42`).
    """
    parts, ops = list(relation.parts), list(relation.ops)
    if "in" in ops:
        return [parts[1]] if ops == ["in"] and is_name(parts[0]) else []
    if is_name(parts[0]) or (loose and _sum_of_letters(parts[0])):
        first = 1
    elif len(parts) == 2 and ops == ["="] and is_name(parts[1]):
        return [parts[0]]
    elif _constant_like(parts[0]) or _identity(parts[0], parts[-1]) or (_UNDONE.search(parts[0]) and parse(parts[-1]) is not None):
        first = 0
    else:
        return []
    exact = first
    while exact < len(ops) and ops[exact] == "=":
        exact += 1
    value = parts[exact]
    if first == 0 and not all(_may_be_equal(parts[0], part) for part in parts[: exact + 1]):
        return []
    if exact + 1 == len(parts):
        return [value]
    rounded = [_near(value, part) for part in parts[exact + 1 :]]
    if all(rounded):
        return [value, parts[-1]]
    return [] if False in rounded and first == 0 else [value]


def _near(exact: str, rounded: str) -> bool | None:
    """Whether a constant can be a rounding of another (within 5 %); None when it is no constant."""
    u, v = parse(exact), parse(rounded)
    if u is None or v is None or u.symbols or v.symbols or (x := evaluate(u)) is None or (y := evaluate(v)) is None:
        return None
    if u.node[0] == v.node[0] == "num" and u.decimal is None and v.decimal is None:
        return bool(x == y)  # a whole number is not the rounding of another
    return bool(abs(x - y) * 20 <= abs(x))


def _sum_of_letters(text: str) -> bool:
    bare = re.sub(r"_\{[^{}]*\}", "", text)
    return re.fullmatch(r"(?:[A-Za-z+\- ]|\\(?:alpha|beta|gamma|angle|cdot) ?)+", bare) is not None


def _constant_like(text: str) -> bool:
    """No variable in sight: digits and commands only."""
    bare = re.sub(r"\\(?:begin|end)\{[a-z]+\}|\\[A-Za-z]+", " ", text)
    return re.search(r"[A-Za-df-hj-z]", bare) is None and re.search(r"\d", bare) is not None


def _identity(first: str, last: str) -> bool:
    x, y = parse(first), parse(last)
    return x is not None and y is not None and identical(x, y) is True


def _may_be_equal(first: str, other: str) -> bool:
    x, y = parse(first), parse(other)
    return x is None or y is None or _expressions(x, y, False, False, Fraction(1)) is not False


def _difference(relation: Relation) -> Expression | None:
    return parse(f"({relation.parts[0]})-({relation.parts[1]})")


def _ascending(relation: Relation) -> Relation:
    """The same chain read from the small side to the large one."""
    if any(op in (">", ">=") for op in relation.ops) and not any(op in ("<", "<=") for op in relation.ops):
        return Relation(relation.parts[::-1], tuple(_FLIP.get(op, op) for op in relation.ops[::-1]))
    return relation


def _span(relation: Relation) -> str | None:
    """`-2 \\le x < 7` as `[-2,7)`: the set a solved inequality in one unknown describes, else None."""
    r = _ascending(relation)
    parts, ops = r.parts, r.ops
    if len(parts) == 3 and set(ops) <= {"<", "<="} and _bound(parts[0]) and _bound(parts[2]) and not _bound(parts[1]):
        left, right = "[" if ops[0] == "<=" else "(", "]" if ops[1] == "<=" else ")"
        low, high = parts[0], parts[2]
        if m := re.fullmatch(r"\|\s*([A-Za-z])\s*\|", parts[1]):
            x = parse(low)
            if x is None or (value := evaluate(x)) is None or not value.real > 0:
                return None
            flip = {"[": "]", "(": ")", "]": "[", ")": "("}
            return rf"{flip[right]}-({high}),-({low}){flip[left]} \cup {left}{low},{high}{right}" if m else None
        return f"{left}{low},{high}{right}"
    if len(parts) == 2 and ops[0] in ("<", "<=") and (inner := _absolute(parts[0]) or _absolute(parts[1])):
        low = inner != _absolute(parts[0])  # 2 < |x|
        bound = parts[0] if low else parts[1]
        x = parse(bound)
        if x is None or x.symbols or (value := evaluate(x)) is None or not value.real > 0:
            return None
        left, right = ("[", "]") if ops[0] == "<=" else ("(", ")")
        return rf"(-\infty,-({bound}){right} \cup {left}{bound},\infty)" if low else f"{left}-({bound}),{bound}{right}"
    if len(parts) == 2 and ops[0] in ("<", "<="):
        if _bound(parts[1]) and is_name(parts[0]):
            return rf"(-\infty,{parts[1]}{']' if ops[0] == '<=' else ')'}"
        if _bound(parts[0]) and is_name(parts[1]):
            return rf"{'[' if ops[0] == '<=' else '('}{parts[0]},\infty)"
    if len(parts) == 2 and ops == ("!=",) and _bound(parts[1]) and is_name(parts[0]):
        return rf"(-\infty,{parts[1]}) \cup ({parts[1]},\infty)"
    return None


def _absolute(text: str) -> str | None:
    m = re.fullmatch(r"\\?\|\s*([A-Za-z])\s*\\?\|", text)
    return m[1] if m else None


def _bound(text: str) -> bool:
    x = parse(text)
    return (x is not None and not x.symbols) or re.fullmatch(r"[-+]?\s*\\infty", text.strip()) is not None


def _rename_argument(value: str, name: str, wanted: str) -> str | None:
    """`value` with the argument of `name` (`f(t)`) called as in `wanted` (`f(x)`)."""
    old, new = re.search(r"\(([A-Za-z])\)", name), re.search(r"\(([A-Za-z])\)", wanted)
    if not old or not new or old[1] == new[1] or re.search(rf"(?<![\\A-Za-z]){new[1]}(?![A-Za-z])", value):
        return None
    return re.sub(rf"(?<![\\A-Za-z]){old[1]}(?![A-Za-z])", new[1], value)
