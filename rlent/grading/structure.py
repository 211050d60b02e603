r"""The outer shape of an answer: list, set, tuple or interval, union, matrix, relation, ratio, or plain.

Only the outermost brackets and separators are read; the pieces stay text. Works on the text of a `Form`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from rlent.grading.normalise import closing


@dataclass(frozen=True, slots=True)
class Plain:
    text: str


@dataclass(frozen=True, slots=True)
class Series:
    """Values side by side, in no order: `1, 2 \\text{ and } 3`; `bare` is False for a set in braces."""

    items: tuple[str, ...]
    bare: bool = True


@dataclass(frozen=True, slots=True)
class Tuple_:
    """A tuple or an interval; `open` and `close` are one of ( [ ) ] after French brackets are turned round."""

    items: tuple[str, ...]
    open: str
    close: str


@dataclass(frozen=True, slots=True)
class Union_:
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """`parts[0] ops[0] parts[1] ...`; ops are = < > <= >= != ~ in."""

    parts: tuple[str, ...]
    ops: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ratio:
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Described:
    """A set by a condition: `\\{x \\mid x > 1\\}`."""

    name: str
    condition: str


Structure = Plain | Series | Tuple_ | Union_ | Matrix | Relation | Ratio | Described

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


def _enclosed(text: str) -> tuple[str, str, str] | None:
    """(open, inside, close) when one pair of brackets holds the whole text."""
    tokens = [(m[0], m.start(), m.end()) for m in _LEX.finditer(text)]
    if len(tokens) < 2 or tokens[0][0] not in ("(", "[", "]", "{", "\\{", "\\langle"):
        return None
    first, last = tokens[0][0], tokens[-1][0]
    inside = text[tokens[0][2] : tokens[-1][1]]
    if first == "]" or (last == "[" and first in "(["):  # ]a, b[
        if last in ("[", "]", ")") and not re.search(r"[\[\]]", inside):
            return ("(" if first == "]" else first, inside, ")" if last == "[" else last)
        return None
    depth = 0
    for i, (token, _, _) in enumerate(tokens):
        depth += _turn(token)
        if depth == 0:
            if i != len(tokens) - 1:
                return None
            break
    if last not in (")", "]", "}", "\\}", "\\rangle"):
        return None
    curly = {"{", "\\{"}
    if (first in curly) != (last in {"}", "\\}"}):
        return None
    return ("(" if first == "\\langle" else first, inside, ")" if last == "\\rangle" else last)


def _plus_minus(text: str) -> tuple[str, str] | None:
    if "\\pm" not in text and "\\mp" not in text:
        return None
    first = re.sub(r"\\pm(?![A-Za-z])", "+", re.sub(r"\\mp(?![A-Za-z])", "-", text))
    second = re.sub(r"\\pm(?![A-Za-z])", "-", re.sub(r"\\mp(?![A-Za-z])", "+", text))
    return first.strip(), second.strip()


@lru_cache(maxsize=16384)
def structure(text: str) -> Structure:
    """The shape of an answer. Parentheses around one value are nothing; `\\pm` is two values."""
    items, found = split_top(text, {",", ";"})
    if found:
        kept = tuple(item for item in items if item)
        return Series(_expanded(kept)) if len(kept) > 1 else Plain(text)
    parts, ops = split_top(text, _RELATIONS)
    if ops:
        return Relation(tuple(parts), tuple(_RELATIONS[op] for op in ops)) if all(parts) else Plain(text)
    parts, found = split_top(text, {"\\cup"})
    if found:
        return Union_(tuple(parts)) if all(parts) else Plain(text)
    if (m := _MATRIX.match(text)) and "\\begin" not in m[2]:
        rows = [row for row in re.split(r"\\\\(?:\[[^\]]*\])?", m[2].replace("\\hline", "")) if row.strip()]
        return Matrix(tuple(tuple(cell.strip() for cell in row.split("&")) for row in rows))
    if (m := _CASES.match(text)) and "\\begin" not in m[1] and "&" not in m[1]:
        rows = [row.strip(" ,;") for row in m[1].split("\\\\") if row.strip()]
        return Series(tuple(rows)) if len(rows) > 1 and all(rows) else Plain(text)
    if (held := _enclosed(text)) is not None:
        left, inside, right = held
        items, found = split_top(inside, {",", ";"})
        if left in ("{", "\\{"):
            if (parts := split_top(inside, {"|", ":", "\\mid"}))[1]:
                told = structure(parts[0][1]) if len(parts[0]) == 2 and re.fullmatch(r"[A-Za-z]", parts[0][0]) else None
                return Described(parts[0][0], parts[0][1]) if isinstance(told, Relation) else Plain(text)
            kept = tuple(item for item in items if item)
            return Series(_expanded(kept), bare=False) if kept and (left == "\\{" or len(kept) > 1) else Plain(text)
        if found and all(items):
            if text.count("\\pm") == 1 and "\\mp" not in text and (two := _plus_minus(text)):  # (\pm 5, 0) is two points
                return Series(two)
            return Tuple_(tuple(items), left, right)
        if not found and left == "(" and right == ")" and inside.strip():
            return structure(inside.strip())
        if not found and left == "[" and right == "]" and "\\begin" in inside:
            return structure(inside.strip())
        return Plain(text)
    if two := _plus_minus(text):
        return Series(two)
    parts, found = split_top(text, {":"})
    if found and all(parts):
        return Ratio(tuple(parts))
    return Plain(text)


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


_NAME_PIECE = re.compile(
    r"\\(?:angle|triangle|overline|vec|hat|bar|tilde|measuredangle|mathbb|mathcal|sin|cos|tan|cot|ln|log|det|Delta|gcd|lcm|max|min|text|frac|operatorname|widehat|underline|dot|ddot|prime|perp|parallel|cdot|mathbf)(?![A-Za-z])|\\[A-Za-z]+|[A-Za-z|{}\[\]():' ]"
)


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


@lru_cache(maxsize=4096)
def is_function_name(text: str) -> bool:
    """A name that only says "the function": `y`, `f(x)`, `g(x, y)`, `f^{-1}(x)`; never `f(2)`."""
    bare = text.replace(" ", "")
    return (
        bare == "y" or re.fullmatch(r"(?:[A-Za-z]|\\[A-Za-z]+)(?:_\{?\w+\}?)?(?:\^\{-1\}|')*\([A-Za-z](?:,[A-Za-z])*\)", bare) is not None
    )


def braces_balanced(text: str) -> bool:
    depth, i = 0, 0
    while i < len(text):
        if text[i] == "\\":
            i += 2
            continue
        depth += (text[i] == "{") - (text[i] == "}")
        if depth < 0:
            return False
        i += 1
    return depth == 0


__all__ = [
    "Described",
    "Matrix",
    "Plain",
    "Ratio",
    "Relation",
    "Series",
    "Structure",
    "Tuple_",
    "Union_",
    "braces_balanced",
    "closing",
    "is_function_name",
    "is_name",
    "split_top",
    "structure",
]
