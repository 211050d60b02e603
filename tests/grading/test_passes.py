"""The passes of `normalise`: each by itself, and what their order is for."""

from __future__ import annotations

import pytest

from rlent.grading.normalise import normalise
from rlent.grading.passes import ALL, DEGREES, DRESS, SPELLING, VALUE, Pass, run


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_a_pass_changes_its_example_and_leaves_another_text_alone(one: Pass) -> None:
    assert one.rewrite(one.before) == one.after != one.before
    assert one.rewrite(one.kept) == one.kept


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_a_pass_has_nothing_to_do_on_its_own_result(one: Pass) -> None:
    assert one.rewrite(one.after) == one.after


def test_passes_have_names_of_their_own() -> None:
    names = [one.name for one in ALL]
    assert len(set(names)) == len(names)


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
