r"""Answers that are letters of a choice or words: compared as words, never as mathematics.

In the examples `verdict(answer, gold)` is the verdict.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from rlent.grading.normalise import Form, without_text
from rlent.grading.structure import Relation, structure

_LETTERS = re.compile(r"[A-J](?:,?[A-J])+")
_DRESSED_LETTER = re.compile(r"[\(\[]?[A-J][\)\]]?[.:]?")
_GOES_ON = re.compile(r"[+*/^=<>|!_]|-\s|\\(?:cdot|times|div|pm|mp|cup|cap|leq?|geq?|neq?|in|to)(?![a-zA-Z])")
"""What makes a letter in brackets the beginning of a formula instead of a choice: `(C) + 1`, but `(C) -1`."""
_PRODUCT = 4
"""Characters of a word that may be a product of variables."""


@dataclass(frozen=True, slots=True)
class WordRule:
    """Where `applies` holds, `decide` has the verdict; None of `decide` leaves the pair to mathematics."""

    applies: Callable[[Form, Form], bool]
    decide: Callable[[Form, Form], bool | None]


def words_decide(a: Form, g: Form) -> bool | None:
    """The verdict when the gold is a letter or words, or the answer is words and the gold is not; else None."""
    for rule in WORD_RULES:
        if rule.applies(a, g):
            return rule.decide(a, g)
    return None


def choice(form: Form) -> str:
    r"""The letter A to J when the answer is one, in any dress: `C`, `(C)`, `\text{C}`, `(C) 12`; else empty."""
    compact = re.sub(r"^(?:option|choice|answer)(?=[A-J(\[])", "", form.compact, flags=re.IGNORECASE)
    if m := re.fullmatch(r"[\(\[]?([A-Ja-j])[\)\]]?[.:]?", compact):
        return m[1]
    plain = without_text(form.text).strip()
    if (m := re.match(r"(?:[\(\[]([A-J])[\)\]]|([A-J])[\).:])\s*(?=\S)", plain)) and not _GOES_ON.match(plain[m.end() :]):
        return (m[1] or m[2]) if not re.search(r"[,;]\s*[\(\[]?[A-J]\b", plain) else ""
    return ""


def _letters(form: Form) -> str:
    """`A,C` of `(A) and (C)`."""
    return re.sub(r"[()\s]", "", form.compact.replace("and", ","))


def several_letters(a: Form, g: Form) -> bool:
    left, right = _letters(a), _letters(g)
    return bool(_LETTERS.fullmatch(left) and _LETTERS.fullmatch(right) and ("," in left or "," in right))


def same_letters(a: Form, g: Form) -> bool | None:
    """Several choices are a set of letters.

    >>> verdict("C and A", "A,C"), verdict("A,B", "A,C")
    (True, False)
    """
    return set(_letters(a)) - {","} == set(_letters(g)) - {","}


def gold_is_letter(a: Form, g: Form) -> bool:
    return bool(_DRESSED_LETTER.fullmatch(g.compact) or (g.quoted and choice(g)) or re.match(r"\([A-J]\)", g.compact))


def same_letter(a: Form, g: Form) -> bool | None:
    r"""One choice, in any case; an equation or inequality is mathematics.

    >>> verdict(r"\text{Option C}", "(C)"), verdict("D", "(C)")
    (True, False)
    """
    if isinstance(structure(a.text), Relation):
        return None
    return choice(a).upper() == choice(g).upper() != ""


def gold_is_small_letter(a: Form, g: Form) -> bool:
    return re.fullmatch(r"\([a-j]\)", g.compact) is not None


def same_small_letter(a: Form, g: Form) -> bool | None:
    """A choice of small letters, in that case.

    >>> verdict("c", "(c)"), verdict("d", "(c)")
    (True, False)
    """
    return choice(a) == choice(g)


def gold_is_words(a: Form, g: Form) -> bool:
    return bool(g.words)


def same_words(a: Form, g: Form) -> bool | None:
    r"""Words without case, article and punctuation, or a list of them in any order; short ones may be a product of variables.

    >>> verdict("The Evelyn!", r"\text{Evelyn}"), verdict("Bob and Alice", r"\text{Alice and Bob}"), verdict("bac", "abc")
    (True, True, True)
    >>> verdict("Alice", r"\text{Evelyn}"), verdict("Bob and Eve", r"\text{Alice and Bob}"), verdict("7", r"\text{even}")
    (False, False, False)
    """
    if a.words == g.words or _bare_words(a) == _bare_words(g) != "":
        return True
    left, right = _word_list(a.words), _word_list(g.words)
    if len(right) > 1 and len(left) > 1:
        return left == right
    short = not g.quoted and len(g.compact) <= _PRODUCT
    if short and sorted(g.compact) == sorted(a.compact):
        return None
    if short and (isinstance(structure(a.text), Relation) or ("\\" in a.text and not a.words)):
        return None
    return False


def answer_is_words(a: Form, g: Form) -> bool:
    return bool(a.words and (a.quoted or len(a.words) > _PRODUCT or " " in a.words) and "\\text" not in g.text)


def words_for_mathematics(a: Form, g: Form) -> bool | None:
    r"""Words do not answer a gold that is mathematics, except one that holds words itself.

    >>> verdict(r"\text{forty-two}", "42"), verdict("two apples", "2")
    (False, False)
    """
    return False


WORD_RULES = (
    WordRule(several_letters, same_letters),
    WordRule(gold_is_letter, same_letter),
    WordRule(gold_is_small_letter, same_small_letter),
    WordRule(gold_is_words, same_words),
    WordRule(answer_is_words, words_for_mathematics),
)
"""The first rule that applies decides."""


def _word_list(words: str) -> list[str]:
    return sorted(filter(None, (word.strip() for word in re.split(r",|;|\band\b|\bor\b", words))))


def _bare_words(form: Form) -> str:
    return re.sub(r"^(?:the|a|an) ", "", re.sub(r"[^\w ]", "", form.words)).replace(" ", "")
