r"""One way to write an answer.

`normalise` rewrites one extracted answer. It is linear in the length of the text and uses no parser. The result is LaTeX with the dress
taken off: `$\dfrac12$`, `\frac{1}{2}` and `\left.\frac 1 2\right.` all become `\frac{1}{2}`. Rules follow section "Normalisation" that MATH
graders share (Hendrycks et al. 2021, `math_equivalence`; Lewkowycz et al. 2022, Minerva, appendix D.1), with these differences: an ambiguous
comma is a separator, percent and units are kept as facts beside the text instead of being lost, and a base subscript is part of the number.

The order: the passes `DRESS` of `rlent.grading.passes`; words marked as text, a percent sign, degrees and a unit become facts; then `VALUE`,
commas and `SPELLING`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from rlent.grading.characters import printable, to_latex
from rlent.grading.passes import DECIMAL_COMMA, DEGREES, DRESS, SPELLING, THOUSANDS, VALUE, run, strip_end
from rlent.grading.units import Unit, split_unit
from rlent.grading.vocabulary import NAMED_ANSWERS, NUMBER_WORDS

MAX_ANSWER = 4096  # characters of an answer that is worth more than a string comparison

_QUOTED = re.compile(r"\\text\{([^{}]*)\}")
_CURRENCY = re.compile(r"^(?:US|USD|EUR|GBP|INR|Rs\.?)\s*(?=\d)")
_PERCENT_TEXT = re.compile(r"\\text\{\s*(?:percent|per cent|percentage|%)\s*\}\s*$")
_PERCENT = re.compile(r"(?:\\?%|(?<![A-Za-z])(?:percentage(?:\s+points?)?|percent|per\s?cent|pct)\b\.?)\s*$", re.IGNORECASE)
_SPACES = re.compile(r"\s+")
_NEEDLESS_SPACE = re.compile(r"(?<!\d)\s+|\s+(?!\d)")
_SHORT_SCRIPT = re.compile(r"([_^])\{([A-Za-z0-9])\}")
_ALPHABETIC = re.compile(r"[^\W\d_][\w\s'.,/&()-]*")
_LETTERS = re.compile(r"[^\W\d_]+")
_BASE = re.compile(r"^(-?[0-9A-F.]+)_\{?\(?(?:base)?(\d+|[a-z]+)\)?\}?$")


@dataclass(frozen=True, slots=True)
class Form:
    """An answer in one spelling.

    text: LaTeX without dress. compact: the same without spaces; equal compact forms are equal answers. words: the text case-folded when the
    answer is words and not mathematics, else empty. percent: it carried a percent sign. unit: None where it has none that can be converted.
    quoted: the words were marked as text.
    """

    text: str
    compact: str
    words: str = ""
    percent: bool = False
    unit: Unit | None = None
    quoted: bool = False


@lru_cache(maxsize=16384)
def normalise(text: str, decimal_comma: bool = False) -> Form:
    """The one spelling of an answer. Cached: golds and the answers of a group come again and again."""
    text = run(DRESS, to_latex(printable(text)).strip())
    text, quoted = _unquote(text)
    text = _CURRENCY.sub("", text)
    text, percent = _split_percent(text)
    text, unit = split_unit(run(DEGREES, text))
    text = run(VALUE, text, quoted=quoted)
    text = (DECIMAL_COMMA if decimal_comma else THOUSANDS).rewrite(text)
    text = run(SPELLING, text, quoted=quoted)
    plain = without_text(text)
    compact = _NEEDLESS_SPACE.sub("", _SPACES.sub(" ", plain))
    compact = _SHORT_SCRIPT.sub(r"\1\2", compact)
    return Form(text, compact, _words(plain, quoted or r"\text{" in text), percent, unit, quoted)


def without_text(text: str) -> str:
    r"""The contents of `\text{...}` in their place."""
    return _QUOTED.sub(r" \1 ", text)


def _unquote(text: str) -> tuple[str, bool]:
    r"""(the answer, whether all of it was marked as text); words for a set or for infinity are mathematics."""
    quoted = False
    if (m := _QUOTED.fullmatch(text)) is not None:
        text, quoted = strip_end(m[1].strip()), True
    if named := NAMED_ANSWERS.get(text.casefold()):
        return named, False
    return text, quoted


def _split_percent(text: str) -> tuple[str, bool]:
    """(the answer, whether it carried a percent sign)."""
    m = _PERCENT_TEXT.search(text)
    if m is None and (m := _PERCENT.search(text)) is not None and m.start() == 0:
        m = None  # the sign alone
    return (text, False) if m is None else (strip_end(text[: m.start()].rstrip()), True)


def _words(text: str, quoted: bool) -> str:
    """The case-folded words of an answer that is words, else an empty string."""
    bare = _SPACES.sub(" ", text).strip(" .,!?'\"")
    if not _ALPHABETIC.fullmatch(bare):
        return ""
    longest = max(map(len, _LETTERS.findall(bare)))
    if longest >= 3 or (quoted and longest >= 2) or not bare.isascii():
        return bare.casefold()
    return bare.casefold() if bare.lower() in ("no", "yes", "am", "pm") else ""


def base_number(form: Form) -> tuple[str, int] | None:
    """(digits, base) of `52_8`, else None."""
    m = _BASE.match(form.compact)
    if not m or not any(ch.isdigit() for ch in m[1]):
        return None
    base = int(m[2]) if m[2].isdigit() and len(m[2]) <= 2 else NUMBER_WORDS.get(m[2], 0)
    return (m[1].lstrip("0") or "0", base) if 2 <= base <= 36 else None
