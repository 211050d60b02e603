r"""Brackets in LaTeX: where one closes, whether they balance, and braces round arguments that lack them."""

from __future__ import annotations

import re
from collections.abc import Callable


def closing(text: str, start: int) -> int:
    r"""Index of the brace that closes the one at `start`, or -1. `\{` and `\}` are not braces."""
    depth, i = 0, start
    while i < len(text):
        ch = text[i]
        if ch == "\\":
            i += 2
            continue
        if ch == "{":
            depth += 1
        elif ch == "}":
            depth -= 1
            if depth == 0:
                return i
        i += 1
    return -1


def closing_parenthesis(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`, or -1."""
    depth = 0
    for i in range(start, len(text)):
        if text[i] == "(":
            depth += 1
        elif text[i] == ")":
            depth -= 1
            if depth == 0:
                return i
    return -1


def braces_balanced(text: str) -> bool:
    r"""Whether every brace has its partner. `\{` and `\}` are not braces.

    >>> braces_balanced(r"\frac{1}{2}"), braces_balanced(r"\frac{1}{2")
    (True, False)
    """
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


def separated(text: str) -> bool:
    """Whether a comma or semicolon stands outside all brackets.

    >>> separated("1, 2"), separated("(1, 2)")
    (True, False)
    """
    depth = 0
    for ch in text:
        if ch in "([{":
            depth += 1
        elif ch in ")]}":
            depth -= 1
        elif ch in ",;" and depth == 0:
            return True
    return False


def each_group(text: str, command: re.Pattern[str], rewrite: Callable[[str, str], str]) -> str:
    r"""Replace `\command{content}` by rewrite(name, content), left to right; unbalanced groups stay."""
    out, at = [], 0
    for m in command.finditer(text):
        if m.start() < at:
            continue
        end = closing(text, m.end() - 1)
        if end < 0:
            break
        out.append(text[at : m.start()])
        out.append(rewrite(m[1], text[m.end() : end]))
        at = end + 1
    out.append(text[at:])
    return "".join(out)


_PLAIN_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s*(?=[\(\{])")
_PLAIN_ROOT_OF_DIGIT = re.compile(r"(?<![\\A-Za-z])sqrt(?=\d)")
_WITH_ARGUMENTS = re.compile(r"\\(frac|sqrt|binom)(?![A-Za-z])")
_ARGUMENT = re.compile(r"\\[A-Za-z]+|.")


def brace_arguments(text: str) -> str:
    r"""`\frac12` to `\frac{1}{2}`, `\sqrt3` to `\sqrt{3}`, `\sqrt(3)` and `sqrt(3)` to `\sqrt{3}`."""
    text = _PLAIN_ROOT.sub(r"\\sqrt", text)
    text = _PLAIN_ROOT_OF_DIGIT.sub(r"\\sqrt", text)
    out, at = [], 0
    for m in _WITH_ARGUMENTS.finditer(text):
        if m.start() < at:
            continue
        out += [text[at : m.start()], m[0]]
        at = m.end()
        arguments = 2
        if m[1] == "sqrt":
            pieces, at, done = _root_arguments(text, at)
            out += pieces
            arguments = 0 if done else 1
        for _ in range(arguments):
            piece, at = _one_argument(text, at, grouped=m[1] != "sqrt")
            if not piece:
                break
            out.append(piece)
    out.append(text[at:])
    return "".join(out)


def _skip_spaces(text: str, at: int) -> int:
    while at < len(text) and text[at] == " ":
        at += 1
    return at


def _root_arguments(text: str, at: int) -> tuple[list[str], int, bool]:
    """(index and parenthesised argument of a root, where they end, whether there was an argument)."""
    pieces = []
    at = _skip_spaces(text, at)
    if at < len(text) and text[at] == "[" and (end := text.find("]", at)) > 0:
        pieces.append(text[at : end + 1])
        at = end + 1
    if at < len(text) and text[at] == "(" and (end := closing_parenthesis(text, at)) > 0:
        return [*pieces, "{" + brace_arguments(text[at + 1 : end]) + "}"], end + 1, True
    return pieces, at, False


def _one_argument(text: str, at: int, *, grouped: bool) -> tuple[str, int]:
    """(an argument in braces, where it ends); empty where none begins. grouped: also one that has its braces."""
    at = _skip_spaces(text, at)
    if grouped and text[at : at + 1] == "{" and (end := closing(text, at)) > 0:
        return "{" + brace_arguments(text[at + 1 : end]) + "}", end + 1
    token = _ARGUMENT.match(text, at)
    if token is None or token[0] in "{}^_&)" or token[0] in ("\\frac", "\\sqrt", "\\binom"):
        return "", at
    return "{" + token[0] + "}", token.end()
