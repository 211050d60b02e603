"""The passes of `normalise`: each by itself, and what their order is for."""

from __future__ import annotations

import pytest

from rlent.grading import normalise as normalise_module
from rlent.grading.normalise import normalise
from rlent.grading.passes import ALL, DECIMAL_COMMA, DEGREES, DRESS, SPELLING, VALUE, Pass, run


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_a_pass_changes_its_example_and_leaves_another_text_alone(one: Pass) -> None:
    assert one.rewrite(one.before) == one.after != one.before
    assert one.rewrite(one.kept) == one.kept


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_a_pass_has_nothing_to_do_on_its_own_result(one: Pass) -> None:
    assert one.rewrite(one.after) == one.after


WHOLE: dict[str, tuple[str | None, str]] = {
    "lines": ("\\frac\n12", r"\frac{1}{2}"),
    "doubled backslashes": (None, r"\frac{1}{2}"),
    "environments of formulas": (None, "x"),
    "markdown": (None, "7"),
    "sizes of brackets": (None, "(1"),
    "groups with a font": (None, "cm"),
    "font switches": (None, "42"),
    "letters in a font": (None, "v"),
    "escaped quotes": (None, "f'"),
    "extrema of sets": (None, r"\max(a,b)"),
    "degree commands": (None, "60"),
    "ampersands and colons": (None, "1,2"),
    "sets of numbers": (None, r"\mathbb{R}"),
    "currency signs": ("€5", "5"),
    "marks of formulas": (None, "5"),
    "what is not shown": (None, "5"),
    "two kinds of thousands": (None, "1000000"),
    "thin spaces of thousands": (None, "11111"),
    "negative spaces": (None, "ab"),
    "spaces": (None, "1 2"),
    "commands": (None, r"\frac{|}"),
    "text groups": (None, "(B)cm1,2"),
    "quotients of units": (None, "5"),
    "words before the value": (None, "42"),
    "infix commands": (None, r"\binom{5}{2}"),
    "underline": (None, "7"),
    "operators of programs": (None, r"x^2\le4"),
    "stars": (None, r"2\cdot3\cdotx"),
    "not equal": (None, r"x\ne1"),
    "a relation sign in front": (None, "8.24"),
    "end": (None, "42"),
    "differences of sets": (None, r"\mathbb{R}\setminus\{1\}"),
    "ratios in words": (None, "1:2"),
    "end again": (r"42,\text{.}", "42"),
    "degrees as text": (r"\tan 30\text{ degrees}", r"\tan30^\circ"),
    "degrees in words": (r"\tan 30 degrees", r"\tan30^\circ"),
    "degrees at the end": (None, "90"),
    "letters as text": (r"2\text{x}+1", "2x+1"),
    "exponents of programs": (None, r"1.5\times10^3"),
    "repeating decimals": (None, r"\frac{1}{6}"),
    "residues": (None, r"3\pmod{7}"),
    "words that separate": (None, "1,2"),
    "thousands": (None, "1234"),
    "decimal comma": (None, "3.5"),
    "arguments": (None, r"\frac{1}{2}+\sqrt{3}"),
    "functions without a backslash": (None, r"\sinx"),
    "words of constants": (None, r"2\pi"),
    "subscripts of text in braces": (None, "a_{max}"),
    "subscripts of text": (None, "a_{max}"),
    "spaces of subscripts": (None, "a_1"),
    "mixed numbers": (None, r"1\frac{1}{2}"),
    "extrema as subscripts": (None, "a_{max}"),
    "braces of scripts": (None, "x_a^2"),
    "order of scripts": (None, "x_a^2"),
    "leading zeros": (None, "42"),
    "zero before the point": (None, "0.5"),
    "a plus in front": (None, "42"),
    "one space": (None, "1+2"),
    "outer braces": (None, "42"),
}
"""For each pass: an answer in which it matters (None: its own example), and the compact form after all passes."""


def test_passes_have_names_of_their_own_and_an_answer_each() -> None:
    assert [one.name for one in ALL] == list(WHOLE)


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_a_pass_matters_to_an_answer_that_goes_through_all_of_them(one: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    example, compact = WHOLE[one.name]
    text, comma = example or one.before, one is DECIMAL_COMMA
    whole = normalise.__wrapped__(text, comma)
    assert whole.compact == compact
    idle = one._replace(rewrite=lambda text: text)
    for table in ("DRESS", "DEGREES", "VALUE", "SPELLING"):
        monkeypatch.setattr(normalise_module, table, tuple(idle if row is one else row for row in getattr(normalise_module, table)))
    for row in ("THOUSANDS", "DECIMAL_COMMA"):
        monkeypatch.setattr(normalise_module, row, idle if getattr(normalise_module, row) is one else getattr(normalise_module, row))
    assert normalise.__wrapped__(text, comma) != whole


def test_words_marked_as_text_are_spared_what_is_for_formulas_alone() -> None:
    assert run(VALUE, "even and odd", quoted=True) == "even and odd"
    assert run(VALUE, "even and odd") == "even  ,  odd"
    assert [one.name for one in (*DRESS, *DEGREES, *VALUE, *SPELLING) if one.formula_only] == [
        "words that separate",
        "functions without a backslash",
        "words of constants",
    ]


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        (r"\dfrac12", "commands", "arguments"),
        (r"{\rm cm}", "groups with a font", "font switches"),
        (r"1{,}000,000", "two kinds of thousands", "thin spaces of thousands"),
        (r"$\$5$", "currency signs", "marks of formulas"),
        (r"\mathrm{and}", "text groups", "words that separate"),
    ],
)
def test_the_order_of_two_passes_counts(text: str, first: str, second: str) -> None:
    by_name = {one.name: one for one in ALL}
    order = [one.name for one in ALL]
    assert order.index(first) < order.index(second)
    one, other = by_name[first].rewrite, by_name[second].rewrite
    assert other(one(text)) != one(other(text))


@pytest.mark.parametrize(
    ("text", "compact"),
    [
        (r"$\dfrac12$", r"\frac{1}{2}"),
        (r"\frac{1}{2}", r"\frac{1}{2}"),
        (r"\left.\frac 1 2\right.", r"\frac{1}{2}"),
        (r"$x^{2}_{1}$", "x_1^2"),
        ("{{042}}.", "42"),
    ],
)
def test_all_passes_together_give_one_spelling(text: str, compact: str) -> None:
    assert normalise(text).compact == compact
