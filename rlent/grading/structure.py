r"""The outer shape of an answer: list, set, tuple or interval, union, matrix, relation, ratio, or plain.

Only the outermost brackets and separators are read; the pieces stay text. Works on the text of a `Form`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache


class Shape:
    """One of the shapes below."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Plain(Shape):
    """Anything else: a value, an expression, a word."""

    text: str


@dataclass(frozen=True, slots=True)
class Series(Shape):
    """Values side by side, in no order: `1, 2 \\text{ and } 3`; `bare` is False for a set in braces."""

    items: tuple[str, ...]
    bare: bool = True


@dataclass(frozen=True, slots=True)
class Tuple_(Shape):
    """A tuple or an interval; `open` and `close` are one of ( [ ) ] after French brackets are turned round."""

    items: tuple[str, ...]
    open: str
    close: str


@dataclass(frozen=True, slots=True)
class Union_(Shape):
    """`(1,2) \\cup (3,4)`."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrix(Shape):
    """Rows of cells."""

    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation(Shape):
    """`parts[0] ops[0] parts[1] ...`; ops are = < > <= >= != ~ in."""

    parts: tuple[str, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ratio(Shape):
    """`3:2`."""

    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Described(Shape):
    """A set by a condition: `\\{x \\mid x > 1\\}`."""

    name: str
    condition: str


_LEX = re.compile(r"\\(?:begin|end)\{[A-Za-z*]{1,20}\}|\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPENING = {"(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil"}
_CLOSING = {")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil"}
_RELATIONS = {
    "=": "=",
    "<": "<",
    ">": ">",
    "\\le": "<=",
    "\\ge": ">=",
    "\\ne": "!=",
    "\\approx": "~",
    "\\in": "in",
    "\\equiv": "=",
    "\\sim": "~",
}
_SEPARATORS = {",", ";"}
_BARS = {"|", ":", "\\mid"}
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])")
_MINUS_PLUS = re.compile(r"\\mp(?![A-Za-z])")
_ROW_END = re.compile(r"\\\\(?:\[[^\]]*\])?")
_CASES = re.compile(r"^\\begin\{cases\}(.*)\\end\{cases\}$", re.DOTALL)
_MATRIX = re.compile(r"^\\begin\{(pmatrix|bmatrix|Bmatrix|matrix|smallmatrix|array)\}(?:\s*\{[lcr| ]*\})?(.*)\\end\{\1\}$", re.DOTALL)


def _turn(token: str) -> int:
    """+1 for what opens a bracket or an environment, -1 for what closes one."""
    if token in _OPENING or token.startswith("\\begin{"):
        return 1
    return -1 if token in _CLOSING or token.startswith("\\end{") else 0


def split_top(text: str, at: set[str] | dict[str, str]) -> tuple[list[str], list[str]]:
    """(pieces, separators): the text cut at separators that stand outside all brackets."""
    pieces, found, depth, start = [], [], 0, 0
    for m in _LEX.finditer(text):
        token = m[0]
        if turn := _turn(token):
            depth = max(0, depth + turn)
        elif depth == 0 and token in at:
            pieces.append(text[start : m.start()].strip())
            found.append(token)
            start = m.end()
    pieces.append(text[start:].strip())
    return pieces, found


@dataclass(frozen=True, slots=True)
class _Enclosed:
    """Text that one pair of brackets holds; `open` and `close` as in `Tuple_`, or a brace."""

    open: str
    inside: str
    close: str


_CURLY = {"{", "\\{"}
_CURLY_CLOSE = {"}", "\\}"}
_MAY_OPEN = {"(", "[", "]", "\\langle"} | _CURLY
_MAY_CLOSE = {")", "]", "\\rangle"} | _CURLY_CLOSE
_ROUND = {"\\langle": "(", "\\rangle": ")"}
_OPENS_ROUND = ("(", "\\langle")
_CLOSES_ROUND = (")", "\\rangle")


def _enclosed(text: str) -> _Enclosed | None:
    """What one pair of brackets holds, when it holds the whole text."""
    tokens = list(_LEX.finditer(text))
    if len(tokens) < 2 or tokens[0][0] not in _MAY_OPEN:
        return None
    first, last = tokens[0][0], tokens[-1][0]
    inside = text[tokens[0].end() : tokens[-1].start()]
    if first == "]" or (last == "[" and first in "(["):
        return _french_interval(first, inside, last)
    if last not in _MAY_CLOSE or (first in _CURLY) != (last in _CURLY_CLOSE) or not _closes_at_end([m[0] for m in tokens]):
        return None
    return _Enclosed(_ROUND.get(first, first), inside, _ROUND.get(last, last))


def _french_interval(first: str, inside: str, last: str) -> _Enclosed | None:
    """`]a, b[` with its brackets turned round."""
    if last not in ("[", "]", ")") or re.search(r"[\[\]]", inside):
        return None
    return _Enclosed("(" if first == "]" else first, inside, ")" if last == "[" else last)


def _closes_at_end(tokens: list[str]) -> bool:
    """Whether the bracket that the first token opens is closed by no token before the last."""
    depth = 0
    for token in tokens[:-1]:
        depth += _turn(token)
        if depth == 0:
            return False
    return True


def _plus_minus(text: str) -> tuple[str, str] | None:
    if "\\pm" not in text and "\\mp" not in text:
        return None
    first = _PLUS_MINUS.sub("+", _MINUS_PLUS.sub("-", text))
    second = _PLUS_MINUS.sub("-", _MINUS_PLUS.sub("+", text))
    return first.strip(), second.strip()


# --- one reader per shape ---------------------------------------------------------------------------------------------


def read_series(text: str) -> Shape | None:
    r"""Values side by side, separated by commas or semicolons.

    >>> read_series(r"1, \pm 2")
    Series(items=('1', '+ 2', '- 2'), bare=True)
    >>> read_series("(1, 2)")
    """
    items, found = split_top(text, _SEPARATORS)
    if not found:
        return None
    kept = tuple(item for item in items if item)
    return Series(_expanded(kept)) if len(kept) > 1 else Plain(text)


def read_relation(text: str) -> Shape | None:
    r"""A chain of equations or inequalities.

    >>> read_relation(r"1 < x \le 2")
    Relation(parts=('1', 'x', '2'), ops=('<', '<='))
    >>> read_relation("P(X = 2)")
    """
    parts, ops = split_top(text, _RELATIONS)
    if not ops:
        return None
    return Relation(tuple(parts), tuple(_RELATIONS[op] for op in ops)) if all(parts) else Plain(text)


def read_union(text: str) -> Shape | None:
    r"""A union of sets.

    >>> read_union(r"(1,2)\cup(3,4)")
    Union_(parts=('(1,2)', '(3,4)'))
    >>> read_union(r"A\cap B")
    """
    parts, found = split_top(text, {"\\cup"})
    if not found:
        return None
    return Union_(tuple(parts)) if all(parts) else Plain(text)


def read_matrix(text: str) -> Shape | None:
    r"""A matrix or a column; not one that holds another environment.

    >>> read_matrix(r"\begin{pmatrix}1&2\\3&4\end{pmatrix}")
    Matrix(rows=(('1', '2'), ('3', '4')))
    >>> read_matrix("(1, 2)")
    """
    m = _MATRIX.match(text)
    if not m or "\\begin" in m[2]:
        return None
    rows = [row for row in _ROW_END.split(m[2].replace("\\hline", "")) if row.strip()]
    return Matrix(tuple(tuple(cell.strip() for cell in row.split("&")) for row in rows))


def read_cases(text: str) -> Shape | None:
    r"""A system of equations, as the list of its rows; not a case distinction.

    >>> read_cases(r"\begin{cases}x=1\\y=2\end{cases}")
    Series(items=('x=1', 'y=2'), bare=True)
    >>> read_cases(r"\begin{cases}1&x>0\\2&x<0\end{cases}")
    """
    m = _CASES.match(text)
    if not m or "\\begin" in m[1] or "&" in m[1]:
        return None
    rows = [row.strip(" ,;") for row in m[1].split("\\\\") if row.strip()]
    return Series(tuple(rows)) if len(rows) > 1 and all(rows) else Plain(text)


def read_bracketed(text: str) -> Shape | None:
    r"""A set, a tuple or an interval; brackets round one value are nothing.

    >>> read_bracketed("[1, 2)"), read_bracketed("(5)")
    (Tuple_(items=('1', '2'), open='[', close=')'), Plain(text='5'))
    >>> read_bracketed("(1)(2)")
    """
    held = _enclosed(text)
    if held is None:
        return None
    if held.open in _CURLY:
        return _set(text, held)
    items, found = split_top(held.inside, _SEPARATORS)
    if found:
        return _tuple(text, held, tuple(items))
    inside, around = held.inside.strip(), (held.open, held.close)
    if (around == ("(", ")") and inside) or (around == ("[", "]") and "\\begin" in inside):
        return structure(inside)
    return Plain(text)


def _set(text: str, held: _Enclosed) -> Shape:
    parts, bars = split_top(held.inside, _BARS)
    if bars:
        condition = structure(parts[1]) if len(parts) == 2 and re.fullmatch(r"[A-Za-z]", parts[0]) else None
        return Described(parts[0], parts[1]) if isinstance(condition, Relation) else Plain(text)
    kept = tuple(item for item in split_top(held.inside, _SEPARATORS)[0] if item)
    return Series(_expanded(kept), bare=False) if kept and (held.open == "\\{" or len(kept) > 1) else Plain(text)


def _tuple(text: str, held: _Enclosed, items: tuple[str, ...]) -> Shape:
    if not all(items):
        return Plain(text)
    if text.count("\\pm") == 1 and "\\mp" not in text and (two := _plus_minus(text)):  # (\pm 5, 0) is two points
        return Series(two)
    return Tuple_(items, held.open, held.close)


def read_two_signs(text: str) -> Shape | None:
    r"""A value with two signs, which is two values.

    >>> read_two_signs(r"5\pm\sqrt{3}")
    Series(items=('5+\\sqrt{3}', '5-\\sqrt{3}'), bare=True)
    >>> read_two_signs("5-3")
    """
    two = _plus_minus(text)
    return Series(two) if two else None


def read_ratio(text: str) -> Shape | None:
    """Parts of a ratio.

    >>> read_ratio("3:2:1")
    Ratio(parts=('3', '2', '1'))
    >>> read_ratio("3/2")
    """
    parts, found = split_top(text, {":"})
    return Ratio(tuple(parts)) if found and all(parts) else None


READERS: tuple[Callable[[str], Shape | None], ...] = (
    read_series,
    read_relation,
    read_union,
    read_matrix,
    read_cases,
    read_bracketed,
    read_two_signs,
    read_ratio,
)
"""The first that reads the text decides. What binds loosest comes first: `x = 1, y = 2` is a series of relations."""


@lru_cache(maxsize=16384)
def structure(text: str) -> Shape:
    r"""The shape of an answer. Parentheses around one value are nothing; `\pm` is two values."""
    text = without_parentheses(text)
    for read in READERS:
        if (shape := read(text)) is not None:
            return shape
    return Plain(text)


def without_parentheses(text: str) -> str:
    """Without the parentheses around one value, however many, in one pass (an answer may have thousands).

    >>> without_parentheses("((5))"), without_parentheses("((1, 2))"), without_parentheses("(1)(2)")
    ('5', '(1, 2)', '(1)(2)')
    """
    if not (text.startswith(_OPENS_ROUND) and text.endswith(_CLOSES_ROUND)):
        return text
    tokens = [m for m in _LEX.finditer(text) if not m[0].isspace()]
    names = [_ROUND.get(m[0], m[0]) for m in tokens]
    opened = next((i for i, name in enumerate(names) if name != "("), len(names))
    closed = next((i for i, name in enumerate(reversed(names)) if name != ")"), len(names))
    outer = pairs = depth = min(opened, closed, (len(names) - 1) // 2)  # something is left inside
    for name in names[outer : len(names) - outer]:
        depth += _turn(name)
        pairs = min(pairs, depth - 1 if name in _SEPARATORS else depth)  # a tuple keeps the parentheses around its items
    if pairs <= 0 or depth < outer:
        return text
    return text[tokens[pairs - 1].end() : tokens[-pairs].start()].strip()


def _expanded(items: tuple[str, ...]) -> tuple[str, ...]:
    """Items of a list with each `\\pm` written out, unless it stands in a tuple of its own."""
    out: list[str] = []
    for item in items:
        two = _plus_minus(item)
        if two is None or split_top(item, set(_RELATIONS))[1]:
            if two is not None and (parts := split_top(item, {"="})) and len(parts[0]) == 2:
                value = _plus_minus(parts[0][1])
                out += [f"{parts[0][0]} = {v}" for v in value] if value else [item]
            else:
                out.append(item)
        else:
            out += two
    return tuple(out)


@lru_cache(maxsize=4096)
def is_name(text: str) -> bool:
    """Something that stands for the value asked for: `x`, `a_{37}`, `f(x)`, `P(X = 2)`, `AB`, `\\frac{NO}{BO}`, `(x, y)`."""
    if not re.search(r"[A-Za-z]", text) or len(text) > 120:
        return False
    shape = structure(text)
    if isinstance(shape, Tuple_):
        return all(is_name(item) for item in shape.items)
    if isinstance(shape, Series | Union_ | Matrix | Relation | Described):
        return False
    bare = re.sub(r"\\text\{[^{}]*\}", "t", text)
    bare = re.sub(r"_\{[^{}]*\}|_\w", "", bare)
    while True:  # the argument of a function, and of the inverse of a function
        shorter = re.sub(r"([A-Za-z])(?:\^\{-1\}|\^\{\\prime\}|'+)?\s*\([^()]*\)", r"\1", bare)
        if shorter == bare:
            break
        bare = shorter
    bare = re.sub(r"\^\{\\circ\}|\\circ", "", bare)
    if not re.search(r"[A-Za-z]", re.sub(r"\\(?:frac|pi|infty|sqrt|cdot|times|mathbb)(?![A-Za-z])", "", bare)):
        return False
    if re.search(r"\\(?:sqrt|sum|int|prod|lim|infty|pm|times|mathbb)(?![A-Za-z])", bare):
        return False
    return not re.search(r"[\d+\-*^!=<>,]", bare) and "/" not in re.sub(r"[A-Z]+/[A-Z]+", "", bare)


_SIGNS_OF_SETS = re.compile(r"\\(?:mathbb|setminus|emptyset|cap)(?![A-Za-z])|^\\\{")


def is_set(shape: Shape) -> bool:
    r"""A list, a union, an interval or pair, or a text with signs of sets.

    >>> is_set(structure(r"\mathbb{R} \setminus \{1\}")), is_set(structure("(1,2)")), is_set(structure("(1,2,3)"))
    (True, True, False)
    """
    if isinstance(shape, Series | Union_) or (isinstance(shape, Tuple_) and len(shape.items) == 2):
        return True
    return isinstance(shape, Plain) and _SIGNS_OF_SETS.search(shape.text) is not None


@lru_cache(maxsize=4096)
def is_function_name(text: str) -> bool:
    """A name that stands for the function as a whole: `y`, `f(x)`, `g(x, y)`, `f^{-1}(x)`; never `f(2)`."""
    bare = text.replace(" ", "")
    return (
        bare == "y" or re.fullmatch(r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_\{?\w+\}?)?(?:\^\{-1\}|')*\([A-Za-z](?:,[A-Za-z])*\)", bare) is not None
    )
