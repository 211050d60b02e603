"""Demonstrations that come with the data, in the shapes they come in, and the solutions of countdown problems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlent.data.countdown import countdown_problems, solution
from rlent.data.demonstrations import check, demonstrations, texts
from rlent.data.files import load_file
from rlent.data.problems import Problems
from rlent.errors import DataError
from rlent.grading.countdown import grade
from rlent.types import Problem

TURNS = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "It is 3."}, {"role": "assistant", "content": "It is 2."}]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("It is 2.", ["It is 2."]),
        (["It is 2.", "Two."], ["It is 2.", "Two."]),
        (TURNS, ["It is 2."]),
        (TURNS[:1], []),
        (["Two.", " "], ["Two."]),
        (" ", []),
        ([], []),
        (None, []),
        (29, []),
        (["Two.", 2], []),
    ],
)
def test_a_field_holds_a_text_or_texts_or_a_conversation(value: object, found: list[str]) -> None:
    assert texts(value) == found


def test_the_first_usual_field_that_holds_one_is_taken_and_a_named_one_is_the_only_one() -> None:
    problem = Problem("1", "1+1?", "2", {"target": TURNS, "solution": 7, "trace": "1 and 1"})
    assert demonstrations(problem) == ["It is 2."]  # `solution` holds no text
    assert demonstrations(problem, "trace") == ["1 and 1"] and demonstrations(problem, "solution") == []


def test_a_row_in_the_shape_of_luffy_s_data_brings_its_demonstration(tmp_path: Path) -> None:
    row = {
        "data_source": "openr1",
        "prompt": [{"role": "system", "content": "Think."}, {"role": "user", "content": "1+1?"}],
        "target": [{"role": "assistant", "content": "<think>one and one</think> It is 2."}],
        "reward_model": {"style": "rule", "ground_truth": "2"},
    }
    (tmp_path / "set.jsonl").write_text(json.dumps(row))
    problems = load_file(tmp_path / "set.jsonl")
    check(problems)
    assert problems[0].gold == "2" and demonstrations(problems[0]) == ["<think>one and one</think> It is 2."]


def test_every_countdown_problem_has_a_right_solution_that_is_always_the_same() -> None:
    problems = [*countdown_problems(60, split="train", sizes=(2, 3, 4)), *countdown_problems(3, split="train", sizes=(6,))]
    for problem in problems:
        (text,) = demonstrations(problem)
        assert grade(text, problem.meta["target"], problem.meta["numbers"]).correct, (problem.prompt, text)
        solution.cache_clear()
        assert demonstrations(problem) == [text]
    plain = Problem("x", "?", "24 from 2,3,4")  # a row of a file without numbers and target of its own
    assert grade(demonstrations(plain)[0], 24, (2, 3, 4)).correct


def test_a_target_that_cannot_be_reached_has_no_solution_and_needs_no_division_by_zero() -> None:
    assert solution((1, 1, 1), 99) is None
    assert solution((1, 2), 0) is None and solution((3, 3), 1) == "3/3"
    assert solution((2, 2, 4), 7) is None  # 4/(2-2) is tried on the way


def test_a_set_without_demonstrations_is_refused_with_the_fields_it_has(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    lines = [
        {"prompt": "a", "answer": "1", "note": "n"},
        {"prompt": "b", "answer": "2", "solution": "b is 2"},
        {"prompt": "c", "answer": "3"},
    ]
    file.write_text("\n".join(json.dumps(row) for row in lines))
    problems = load_file(file)
    with pytest.raises(
        DataError,
        match=r"2 of 3 problems have no demonstration in any of demonstration.*\(set-1, set-3;.*their fields are: note\).*sampler.missing=skip",
    ):
        check(problems)
    with pytest.raises(DataError, match=r"3 of 3 .* in a field 'notes'; did you mean 'note'\?"):
        check(problems, "notes", all_of_them=False)
    check(problems, all_of_them=False)
    check(Problems(problems[1:2], name="one"))
