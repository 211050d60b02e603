r"""Arithmetic on LaTeX without a computer-algebra system.

A small recursive-descent parser for the part of LaTeX that closed-form answers are written in: numbers, fractions,
powers, roots, elementary functions, variables. Two values of an expression are computed: an exact rational one where
it exists, and one to `DIGITS` digits at given values of its variables. Identity of two expressions is tested at fixed
pseudo-random points (Schwartz 1980, Zippel 1979); points where an even root or a logarithm of a negative number occurs
are left out. Whatever is ambiguous (`1/2x`, `f(x)`, `\sin x(y)`) or not in the grammar raises `Unsupported`, and the
symbolic step decides.

Every size is bounded: bits of a rational, bits of all of them together, nesting, points.
"""

from __future__ import annotations

import hashlib
import math
import re
import threading
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath

DIGITS = 50
_CLOSE = 35  # decimal digits on which two equal values must agree
_MAX_BITS = 1 << 16
_MAX_WORK = 1 << 20
_MAX_DEPTH = 80
_POINTS = 8

_context = mpmath.mp.clone()
_context.dps = DIGITS
_lock = threading.Lock()  # mpmath changes the precision of its context while it works


class Unsupported(Exception):
    """Not in the grammar, ambiguous, or too large."""


class NotRational(Exception):
    """The expression is understood and has no exact rational value here."""


Node = tuple[Any, ...]

