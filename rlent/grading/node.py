r"""The parts of a parsed expression. A new kind of part is one class here and the line of `rlent.grading.parser` that makes it.

Each part has two values: `exact`, a rational where it has one, and `at`, a number of `DIGITS` digits at given values of the variables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from rlent.grading.arithmetic import Exact, NotRational, Point, Undefined, Value, bounded_comb, bounded_factorial


class Node:
    """One part of an expression."""

    __slots__ = ()

    def exact(self, arithmetic: Exact) -> Fraction:
        """The rational value.

        Raises:
            NotRational: there is none.
            Unsupported: it is too large to hold.
            ZeroDivisionError: it is undefined.
        """
        raise NotRational

    def at(self, point: Point) -> Value:
        """The value at a point.

        Raises:
            Undefined: not real there, so that the point shows nothing.
            Unsupported: too large.
            ZeroDivisionError: it is undefined.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Number(Node):
    """A literal: `7`, `0.25`."""

    value: Fraction

    def exact(self, arithmetic: Exact) -> Fraction:
        return arithmetic.keep(self.value)

    def at(self, point: Point) -> Value:
        return point.number(self.value)


@dataclass(frozen=True, slots=True)
class Symbol(Node):
    """A variable: `x`, `a_{1}`, `I(0)`."""

    name: str

    def at(self, point: Point) -> Value:
        return point.number(point.values[self.name])


@dataclass(frozen=True, slots=True)
class Constant(Node):
    r"""`\pi`, `e` or `i`."""

    name: Literal["pi", "e", "i"]

    def at(self, point: Point) -> Value:
        if self.name == "i":
            return point.mp.j
        return (point.mp.pi if self.name == "pi" else point.mp.e) * 1


@dataclass(frozen=True, slots=True)
class Sum(Node):
    """`a + b - c`; a term that is subtracted is a `Negative`."""

    terms: tuple[Node, ...]

    def exact(self, arithmetic: Exact) -> Fraction:
        total = Fraction(0)
        for term in self.terms:
            total = arithmetic.keep(total + term.exact(arithmetic))
        return total

    def at(self, point: Point) -> Value:
        total = self.terms[0].at(point)
        for term in self.terms[1:]:
            total = total + term.at(point)
        return total


@dataclass(frozen=True, slots=True)
class Product(Node):
    """`a b / c`; a factor after a slash is an `Inverse`."""

    factors: tuple[Node, ...]

    def exact(self, arithmetic: Exact) -> Fraction:
        product = Fraction(1)
        for factor in self.factors:
            product = arithmetic.keep(product * factor.exact(arithmetic))
        return product

    def at(self, point: Point) -> Value:
        product = self.factors[0].at(point)
        for factor in self.factors[1:]:
            product = product * factor.at(point)
        return product


@dataclass(frozen=True, slots=True)
class Negative(Node):
    """`-a`."""

    of: Node

    def exact(self, arithmetic: Exact) -> Fraction:
        return -self.of.exact(arithmetic)

    def at(self, point: Point) -> Value:
        return -self.of.at(point)


@dataclass(frozen=True, slots=True)
class Inverse(Node):
    """`1 / a`, of what stands after a slash."""

    of: Node

    def exact(self, arithmetic: Exact) -> Fraction:
        return 1 / self.of.exact(arithmetic)

    def at(self, point: Point) -> Value:
        return 1 / self.of.at(point)


@dataclass(frozen=True, slots=True)
class Quotient(Node):
    r"""`\frac{a}{b}`."""

    top: Node
    bottom: Node

    def exact(self, arithmetic: Exact) -> Fraction:
        return arithmetic.keep(self.top.exact(arithmetic) / self.bottom.exact(arithmetic))

    def at(self, point: Point) -> Value:
        return self.top.at(point) / self.bottom.at(point)


@dataclass(frozen=True, slots=True)
class Absolute(Node):
    """`|a|`."""

    of: Node

    def exact(self, arithmetic: Exact) -> Fraction:
        return abs(self.of.exact(arithmetic))

    def at(self, point: Point) -> Value:
        return abs(self.of.at(point))


