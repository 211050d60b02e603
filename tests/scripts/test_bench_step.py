"""The benchmark of a step: its arguments, its arithmetic, and that our two sides run. TRL itself is not installed here."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("bench_step", Path(__file__).parents[2] / "scripts" / "bench_step.py")
script = importlib.util.module_from_spec(_spec)
sys.modules["bench_step"] = script  # where its dataclasses look for their annotations
_spec.loader.exec_module(script)

SMALL = ["--prompts", "4", "--group", "4", "--max-tokens", "8", "--updates", "2", "--threads", "1", "--warmup", "0"]


def block(seconds, cpu=1.0, tokens=1000, steps=10, **stages):
    return script.Block(steps, seconds, cpu, tokens, stages)


def full(blocks):
    versions = {"rlent": {"torch": "1", "transformers": "2"}, "trl": {"trl": "3", "torch": "1"}}
    machine = {"processor": "x", "cores": 4, "threads": 2, "load_before": 0.1, "load_after": 2.0}
    return {"machine": machine, "settings": script.settings(script.parse([])), "versions": versions} | script.report(blocks)


def test_the_defaults_are_the_promised_comparison():
    given = script.parse([])
    assert (given.prompts, given.group, given.max_tokens, given.updates, given.threads) == (16, 16, 16, 4, 2)
    assert given.sides == ["rlent", "sampler", "bare", "trl"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prompts", "6", "--updates", "4"], "--prompts 6 is not a multiple of --updates 4"),
        (["--steps", "0"], "'0' is not a whole number of 1 or more"),
        (["--group", "1"], "'1' is not a whole number of 2 or more"),
        (["--sides", "verl"], "invalid choice: 'verl'"),
    ],
)
def test_a_bad_argument_is_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.parse(arguments)
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_ratios_are_taken_round_by_round():
    """The machine gets slower, 10-fold in the last round: the ratio of each round is what counts."""
    blocks = {
        "rlent": [block(3.0, 4.0), block(4.0, 4.0), block(60.0, 6.0)],
        "sampler": [block(2.0, 4.0), block(3.0, 2.0), block(50.0, 4.0)],
        "bare": [block(2.4, 2.0), block(3.8, 3.0), block(30.0, 3.0)],
        "trl": [block(10.0, 8.0), block(10.0, 8.0), block(100.0, 8.0)],
    }
    found = script.report(blocks)
    assert found["ratio"] == pytest.approx({"median": 0.4, "min": 0.3, "max": 0.6, "promised": 0.5, "kept": True})
    assert found["cpu_ratio"] == pytest.approx({"median": 0.5, "min": 0.5, "max": 0.75})
    assert found["sampler_ratio"] == pytest.approx({"median": 0.3, "min": 0.2, "max": 0.5, "promised": 1 / 3, "kept": True})
    assert found["sampler_cpu_ratio"] == pytest.approx({"median": 0.5, "min": 0.25, "max": 0.5})
    assert found["metrics_share"] == pytest.approx({"median": 0.2, "min": 0.05, "max": 0.5, "promised": 0.1, "kept": False})
    assert found["metrics_cpu_share"] == pytest.approx({"median": 0.5, "min": 0.25, "max": 0.5})
    assert found["sides"]["rlent"]["seconds_per_step"] == pytest.approx({"median": 0.4, "min": 0.3, "max": 6.0})
    assert found["sides"]["trl"]["tokens_per_second"] == pytest.approx({"median": 100.0, "min": 10.0, "max": 100.0})


def test_the_limit_is_the_products_of_a_step_at_the_matrix_rate(tmp_path):
    found = script.report({"rlent": [block(5.0)], "sampler": [block(4.0)]})  # 0.5 and 0.4 s a step
    top = script.limit(found, 100.0, 60.0, {"sample": 4.0, "look_back": 4.0, "update": 12.0})
    assert top["seconds"] == pytest.approx({"rlent": 0.2, "sampler": 0.16})
    assert top["times"] == pytest.approx({"rlent": 2.5, "sampler": 2.5})
    problems = tmp_path / "problems.jsonl"
    problems.write_text('{"prompt": "1 2 3"}\n' * 3)
    given = script.parse(SMALL)
    few, many = (script.step_gflop(None, problems, given, tokens) for tokens in (0, 1000))
    weights = (many["sample"] - few["sample"]) * 1e9 / 2 / 1000  # those of the embedded model, the tied head among them
    assert 780_000 < weights < 800_000 and many["update"] == pytest.approx(3 * many["sample"]) == pytest.approx(3 * many["look_back"])
    assert few["sample"] * 1e9 / 2 / weights == pytest.approx(4 * 3)  # four prompts of three tokens


def test_stages_are_seconds_a_step_and_a_stage_a_side_lacks_is_left_out():
    found = full({"rlent": [block(5.0, sample=2.0, ledger=1.0, other=2.0)], "trl": [block(8.0, sample=6.0, other=2.0)]})
    assert found["sides"]["rlent"]["stages"] == pytest.approx({"sample": 0.2, "ledger": 0.1, "other": 0.2})
    assert "ledger" not in found["sides"]["trl"]["stages"]
    assert found["metrics_stage_share"]["median"] == pytest.approx(0.2)
    lines = script.show(found).splitlines()
    stages = next(i for i, line in enumerate(lines) if "by stage" in line)
    assert lines[stages + 1].split() == ["side", "sample", "ledger", "other"]
    assert lines[stages + 3].split() == ["trl", "0.6000", "-", "0.2000"]
    assert "rlent / TRL: 0.62 (0.62 to 0.62); at most 0.50 is promised: NOT KEPT" in lines[-1]
    both = {"rlent": [block(5.0)], "sampler": [block(2.0)], "trl": [block(8.0)]}
    ours, theirs = script.show(full(both)).splitlines()[-2:]
    assert "rlent / TRL: 0.62" in ours and "sampler / TRL: 0.25 (0.25 to 0.25); at most 0.33 is promised: kept" in theirs


def test_nested_stages_are_counted_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(script.time, "perf_counter", lambda: now[0])
    watch = script.Stopwatch()
    with watch.lap("update"):
        now[0] = 1.0
        with watch.lap("look_back"):
            now[0] = 3.0
            with watch.lap("sample"):
                now[0] = 7.0
        now[0] = 15.0
    assert watch.clear() == {"update": 9.0, "look_back": 2.0, "sample": 4.0}
    assert watch.clear() == {}


def test_our_sides_run_two_steps_and_train_alike(tmp_path):
    """Two blocks in one process, with seconds of stages that make up the whole. What `bare` leaves out changes no draw and no update."""
    given = script.parse([*SMALL, "--steps", "1", "--repeats", "2"])
    problems = script.write_problems(tmp_path / "problems.jsonl", given)
    children = {side: script.Child(side, sys.executable, given, tmp_path, problems) for side in ("rlent", "sampler", "bare")}
    try:
        blocks = script.alternate(children, given)
    finally:
        for child in children.values():
            child.close()
    for side, child in children.items():
        assert child.process.returncode == 0, child.log.read_text()
        for done in blocks[side]:
            assert done.steps == 1
            assert 16 <= done.tokens <= 16 * 8
            assert sum(done.stages.values()) == pytest.approx(done.seconds)
            assert min(done.stages[stage] for stage in ("sample", "update", "look_back")) > 0
            assert ("ledger" in done.stages) == (side != "bare")
    assert [b.tokens for b in blocks["rlent"]] == [b.tokens for b in blocks["bare"]] == [b.tokens for b in blocks["sampler"]]


def test_a_side_that_cannot_start_says_why(tmp_path):
    given = script.parse([*SMALL, "--recipe", "nonesuch"])
    child = script.Child("rlent", sys.executable, given, tmp_path, tmp_path / "problems.jsonl")
    with pytest.raises(SystemExit, match="(?s)rlent ended with exit code 1.*nonesuch"):
        child.run(1)
    child.close()


@pytest.mark.slow
def test_a_table_over_widths_has_a_line_for_each_model(capsys):
    small = [*SMALL, "--repeats", "1", "--steps", "1", "--sides", "rlent"]
    script.main([*small, "--widths", "64", "128"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["width", "parameters", "rlent", "s/step", "rlent", "/", "TRL", "sampler", "/", "TRL", "limit", "s/step"]
    assert [line.split()[0] for line in lines] == ["64", "128"] and lines[1].split()[1:3] == ["0.8", "M"]
    with pytest.raises(SystemExit):
        script.parse(["--widths", "100"])
    assert "'100' is not a multiple of 64" in capsys.readouterr().err
