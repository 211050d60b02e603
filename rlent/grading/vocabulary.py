r"""Words that stand for mathematics."""

from __future__ import annotations

import re

FUNCTIONS = "arcsin arccos arctan arccot sinh cosh tanh sin cos tan cot sec csc log ln exp max min gcd lcm det".split()
"""Functions that may be written without a backslash, the longer name before one that begins it."""

PLAIN_WORDS = {
    "pi": r"\pi ", "infinity": r"\infty ", "infty": r"\infty ", "inf": r"\infty ", "oo": r"\infty ", "theta": r"\theta ",
    "alpha": r"\alpha ", "beta": r"\beta ",
}  # fmt: skip
"""Symbols that may be written without a backslash."""

RENAMED = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "leq": "le", "geq": "ge", "neq": "ne",
    "leqslant": "le", "geqslant": "ge", "lt": "<", "gt": ">", "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]",
    "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "ast": "cdot", "colon": ":", "varnothing": "emptyset",
    "dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "dotsb": "ldots", "land": "wedge", "lor": "vee", "rightarrow": "to",
    "lg": "log", "isin": "in", "arctg": "arctan", "tg": "tan", "ctg": "cot", "cosec": "csc", "infin": "infty", "backslash": "setminus", "simeq": "approx",
}  # fmt: skip
r"""Commands of LaTeX and the one name for them."""

NAMED_ANSWERS = {
    "infinity": r"\infty", "positive infinity": r"\infty", "negative infinity": r"-\infty", "empty set": r"\emptyset",
    "the empty set": r"\emptyset", "all real numbers": r"\mathbb{R}", "all reals": r"\mathbb{R}", "the real numbers": r"\mathbb{R}",
}  # fmt: skip
"""Whole answers in words, without case."""

NUMBER_WORDS = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "twelve": 12, "sixteen": 16,
}  # fmt: skip
"""Numbers in words, which may be a base and are never a unit."""

UNDONE = re.compile(r"\\(?:int|iint|iiint|oint|sum|prod|lim)(?![A-Za-z])")
"""Operations that a gold has carried out."""
