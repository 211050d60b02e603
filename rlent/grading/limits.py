r"""What is refused before any parser sees it.

A few characters can ask for more work than a training step has: `9^{9^9}`, `10^9!`, `\binom{10^9}{5\cdot10^8}`. String
equality has been tried by then, so nothing that simply repeats its gold is lost. Static rules are cheap, exact and
the same on every machine; the deadline of the workers is for what they miss.
"""

from __future__ import annotations

import math
import re

from rlent.grading.normalise import MAX_ANSWER

MAX_NESTING = 64
MAX_COMMANDS = 256
MAX_DIGITS = 256
MAX_ARGUMENT = 10_000  # of a factorial, a binomial, a bound, an exponent of a number
MAX_CELLS = 256

_COMMAND = re.compile(r"\\[A-Za-z]+")
_LONG_DIGITS = re.compile(rf"\d{{{MAX_DIGITS + 1}}}")
_TOWER = re.compile(r"\d\s*\)?\s*\^\s*\{\s*\(?\s*(\d{1,4})\s*\)?\s*\^\s*\{?\s*\(?\s*(\d+)")  # 9^{9^9}
_TOWER_OTHER = re.compile(r"\d\s*\^\s*\d+\s*\^|[)\d!]\s*\^\s*\{[^{}]*!")  # 9^9^9, 2^{n!}
_GROUP = re.compile(r"\{[^{}]*\}|\([^()]*\)")
_BIG = re.compile(r"\d{5,}|\d\s*\^|[!^].{0,80}[!^]", re.DOTALL)


def _innermost_out(text: str, power: bool) -> int:
    """Depth of nested powers (or factorials): how often one stands in the argument of another."""
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
        elif ch == ("^" if power else "!"):
            best = max(best, depth + 1)
            pending = True
        elif not ch.isspace():
            pending = False
    return best


def _bounds_of(text: str, command: str) -> list[str]:
    r"""The bounds of every sum, product or integral, and the arguments of every binomial."""
    found = []
    for m in re.finditer(command, text):
        piece = text[m.end() : m.end() + 160]
        found += re.findall(r"[_^]\s*(\{(?:[^{}]|\{[^{}]*\})*\}|\\?\w+)", piece)[:2]
    return found


def too_much(text: str) -> str | None:
    """Why this answer is refused without parsing, or None. Linear in the length of the text.

    >>> too_much("9^{9^9}")
    'a tower of numbers'
    """
    if len(text) > MAX_ANSWER:
        return "too long"
    depth = deepest = 0
    for ch in text:
        if ch in "{([":
            depth += 1
            deepest = max(deepest, depth)
        elif ch in "})]":
            depth -= 1
    if deepest > MAX_NESTING:
        return "nested too deeply"
    if len(_COMMAND.findall(text)) > MAX_COMMANDS:
        return "too many commands"
    if _LONG_DIGITS.search(text):
        return "too many digits"
    if text.count("&") + text.count("\\\\") > MAX_CELLS:
        return "too many cells"
    if text.count("+") + text.count("-") + text.count(",") > 1024:
        return "too many terms"
    if "^" in text:
        if _innermost_out(text, power=True) >= 3:
            return "a tower of powers"
        if re.search(r"\^\s*(?:\{\s*-?\s*)?\(?\s*\d{5,}", text):
            return "a large exponent"
        if any(len(c) > 3 or int(c) * math.log10(max(int(b), 1) + 1) > 4 for b, c in _TOWER.findall(text)) or _TOWER_OTHER.search(text):
            return "a tower of numbers"
        if re.search(r"\^\s*\{(?:[^{}]|\{[^{}]*\})*(?:\d\s*\\(?:cdot|times)\s*)?10\s*\^\s*\{?\s*\d+", text):
            return "a tower of numbers"
        if re.search(r"[)}]\s*\^\s*(?:\{\s*)?\d{3,}", text) and re.search(r"[A-Za-z]", _COMMAND.sub("", text)):
            return "a large power of a sum"
    if "!" in text:
        if re.search(r"\d{5,}\s*[)}\]]?\s*!|!\s*[)}\]]*\s*!|\^\s*\{?\s*\d+\s*\}?\s*[)}\]]?\s*!", text):
            return "a large factorial"
        if _innermost_out(text, power=False) >= 2:
            return "a factorial of a factorial"
    for command in (r"\\binom", r"\\(?:sum|prod|int|iint|iiint|oint|bigcup|bigcap|lim)(?![A-Za-z])"):
        if command == r"\\binom":
            pieces = []
            for m in re.finditer(command, text):
                pieces += _GROUP.findall(text[m.end() : m.end() + 200])[:4]
        else:
            pieces = _bounds_of(text, command)
        if any(_BIG.search(piece) for piece in pieces):
            return "large bounds"
    if re.search(r"\\sqrt\s*\[\s*[^\]]{0,20}?\d{4,}", text):
        return "a large root"
    return None
