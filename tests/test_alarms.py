"""Warnings come once, with the step, when a number has grown and stayed so; not for noise, and not again after a resume."""

from __future__ import annotations

import json

import pytest

from rlent.alarms import IN_A_ROW, INERT_AFTER, Alarms

QUIET = {"mismatch/mean": 0.01, "grader/timeout": 0.0}


def told(alarms: Alarms, series: list[dict[str, float]], first: int = 1, effects: dict[str, str] | None = None) -> list[str]:
    return [text for step, metrics in enumerate(series, first) for text in alarms.look(step, metrics, effects or {})]


def test_a_mismatch_that_grows_and_stays_is_said_once_with_its_step():
    said = told(Alarms(), [QUIET] * 10 + [{"mismatch/mean": 0.05}] * 10)
    assert len(said) == 1 and said[0].startswith(f"step {10 + IN_A_ROW}: mismatch/mean is 0.05 (0.01 ")


def test_a_single_bad_step_and_small_numbers_say_nothing():
    assert told(Alarms(), [QUIET] * 10 + [{"mismatch/mean": 0.5}, QUIET] * 5) == []
    assert told(Alarms(), [{"mismatch/mean": 1e-7}] * 5 + [{"mismatch/mean": 1e-3}] * 9) == []


def test_a_run_that_starts_badly_is_told_at_once():
    assert [s.split(":")[0] for s in told(Alarms(), [{"grader/timeout": 0.5}] * 9)] == [f"step {IN_A_ROW}"]
    assert told(Alarms(), [{"grader/unparsed": 0.5}] * 9) == []


@pytest.mark.parametrize("status", ["timeout", "crash", "limit", "unparsed", "no_answer", "gold_unparsed"])
def test_a_jump_of_any_status_of_the_grader_is_said(status):
    said = told(Alarms(), [{f"grader/{status}": 0.0}] * 5 + [{f"grader/{status}": 0.2}] * 9)
    assert len(said) == 1 and said[0].startswith(f"step {5 + IN_A_ROW}: grader/{status} is 0.2")


def test_what_was_said_is_not_said_again_after_a_resume():
    alarms = Alarms()
    assert len(told(alarms, [QUIET] * 5 + [{"mismatch/mean": 0.05}] * 4)) == 1
    resumed = Alarms()
    resumed.load_state_dict(json.loads(json.dumps(alarms.state_dict())))
    assert told(resumed, [{"mismatch/mean": 0.05}] * 9, first=10) == []


def test_a_function_without_effect_is_named():
    said = told(Alarms(), [{"effect/clip_cov": 0.0}] * (INERT_AFTER + 5), effects={"effect/clip_cov": "shape.clip_cov"})
    assert len(said) == 1 and "shape.clip_cov" in said[0]
