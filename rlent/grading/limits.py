r"""What is refused before any parser sees it.

A few characters can ask for more work than a training step has: `9^{9^9}`, `10^9!`, `\binom{10^9}{5\cdot10^8}`. String
equality has been tried by then, so nothing that simply repeats its gold is lost. Static rules are cheap, exact and
the same on every machine; the deadline of the workers is for what they miss.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

from rlent.grading.normalise import MAX_ANSWER

MAX_NESTING = 64
MAX_COMMANDS = 256
MAX_DIGITS = 256
MAX_CELLS = 256
MAX_TERMS = 1024

_COMMAND = re.compile(r"\\[A-Za-z]+")
_LONG_DIGITS = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")
_TOWER = re.compile(r"\d\s*\)?\s*\^\s*\{\s*\(?\s*(\d{1,4})\s*\)?\s*\^\s*\{?\s*\(?\s*(\d+)")  # 9^{9^9}
_TOWER_OTHER = re.compile(r"\d\s*\^\s*\d+\s*\^|[)\d!]\s*\^\s*\{[^{}]*!")  # 9^9^9, 2^{n!}
_TOWER_OF_TEN = re.compile(r"\^\s*\{(?:[^{}]|\{[^{}]*\})*(?:\d\s*\\(?:cdot|times)\s*)?10\s*\^\s*\{?\s*\d+")
_LARGE_EXPONENT = re.compile(r"\^\s*(?:\{\s*-?\s*)?\(?\s*\d{5,}")
_POWER_OF_SUM = re.compile(r"[)}]\s*\^\s*(?:\{\s*)?\d{3,}")
_LARGE_FACTORIAL = re.compile(r"\d{5,}\s*[)}\]]?\s*!|!\s*[)}\]]*\s*!|\^\s*\{?\s*\d+\s*\}?\s*[)}\]]?\s*!")
_LARGE_ROOT = re.compile(r"\\sqrt\s*\[\s*[^\]]{0,20}?\d{4,}")
_BINOMIAL = re.compile(r"\\binom")
_BOUNDED = re.compile(r"\\(?:sum|prod|int|iint|iiint|oint|bigcup|bigcap|lim)(?![A-Za-z])")
_BOUND = re.compile(r"[_^]\s*(\{(?:[^{}]|\{[^{}]*\})*\}|\\?\w+)")
_GROUP = re.compile(r"\{[^{}]*\}|\([^()]*\)")
_BIG = re.compile(r"\d{5,}|\d\s*\^|[!^].{0,80}[!^]", re.DOTALL)


def _deepest_bracket(text: str) -> int:
    depth = deepest = 0
    for ch in text:
        if ch in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif ch in "})]":
            depth -= 1
    return deepest


def _deepest_power(text: str, mark: str) -> int:
    """Depth of nested powers (`^`) or factorials (`!`): how often one stands in the argument of another."""
    depth = best = 0
    marks: list[bool] = []  # for every open group: does it belong to a power?
    pending = False
    for ch in text:
        if ch in "{(":
            marks.append(pending)
            depth += pending
            pending = False
        elif ch in "})":
            if marks and marks.pop():
                depth -= 1
            pending = False
        elif ch == mark:
            best = max(best, depth + 1)
            pending = True
        elif not ch.isspace():
            pending = False
    return best


def _has_tower(text: str) -> bool:
    """A power in the exponent of a number, of more than four digits of exponent in all."""
    towers = any(len(c) > 3 or int(c) * math.log10(max(int(b), 1) + 1) > 4 for b, c in _TOWER.findall(text))
    return towers or _TOWER_OTHER.search(text) is not None or _TOWER_OF_TEN.search(text) is not None


def _has_large_power_of_sum(text: str) -> bool:
    return _POWER_OF_SUM.search(text) is not None and re.search(r"[A-Za-z]", _COMMAND.sub("", text)) is not None


def _bounds(text: str) -> list[str]:
    """The bounds of every sum, product or integral, and the arguments of every binomial."""
    found: list[str] = []
    for m in _BINOMIAL.finditer(text):
        found += _GROUP.findall(text[m.end() : m.end() + 200])[:4]
    for m in _BOUNDED.finditer(text):
        found += _BOUND.findall(text[m.end() : m.end() + 160])[:2]
    return found


class Refusal(NamedTuple):
    """Why a text is refused. sign: what it must contain for the question to arise, empty for every text."""

    reason: str
    sign: str
    found: Callable[[str], bool]


REFUSALS = (
    Refusal("too long", "", lambda text: len(text) > MAX_ANSWER),
    Refusal("nested too deeply", "", lambda text: _deepest_bracket(text) > MAX_NESTING),
    Refusal("too many commands", "\\", lambda text: len(_COMMAND.findall(text)) > MAX_COMMANDS),
    Refusal("too many digits", "", lambda text: _LONG_DIGITS.search(text) is not None),
    Refusal("too many cells", "", lambda text: text.count("&") + text.count("\\\\") > MAX_CELLS),
    Refusal("too many terms", "", lambda text: text.count("+") + text.count("-") + text.count(",") > MAX_TERMS),
    Refusal("a tower of powers", "^", lambda text: _deepest_power(text, "^") >= 3),
    Refusal("a large exponent", "^", lambda text: _LARGE_EXPONENT.search(text) is not None),
    Refusal("a tower of numbers", "^", _has_tower),
    Refusal("a large power of a sum", "^", _has_large_power_of_sum),
    Refusal("a large factorial", "!", lambda text: _LARGE_FACTORIAL.search(text) is not None),
    Refusal("a factorial of a factorial", "!", lambda text: _deepest_power(text, "!") >= 2),
    Refusal("large bounds", "\\", lambda text: any(_BIG.search(piece) for piece in _bounds(text))),
    Refusal("a large root", "\\", lambda text: _LARGE_ROOT.search(text) is not None),
)


def too_much(text: str) -> str | None:
    """Why this answer is refused without parsing, or None. Linear in the length of the text.

    >>> too_much("9^{9^9}")
    'a tower of numbers'
    """
    return next((reason for reason, sign, found in REFUSALS if sign in text and found(text)), None)
