r"""When an answer equals a gold: one row per rule, with the reason; then properties."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlent.grading.base import STATUSES, GradePolicy, Method
from rlent.grading.equality import Outcome, Question, Reply, compare, settle
from rlent.grading.extract import extract
from rlent.grading.structure import Plain, Tuple_, structure, without_parentheses


def outcome(answer: str, gold: str, policy: GradePolicy = GradePolicy()) -> Outcome:
    """The verdict of steps 0 to 5; a question for a worker fails the test."""

    def nobody(question: Question) -> Reply:
        raise AssertionError(f"needs a worker: {question}")

    return settle(compare(answer, gold, policy), nobody)


EQUAL = [
    # (gold, answer, why)
    (r"\frac{1}{2}", "0.5", "a decimal equals its fraction"),
    (r"\frac{1}{2}", r"\frac12", "braces may be left out"),
    (r"\frac{1}{2}", r"\dfrac{ 1 }{ 2 }", "display fraction and spaces"),
    ("1/3", "0.3333333", "a rounding to seven digits"),
    (r"11\frac{1}{2}", r"\frac{23}{2}", "mixed numbers add"),
    ("1 1/2", "1.5", "a mixed number in plain text"),
    ("1234567", "1,234,567", "thousands"),
    ("1234", r"1{,}234", "thousands, LaTeX"),
    ("11111111100", r"11,\! 111,\! 111,\! 100", "thousands, thin negative space"),
    ("1000", r"10^3", "a power"),
    ("1500", r"1.5 \times 10^3", "scientific notation"),
    ("1500", "1.5e3", "scientific notation of programs"),
    ("42", "042", "leading zeros"),
    ("42", "+42", "a plus sign"),
    ("185", "185\\", "a stray backslash"),
    ("10", r"10\%", "a percent sign against the bare number"),
    (r"33.5\%", "0.335", "a percent sign against the hundredth"),
    (r"28\%", r"28 \text{ percent}", "percent in words"),
    ("15", r"15 \text{ cm}^2", "a unit"),
    ("15", "15 square feet", "a unit in words"),
    (r"1 \text{ m}", r"100 \text{ cm}", "known units are converted"),
    ("32348", r"\$32,348", "currency"),
    ("90", r"90^\circ", "degrees"),
    ("74^\\circ", "74°", "a degree sign"),
    (r"2\sqrt{3}", "2√3", "a unicode root"),
    (r"3\sqrt{2}", r"\sqrt{18}", "constants are compared by value"),
    (r"96-10\sqrt{21}", r"\frac{6\sqrt{1789-240\sqrt{21}}+8\sqrt{1236-240\sqrt{21}}}{5}", "nested radicals"),
    (r"\sqrt{2}", "1.4142135623730951", "a floating-point value of a radical"),
    (r"\frac{1}{6}", r"0.1\overline{6}", "a repeating decimal"),
    (r"\frac{\sqrt{3}}{3}", r"\tan 30^\circ", "degrees inside a function"),
    ("x^2-1", "(x-1)(x+1)", "factored"),
    (r"\sin^2 x", r"1-\cos^2 x", "an identity"),
    (r"\frac{1}{\sqrt{n}}", r"\sqrt{1/n}", "equal where both are real"),
    (r"\text{(C)}", "C", "a letter in dress"),
    ("B", r"\textbf{(B) } 12", "a letter with its text"),
    (r"\text{Evelyn}", "evelyn", "words are compared without case"),
    (r"\text{Alice and Bob}", "Bob and Alice", "a list of words"),
    ("52_8", "52_{8}", "a base"),
    ("1, 2, 3", r"\{3, 1, 2\}", "a list and a set, in any order"),
    (r"-12;-11", r"\{-11, -12\}", "semicolons"),
    (r"\pm 3", r"\{3, -3\}", "two signs are two values"),
    (r"5\pm\sqrt{3}", r"5+\sqrt3 \text{ and } 5-\sqrt3", "two signs in a sum"),
    (r"\left(3, \frac{\pi}{2}\right)", r"(3,\pi/2)", "an ordered pair"),
    ("(2,1),(1,2)", "(1,2), (2,1)", "a list of pairs"),
    ("[2,3)", r"\left[ 2, 3 \right)", "a half-open interval"),
    (r"(1,2)\cup(3,4)", r"(3,4) \cup (1,2)", "a union in any order"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\left[\begin{array}{c}1\\2\end{array}\right]", "brackets of a matrix"),
    (r"\begin{pmatrix}\frac12\\2\end{pmatrix}", r"\begin{pmatrix} 0.5 \\ 2 \end{pmatrix}", "entries by value"),
    ("x=5", "5", "a name in the gold"),
    ("5", "5 = x", "a name in the answer"),
    ("42", "m+n=42", "a sum of letters has the value that was asked for"),
    (r"f(x)=x^2", "f(t)=t^2", "the name of an argument"),
    ("x^2+1", "y = x^2+1", "y is the function"),
    ("AB=4,CD=5", "4, 5", "named values in order"),
    (r"(x,y)=(5,8)", "(5,8)", "a named pair"),
    ("2x+3y=6", "4x+6y=12", "a multiple of an equation"),
    ("2>x", "x<2", "an inequality turned round"),
    ("x < 1", "-x > -1", "an inequality times -1"),
    ("-2 < x < 3", "3 > x > -2", "a chain turned round"),
    (r"-793 < a < 10", "(-793, 10)", "a relation answered by an interval"),
    (r"x \ne 1", r"(-\infty,1)\cup(1,\infty)", "a relation answered by a union"),
    (r"x \leq -1 \text{ or } x\ge 3", r"(-\infty,-1]\cup[3,\infty)", "two relations answered by a union"),
    ("1/3", r"x=1/3\approx0.33", "the value stands before the rounding"),
    ("2", r"\left| 3 - 5 \right| = 2", "the end of a calculation"),
    ("8.24", r"\approx 8.24 \text{ mph}", "a sign of rounding in front"),
    ("1000000", r"1{,}000,000", "two kinds of thousands"),
    ("5", "5 in.", "inches"),
    ("5", "5 m/s", "a quotient of units"),
    (r"3\times 10^8", r"3.00 \times 10^{8} \mathrm{~m} / \mathrm{s}", "a quotient of units, typeset"),
    ("5", "5 degrees Celsius", "a temperature"),
    ("5", "USD 5", "a currency in front"),
    ("42", r"\bf 42", "an old font switch"),
    ("42", r"\large{42}", "a size"),
    ("42", r"42\text{.}", "a full stop as text"),
    ("42", r"\text{The answer is }42", "words before the value"),
    (r"\binom{5}{2}", r"{5 \choose 2}", "a binomial of plain TeX"),
    (r"\frac{3}{4}", r"{3 \over 4}", "a fraction of plain TeX"),
    ("60", r"60\degree", "a command for degrees"),
    ("12:30", r"12{:}30", "a braced colon"),
    ("3:2", "6:4", "a ratio in lower terms"),
    ("1:2", "1 to 2", "a ratio in words"),
    (r"\infty", r"\text{infinity}", "infinity in words"),
    (r"\mathbb{R}", r"\text{all real numbers}", "the real numbers in words"),
    (r"\mathbb{R}", r"\mathbb R", "a letter without braces"),
    (r"\emptyset", r"\varnothing", "two signs for nothing"),
    ("1, 2", r"\text{1 and 2}", "a list as text"),
    ("1 and 2", r"1 \& 2", "an ampersand"),
    (r"\{x|x>1\}", r"\{x : x > 1\}", "a set by a condition, with another bar"),
    (r"(1,\infty)", r"\{x \mid x>1\}", "an interval as a set by a condition"),
    ("(a,b)=(1,2)", "b=2, a=1", "names and values apart"),
    ("a=1, b=2", "(a,b)=(1,2)", "names and values together"),
    ("a=1, b=2", "(1,2)", "values of names, as a pair"),
    ("x=1, y=2", r"\begin{cases}x=1\\y=2\end{cases}", "a system"),
    ("(-5,0),(5,0)", r"(\pm 5, 0)", "two points in one"),
    ("|x|<2", "(-2,2)", "an absolute value as an interval"),
    ("|x|<2", "-2<x<2", "an absolute value as a chain"),
    (r"|x|\ge 2", r"(-\infty,-2]\cup[2,\infty)", "outside an absolute value"),
    (r"k\pi, k\in\mathbb{Z}", r"k\pi", "where a letter runs"),
    ("D", r"\text{Option D}", "a choice with its word"),
    ("D", "D: 7", "a choice with its text"),
    ("A,C", "AC", "several choices without commas"),
    (r"\text{(A), (C)}", "C and A", "several choices in dress"),
    (r"\frac{1}{2}", r"\int_0^1 x \, dx = \frac{1}{2}", "a calculation that ends in the value"),
    ("I(0) e^{-t}", r"e^{-t} I(0)", "a value of a function is one symbol"),
    (r"9\text{ a.m.}", "9", "a time of day without its half"),
]

DIFFERENT = [
    (r"\frac{1}{3}", "0.33", "two digits are not a third"),
    ("2.232", "2.23", "decimals are not rounded to each other"),
    ("1000000", "1000000.5", "close is not equal"),
    (r"\frac{1}{2^{99}}", r"\frac{1}{2^{98}}", "small numbers are not all zero"),
    ("0", "0.0000001", "only zero equals zero"),
    ("10", "0.1", "a hundredth without a percent sign"),
    ("0.64N", "0.64", "a symbol is not a unit"),
    (r"5 \text{ cm}", r"5 \text{ m}", "other units"),
    (r"5 \text{ hours}", r"5 \text{ meters}", "units that measure something else"),
    ("8", "8 million", "a scale is not a unit"),
    ("12", "1,2", "a list is not a number"),
    ("12", "1,23", "two digits do not make thousands"),
    ("32349", "32, 349", "a space after the comma separates"),
    ("52_8", "52_9", "another base"),
    ("52_8", "52", "no base"),
    ("A", "A, B", "a list of letters is not a letter"),
    ("42", r"\text{forty-two}", "words are not numbers"),
    ("(0,9)", "[0,9)", "another bracket"),
    ("(1,2)", r"\{1,2\}", "a pair is not a set"),
    ("(1,2)", "(2,1)", "a pair has an order"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", "a column is not a row"),
    ("3", r"3 \text{ or } 4", "several candidates"),
    ("3", r"\{1,2,3\}", "a set that holds the gold"),
    ("3", "[0,10]", "an interval that holds the gold"),
    ("3", r"\pm 3", "both signs"),
    (r"\sqrt{67},-\sqrt{85}", r"\sqrt{67}", "one of two values"),
    ("1", "2x+z=1", "an equation is not its right side"),
    ("0", "a^2+b=0", "an equation is not zero"),
    ("2x+3y=6", "4x+6y=11", "another line"),
    ("x=5", "y=5", "another name"),
    ("x=1, y=2", "x=2, y=1", "values exchanged"),
    ("x=1, y=2", "2, 1", "values in the wrong order"),
    ("x<5", "x>5", "the other side"),
    ("-2<x<3", r"-2<x\le 3", "a closed end"),
    ("(1,2)", "1<x<2", "an inequality may be the question"),
    (r"1-\frac{1}{\mathrm{e}}", r"1+\frac{1}{\mathrm{e}}", "a formula is not a number inside it"),
    (r"4\sqrt{2}", "4", "a factor of the gold"),
    ("|x|", "x", "negative values count"),
    ("2", "[]", "nothing"),
    ("0", r"\frac{0}{0}", "undefined"),
    ("3", "nan", "not a number"),
    ("1, 2, \\ldots, n", r"1, 3, 5, \ldots, 2n-1", "dots are not read"),
    ("10^{10^{10^{10}}}", "10^{10}", "a tower is only equal to itself"),
    ("55", r"\sum_{k=1}^{10} k", "the question is not its answer"),
    ("42", r"42 \text{(or 43)}", "a second candidate in a remark"),
    ("42", r"42 \text{ if } x>0, 43 \text{ otherwise}", "a case distinction"),
    ("42", r"42 \approx 43", "a whole number is not rounded to another"),
    ("42", r"43 \approx 42", "nor the other way"),
    ("5", "5 dozen", "a dozen is a number"),
    ("3:2", "2:3", "a ratio turned round"),
    ("9\\text{ a.m.}", "9\\text{ p.m.}", "the other half of the day"),
    (r"15\text{ cm}^2", r"15\text{ cm}^3", "another power of a unit"),
    ("I(0) e^{-t}", "I(0) e^{t}", "a value at zero is not zero"),
    ("|x|<2", "(-2,2]", "a closed end of an absolute value"),
    (r"|x|<2", "2<x", "outside an absolute value"),
    ("a=1, b=2", "(2,1)", "a pair of values in the wrong order"),
    (r"(1,\infty)", r"\{x \mid x \ge 1\}", "a condition with another end"),
    ("A,C", "ABC", "one choice too many"),
    ("D", "Option C", "another option"),
    (r"\mathbb{R}", r"\text{all real numbers except } 0", "all but one"),
]


@pytest.mark.parametrize(("gold", "answer", "why"), EQUAL, ids=[row[2] for row in EQUAL])
def test_accepts(gold: str, answer: str, why: str) -> None:
    assert outcome(answer, gold).correct, why


@pytest.mark.parametrize(("gold", "answer", "why"), DIFFERENT, ids=[row[2] for row in DIFFERENT])
def test_refuses(gold: str, answer: str, why: str) -> None:
    def unclear(question: Question) -> Reply:
        return "unparsed"

    assert not settle(compare(answer, gold), unclear).correct, why


def test_an_element_that_needs_a_worker_is_asked_about_and_decides() -> None:
    asked = []

    def ask(question: Question) -> Reply:
        asked.append(question)
        return "equal"

    gold, answer = r"(1, \sum_{k=0}^{n} a_{k})", r"(1, \sum_{j=0}^{n} a_{j})"
    assert settle(compare(answer, gold), ask).correct
    assert asked == [Question(r"\sum_{j=0}^{n} a_{j}", r"\sum_{k=0}^{n} a_{k}")]
    assert not settle(compare(answer, gold), lambda question: "different").correct


@pytest.mark.parametrize("reply", ["timeout", "crash", "unparsed", "gold_unparsed"])
def test_what_a_worker_could_not_decide_is_the_status(reply: Reply) -> None:
    got = settle(compare(r"\sum_{j=0}^{n} a_{j}", r"\sum_{k=0}^{n} a_{k}"), lambda question: reply)
    assert (got.correct, got.status) == (False, reply)


def test_a_list_that_asks_too_many_questions_is_a_limit() -> None:
    def ask(question: Question) -> Reply:  # the members match in the opposite order: 20 + 19 + ... questions
        return "equal" if re.findall(r"a_\{(\d+)\}", question.answer) == re.findall(r"b_\{(\d+)\}", question.gold) else "different"

    def sums(letter: str, order: range) -> str:
        return ", ".join(rf"\sum_{{k=0}}^{{n}} {letter}_{{{i}}}" for i in order)

    got = settle(compare(sums("a", range(20)), sums("b", range(19, -1, -1))), ask)
    assert (got.correct, got.status) == (False, "limit")
    assert settle(compare(sums("a", range(5)), sums("b", range(4, -1, -1))), ask).correct


def never(question: Question) -> Reply:
    raise AssertionError(f"asked {question}")


@pytest.mark.parametrize(
    ("answer", "gold", "want"),
    [
        (r"\int y(0) dx", r"\int y(0) dt", Outcome(False, "none")),  # the worker would read a product
        (r"\int_0^1 f dx", r"\nabla f", Outcome(False, "symbolic")),  # the question written down again
        (r"\sum a \sum b \sum c", r"\sum c \sum b \sum d", Outcome(False, "none", "limit")),
    ],
)
def test_a_question_whose_answer_is_known_is_not_asked(answer: str, gold: str, want: Outcome) -> None:
    assert settle(compare(answer, gold), never) == want


def test_an_answer_of_tuples_in_tuples_has_a_limit_of_depth() -> None:
    def nested(value: str, times: int) -> str:
        for _ in range(times):
            value = f"({value}, 0)"
        return value

    assert outcome(nested("1/2", 6), nested("0.5", 6)).correct
    assert outcome(nested("1/2", 7), nested("0.5", 7)) == Outcome(False, "none", "limit")


def test_decimal_comma_is_a_setting() -> None:
    assert not outcome("1.22", "1,22").correct
    assert outcome("1.22", "1,22", GradePolicy(decimal_comma=True)).correct


def test_relation_for_an_interval_is_a_setting() -> None:
    assert not outcome("1<x<2", "(1,2)").correct
    assert outcome("1<x<2", "(1,2)", GradePolicy(relation_for_interval=True)).correct


# --- properties ---------------------------------------------------------------------------------------------------------

integers = st.integers(-(10**12), 10**12)
numbers = st.one_of(
    integers.map(str),
    st.tuples(st.integers(-999, 999), st.integers(1, 999)).map(lambda t: rf"\frac{{{t[0]}}}{{{t[1]}}}"),
    st.tuples(st.integers(-9999, 9999), st.integers(0, 999)).map(lambda t: f"{t[0]}.{t[1]:03d}"),
)
expressions = st.recursive(
    st.sampled_from(["x", "y", "n", r"\pi", "a_{1}", r"\alpha", "2", "3", "7", r"\frac{1}{2}"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda t: f"({t[0]}+{t[1]})"),
        st.tuples(inner, inner).map(lambda t: rf"{t[0]} \cdot {t[1]}"),
        st.tuples(inner, inner).map(lambda t: rf"\frac{{{t[0]}}}{{{t[1]}}}"),
        inner.map(lambda t: rf"\sqrt{{{t}}}"),
        inner.map(lambda t: f"({t})^{{2}}"),
    ),
    max_leaves=6,
)
answers = st.one_of(
    numbers,
    expressions,
    st.lists(st.one_of(numbers, expressions), min_size=2, max_size=4).map(lambda t: "(" + ", ".join(t) + ")"),
    st.lists(numbers, min_size=2, max_size=4, unique=True).map(lambda t: r"\{" + ", ".join(t) + r"\}"),
    st.sampled_from([r"\text{even}", "(C)", "[1,2)", r"(-\infty,3)\cup[4,5]", "x=3", "2x+y=1", "x<3"]),
)


PUNCTUATION = r"\{}[]()^_,;=<>+-*/.$%&!|~ 0129axe:"


@given(answers)
@settings(max_examples=150, deadline=None)
def test_an_answer_equals_itself(a: str) -> None:
    assert outcome(a, a).correct


@given(answers)
@settings(max_examples=100, deadline=None)
def test_dress_changes_nothing(a: str) -> None:
    dressed = [f" {a} ", f"${a}$", rf"\({a}\)", f"{a}.", rf"\displaystyle {a}"]
    dressed.append(re.sub(r"(?<!\\)\(", r"\\left( ", re.sub(r"(?<!\\)\)", r"\\right) ", a)) if "[" not in a else a)
    dressed.append(a.replace(r"\frac", r"\dfrac"))
    for other in dressed:
        assert outcome(other, a).correct, other
        assert outcome(a, other).correct, other


@given(answers)
@settings(max_examples=60, deadline=None)
def test_a_box_and_a_sentence_around_it_change_nothing(a: str) -> None:
    for response in (
        rf"\boxed{{{a}}}",
        rf"so $x = \boxed{{ {a} }}$.",
        rf"\fbox{{{a}}}",
        rf"\boxed{{1}} no: \boxed{{{a}}}",
        rf"\boxed{{{a}}} (see \boxed{{}})",
    ):
        found = extract(response)
        assert found is not None and outcome(found, a).correct, response


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (r"\text{(C)} 12", True),
        (r"(C) -1", True),
        (r"\textbf{(C)}~\infty", True),
        (r"\text{(C)} + 1", False),
        (r"(C) \cdot 2", False),
        ("(C) - 1", False),
    ],
)
def test_a_letter_that_begins_a_formula_is_no_choice(answer: str, right: bool) -> None:
    assert outcome(answer, r"\text{(C)}").correct is right


@given(numbers, numbers)
@settings(max_examples=200, deadline=None)
def test_numbers_are_equal_both_ways_or_not_at_all(a: str, b: str) -> None:
    assert outcome(a, b).correct == outcome(b, a).correct


@given(st.text("123456789", min_size=1, max_size=12), st.data())
@settings(max_examples=200, deadline=None)
def test_a_changed_digit_is_another_number(digits: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(digits) - 1))
    other = data.draw(st.sampled_from([d for d in "123456789" if d != digits[at]]))
    changed = digits[:at] + other + digits[at + 1 :]
    assert not outcome(changed, digits).correct
    assert not outcome(rf"\frac{{{changed}}}{{7}}", rf"\frac{{{digits}}}{{7}}").correct


@given(expressions, expressions)
@settings(max_examples=100, deadline=None)
def test_sums_commute_and_differences_do_not_vanish(a: str, b: str) -> None:
    assert outcome(f"{b} + {a}", f"{a} + {b}").correct
    assert not outcome(f"{a} + 1", f"{a}").correct


def assert_consistent(got: Outcome) -> None:
    """A verdict that correct code may give: known words, and right only where a step decided without a failure."""
    assert got.status in STATUSES and got.status != "no_answer"
    assert got.method in get_args(Method) and got.method != "any"
    assert isinstance(got.correct, bool)
    if got.correct:
        assert got.status == "ok" and got.method != "none"


@given(st.text(max_size=60), st.text(max_size=60))
@example("⑴", "0")
@example("2", "x^①")
@settings(max_examples=300, deadline=None)
def test_any_text_gets_a_verdict_that_makes_sense(a: str, b: str) -> None:
    assert_consistent(settle(compare(a, b), lambda question: "different"))


@given(st.text(PUNCTUATION, max_size=60), st.text(PUNCTUATION, max_size=30), st.sampled_from(get_args(Reply)))
@settings(max_examples=400, deadline=None)
def test_any_punctuation_gets_a_verdict_that_makes_sense_whatever_the_worker_replies(a: str, b: str, reply: Reply) -> None:
    got = settle(compare(a, b), lambda question: reply)
    assert_consistent(got)
    if got.status in ("timeout", "crash"):
        assert got == Outcome(False, "symbolic", reply)


@given(st.text(PUNCTUATION, max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text_equals_itself_unless_it_is_empty(a: str) -> None:
    assert settle(compare(a, a), lambda question: "different").correct == bool(a.strip())


def test_thousands_of_parentheses_around_an_answer_are_a_limit_and_not_a_hold_up() -> None:
    deep = "(" * 2000 + "x" + ")" * 2000
    assert structure(deep) == Plain("x")
    assert outcome(deep, "y") == Outcome(False, "none", "limit")
    assert structure("(" * 300 + "1, 2" + ")" * 300) == Tuple_(("1", "2"), "(", ")")
    assert without_parentheses("((1)))") == "((1)))"
    assert structure("((1)(2))") == structure("(1)(2)") == Plain("(1)(2)")
