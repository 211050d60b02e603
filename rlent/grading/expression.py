r"""Arithmetic on LaTeX without a computer-algebra system.

Two values of an expression are computed: an exact rational one where it exists, and one to `DIGITS` digits at given values of its
variables. Identity of two expressions is tested at fixed pseudo-random points (Schwartz 1980, Zippel 1979); points where an even root or a
logarithm of a negative number occurs are left out.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from functools import lru_cache

import mpmath

from rlent.grading.arithmetic import Exact, NotRational, Point, Undefined, Unsupported, Value, context, lock
from rlent.grading.parser import Expression, parse

_CLOSE = 35  # decimal digits on which two equal values must agree
_POINTS = 8


@lru_cache(maxsize=16384)
def rational(expression: Expression) -> Fraction | None:
    """The exact value of a constant, or None when it has none or it is too large to hold."""
    if expression.symbols:
        return None
    try:
        return expression.node.exact(Exact())
    except (NotRational, Unsupported, ZeroDivisionError, OverflowError, RecursionError):
        return None


def _values(names: frozenset[str], index: int) -> dict[str, Fraction]:
    """Values for the variables, fixed by their names: points 0 to 3 are positive, the others of both signs."""
    values = {}
    for name in names:
        digest = hashlib.blake2b(f"{index}:{name}".encode(), digest_size=8).digest()
        size = Fraction(int.from_bytes(digest[:4], "little") % 9973 + 2500, 4999)  # 0.5 to 2.5
        values[name] = -size if index >= 4 and digest[4] % 2 else size
    return values


def evaluate(expression: Expression, index: int = 0, names: frozenset[str] | None = None, log_base: float | None = None) -> Value | None:
    """The value (mpmath, `DIGITS` digits) at point `index`, or None where it has none."""
    names = expression.symbols if names is None else names
    with lock:
        try:
            base = context.mpf(1) if log_base is None else context.log(log_base)
            value = expression.node.at(Point(_values(names, index), base))
            if not context.isfinite(value) or abs(value) > context.mpf(10) ** 5000:
                return None
            return value
        except (
            Undefined,
            Unsupported,
            ValueError,
            RecursionError,
            TypeError,
            ArithmeticError,
            mpmath.libmp.NoConvergence,
        ):
            return None


def _close(a: Value, b: Value) -> bool | None:
    """Equal to `_CLOSE` digits; None when both are too small to tell from zero."""
    size = max(abs(a), abs(b))
    if size < context.mpf(10) ** -30:
        return None if size else True
    return bool(abs(a - b) <= size * context.mpf(10) ** -_CLOSE)


def identical(a: Expression, b: Expression) -> bool | None:
    r"""Whether two expressions are the same function of their variables; None when the points cannot tell.

    `\log` is natural or decimal, whichever makes the two agree.
    """
    names = a.symbols | b.symbols
    bases = (None, 10.0) if a.plain_log or b.plain_log else (None,)
    verdicts = [_identical(a, b, names, base) for base in bases]
    if True in verdicts:
        return True
    return None if None in verdicts else False


def _identical(a: Expression, b: Expression, names: frozenset[str], base: float | None) -> bool | None:
    agree = 0
    for index in range(_POINTS if names else 1):
        u, v = evaluate(a, index, names, base), evaluate(b, index, names, base)
        if u is None or v is None:
            continue
        same = _close(u, v)
        if same is False:
            return False
        agree += bool(same)
    return True if agree >= (3 if names else 1) else None


def proportional(a: Expression, b: Expression) -> Value | bool | None:
    """The constant c with a = c*b at every point (mpmath number), False when there is none, None when unknown."""
    names = a.symbols | b.symbols
    if not names:
        return None
    ratio, agree = None, 0
    for index in range(_POINTS):
        u, v = evaluate(a, index, names), evaluate(b, index, names)
        if u is None or v is None or v == 0:
            continue
        with lock:
            if ratio is None:
                ratio = u / v
                if ratio == 0:
                    return False
            elif not _close(u / v, ratio):
                return False
        agree += 1
    return ratio if agree >= 4 else None


def equal_constants(a: Expression, b: Expression, *, scale: Fraction = Fraction(1)) -> bool | None:
    """Whether two constants are equal (a against scale*b), or None when that cannot be decided.

    Exact against exact: equality. If a side is one decimal literal it may be a rounding of the other, see `_rounding`; zero equals
    only zero.
    """
    x, y = rational(a), rational(b)
    place = max(a.decimal or Fraction(0), (b.decimal or Fraction(0)) * scale)
    if x is not None and y is not None:
        return _equal_rationals(x, y * scale, place)
    if scale == 1 and not place:
        return identical(a, b)
    u, v = evaluate(a), evaluate(b)
    if u is None or v is None:
        return None
    with lock:
        v = v * scale.numerator / scale.denominator
        same = _close(u, v)
        if same is not False or not place:
            return same
        return _rounding(u, v, context.mpf(place.numerator) / place.denominator)


def _equal_rationals(x: Fraction, y: Fraction, place: Fraction) -> bool:
    if x == y:
        return True
    if not place or x == 0 or y == 0 or (x > 0) != (y > 0):
        return False
    return _rounding(x, y, place)


def _rounding(x: Value, y: Value, place: Value) -> bool:
    """Whether a value is a rounding of the other.

    The relative difference is at most 1e-6 and the difference at most one unit of the last digit (`place`), or the relative difference is at
    most 1e-9: floating-point noise.
    """
    gap, size = abs(x - y), max(abs(x), abs(y))
    return bool(gap * 10**9 <= size or (gap * 10**6 <= size and gap <= place))


def same_value(x: Expression, y: Expression, percent_x: bool, percent_y: bool, scale: Fraction = Fraction(1)) -> bool | None:
    """Whether two expressions are equal (constants: x against scale*y); None when that cannot be decided.

    A value with a percent sign equals the bare number and its hundredth; without a sign 10 and 0.1 differ.
    """
    if x.symbols or y.symbols:
        return identical(x, y)
    same = equal_constants(x, y, scale=scale)
    if same or percent_x == percent_y:
        return same
    other = equal_constants(x, y, scale=Fraction(100) if percent_x else Fraction(1, 100))
    return True if other else (None if same is None or other is None else False)


__all__ = ["Expression", "equal_constants", "evaluate", "identical", "parse", "proportional", "rational", "same_value"]
