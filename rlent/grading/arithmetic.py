"""The two arithmetics in which an expression is evaluated: exact rationals, and `DIGITS` digits at one point.

Every size is bounded: bits of a rational, bits of all rationals of one evaluation together, exponents, factorials.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, Literal

import mpmath

DIGITS = 50
_MAX_BITS = 1 << 16
_MAX_WORK = 1 << 20
_MAX_ROOT_BITS = 4096
MAX_FACTORIAL = 4000

Value = Any
"""A real or complex number of `mpmath`, which has no types."""

context = mpmath.mp.clone()
context.dps = DIGITS
lock = threading.Lock()
"""Held by whoever computes with `context`: mpmath changes the precision of a context while it works."""


class Unsupported(Exception):
    """Not in the grammar, ambiguous, or too large."""


class NotRational(Exception):
    """The expression is understood and has no exact rational value here."""


class Undefined(Exception):
    """Not real at this point (an even root or logarithm of a negative number): nothing follows from the point."""


class Exact:
    """Rational arithmetic with a bound on the size of every number and of all of them together."""

    def __init__(self) -> None:
        self.work = 0

    def keep(self, value: Fraction) -> Fraction:
        """The value, if it is small enough; raises `Unsupported` otherwise."""
        bits = value.numerator.bit_length() + value.denominator.bit_length()
        self.work += bits
        if bits > _MAX_BITS or self.work > _MAX_WORK:
            raise Unsupported("too large")
        return value

    def power(self, base: Fraction, power: Fraction) -> Fraction:
        """`base ** power`; raises `NotRational` for an irrational root."""
        if power.denominator != 1:
            return self.root(self._whole_power(base, power.numerator), power.denominator)
        return self._whole_power(base, power.numerator)

    def _whole_power(self, base: Fraction, power: int) -> Fraction:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(base) != 1 and base != 0 and bits * abs(power) > _MAX_BITS:
            raise Unsupported("too large")
        return self.keep(base**power)

    def root(self, value: Fraction, index: int) -> Fraction:
        """The root of a rational that is a perfect power; raises `NotRational` otherwise."""
        if value < 0:
            raise NotRational
        if value.numerator.bit_length() + value.denominator.bit_length() > _MAX_ROOT_BITS:
            raise NotRational
        top, bottom = integer_root(value.numerator, index), integer_root(value.denominator, index)
        if top is None or bottom is None:
            raise NotRational
        return Fraction(top, bottom)


def integer_root(n: int, k: int) -> int | None:
    """The k-th root of a whole number that is a perfect power, else None.

    >>> integer_root(27, 3), integer_root(28, 3)
    (3, None)
    """
    if k == 2:
        r = math.isqrt(n)
        return r if r * r == n else None
    low, high = 0, 1 << (n.bit_length() // k + 1)
    while low < high:
        mid = (low + high) // 2
        if mid**k < n:
            low = mid + 1
        else:
            high = mid
    return low if low**k == n else None


class Point:
    """Arithmetic to `DIGITS` digits with a value for each variable. The caller holds `lock`.

    values: of the variables; empty for a constant. log_base: natural logarithm of the base of `\\log`. angle: inside the argument of
    a trigonometric function, where a degree is pi/180.
    """

    def __init__(self, values: Mapping[str, Fraction], log_base: Value) -> None:
        self.values = values
        self.log_base = log_base
        self.angle = False
        self.mp = context

    def number(self, value: Fraction) -> Value:
        """A rational as a number of this arithmetic."""
        return self.mp.mpf(value.numerator) / value.denominator

    def is_real(self, value: Value) -> bool:
        """Whether the imaginary part is zero."""
        return bool(self.mp.im(value) == 0)

    def is_negative(self, value: Value) -> bool:
        """Whether the value is real and below zero."""
        return bool(self.mp.im(value) == 0 and self.mp.re(value) < 0)

    def is_whole(self, value: Value) -> bool:
        """Whether the value is a real whole number."""
        return bool(self.mp.im(value) == 0 and self.mp.re(value) == int(self.mp.re(value)))

    def power(self, base: Value, power: Value) -> Value:
        """`base ** power`; raises `Undefined` for a negative base with an exponent that is not whole."""
        if self.is_real(power) and abs(self.mp.re(power)) > 10**7:
            raise Unsupported("a large exponent")
        if self.is_negative(base) and not self.is_whole(power):
            raise Undefined
        if self.is_whole(power):
            return base ** int(self.mp.re(power))
        return base**power

    def root(self, value: Value, index: Value) -> Value:
        """The real root where there is one; of a constant also the principal square root of a negative number."""
        if self.is_negative(value):
            if index != 2:
                return self._odd_root(value, index)
            if self.values:
                raise Undefined
        return self.mp.sqrt(value) if index == 2 else value ** (1 / index)

    @staticmethod
    def _odd_root(value: Value, index: Value) -> Value:
        if index == int(index) and int(index) % 2:
            return -((-value) ** (1 / index))
        raise Undefined

    def rounded(self, value: Value, function: Literal["floor", "ceil"]) -> Value:
        """`floor` or `ceil` of a value that is clearly on one side of a whole number, or equal to it."""
        mp = self.mp
        if mp.im(value) != 0 or abs(value - mp.nint(value)) < mp.mpf(10) ** -20 and not mp.isint(value):
            raise Undefined
        return getattr(mp, function)(value)

    def factorial(self, value: Value) -> Value:
        """The factorial of a real number from 0 to a million."""
        if self.mp.im(value) != 0 or self.mp.re(value) < 0 or self.mp.re(value) > 10**6:
            raise Undefined
        return self.mp.factorial(value)

    def log(self, value: Value) -> Value:
        """The natural logarithm; raises `Undefined` at zero and below."""
        if value == 0 or self.is_negative(value):
            raise Undefined
        return self.mp.log(value)


def bounded_comb(n: Fraction, k: Fraction) -> Fraction:
    """A binomial coefficient of whole numbers 0 <= k <= n.

    Raises:
        NotRational: other arguments.
        Unsupported: n is more than `MAX_FACTORIAL`.
    """
    if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n:
        raise NotRational
    if n > MAX_FACTORIAL:
        raise Unsupported("a large binomial")
    return Fraction(math.comb(int(n), int(k)))


def bounded_factorial(n: Fraction) -> Fraction:
    """The factorial of a whole number.

    Raises:
        NotRational: not a whole number, or negative.
        Unsupported: n is more than `MAX_FACTORIAL`.
    """
    if n.denominator != 1 or n < 0:
        raise NotRational
    if n > MAX_FACTORIAL:
        raise Unsupported("a large factorial")
    return Fraction(math.factorial(int(n)))
