"""The countdown grader: exact, strict about the numbers, and nothing that a model writes is ever run."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlent.data.countdown import countdown_problems
from rlent.errors import GraderError
from rlent.grading.countdown import CountdownGrader, parse
from rlent.types import Problem

GOAL = Problem("p", "3,5,2,7:29?", "29 from 3,5,2,7", {"numbers": [3, 5, 2, 7], "target": 29})
GRADER = CountdownGrader()


def judge(response: str, problem: Problem = GOAL):
    return GRADER([response], [problem])[0]


@pytest.mark.parametrize(
    ("response", "correct", "method", "status"),
    [
        ("3*5+2*7", True, "value", "ok"),
        ("(3*5)+(2*7)", True, "value", "ok"),
        (" 7 * 2 + 5 * 3 ", True, "value", "ok"),
        ("3*5+2+7", False, "value", "ok"),  # 24
        ("5*5+4", False, "numbers", "ok"),  # equals 29, with other numbers
        ("3*5+7+7", False, "numbers", "ok"),  # equals 29, uses 7 twice and 2 not at all
        ("3*5+2*7+0", False, "numbers", "ok"),  # a number that was not given
        ("35-2*7", False, "numbers", "ok"),  # digits may not be joined
        ("3*5/(7-5-2)", False, "numbers", "ok"),
        ("3/(7-5-2)", False, "value", "ok"),  # division by zero is a wrong answer, not a crash
        ("", False, "none", "no_answer"),
        ("   ", False, "none", "no_answer"),
        ("3*5+", False, "none", "unparsed"),
        ("29=3*5+2*7", False, "none", "unparsed"),
        ("2**7-3*5", False, "none", "unparsed"),  # no powers
        ("7//2*3*5", False, "none", "unparsed"),
        ("-3*5+2*7", False, "none", "unparsed"),  # no unary minus: nothing but + - * / between numbers
        ("3(5)+2*7", False, "none", "unparsed"),  # a call
        ("(3,5,2,7)", False, "none", "unparsed"),
        ("3*5+2*07", False, "none", "unparsed"),
        ("__import__('os').system('x')", False, "none", "unparsed"),
        ("3*5+2*7\n", False, "none", "unparsed"),
        ("३*5+2*7", False, "none", "unparsed"),  # a digit of another script
        ("1+" * 200 + "1", False, "none", "limit"),
        ("(" * 40 + "1" + ")" * 40, False, "none", "limit"),
        ("9" * 10, False, "none", "limit"),
    ],
)
def test_verdicts(response, correct, method, status):
    verdict = judge(response)
    assert (verdict.correct, verdict.method, verdict.status) == (correct, method, status)


def test_values_are_exact():
    thirds = Problem("t", "", "8 from 3,3,8,8", {"numbers": [3, 3, 8, 8], "target": 24})
    assert judge("8/(3-8/3)", thirds).correct  # 24 exactly; floating point gives 23.99...
    assert not judge("8/(3-8/3)", Problem("t", "", "", {"numbers": [3, 3, 8, 8], "target": 23})).correct


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("3*5+2*7", "(7*2)+5*3", True),
        ("7-(2-3)", "7+3-2", True),
        ("8/(4/2)", "2*8/4", True),
        ("(3+5)*2", "2*(5+3)", True),
        ("((3+5))*2", "3+5*2", False),
        ("7-2", "2-7", False),
        ("8/4", "4/8", False),
        ("2*3", "2+3", False),
        ("6", "2*3", False),  # equal in value, another expression
    ],
)
def test_the_normal_form_ignores_order_and_parentheses_only(left, right, same):
    assert GRADER.equal(left, right) is same
    assert (parse(left).text == parse(right).text) is same


expressions = st.recursive(
    st.integers(1, 9).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda t: f"({t[0]}{t[1]}{t[2]})"),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(expressions)
def test_the_normal_form_keeps_value_and_numbers_and_is_its_own(text):
    first = parse(text)
    again = parse(first.text)
    assert again.text == first.text
    assert again.numbers == first.numbers
    if first.value is not None:
        assert again.value == first.value


def test_hostile_responses_are_harmless_and_quick(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hostile = [
        "open('pwned','w').write('x')",
        "().__class__.__base__.__subclasses__()",
        "9**9**9**9",
        "(" * 100_000,
        "1" * 1_000_000,
        "-" * 5_000 + "1",
        "\x00",
        "\ud800",
        "3*5+2*7 or open('pwned','w')",
    ]
    began = time.process_time()
    verdicts = GRADER(hostile, [GOAL] * len(hostile))
    assert [v.correct for v in verdicts] == [False] * len(hostile)
    assert time.process_time() - began < 5
    assert not Path("pwned").exists()


def test_verdicts_come_back_in_order_one_each():
    problems = [GOAL, GOAL, Problem("q", "1,2:3?", "3 from 1,2", {"numbers": [1, 2], "target": 3})]
    assert [v.correct for v in GRADER(["2+1", "3*5+2*7", "2+1"], problems)] == [False, True, True]
    with pytest.raises(GraderError, match="2 responses for 1 problems"):
        GRADER(["1", "2"], [GOAL])


def test_the_goal_is_read_from_the_gold_when_meta_lacks_it():
    bare = Problem("p", "3,5,2,7:29?", "29 from 3,5,2,7")
    assert judge("3*5+2*7", bare).correct
    assert not judge("5*5+4", bare).correct


def test_an_expression_in_an_answer_tag():
    grader = CountdownGrader(extract="tag")
    text = "I try 3+5. <answer>1+1</answer> No: <answer>3*5+2*7</answer>"
    assert grader([text, "3*5+2*7"], [GOAL, GOAL])[0].correct
    assert grader(["3*5+2*7"], [GOAL])[0].status == "no_answer"


def test_problems_of_another_kind_go_to_the_mathematics_grader():
    math = pytest.importorskip("rlent.grading.math", reason="the mathematics grader is not there")
    assert math
    grader = CountdownGrader()
    other = Problem("m", "What is 40 + 2?", "42")
    verdicts = grader(["3*5+2*7", r"so \boxed{42}", r"so \boxed{41}"], [GOAL, other, other])
    assert [v.correct for v in verdicts] == [True, True, False]
    grader.close()


def test_generated_problems_need_no_mathematics_grader():
    grader = CountdownGrader()
    problems = list(countdown_problems(5, split="train"))
    assert grader.check_golds(problems) == []
    assert all(v.status == "ok" for v in grader(["+".join(map(str, p.meta["numbers"])) for p in problems], problems))
    assert grader._math is None
