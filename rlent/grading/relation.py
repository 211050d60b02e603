r"""What an equation or inequality amounts to: a name, a value, a set of numbers.

In the examples `verdict(answer, gold)` is the verdict, or "question" where a worker decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from rlent.grading.expression import evaluate, identical, parse, same_value
from rlent.grading.node import Number
from rlent.grading.parser import Expression
from rlent.grading.structure import Relation, is_name, structure
from rlent.grading.vocabulary import UNDONE

_FLIP = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}


def is_equation(relation: Relation) -> bool:
    r"""Whether it is made of `=`, `\approx` and `\in` alone."""
    return set(relation.ops) <= {"=", "~", "in"}


def name_of_relation(relation: Relation) -> str | None:
    """The name in front of an equation, or behind a single `=`."""
    if is_equation(relation):
        if is_name(relation.parts[0]):
            return relation.parts[0]
        if relation.ops == ("=",) and is_name(relation.parts[1]):
            return relation.parts[1]
    return None


def name_of(text: str) -> str | None:
    """The name in a text that is an equation with a name, else None."""
    shape = structure(text)
    return name_of_relation(shape) if isinstance(shape, Relation) else None


def named_one_by_one(items: tuple[str, ...]) -> bool:
    """Whether items are values of different things.

    >>> named_one_by_one(("x = 1", "y = 2")), named_one_by_one(("x = 1", "x = 2"))
    (True, False)
    """
    names = [name_of(item) for item in items]
    return all(names) and len({re.sub(r"[_^(].*", "", name or "") for name in names}) == len(names)


def difference(relation: Relation) -> Expression | None:
    """Left side minus right side of a relation of two parts."""
    return parse(f"({relation.parts[0]})-({relation.parts[1]})")


def rename_argument(value: str, name: str, wanted: str) -> str | None:
    """`value` with the argument of `name` (`f(t)`) called as in `wanted` (`f(x)`); None where that cannot be done.

    >>> rename_argument("t^2", "f(t)", "f(x)"), rename_argument("t^2 x", "f(t)", "f(x)")
    ('x^2', None)
    """
    old, new = re.search(r"\(([A-Za-z])\)", name), re.search(r"\(([A-Za-z])\)", wanted)
    if not old or not new or old[1] == new[1] or re.search(rf"(?<![\\A-Za-z]){new[1]}(?![A-Za-z])", value):
        return None
    return re.sub(rf"(?<![\\A-Za-z]){old[1]}(?![A-Za-z])", new[1], value)


# --- the value of an equation -----------------------------------------------------------------------------------------


def values(relation: Relation, *, loose: bool) -> list[str]:
    r"""The value that an equation states, and a rounding of it; empty for an equation that is an answer in itself (`2x + z = 1`).

    `name = v`, `v = name`, `name = ... = v`, identities (`1 + 1 = 2`), `x \in S`. After `\approx` comes a rounding: the value is what stands
    before it. loose: the left side may be a sum of letters (`m + n = 42`).

    >>> values(Relation(("x", "1/3", "0.33"), ("=", "~")), loose=False), values(Relation(("2x+z", "1"), ("=",)), loose=False)
    (['1/3', '0.33'], [])
    """
    parts, ops = relation.parts, relation.ops
    if "in" in ops:
        return [parts[1]] if ops == ("in",) and is_name(parts[0]) else []
    if is_name(parts[0]) or (loose and _sum_of_letters(parts[0])):
        return _end_of_chain(relation, 1)
    if ops == ("=",) and is_name(parts[1]):
        return [parts[0]]
    return _end_of_chain(relation, 0) if _calculation(parts) else []


def _end_of_chain(relation: Relation, first: int) -> list[str]:
    """The last part before the first sign of rounding, and the rounding; of a calculation (`first` 0) only when its parts can be equal."""
    parts, ops = relation.parts, relation.ops
    exact = first
    while exact < len(ops) and ops[exact] == "=":
        exact += 1
    if first == 0 and not all(_may_be_equal(parts[0], part) for part in parts[: exact + 1]):
        return []
    return _with_rounding(parts[exact], parts[exact + 1 :], calculated=first == 0)


def _with_rounding(value: str, rest: tuple[str, ...], *, calculated: bool) -> list[str]:
    """A value and the last of the parts after it, when all of these can be roundings of it."""
    if not rest:
        return [value]
    rounded = [_near(value, part) for part in rest]
    if all(rounded):
        return [value, rest[-1]]
    return [] if False in rounded and calculated else [value]


def _calculation(parts: tuple[str, ...]) -> bool:
    """Whether a chain begins with something to compute: a constant, the same as its end, or a sum or integral of a known value."""
    first, last = parts[0], parts[-1]
    return _constant_like(first) or _identity(first, last) or (UNDONE.search(first) is not None and parse(last) is not None)


def _near(exact: str, rounded: str) -> bool | None:
    """Whether a constant can be a rounding of another (within 5 %); None when it is no constant."""
    u, v = parse(exact), parse(rounded)
    if u is None or v is None or u.symbols or v.symbols or (x := evaluate(u)) is None or (y := evaluate(v)) is None:
        return None
    if isinstance(u.node, Number) and isinstance(v.node, Number) and u.decimal is None and v.decimal is None:
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
    return x is None or y is None or same_value(x, y, False, False) is not False


# --- the set of an inequality -----------------------------------------------------------------------------------------


def ascending(relation: Relation) -> Relation:
    """The same chain read from the small side to the large one."""
    if any(op in (">", ">=") for op in relation.ops) and not any(op in ("<", "<=") for op in relation.ops):
        return Relation(relation.parts[::-1], tuple(_FLIP.get(op, op) for op in relation.ops[::-1]))
    return relation


@dataclass(frozen=True, slots=True)
class SpanRule:
    """How to write the set of one kind of ascending chain; `write` returns None for a chain that has no such set."""

    applies: Callable[[Relation], bool]
    write: Callable[[Relation], str | None]


def span(relation: Relation) -> str | None:
    r"""`-2 \le x < 7` as `[-2,7)`: the set a solved inequality in one unknown describes, else None."""
    chain = ascending(relation)
    for rule in SPAN_RULES:
        if rule.applies(chain):
            return rule.write(chain)
    return None


_ABSOLUTE = re.compile(r"\\?\|\s*([A-Za-z])\s*\\?\|")
_TURNED = {"[": "]", "(": ")", "]": "[", ")": "("}


def _bound(text: str) -> bool:
    x = parse(text)
    return (x is not None and not x.symbols) or re.fullmatch(r"[-+]?\s*\\infty", text.strip()) is not None


def _positive(text: str) -> bool:
    """Whether it is a constant above zero."""
    x = parse(text)
    return x is not None and not x.symbols and (value := evaluate(x)) is not None and bool(value.real > 0)


def _below(op: str) -> str:
    """The bracket on the small side of an unknown."""
    return "[" if op == "<=" else "("


def _above(op: str) -> str:
    return "]" if op == "<=" else ")"


def _is_chain(r: Relation) -> bool:
    return len(r.parts) == 3 and set(r.ops) <= {"<", "<="} and _bound(r.parts[0]) and _bound(r.parts[2]) and not _bound(r.parts[1])


def _is_chain_of_absolute(r: Relation) -> bool:
    return _is_chain(r) and re.fullmatch(r"\|\s*([A-Za-z])\s*\|", r.parts[1]) is not None


def _is_one_sided(r: Relation) -> bool:
    return len(r.parts) == 2 and r.ops[0] in ("<", "<=")


def chain_of_absolute(r: Relation) -> str | None:
    r"""An absolute value between two bounds.

    >>> verdict(r"[-3,-2)\cup(2,3]", r"2<|x|\le 3"), verdict("(2,3)", "2<|x|<3")
    (True, 'question')
    """
    low, _, high = r.parts
    if not _positive(low):
        return None
    left, right = _below(r.ops[0]), _above(r.ops[1])
    return rf"{_TURNED[right]}-({high}),-({low}){_TURNED[left]} \cup {left}{low},{high}{right}"


def chain(r: Relation) -> str | None:
    r"""An unknown between two bounds.

    >>> verdict("[-2,7)", r"-2\le x<7"), verdict("(-2,7)", r"-2\le x<7")
    (True, False)
    """
    return f"{_below(r.ops[0])}{r.parts[0]},{r.parts[2]}{_above(r.ops[1])}"


def absolute_below(r: Relation) -> str | None:
    """An absolute value below a positive bound.

    >>> verdict("(-2,2)", "|x|<2"), verdict("(-2,2]", "|x|<2")
    (True, False)
    """
    bound = r.parts[1]
    return f"{_below(r.ops[0])}-({bound}),{bound}{_above(r.ops[0])}" if _positive(bound) else None


def absolute_above(r: Relation) -> str | None:
    r"""An absolute value above a positive bound.

    >>> verdict(r"(-\infty,-2]\cup[2,\infty)", r"|x|\ge 2"), verdict(r"[2,\infty)", r"|x|\ge 2")
    (True, 'question')
    """
    bound = r.parts[0]
    return rf"(-\infty,-({bound}){_above(r.ops[0])} \cup {_below(r.ops[0])}{bound},\infty)" if _positive(bound) else None


def upper_bound(r: Relation) -> str | None:
    r"""An unknown below a bound.

    >>> verdict(r"(-\infty,1)", "x<1"), verdict(r"(-\infty,1]", "x<1")
    (True, False)
    """
    return rf"(-\infty,{r.parts[1]}{_above(r.ops[0])}"


def lower_bound(r: Relation) -> str | None:
    r"""An unknown above a bound.

    >>> verdict(r"[1,\infty)", r"x\ge 1"), verdict(r"(1,\infty)", r"x\ge 1")
    (True, False)
    """
    return rf"{_below(r.ops[0])}{r.parts[0]},\infty)"


def all_but_one(r: Relation) -> str | None:
    r"""An unknown that may be anything except one value.

    >>> verdict(r"(-\infty,1)\cup(1,\infty)", r"x\ne 1"), verdict(r"(-\infty,2)\cup(2,\infty)", r"x\ne 1")
    (True, 'question')
    """
    return rf"(-\infty,{r.parts[1]}) \cup ({r.parts[1]},\infty)"


SPAN_RULES = (
    SpanRule(_is_chain_of_absolute, chain_of_absolute),
    SpanRule(_is_chain, chain),
    SpanRule(lambda r: _is_one_sided(r) and _ABSOLUTE.fullmatch(r.parts[0]) is not None, absolute_below),
    SpanRule(lambda r: _is_one_sided(r) and _ABSOLUTE.fullmatch(r.parts[1]) is not None, absolute_above),
    SpanRule(lambda r: _is_one_sided(r) and _bound(r.parts[1]) and is_name(r.parts[0]), upper_bound),
    SpanRule(lambda r: _is_one_sided(r) and _bound(r.parts[0]) and is_name(r.parts[1]), lower_bound),
    SpanRule(lambda r: r.ops == ("!=",) and _bound(r.parts[1]) and is_name(r.parts[0]), all_but_one),
)
"""The first rule that applies decides, so `|x| < -2` has no set although `|x|` could be a name."""