@dataclass(frozen=True, slots=True)
class Rounded(Node):
    r"""`\lfloor a \rfloor` or `\lceil a \rceil`."""

    function: Literal["floor", "ceil"]
    of: Node

    def exact(self, arithmetic: Exact) -> Fraction:
        value = self.of.exact(arithmetic)
        return Fraction(math.floor(value) if self.function == "floor" else math.ceil(value))

    def at(self, point: Point) -> Value:
        return point.rounded(self.of.at(point), self.function)


@dataclass(frozen=True, slots=True)
class Degrees(Node):
    r"""`a^\circ`: the number itself, and an angle inside a trigonometric function."""

    of: Node

    def exact(self, arithmetic: Exact) -> Fraction:
        return self.of.exact(arithmetic)

    def at(self, point: Point) -> Value:
        return self.of.at(point) * (point.mp.pi / 180 if point.angle else 1)


@dataclass(frozen=True, slots=True)
class Power(Node):
    """`a^b`."""

    base: Node
    power: Node

    def exact(self, arithmetic: Exact) -> Fraction:
        return arithmetic.power(self.base.exact(arithmetic), self.power.exact(arithmetic))

    def at(self, point: Point) -> Value:
        return point.power(self.base.at(point), self.power.at(point))


@dataclass(frozen=True, slots=True)
class Root(Node):
    r"""`\sqrt[index]{a}`."""

    of: Node
    index: Node

    def exact(self, arithmetic: Exact) -> Fraction:
        index = self.index.exact(arithmetic)
        if index.denominator != 1 or not 2 <= index <= 64:
            raise NotRational
        return arithmetic.root(self.of.exact(arithmetic), index.numerator)

    def at(self, point: Point) -> Value:
        return point.root(self.of.at(point), self.index.at(point))


@dataclass(frozen=True, slots=True)
class Factorial(Node):
    """`a!`."""

    of: Node

    def exact(self, arithmetic: Exact) -> Fraction:
        return arithmetic.keep(bounded_factorial(self.of.exact(arithmetic)))

    def at(self, point: Point) -> Value:
        return point.factorial(self.of.at(point))


@dataclass(frozen=True, slots=True)
class Binomial(Node):
    r"""`\binom{n}{k}`."""

    n: Node
    k: Node

    def exact(self, arithmetic: Exact) -> Fraction:
        return arithmetic.keep(bounded_comb(self.n.exact(arithmetic), self.k.exact(arithmetic)))

    def at(self, point: Point) -> Value:
        return point.mp.binomial(self.n.at(point), self.k.at(point))


@dataclass(frozen=True, slots=True)
class Logarithm(Node):
    r"""`\log_{base} a`."""

    of: Node
    base: Node

    def at(self, point: Point) -> Value:
        return point.log(self.of.at(point)) / point.log(self.base.at(point))


_MPMATH = {"arcsin": "asin", "arccos": "acos", "arctan": "atan"}
_TRIGONOMETRIC = {"sin", "cos", "tan", "cot", "sec", "csc"}
FUNCTIONS = _TRIGONOMETRIC | set(_MPMATH) | {"sinh", "cosh", "tanh", "ln", "log", "exp"}
"""Names of functions of one argument; `log` is natural or decimal, see `rlent.grading.expression.identical`."""


@dataclass(frozen=True, slots=True)
class Call(Node):
    r"""`\sin a` and the other `FUNCTIONS`."""

    name: str
    of: Node

    def at(self, point: Point) -> Value:
        outer, point.angle = point.angle, self.name in _TRIGONOMETRIC
        value = self.of.at(point)
        point.angle = outer
        if self.name == "ln":
            return point.log(value)
        if self.name == "log":
            return point.log(value) / point.log_base
        if self.name in ("arcsin", "arccos") and abs(value) > 1:
            raise Undefined
        return getattr(point.mp, _MPMATH.get(self.name, self.name))(value)
