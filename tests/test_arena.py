"""The arena: the same budget for all, jobs that go on where they stopped, and a table that says what the runs say."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from runs import SMALL, lines, rlent, rows, started, wait_for

from rlent.errors import UsageError
from rlent.eval.result import Evaluation, Tally
from rlent.report.arena import Result, compare, row_of
from rlent.studies import arena

BUDGET = ["--n", "4", "--pass-at-k", "2", "--problems", "6"]
TINY = [part for override in SMALL if not override.startswith(("eval.", "track.mode")) for part in ("--set", override)]


def enter(out: Path, *arguments: str, steps: int = 6, check: bool = True):
    return rlent("arena", *arguments, "--out", str(out), "--steps", str(steps), *BUDGET, *TINY, check=check)


def test_the_table_says_what_the_runs_say_and_nothing_is_done_twice(tmp_path: Path) -> None:
    done = enter(tmp_path / "a", "clipcov", "grpo", "--seeds", "0,1")
    assert "4 of 4 jobs to do" in done.stdout
    document = json.loads((tmp_path / "a/arena.json").read_text())
    assert [r["recipe"] for r in document["rows"]] == ["grpo", "clipcov"]
    base, row = document["rows"]
    folders = [tmp_path / f"a/runs/clipcov/seed{s}" for s in (0, 1)]
    entropy = [[r["entropy/mean"] for r in rows(f)] for f in folders]
    assert row["entropy_kept"] == pytest.approx(sum(sum(e[1:]) / 5 for e in entropy) / sum(e[0] for e in entropy))  # 6 steps: the last five
    assert row["reward"] == pytest.approx(np.mean([[r["reward/mean"] for r in rows(f)[1:]] for f in folders]))
    evals = {f: Evaluation.load(f.with_name(f.name + "-eval") / "eval.json") for f in folders}
    assert row["pass@2"]["value"] == pytest.approx(np.mean([e.pass_values(2) for e in evals.values()]))
    assert row["pass@2_difference"]["value"] == pytest.approx(row["pass@2"]["value"] - base["pass@2"]["value"])
    assert [len(e.problems) for e in evals.values()] == [6, 6] and base["cost"] == 1.0 and row["cost"] > 0
    table = list(csv.DictReader((tmp_path / "a/arena.csv").open()))
    assert float(table[1]["pass@2_high"]) == pytest.approx(row["pass@2"]["high"])
    assert f"| clipcov | 2 | {row['reward']:.3f} |" in (tmp_path / "a/arena.md").read_text()
    assert (tmp_path / "a/arena-figure.png").stat().st_size > 5000

    times = {f: f.stat().st_mtime_ns for f in (tmp_path / "a/runs").rglob("*") if f.is_file()}
    again = enter(tmp_path / "a", "clipcov", "grpo", "--seeds", "0,1")
    assert "0 of 4 jobs to do" in again.stdout
    assert {f: f.stat().st_mtime_ns for f in times} == times
    other = enter(tmp_path / "a", "grpo", steps=7, check=False)
    assert other.returncode == 2 and "steps 6 there, 7 here" in other.stderr


def test_an_arena_that_is_stopped_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    enter(tmp_path / "whole", "grpo", "--seeds", "3", steps=12)
    run = tmp_path / "cut/runs/grpo/seed3"
    process = started("arena", "grpo", "--out", str(tmp_path / "cut"), "--seeds", "3", "--steps", "12", *BUDGET, *TINY)
    wait_for(lambda: lines(run) >= 3, process)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(120) == 130
    assert json.loads((run / "status.json").read_text())["state"] == "stopped"
    enter(tmp_path / "cut", "grpo", "--seeds", "3", steps=12)
    assert (run / "metrics.jsonl").read_bytes() == (tmp_path / "whole/runs/grpo/seed3/metrics.jsonl").read_bytes()
    one, two = (json.loads((tmp_path / name / "arena.json").read_text())["rows"][0] for name in ("whole", "cut"))
    assert one["pass@2"] == two["pass@2"]


def test_a_method_that_fails_is_named_with_its_reason_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "my/recipe").mkdir(parents=True)
    (tmp_path / "my/shape").mkdir()
    (tmp_path / "my/fails.py").write_text("def fails(adv):\n    raise ValueError('on purpose')\n")
    (tmp_path / "my/shape/fails.yaml").write_text("fails:\n  _target_: fails.fails\n")
    head = "# @package _global_\ndefaults:\n  - override /shape: [fails]\n"
    (tmp_path / "my/recipe/fails.yaml").write_text(head)
    (tmp_path / "my/recipe/absent.yaml").write_text("# @package _global_\ncard: {arena: {skip: it needs several turns}}\n")
    done = enter(tmp_path / "out", "absent", "fails", "grpo", "--seeds", "0", "--config-dir", str(tmp_path / "my"), check=False)
    assert done.returncode == 1
    document = json.loads((tmp_path / "out/arena.json").read_text())
    assert [r["recipe"] for r in document["rows"]] == ["grpo"]
    assert "on purpose" in document["missing"]["fails seed 0"]
    assert document["missing"]["absent"] == "skipped: it needs several turns"


def test_what_a_card_says_of_the_arena_is_used(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "recipe/mine.yaml").write_text("# @package _global_\ncard: {arena: {overrides: [sampler.n=8], note: half the group}}\n")
    methods = arena.entries(["mine", "grpo"], [str(tmp_path)])
    jobs = arena.jobs_of(methods, [4, 5])
    assert [(j.recipe, j.seed) for j in jobs] == [("grpo", 4), ("mine", 4), ("grpo", 5), ("mine", 5)]
    assert "sampler.n=8" in arena.training(jobs[1], arena.Settings(), tmp_path)


def result(place: Path, seed: int, correct: dict[str, int], n: int = 4) -> Result:
    """A run of ten steps, and an evaluation with so many correct samples of each problem."""
    place.mkdir(parents=True)
    steps = [{"step": s, "entropy/mean": 1.0, "reward/mean": 0.5} for s in range(10)]
    (place / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    tallies = [
        Tally(p, "s", "1" * c + "0" * (n - c), 1, dict.fromkeys((1, 2, n), 0.0), 0, 0, {"ok": n}, n, 0.0) for p, c in correct.items()
    ]
    Evaluation("e", (1, n), tuple(tallies)).save(place / "eval" / "eval.json")
    return Result(seed, place, place / "eval")


def test_methods_that_have_fewer_seeds_than_the_base_are_compared_on_those_that_both_have(tmp_path: Path) -> None:
    base = [result(tmp_path / f"a{s}", s, {"p": c, "q": 0, "r": 4}) for s, c in enumerate((0, 1, 4))]
    other = [result(tmp_path / f"b{s}", s, {"r": 3, "q": 1, "p": c}) for s, c in enumerate((2, 4))]  # the problems in another order
    rows = [row_of(name, results, (1, 4)) for name, results in (("grpo", base), ("mine", other))]
    compare(rows)
    one, two = (row.plain() for row in rows)
    assert [one["seeds"], two["seeds"]] == [[0, 1, 2], [0, 1]] and "pass@1_difference" not in one
    assert two["pass@1_difference"]["value"] == pytest.approx(np.mean([(2 + 4 - 0 - 1) / 8, 1 / 4, -1 / 4]))
    assert two["by_seed"]["pass@1"] == pytest.approx([6 / 12, 8 / 12])
    again = [row_of(name, results, (1, 4)) for name, results in (("mine", other), ("grpo", base))]
    compare(again, "mine")
    assert again[1].differences[1].low == pytest.approx(-two["pass@1_difference"]["high"], abs=1e-9)  # the base is whichever is named
    json.dumps([one, two])


def test_an_unknown_method_and_too_few_samples_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'clipcov'"):
        arena.main(["clipcof"], out=tmp_path / "out")
    with pytest.raises(UsageError, match="at least as many samples"):
        arena.main(["grpo"], out=tmp_path / "out", settings=arena.Settings(n=2, k=4))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_quick_trains_and_evaluates_every_method(tmp_path: Path) -> None:
    rlent("arena", "--quick", "--out", str(tmp_path / "a"), limit=1800)
    document = json.loads((tmp_path / "a/arena.json").read_text())
    methods = arena.entries([])
    assert {r["recipe"] for r in document["rows"]} == {name for name, about in methods.items() if "skip" not in about}
    assert set(document["missing"]) == {name for name, about in methods.items() if "skip" in about}
    for row in document["rows"]:
        assert row["seeds"] == [0] and row["entropy_start"] > 0.1 and 0 <= row["pass@1"]["value"] <= row["pass@8"]["value"] <= 1, row[
            "recipe"
        ]
