"""The console: aligned columns for people and pipes, none of them twice, a bar on terminals only."""

import io
import re

import pytest

from rlent.track.console import Console, Table, duration, eval_line

METRICS = {
    "reward/mean": 0.25,
    "correct/mean": 0.25,
    "entropy/mean": 0.83214,
    "cov/mean": 0.02109,
    "length/mean": 612.25,
    "clip/share": 0.0091,
    "seconds/step": 11.4,
}
CLIP_COV = {**METRICS, "effect/clip_cov": 0.5, "select/clip_cov/share": 0.0213, "select/clip_cov/pos": 1.0}
HEADINGS = ["step", "reward", "entropy", "cov", "len", "clip%", "s/step", "left"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    """A clock that goes on by `seconds` each time it is read."""

    def __init__(self, seconds):
        self.now, self.seconds = 0.0, seconds

    def __call__(self):
        self.now += self.seconds
        return self.now


def ends(text):
    """Where the columns end; the one heading of two words is one."""
    return [m.end() for m in re.finditer(r"\S+(?: acts%)?", text)]


def printed(*steps, total=60, first=1, mode="plain", clock=None):
    """The lines of a console that is given the metrics of some steps."""
    out = io.StringIO()
    console = Console(mode, out, *([clock] if clock else []))
    for step, metrics in enumerate(steps, first):
        console.step(step, metrics, total=total)
    return out.getvalue().splitlines()


def test_a_line_stands_under_its_headings_with_the_step_of_all_and_the_time_left():
    header, line = printed(METRICS, first=40, total=600)
    assert header.split() == HEADINGS
    assert line.split() == ["40/600", "0.250", "0.8321", "0.02109", "612.2", "0.91", "11.40", "1h46m"]  # 560 steps of 11.4 s
    assert ends(line) == ends(header)


def test_no_number_stands_there_twice_and_pass_at_1_comes_with_the_first_step_where_it_differs():
    scored = {**METRICS, "reward/mean": 0.31}
    lines = printed(METRICS, scored, METRICS)
    assert lines[0].split() == HEADINGS
    assert lines[2].split() == ["step", "reward", "pass@1", *HEADINGS[2:]]
    assert lines[3].split()[1:3] == ["0.310", "0.250"] and lines[4].split()[1:3] == ["0.250", "0.250"]
    assert len(lines) == 5  # the headings are repeated where a column is new, and only there


@pytest.mark.parametrize(
    ("metrics", "heading", "number"),
    [
        (CLIP_COV, "clip_cov%", "2.13"),  # what it selects, and not what it changes
        ({**METRICS, "effect/steer": 0.195}, "steer acts%", "19.50"),
        ({**METRICS, "select/one/share": 0.1, "select/two/share": 0.2}, "one%", "10.00"),
        ({**METRICS, "select/one/pos": 0.1, "effect/a/b": 0.2}, None, None),
    ],
)
def test_the_methods_own_number_is_in_the_table(metrics, heading, number):
    header, line = printed(metrics)
    assert ends(line) == ends(header)
    if heading is None:
        assert header.split() == HEADINGS
    else:
        at = re.split(r" {2,}", header.strip()).index(heading)
        assert re.split(r" {2,}", line.strip())[at] == number


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -123456.789, 1e12, -1e-9, 0, 3])
def test_odd_values_keep_the_columns(value):
    table = Table(total=100000, with_pass=True)
    table.look(CLIP_COV)
    assert ends(table.line(100000, dict.fromkeys(CLIP_COV, value), value)) == ends(table.header)


def test_missing_numbers_are_dashes():
    assert Table().line(1, {}).split() == ["1", *"-------"]


def test_the_header_comes_every_25_lines():
    lines = printed(*[METRICS] * 60)
    assert [i for i, text in enumerate(lines) if text.split() == HEADINGS] == [0, 26, 52]


def test_the_time_left_is_that_of_the_steps_so_far_with_what_lies_between_them():
    lines = printed(*[METRICS] * 3, total=10, first=5, clock=Clock(20.0))  # 20 s from step to step, of which the steps themselves are 11.4
    assert [line.split()[-1] for line in lines[1:]] == ["57s", "1m20s", "1m00s"]


def test_a_pipe_gets_plain_lines():
    out = io.StringIO()
    console = Console("auto", out)
    console.step(1, METRICS, total=9)
    console.finish()
    assert "\x1b" not in out.getvalue() and out.getvalue().count("\n") == 2


def test_a_terminal_gets_a_bar_with_the_time_left_and_the_lines_stay(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    console = Console("auto", out)
    for step in (5, 6, 7):
        console.step(step, METRICS, total=9)
    console.say("saved")
    console.finish()
    text = out.getvalue()
    assert "\x1b[" in text and "7/9" in text and "left" in text
    table = Table(total=9, with_left=False)
    assert text.count(table.line(6, METRICS)) == 1 and "saved" in text
    assert "left" not in table.header  # the bar has it


def test_off_prints_messages_only(capsys):
    console = Console("off")
    console.step(1, METRICS, total=2)
    console.say("trouble")
    found = capsys.readouterr()
    assert found.out == "" and found.err == "trouble\n"


def test_an_evaluation_has_a_line_of_its_own():
    metrics = {**METRICS, "eval/pass@64": 0.5, "eval/pass@8": 0.25, "eval/pass@8_low": 0.2, "eval/maj@8": 0.1, "eval/avg": 0.3}
    assert eval_line(metrics).split() == ["eval", "pass@8", "0.250", "pass@64", "0.500"]
    assert eval_line(METRICS) is None
    assert printed(metrics)[2] == eval_line(metrics)


def test_a_suites_scores_are_on_one_line_set_by_set():
    metrics = {
        "eval/aime24/avg": 0.1,
        "eval/aime24/pass@1": 0.1,
        "eval/aime24/pass@16": 0.4,
        "eval/aime24/pass@16_low": 0.3,
        "eval/math500/avg": 0.625,
        "eval/math500/pass@1": 0.625,
        "eval/mean_of_sets": 0.3625,
        "eval/mean_of_problems": 0.5,
    }
    assert eval_line(metrics) == "  eval   aime24 avg 0.100 pass@16 0.400  math500 avg 0.625  mean of sets 0.362"


def test_a_duration_has_two_units():
    assert [duration(s) for s in (0, 59.6, 61, 3599, 3600 * 5 + 61, 86400 * 2.5)] == ["0s", "1m00s", "1m01s", "59m59s", "5h01m", "2d12h"]
    assert duration(None) == duration(float("nan")) == "-"
    assert duration(86400.0 * 5000) == ">999d" and all(len(duration(10.0**n)) < 8 for n in range(12))
