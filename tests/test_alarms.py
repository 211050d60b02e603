"""Warnings come once, with the step, when a number has grown and stayed so; not for noise, and not again after a resume."""

from __future__ import annotations

import json
import math

import pytest

from rlent.metrics import explain
from rlent.train.alarms import AHEAD, IN_A_ROW, INERT_AFTER, NAMES, Alarms, reaches

QUIET = {"mismatch/mean": 0.01, "grader/timeout": 0.0}


def told(alarms: Alarms, series: list[dict[str, float]], first: int = 1, effects: dict[str, str] | None = None) -> list[str]:
    return [alarm.text for step, metrics in enumerate(series, first) for alarm in alarms.look(step, metrics, effects or {})]


def entropies(values: list[float]) -> list[dict[str, float]]:
    return [{"entropy/mean": v} for v in values]


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


def test_what_flickers_is_said_once_and_what_comes_back_after_a_while_again():
    large = [{"mismatch/mean": 0.05}]
    assert len(told(Alarms(), [QUIET] * 5 + (large * IN_A_ROW + [QUIET] * 2) * 5)) == 1
    assert len(told(Alarms(), [QUIET] * 5 + (large * IN_A_ROW + [QUIET] * 25) * 2)) == 2


def test_a_function_without_effect_is_named():
    said = told(Alarms(), [{"effect/clip_cov": 0.0}] * (INERT_AFTER + 5), effects={"effect/clip_cov": "shape.clip_cov"})
    assert len(said) == 1 and "shape.clip_cov" in said[0]


# --- entropy ---------------------------------------------------------------------------------------------------------


def test_an_exponential_is_followed_to_the_step_where_it_meets_the_limit():
    falling = [0.8 * math.exp(-0.02 * t) for t in range(40)]
    steps = reaches(falling, 0.2)
    assert 0.8 * math.exp(-0.02 * (39 + steps)) <= 0.2 < 0.8 * math.exp(-0.02 * (39 + steps - 1))
    assert reaches(falling[:19], 0.2) is None, "too few steps"
    assert reaches([0.5 + 0.01 * (-1) ** t for t in range(40)], 0.2) is None, "a flat line with noise"
    assert reaches([0.5 + 0.001 * t for t in range(40)], 0.2) is None, "rising"


def test_a_collapse_is_forecast_before_it_comes_and_both_are_said_once():
    values = [0.6 * math.exp(-0.01 * t) for t in range(250)]
    said = told(Alarms(), entropies(values))
    assert [("at this rate" in s, "has collapsed" in s) for s in said] == [(True, False), (False, True)]
    forecast, collapse = (int(s.split(":")[0].removeprefix("step ")) for s in said)
    predicted = int(said[0].rsplit(" ", 1)[1])
    assert (
        collapse - AHEAD - 6 <= forecast < collapse and abs(predicted - collapse) <= 6
    )  # the alarm waits for means and a few steps in a row
    assert "is below 0.118 by step" in said[0] and "of the first steps' 0.588" in said[1]


def test_a_fall_that_levels_off_is_no_forecast():
    values = [0.35 + 0.28 * math.exp(-0.03 * t) for t in range(400)]
    assert told(Alarms(), entropies(values)) == []


def test_an_explosion_is_said_and_a_rise_from_little_is_not():
    assert told(Alarms(), entropies([0.1] * 10 + [0.5] * 30)) == []
    (said,) = told(Alarms(), entropies([0.6] * 10 + [2.5] * 30))
    assert said.startswith("step 15: entropy explodes: 2.5 nats per token, 4.2 times the first steps' 0.6")


def test_thresholds_are_the_recipes():
    falling = entropies([0.6] * 5 + [0.25] * 20)
    assert not [s for s in told(Alarms(collapse=0.2), falling) if "collapsed" in s]
    assert [s for s in told(Alarms(collapse=0.5), falling) if "collapsed" in s]


# --- starving, states ------------------------------------------------------------------------------------------------


def test_a_collapse_can_be_turned_off_and_an_entropy_of_zero_is_an_ordinary_number():
    falling = entropies([math.exp(-0.1 * t) for t in range(60)])
    assert [text.split(" fell")[0] for text in told(Alarms(), falling)][0].endswith("entropy")
    assert told(Alarms(collapse=0.0), falling) == []
    (said,) = told(Alarms(), entropies([0.0] * 10 + [1.5] * 10))
    assert "explodes: 1.5 nats per token, from the first steps' 0" in said


def test_a_filter_that_keeps_too_little_and_a_selection_that_dries_up_are_starving():
    (said,) = told(Alarms(), [{"sampler/kept": 1.0}] * 5 + [{"sampler/kept": 0.1}] * 9)
    assert said.startswith(f"step {5 + IN_A_ROW}: the sampler's filter keeps 10.0%")
    share = "select/clip_cov/share"
    (said,) = told(Alarms(), [{share: 0.02}] * 10 + [{share: 0.0}] * 30)
    assert said.startswith(f"step {10 + INERT_AFTER}: clip_cov has selected less than a tenth")
    assert told(Alarms(), [{share: 0.0}] * 40) == [], "never selected anything: that is the inert alarm's"


def test_each_alarm_has_a_state_while_it_lasts_and_a_definition():
    alarms = Alarms()
    told(alarms, [QUIET] * 5 + [{"mismatch/mean": 0.05}] * 2)
    assert set(alarms.states()) == {f"alarm/{n}" for n in NAMES} and not any(alarms.states().values())
    alarms.look(8, {"mismatch/mean": 0.05}, {})
    assert [k for k, v in alarms.states().items() if v] == ["alarm/mismatch"]
    alarms.look(9, QUIET, {})
    assert not any(alarms.states().values())
    assert all(explain(name) is not None and explain(name).name == name for name in alarms.states())


def test_the_entropy_of_earlier_steps_is_remembered_over_a_resume():
    values = entropies([0.6 * math.exp(-0.01 * t) for t in range(250)])
    whole = Alarms()
    said = told(whole, values[:40]) + told(whole, values[40:], first=41)
    cut = Alarms()
    first = told(cut, values[:40])
    resumed = Alarms()
    resumed.load_state_dict(json.loads(json.dumps(cut.state_dict())))
    assert first + told(resumed, values[40:], first=41) == said and len(said) == 2
