r"""A recursive-descent parser for the part of LaTeX in which closed-form answers are written.

Numbers, fractions, powers, roots, elementary functions, variables. What is ambiguous (`1/2x`, `f(x)`, `\sin x(y)`) or not in the grammar
is not read, and the symbolic step decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from rlent.grading.arithmetic import Unsupported
from rlent.grading.node import (
    FUNCTIONS,
    Absolute,
    Binomial,
    Call,
    Constant,
    Degrees,
    Factorial,
    Inverse,
    Logarithm,
    Negative,
    Node,
    Number,
    Power,
    Product,
    Quotient,
    Root,
    Rounded,
    Sum,
    Symbol,
)

_MAX_DEPTH = 80
_MAX_LENGTH = 2000
_MAX_LITERAL = 300

_TOKEN = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+|\\[A-Za-z]+|\\[{}|%]|[^\s])")
_GREEK = set(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho sigma tau upsilon phi varphi chi psi omega "
    "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega hbar ell".split()
)
_INVERSE_FUNCTIONS = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_FUNCTION_LETTERS = set("fghFGHPQRTEVp")
_TIMES = {"*", "\\cdot", "\\times"}
_BRACKETS = {"(": ")", "{": "}", "[": "]"}
_STARTS = {"(", "{", "[", "\\frac", "\\sqrt", "\\pi", "\\binom", "\\lfloor", "\\lceil"}
_ONE = Number(Fraction(1))
_TWO = Number(Fraction(2))
_DECIMAL = re.compile(r"[-+]?\s*(?:\d*\.(\d+)|(\d+))\s*(?:\\(?:cdot|times)\s*10\s*\^\s*\{?\s*(-?\d{1,3})\s*\}?)?")


@dataclass(frozen=True, slots=True, eq=False)
class Expression:
    r"""A parsed answer. Compared by identity: `parse` gives one object for one text.

    decimal: place value of the last digit of one decimal literal, else None. plain_log: it has a `\log` without a base.
    """

    node: Node
    symbols: frozenset[str]
    decimal: Fraction | None = None
    plain_log: bool = False


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = [m[1] for m in _TOKEN.finditer(text)]
        self.at = 0
        self.depth = 0
        self.symbols: set[str] = set()
        self.plain_log = False

    # --- tokens -----------------------------------------------------------------------------------------------------

    def peek(self, ahead: int = 0) -> str:
        i = self.at + ahead
        return self.tokens[i] if i < len(self.tokens) else ""

    def take(self, want: str | None = None) -> str:
        token = self.peek()
        if not token or (want is not None and token != want):
            raise Unsupported(f"expected {want}")
        self.at += 1
        return token

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise Unsupported("depth")

    def sign(self, signs: tuple[str, ...] = ("+", "-")) -> int:
        """Take any number of signs; their product."""
        sign = 1
        while self.peek() in signs:
            sign = -sign if self.take() == "-" else sign
        return sign

    # --- sums and products ------------------------------------------------------------------------------------------

    def whole(self) -> Node:
        node = self.sum()
        if self.peek():
            raise Unsupported(self.peek())
        return node

    def sum(self) -> Node:
        self.deeper()
        terms = [self.signed(self.sign(), self.product)]
        while self.peek() in ("+", "-"):
            terms.append(self.signed(self.sign(), self.product))
        self.depth -= 1
        return terms[0] if len(terms) == 1 else Sum(tuple(terms))

    @staticmethod
    def signed(sign: int, read: Callable[[], Node]) -> Node:
        return Negative(read()) if sign < 0 else read()

    def product(self) -> Node:
        factors = [self.factor()]
        slashed = False
        while True:
            token = self.peek()
            if token in _TIMES:
                self.take()
                factors.append(self.signed(self.sign(), self.factor))
            elif token in ("/", "\\div"):
                self.take()
                factors.append(Inverse(self.signed(self.sign(("-",)), self.factor)))
                slashed = True
            elif token and self.starts_factor(token):
                if slashed:
                    raise Unsupported("a product after a slash is ambiguous")
                factors[-1:] = self.side_by_side(factors[-1], token)
            else:
                break
        return factors[0] if len(factors) == 1 else Product(tuple(factors))

    def starts_factor(self, token: str) -> bool:
        return token[0].isalnum() or token in _STARTS or (token[0] == "\\" and token[1:] in _GREEK | FUNCTIONS)

    def side_by_side(self, last: Node, token: str) -> list[Node]:
        r"""A factor with nothing between it and the last one: a product, or the mixed number `11\frac{1}{2}`."""
        before = self.tokens[self.at - 1]
        if token[0].isdigit() and (before[-1].isdigit() or before.startswith("\\")):
            raise Unsupported("two numbers side by side")
        factor = self.factor()
        if isinstance(last, Number) and isinstance(factor, Quotient):
            top, bottom = factor.top, factor.bottom
            if isinstance(top, Number) and isinstance(bottom, Number):
                whole = last.value.denominator == top.value.denominator == bottom.value.denominator == 1
                if not whole or top.value >= bottom.value:
                    raise Unsupported("a number before a fraction")
                return [Sum((last, factor))]
        return [last, factor]

    # --- factors ----------------------------------------------------------------------------------------------------

    def factor(self) -> Node:
        base = self.atom()
        while True:
            token = self.peek()
            if token == "!":
                self.take()
                base = Factorial(base)
            elif token == "^":
                self.take()
                base = self.raised(base)
            else:
                return base

    def raised(self, base: Node) -> Node:
        """What follows a `^`: the sign of degrees, or an exponent."""
        for degrees in (["\\circ"], ["{", "\\circ", "}"]):
            if self.tokens[self.at : self.at + len(degrees)] == degrees:
                self.at += len(degrees)
                return Degrees(base)
        power = self.argument()
        if self.peek() == "^":
            raise Unsupported("a^b^c")
        return Power(base, power)

    def argument(self) -> Node:
        """One braced group, one number, one letter or one command."""
        token = self.peek()
        if token == "{":
            return self.braced()
        if token == "-":
            self.take()
            return Negative(self.argument())
        if token and token[0].isdigit() and len(token) > 1:
            # `x^10` is read by people as x^{10}; TeX reads x^1 0
            self.take()
            return self.number(token)
        return self.atom()

    def braced(self) -> Node:
        self.take("{")
        node = self.sum()
        self.take("}")
        return node

    @staticmethod
    def number(token: str) -> Node:
        if len(token) > _MAX_LITERAL or not token.isascii():  # a circled digit is a digit to Python and no number
            raise Unsupported("digits")
        return Number(Fraction(token if token[0] != "." else "0" + token))

    def atom(self) -> Node:
        self.deeper()
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            node = self.number(token)
            if self.peek() == "_":
                raise Unsupported("a base")
        elif token in _BRACKETS:
            node = self.sum()
            self.take(_BRACKETS[token])
        elif token in _COMMANDS:
            node = _COMMANDS[token](self)
        elif token[0] == "\\":
            node = self.named(token)
        elif token.isalpha():
            node = self.letter(token)
        else:
            raise Unsupported(token)
        self.depth -= 1
        return node

    def named(self, token: str) -> Node:
        name = token[1:]
        if name in FUNCTIONS:
            return self.call(name)
        if name in _GREEK:
            return self.symbol(token)
        raise Unsupported(token)

    def letter(self, token: str) -> Node:
        if self.peek() != "_":
            if token == "e":
                return Constant("e")
            if token == "i":
                return Constant("i")
        if token in _FUNCTION_LETTERS and self.peek() == "(":
            raise Unsupported("a function")
        return self.symbol(token)

    def symbol(self, token: str) -> Node:
        name = token
        if self.peek() == "_":
            self.take()
            name += "_" + (self.subscript() if self.peek() == "{" else self.take())
        while self.peek() == "'":
            name += self.take()
        if self.peek() == "(" and self.peek(1).isdigit() and self.peek(2) == ")":  # I(0) is a value of I, not I times 0
            name += self.take() + self.take() + self.take()
        self.symbols.add(name)
        return Symbol(name)

    def subscript(self) -> str:
        """The tokens of a braced group as text."""
        start, depth = self.at, 0
        while True:
            piece = self.take()
            depth += (piece == "{") - (piece == "}")
            if depth == 0:
                return "".join(self.tokens[start + 1 : self.at - 1])

    # --- commands ---------------------------------------------------------------------------------------------------

    def rounded_down(self) -> Node:
        node = self.sum()
        self.take("\\rfloor")
        return Rounded("floor", node)

    def rounded_up(self) -> Node:
        node = self.sum()
        self.take("\\rceil")
        return Rounded("ceil", node)

    def absolute(self) -> Node:
        node = self.sum()
        self.take("|")
        return Absolute(node)

    def fraction(self) -> Node:
        top, bottom = self.braced(), self.braced()
        if _leading(top) == "d" and _leading(bottom) == "d":
            raise Unsupported("a derivative")
        return Quotient(top, bottom)

    def binomial(self) -> Node:
        n = self.braced()
        return Binomial(n, self.braced())

    def root(self) -> Node:
        index: Node = _TWO
        if self.peek() == "[":
            self.take()
            index = self.sum()
            self.take("]")
        return Root(self.argument(), index)

    def pi(self) -> Node:
        return Constant("pi")

    def call(self, name: str) -> Node:
        base: Node | None = None
        power: Node | None = None
        if name == "log" and self.peek() == "_":
            self.take()
            base = self.argument()
        if self.peek() == "^":
            self.take()
            power = self.argument()
            if power in (Negative(_ONE), Number(Fraction(-1))):
                if name not in _INVERSE_FUNCTIONS:
                    raise Unsupported("an inverse function")
                name, power = _INVERSE_FUNCTIONS[name], None
        argument = self.bracketed_argument() if self.peek() in _BRACKETS else self.bare_argument()
        self.plain_log = self.plain_log or (name == "log" and base is None)
        node: Node = Call(name, argument) if base is None else Logarithm(argument, base)
        return node if power is None else Power(node, power)

    def bracketed_argument(self) -> Node:
        argument = self.atom()
        if self.peek() == "^":
            raise Unsupported("sin(x)^2 is ambiguous")
        return argument

    def bare_argument(self) -> Node:
        r"""`\sin 2x`, `\ln 5`: numbers and letters side by side."""
        parts: list[Node] = []
        while (token := self.peek()) and (token[0].isalnum() or token in ("\\pi", "\\frac", "\\sqrt") or token[1:] in _GREEK):
            if parts and token in ("\\frac", "\\sqrt"):
                break
            parts.append(self.factor())
        if not parts or self.peek() in ("(", "[", "/", "\\div"):
            raise Unsupported("the scope of a function")
        return parts[0] if len(parts) == 1 else Product(tuple(parts))


_COMMANDS: dict[str, Callable[[_Parser], Node]] = {
    "\\frac": _Parser.fraction,
    "\\binom": _Parser.binomial,
    "\\sqrt": _Parser.root,
    "\\pi": _Parser.pi,
    "\\lfloor": _Parser.rounded_down,
    "\\lceil": _Parser.rounded_up,
    "|": _Parser.absolute,
}
"""What reads the rest of a command."""


def _leading(node: Node) -> str:
    """Name of the symbol with which a product begins, else empty."""
    while isinstance(node, Product | Power):
        node = node.factors[0] if isinstance(node, Product) else node.base
    return node.name if isinstance(node, Symbol) else ""


@lru_cache(maxsize=16384)
def parse(text: str) -> Expression | None:
    """The expression, or None when it is not in the grammar."""
    if len(text) > _MAX_LENGTH or not text:
        return None
    parser = _Parser(text)
    try:
        node = parser.whole()
    except (Unsupported, RecursionError):
        return None
    decimal = None
    if (m := _DECIMAL.fullmatch(text)) and m[1] is not None:
        decimal = Fraction(10) ** (int(m[3] or 0) - len(m[1]))
    return Expression(node, frozenset(parser.symbols), decimal, parser.plain_log)