_TOKEN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+|\\[A-Za-z]+|\\[{}|%]|[^\s])")
_GREEK = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi varphi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar ell".split()
)
_CALLS = {"sin", "cos", "tan", "cot", "sec", "csc", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "ln", "log", "exp"}
_TRIG = {"sin", "cos", "tan", "cot", "sec", "csc"}
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_FUNCTION_LETTERS = set("fghFGHPQRTEVp")
_TIMES = {"*", "\\cdot", "\\times"}


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed answer. `decimal` is the place value of its last digit when it is one decimal literal, else None."""

    node: Node
    symbols: frozenset[str]
    decimal: Fraction | None = None


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = [m[1] for m in _TOKEN.finditer(text)]
        self.at = 0
        self.depth = 0
        self.symbols: set[str] = set()

    def peek(self, ahead: int = 0) -> str:
        i = self.at + ahead
        return self.tokens[i] if i < len(self.tokens) else ""

    def take(self, want: str | None = None) -> str:
        token = self.peek()
        if not token or (want is not None and token != want):
            raise Unsupported(f"expected {want}")
        self.at += 1
        return token

    def whole(self) -> Node:
        node = self.sum()
        if self.peek():
            raise Unsupported(self.peek())
        return node

    def sum(self) -> Node:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise Unsupported("depth")
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        terms = [self.signed(sign)]
        while self.peek() in ("+", "-"):
            sign = 1
            while self.peek() in ("+", "-"):
                sign = -sign if self.take() == "-" else sign
            terms.append(self.signed(sign))
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("add", *terms)

    def signed(self, sign: int) -> Node:
        term = self.product()
        return ("neg", term) if sign < 0 else term

    def product(self) -> Node:
        factors = [self.factor()]
        slashed = False
        while True:
            token = self.peek()
            if token in _TIMES:
                self.take()
                sign = 1
                while self.peek() in ("+", "-"):
                    sign = -sign if self.take() == "-" else sign
                factors.append(("neg", self.factor()) if sign < 0 else self.factor())
            elif token in ("/", "\\div"):
                self.take()
                sign = 1
                while self.peek() == "-":
                    self.take()
                    sign = -sign
                factors.append(("inv", ("neg", self.factor()) if sign < 0 else self.factor()))
                slashed = True
            elif token and self.starts_factor(token):
                if slashed:
                    raise Unsupported("a product after a slash is ambiguous")
                before = self.tokens[self.at - 1]
                if token[0].isdigit() and (before[-1].isdigit() or before.startswith("\\")):
                    raise Unsupported("two numbers side by side")
                nxt = self.factor()
                last = factors[-1]
                if last[0] == "num" and nxt[0] == "frac":
                    top, bottom = nxt[1], nxt[2]
                    if top[0] == bottom[0] == "num":  # a mixed number, 11\frac{1}{2}
                        if not (last[1].denominator == top[1].denominator == bottom[1].denominator == 1) or top[1] >= bottom[1]:
                            raise Unsupported("a number before a fraction")
                        factors[-1] = ("add", last, nxt)
                        continue
                factors.append(nxt)
            else:
                break
        return factors[0] if len(factors) == 1 else ("mul", *factors)

    def starts_factor(self, token: str) -> bool:
        return (
            token[0].isalnum()
            or token in ("(", "{", "[", "\\frac", "\\sqrt", "\\pi", "\\binom", "\\lfloor", "\\lceil")
            or token[0] == "\\"
            and token[1:] in _GREEK | _CALLS
        )

    def factor(self) -> Node:
        base = self.atom()
        while True:
            token = self.peek()
            if token == "!":
                self.take()
                base = ("fact", base)
            elif token == "^":
                self.take()
                if self.peek() == "\\circ" or (self.peek() == "{" and self.peek(1) == "\\circ" and self.peek(2) == "}"):
                    self.at += 1 if self.peek() == "\\circ" else 3
                    base = ("deg", base)
                    continue
                power = self.argument()
                if self.peek() == "^":
                    raise Unsupported("a^b^c")
                base = ("pow", base, power)
            else:
                return base

    def argument(self) -> Node:
        """One braced group, one digit, one letter or one command."""
        token = self.peek()
        if token == "{":
            self.take()
            node = self.sum()
            self.take("}")
            return node
        if token == "-":
            self.take()
            return ("neg", self.argument())
        if token and token[0].isdigit() and len(token) > 1:
            # `x^10` is read by people as x^{10}; TeX reads x^1 0
            self.take()
            return self.number(token)
        return self.atom()

    def number(self, token: str) -> Node:
        if len(token) > 300:
            raise Unsupported("digits")
        return ("num", Fraction(token if token[0] != "." else "0" + token))

    def atom(self) -> Node:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise Unsupported("depth")
        node = self._atom()
        self.depth -= 1
        return node

    def _atom(self) -> Node:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            node = self.number(token)
            if self.peek() == "_":
                raise Unsupported("a base")
            return node
        if token in ("(", "{", "["):
            node = self.sum()
            self.take({"(": ")", "{": "}", "[": "]"}[token])
            return node
        if token in ("\\lfloor", "\\lceil"):
            node = self.sum()
            self.take("\\r" + token[2:])
            return (token[2:], node)
        if token == "|":
            node = self.sum()
            self.take("|")
            return ("abs", node)
        if token == "\\frac":
            top = self.braced()
            bottom = self.braced()
            if self._leading(top) == "d" and self._leading(bottom) == "d":
                raise Unsupported("a derivative")
            return ("frac", top, bottom)
        if token == "\\binom":
            return ("binom", self.braced(), self.braced())
        if token == "\\sqrt":
            index: Node = ("num", Fraction(2))
            if self.peek() == "[":
                self.take()
                index = self.sum()
                self.take("]")
            return ("root", self.argument(), index)
        if token == "\\pi":
            return ("const", "pi")
        if token[0] == "\\":
            name = token[1:]
            if name in _CALLS:
                return self.call(name)
            if name in _GREEK:
                return self.symbol(token)
            raise Unsupported(token)
        if token.isalpha():
            if token == "e" and self.peek() != "_":
                return ("const", "e")
            if token == "i" and self.peek() != "_":
                return ("const", "i")
            if token in _FUNCTION_LETTERS and self.peek() == "(":
                raise Unsupported("a function")
            return self.symbol(token)
        raise Unsupported(token)

    @staticmethod
    def _leading(node: Node) -> str:
        while node[0] in ("mul", "pow"):
            node = node[1]
        return str(node[1]) if node[0] == "sym" else ""

    def braced(self) -> Node:
        self.take("{")
        node = self.sum()
        self.take("}")
        return node

    def symbol(self, token: str) -> Node:
        name = token
        if self.peek() == "_":
            self.take()
            if self.peek() == "{":
                start, depth = self.at, 0
                while True:
                    piece = self.take()
                    depth += (piece == "{") - (piece == "}")
                    if depth == 0:
                        break
                name += "_" + "".join(self.tokens[start + 1 : self.at - 1])
            else:
                name += "_" + self.take()
        while self.peek() == "'":
            name += self.take()
        if self.peek() == "(" and self.peek(1).isdigit() and self.peek(2) == ")":  # I(0) is a value of I, not I times 0
            name += self.take() + self.take() + self.take()
        self.symbols.add(name)
        return ("sym", name)

    def call(self, name: str) -> Node:
        base: Node | None = None
        power: Node | None = None
        if name == "log" and self.peek() == "_":
            self.take()
            base = self.argument()
        if self.peek() == "^":
            self.take()
            power = self.argument()
            if power == ("neg", ("num", Fraction(1))) or power == ("num", Fraction(-1)):
                if name not in _INVERSE:
                    raise Unsupported("an inverse function")
                name, power = _INVERSE[name], None
        if self.peek() in ("(", "{", "["):
            argument = self.atom()
            if self.peek() == "^":
                raise Unsupported("sin(x)^2 is ambiguous")
        else:  # \sin 2x, \ln 5: numbers and letters side by side
            parts: list[Node] = []
            while (token := self.peek()) and (token[0].isalnum() or token in ("\\pi", "\\frac", "\\sqrt") or token[1:] in _GREEK):
                if parts and token in ("\\frac", "\\sqrt"):
                    break
                parts.append(self.factor())
            if not parts or self.peek() in ("(", "["):
                raise Unsupported("the scope of a function")
            argument = parts[0] if len(parts) == 1 else ("mul", *parts)
            if self.peek() in ("/", "\\div"):
                raise Unsupported("the scope of a function")
        node: Node = ("call", name, argument) if base is None else ("logb", argument, base)
        return node if power is None else ("pow", node, power)


@lru_cache(maxsize=16384)
def parse(text: str) -> Expression | None:
    """The expression, or None when it is not in the grammar."""
    if len(text) > 2000 or not text:
        return None
    parser = _Parser(text)
    try:
        node = parser.whole()
    except (Unsupported, RecursionError, KeyError):
        return None
    decimal = None
    if m := re.fullmatch(r"[-+]?\s*(?:\d*\.(\d+)|(\d+))\s*(?:\\(?:cdot|times)\s*10\s*\^\s*\{?\s*(-?\d{1,3})\s*\}?)?", text):
        if m[1] is not None:
            decimal = Fraction(10) ** (int(m[3] or 0) - len(m[1]))
    return Expression(node, frozenset(parser.symbols), decimal)


# --- exact ----------------------------------------------------------------------------------------------------------


class _Exact:
    """Rational arithmetic with a bound on the size of every number and of all of them together."""

    def __init__(self) -> None:
        self.work = 0

    def keep(self, value: Fraction) -> Fraction:
        bits = value.numerator.bit_length() + value.denominator.bit_length()
        self.work += bits
        if bits > _MAX_BITS or self.work > _MAX_WORK:
            raise Unsupported("too large")
        return value

    def __call__(self, node: Node) -> Fraction:
        kind = node[0]
        if kind == "num":
            return self.keep(node[1])
        if kind == "add":
            total = Fraction(0)
            for part in node[1:]:
                total = self.keep(total + self(part))
            return total
        if kind == "mul":
            product = Fraction(1)
            for part in node[1:]:
                product = self.keep(product * self(part))
            return product
        if kind == "neg":
            return -self(node[1])
        if kind == "inv":
            return 1 / self(node[1])
        if kind == "frac":
            return self.keep(self(node[1]) / self(node[2]))
        if kind == "abs":
            return abs(self(node[1]))
        if kind in ("floor", "ceil"):
            return Fraction(math.floor(self(node[1])) if kind == "floor" else math.ceil(self(node[1])))
        if kind == "deg":
            return self(node[1])
        if kind == "pow":
            base, power = self(node[1]), self(node[2])
            if power.denominator != 1:
                return self.root(self.power(base, power.numerator), power.denominator)
            return self.power(base, power.numerator)
        if kind == "root":
            index = self(node[2])
            if index.denominator != 1 or not 2 <= index <= 64:
                raise NotRational
            return self.root(self(node[1]), index.numerator)
        if kind == "fact":
            n = self(node[1])
            if n.denominator != 1 or n < 0:
                raise NotRational
            if n > 4000:
                raise Unsupported("a large factorial")
            return self.keep(Fraction(math.factorial(int(n))))
        if kind == "binom":
            n, k = self(node[1]), self(node[2])
            if n.denominator != 1 or k.denominator != 1 or not 0 <= k <= n:
                raise NotRational
            if n > 4000:
                raise Unsupported("a large binomial")
            return self.keep(Fraction(math.comb(int(n), int(k))))
        raise NotRational

    def power(self, base: Fraction, power: int) -> Fraction:
        bits = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(base) != 1 and base != 0 and bits * abs(power) > _MAX_BITS:
            raise Unsupported("too large")
        return self.keep(base**power)

    def root(self, value: Fraction, index: int) -> Fraction:
        if value < 0:
            raise NotRational
        if value.numerator.bit_length() + value.denominator.bit_length() > 4096:
            raise NotRational
        top, bottom = _integer_root(value.numerator, index), _integer_root(value.denominator, index)
        if top is None or bottom is None:
            raise NotRational
        return Fraction(top, bottom)


def _integer_root(n: int, k: int) -> int | None:
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


@lru_cache(maxsize=16384)
def rational(expression: Expression) -> Fraction | None:
    """The exact value of a constant, or None when it has none or it is too large to hold."""
    if expression.symbols:
        return None
    try:
        return _Exact()(expression.node)
    except (NotRational, Unsupported, ZeroDivisionError, OverflowError, RecursionError):
        return None


# --- to many digits -------------------------------------------------------------------------------------------------


class _Skip(Exception):
    """Not real at this point (an even root or logarithm of a negative number): the point says nothing."""


class _Numeric:
    def __init__(self, values: dict[str, Fraction], log_base: Any) -> None:
        self.values = values
        self.log_base = log_base
        self.mp = _context
        self.angle = False

    def __call__(self, node: Node) -> Any:
        mp, kind = self.mp, node[0]
        if kind == "num":
            return mp.mpf(node[1].numerator) / node[1].denominator
        if kind == "sym":
            value = self.values[node[1]]
            return mp.mpf(value.numerator) / value.denominator
        if kind == "const":
            return {"pi": mp.pi * 1, "e": mp.e * 1, "i": mp.j}[node[1]]
        if kind == "add":
            return sum((self(part) for part in node[2:]), self(node[1]))
        if kind == "mul":
            product = self(node[1])
            for part in node[2:]:
                product = product * self(part)
            return product
        if kind == "neg":
            return -self(node[1])
        if kind == "inv":
            return 1 / self(node[1])
        if kind == "frac":
            return self(node[1]) / self(node[2])
        if kind == "abs":
            return abs(self(node[1]))
        if kind in ("floor", "ceil"):
            value = self(node[1])
            if mp.im(value) != 0 or abs(value - mp.nint(value)) < mp.mpf(10) ** -20 and not mp.isint(value):
                raise _Skip
            return mp.floor(value) if kind == "floor" else mp.ceil(value)
        if kind == "deg":
            return self(node[1]) * (mp.pi / 180 if self.angle else 1)
        if kind == "pow":
            return self.power(self(node[1]), self(node[2]))
        if kind == "root":
            value, index = self(node[1]), self(node[2])
            if mp.im(value) == 0 and mp.re(value) < 0 and index != 2:
                if index == int(index) and int(index) % 2:
                    return -((-value) ** (1 / index))
                raise _Skip
            if mp.im(value) == 0 and mp.re(value) < 0 and self.values:
                raise _Skip
            return mp.sqrt(value) if index == 2 else value ** (1 / index)
        if kind == "fact":
            value = self(node[1])
            if mp.im(value) != 0 or mp.re(value) < 0 or mp.re(value) > 10**6:
                raise _Skip
            return mp.factorial(value)
        if kind == "binom":
            return mp.binomial(self(node[1]), self(node[2]))
        if kind == "logb":
            return self.log(self(node[1])) / self.log(self(node[2]))
        if kind == "call":
            return self.call(node[1], node[2])
        raise Unsupported(kind)

    def power(self, base: Any, power: Any) -> Any:
        mp = self.mp
        if mp.im(power) == 0 and abs(mp.re(power)) > 10**7:
            raise Unsupported("a large exponent")
        if mp.im(base) == 0 and mp.re(base) < 0 and not (mp.im(power) == 0 and mp.re(power) == int(mp.re(power))):
            raise _Skip
        if mp.im(power) == 0 and mp.re(power) == int(mp.re(power)):
            return base ** int(mp.re(power))
        return base**power

    def log(self, value: Any) -> Any:
        mp = self.mp
        if value == 0 or (mp.im(value) == 0 and mp.re(value) < 0):
            raise _Skip
        return mp.log(value)

    def call(self, name: str, argument: Node) -> Any:
        mp, outer = self.mp, self.angle
        self.angle = name in _TRIG
        value = self(argument)
        self.angle = outer
        if name == "ln":
            return self.log(value)
        if name == "log":
            return self.log(value) / self.log_base
        if name in ("arcsin", "arccos") and abs(value) > 1:
            raise _Skip
        return {
            "sin": mp.sin, "cos": mp.cos, "tan": mp.tan, "cot": mp.cot, "sec": mp.sec, "csc": mp.csc, "arcsin": mp.asin, "arccos": mp.acos,
            "arctan": mp.atan, "sinh": mp.sinh, "cosh": mp.cosh, "tanh": mp.tanh, "exp": mp.exp,
        }[name](value)  # fmt: skip


def _point(names: frozenset[str], index: int) -> dict[str, Fraction]:
    """Values for the variables, fixed by their names: points 0 to 3 are positive, the others of both signs."""
    values = {}
    for name in names:
        digest = hashlib.blake2b(f"{index}:{name}".encode(), digest_size=8).digest()
        size = Fraction(int.from_bytes(digest[:4], "little") % 9973 + 2500, 4999)  # 0.5 to 2.5
        values[name] = -size if index >= 4 and digest[4] % 2 else size
    return values


def evaluate(expression: Expression, index: int = 0, names: frozenset[str] | None = None, log_base: float | None = None) -> Any:
    """The value (mpmath, `DIGITS` digits) at point `index`, or None where it has none."""
    names = expression.symbols if names is None else names
    with _lock:
        try:
            base = _context.mpf(1) if log_base is None else _context.log(log_base)
            value = _Numeric(_point(names, index), base)(expression.node)
            if not _context.isfinite(value) or abs(value) > _context.mpf(10) ** 5000:
                return None
            return value
        except (
            _Skip,
            Unsupported,
            ZeroDivisionError,
            ValueError,
            OverflowError,
            RecursionError,
            TypeError,
            ArithmeticError,
            mpmath.libmp.NoConvergence,
        ):
            return None


def _close(a: Any, b: Any) -> bool | None:
    """Equal to `_CLOSE` digits; None when both are too small to tell from zero."""
    size = max(abs(a), abs(b))
    if size < _context.mpf(10) ** -30:
        return None if size else True
    return bool(abs(a - b) <= size * _context.mpf(10) ** -_CLOSE)


def _uses_log(node: Node) -> bool:
    return any(part == "log" if isinstance(part, str) else isinstance(part, tuple) and _uses_log(part) for part in node)


def identical(a: Expression, b: Expression) -> bool | None:
    """Whether two expressions are the same function of their variables; None when the points cannot tell.

    `\\log` is natural or decimal, whichever makes the two agree.
    """
    names = a.symbols | b.symbols
    logs = _uses_log(a.node) or _uses_log(b.node)
    verdicts = [_identical(a, b, names, base) for base in ((None, 10.0) if logs else (None,))]
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


def proportional(a: Expression, b: Expression) -> Any:
    """The constant c with a = c*b at every point (mpmath number), False when there is none, None when unknown."""
    names = a.symbols | b.symbols
    if not names:
        return None
    ratio, agree = None, 0
    for index in range(_POINTS):
        u, v = evaluate(a, index, names), evaluate(b, index, names)
        if u is None or v is None or v == 0:
            continue
        with _lock:
            if ratio is None:
                ratio = u / v
                if ratio == 0:
                    return False
            elif not _close(u / v, ratio):
                return False
        agree += 1
    return ratio if agree >= 4 else None


def equal_constants(a: Expression, b: Expression, *, scale: Fraction = Fraction(1)) -> bool | None:
    """Whether two constants are equal (a against scale*b), or None when that cannot be told.

    Exact against exact: equality. If a side is one decimal literal it may be a rounding of the other: relative
    difference at most 1e-6 and at most one unit of its last digit (or 1e-9 relative: floating-point noise); zero equals
    only zero.
    """
    x, y = rational(a), rational(b)
    place = max(a.decimal or Fraction(0), (b.decimal or Fraction(0)) * scale)
    if x is not None and y is not None:
        y *= scale
        if x == y:
            return True
        if not place or x == 0 or y == 0 or (x > 0) != (y > 0):
            return False
        gap, size = abs(x - y), max(abs(x), abs(y))
        return gap * 10**9 <= size or (gap * 10**6 <= size and gap <= place)
    if scale == 1 and not place:
        return identical(a, b)
    u, v = evaluate(a), evaluate(b)
    if u is None or v is None:
        return None
    with _lock:
        v = v * scale.numerator / scale.denominator
        same = _close(u, v)
        if same is not False or not place:
            return same
        gap, size = abs(u - v), max(abs(u), abs(v))
        return bool(gap * 10**9 <= size or (gap * 10**6 <= size and gap <= _context.mpf(place.numerator) / place.denominator))
