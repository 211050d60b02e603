"""What is refused before a parser sees it, and what must not be."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rlent.grading.expression import evaluate, identical, parse, rational
from rlent.grading.limits import too_much
from rlent.grading.normalise import normalise

REFUSED = [
    "9^{9^9}",
    "9^{9^{9^9}}",
    "10^{10^{10}}",
    r"x^{x^{x^{x}}}",
    "2^{99999999}",
    "100000000!",
    "((10!)!)!",
    "(10^9)!",
    r"\binom{10^9}{5\cdot10^8}",
    r"\binom{1000000000}{2}",
    r"\sum_{k=1}^{1000000} k",
    r"\prod_{k=1}^{10^9} k",
    r"\int_0^{10^{9}} x dx",
    r"\sqrt[1000000]{2}",
    "(x+y)^{5000}",
    "7" * 300,
    "(" * 100 + "1" + ")" * 100,
    r"\alpha" * 300,
    "1+" * 1500 + "1",
    "&".join("1" * 300),
    "1" * 5000,
]
ALLOWED = [
    r"\frac{2^{2005}+1}{3 \cdot 2^{2006}}",
    "2024^{4046}",
    r"e^{-x^2}",
    "2^{2^n}",
    "10^{-\\frac{5 + \\sqrt{13}}{6}}",
    r"\frac{1}{2004!}",
    r"\binom{100}{50}",
    r"\sum_{k=0}^{n-1} F_k F_{n-k-1}",
    r"\int_0^1 x^2 \, dx",
    r"\sqrt[3]{2}",
    "(x+1)^{12}",
    "1" * 200,
    r"2^{10} \cdot 3^{4}",
    "x^{2}+y^{2}+z^{2}",
]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:24])
def test_refused(text: str) -> None:
    assert too_much(normalise(text).text if len(text) < 4096 else text)


@pytest.mark.parametrize("text", ALLOWED, ids=lambda text: text[:24])
def test_allowed(text: str) -> None:
    assert too_much(normalise(text).text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\frac{1}{2}+\frac{1}{3}", Fraction(5, 6)),
        (r"2^{10}", Fraction(1024)),
        (r"-3^{2}", Fraction(-9)),
        (r"(-3)^{2}", Fraction(9)),
        (r"\sqrt{\frac{9}{4}}", Fraction(3, 2)),
        (r"4^{-\frac{1}{2}}", Fraction(1, 2)),
        (r"11\frac{1}{2}", Fraction(23, 2)),
        (r"2 \cdot \frac{1}{2}", Fraction(1)),
        (r"5!", Fraction(120)),
        (r"\binom{10}{3}", Fraction(120)),
        (r"\lfloor -\frac{7}{2} \rfloor", Fraction(-4)),
        (r"6/3/2", Fraction(1)),
        (r"|2-5|", Fraction(3)),
    ],
)
def test_exact_values(text: str, value: Fraction) -> None:
    expression = parse(text)
    assert expression is not None and rational(expression) == value


@pytest.mark.parametrize(
    "text", ["1/2x", "f(x)", r"\sin x(y)", "2^3^4", r"\frac{dy}{dx}", "2 3", "5_8", r"\sin(x)^2", r"\int x", "", "(1", "1)", "1+"]
)
def test_what_is_ambiguous_or_unknown_is_not_read(text: str) -> None:
    assert parse(text) is None


def test_large_values_are_given_up_and_not_computed() -> None:
    for text in ("7^{9999}", "4001!", r"2^{30} \cdot 2^{9999} \cdot 3^{9999} \cdot 5^{9999}"):
        expression = parse(text)
        assert expression is not None
        rational(expression)
    many = [parse("+".join(["7^{9999}"] * n)) for n in (2, 100)]  # each is held, and all of them together are too much
    assert [one is not None and rational(one) is not None for one in many] == [True, False]
    tower = parse("9^{9^{9}}")
    assert tower is not None and rational(tower) is None and evaluate(tower) is None


def test_points_of_both_signs_tell_a_root_of_a_square_from_its_base() -> None:
    square, base, absolute = parse(r"\sqrt{x^{2}}"), parse("x"), parse("|x|")
    assert square is not None and base is not None and absolute is not None
    assert identical(square, base) is False
    assert identical(square, absolute) is True


@pytest.mark.parametrize("text", [r"(-8)^{\frac{1}{3}}", r"\ln(-2)", r"\sqrt[4]{-2}", r"\arcsin 2", r"(-3)!", r"\frac{1}{0}"])
def test_what_is_not_real_has_no_value(text: str) -> None:
    expression = parse(text)
    assert expression is not None and rational(expression) is None and evaluate(expression) is None


def test_the_root_of_a_negative_number_is_odd_or_imaginary() -> None:
    cube, square = parse(r"\sqrt[3]{-8}"), parse(r"\sqrt{-4}")
    assert cube is not None and evaluate(cube) == -2
    assert square is not None and evaluate(square) == 2j


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (r"\log 100", "2", True),
        (r"\log e", "1", True),
        (r"\log x", r"\frac{\ln x}{\ln 10}", True),
        (r"\log 100", "3", False),
        (r"\ln 100", "2", False),
        (r"\log_2 8", "3", True),
    ],
)
def test_a_logarithm_without_a_base_is_natural_or_decimal(a: str, b: str, same: bool) -> None:
    x, y = parse(a), parse(b)
    assert x is not None and y is not None
    assert identical(x, y) is same is identical(y, x)
