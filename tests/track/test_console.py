"""The console: aligned columns for people and pipes, a bar on terminals only."""

import io
import re

import pytest

from rlent.track.console import HEADER, Console, eval_line, line

METRICS = {
    "reward/mean": 0.4123,
    "correct/mean": 0.25,
    "entropy/mean": 0.83214,
    "cov/mean": 0.02109,
    "length/mean": 612.25,
    "clip/share": 0.0091,
    "seconds/step": 11.4,
}


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_stands_under_its_headings():
    text = line(40, METRICS)
    assert text.split() == ["40", "0.412", "0.250", "0.8321", "0.02109", "612.2", "0.91", "11.40"]
    assert HEADER.split() == ["step", "reward", "pass", "entropy", "cov", "len", "clip%", "s/step"]
    ends = [m.end() for m in re.finditer(r"\S+", HEADER)]
    assert [m.end() for m in re.finditer(r"\S+", text)] == ends


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -123456.789, 1e12, -1e-9, 0, 3])
def test_odd_values_keep_the_columns(value):
    text = line(100000, dict.fromkeys(METRICS, value))
    assert [m.end() for m in re.finditer(r"\S+", text)] == [m.end() for m in re.finditer(r"\S+", HEADER)]


def test_missing_numbers_are_dashes():
    assert line(1, {}).split() == ["1", *"-------"]


def test_the_header_comes_every_25_lines():
    out = io.StringIO()
    console = Console("plain", out)
    for step in range(1, 61):
        console.step(step, METRICS, total=60)
    lines = out.getvalue().splitlines()
    assert [i for i, text in enumerate(lines) if text == HEADER] == [0, 26, 52]


def test_a_pipe_gets_plain_lines():
    out = io.StringIO()
    console = Console("auto", out)
    for step in (1, 2):
        console.step(step, METRICS, total=9)
    console.finish()
    assert out.getvalue() == "".join(text + "\n" for text in (HEADER, line(1, METRICS), line(2, METRICS)))


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
    assert text.count(line(6, METRICS)) == 1 and "saved" in text


def test_off_prints_messages_only(capsys):
    console = Console("off")
    console.step(1, METRICS, total=2)
    console.say("trouble")
    found = capsys.readouterr()
    assert found.out == "" and found.err == "trouble\n"


def test_an_evaluation_has_a_line_of_its_own():
    metrics = {**METRICS, "eval/pass@64": 0.5, "eval/pass@8": 0.25, "eval/pass@8_low": 0.2, "eval/maj@8": 0.1}
    assert eval_line(metrics).split() == ["eval", "pass@8", "0.250", "pass@64", "0.500"]
    assert eval_line(METRICS) is None
    out = io.StringIO()
    Console("plain", out).step(1, metrics)
    assert out.getvalue().splitlines()[2] == eval_line(metrics)
