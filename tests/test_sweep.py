"""Sweeps by Hydra's multirun: every job a child process, equal to the run alone; done jobs are skipped."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from runs import SMALL, lines, rlent, started, train, wait_for

from rlent import sweep
from rlent.errors import RecipeError, UsageError


def test_jobs_are_the_product_of_the_swept_values() -> None:
    found = sweep.jobs(["recipe=grpo,clipcov", "seed=0,1", "trainer.steps=3", "hydra.launcher.n_jobs=2"])
    assert found == [[f"recipe={r}", f"seed={s}", "trainer.steps=3"] for r in ("grpo", "clipcov") for s in (0, 1)]


def test_the_same_command_finds_the_same_folder() -> None:
    command = ["recipe=grpo,clipcov", "seed=0,1"]
    assert sweep.sweep_dir(command) == sweep.sweep_dir(list(reversed(command)))
    assert sweep.sweep_dir(command) != sweep.sweep_dir([*command, "trainer.steps=3"])
    assert sweep.sweep_dir([*command, "hydra.sweep.dir=here"]) == Path("here")


def test_a_bad_job_stops_the_sweep_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="optim.lr=-1: optim.lr: -1 is outside"):
        sweep.run(["recipe=grpo", "optim.lr=1e-4,-1"])
    assert not (tmp_path / "outputs").exists()


def test_multirun_under_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="cannot run under torchrun"):
        sweep.run(["seed=0,1"])


def test_a_sweep_is_killed_continued_and_its_jobs_equal_runs_alone(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    arguments = [
        "train",
        "-m",
        "recipe=grpo,clipcov",
        "seed=3",
        *SMALL,
        "trainer.steps=3",
        "checkpoint.every=1",
        f"hydra.sweep.dir={folder}",
    ]
    process = started(*arguments)
    wait_for(lambda: lines(folder / "recipe=grpo") >= 3, process)
    process.terminate()
    process.wait()
    first = folder / "recipe=grpo" / "metrics.jsonl"
    before = first.stat().st_mtime_ns
    done = rlent(*arguments)
    assert "recipe=clipcov  finished" in done.stdout
    state = json.loads((folder / "recipe=grpo" / "status.json").read_text())["state"]
    assert state == "finished"
    assert first.stat().st_mtime_ns >= before
    again = rlent(*arguments)
    assert "--- " not in again.stdout, "done jobs are skipped"
    alone = train(tmp_path / "alone", "recipe=clipcov", "seed=3", "trainer.steps=3", "checkpoint.every=1")
    assert (alone / "metrics.jsonl").read_bytes() == (folder / "recipe=clipcov" / "metrics.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None, reason="the extra `slurm` is not installed")
def test_submitits_launcher_runs_the_same_jobs(tmp_path: Path) -> None:
    """Its local executor: a process for each job, started from a pickle, as on a node of a cluster."""
    options = [*SMALL, "trainer.steps=2"]
    sweeping = ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5", "hydra.sweep.dir=sweep"]
    done = rlent("train", "-m", "seed=0,1", *options, *sweeping, cwd=tmp_path)
    assert "seed=0  finished" in done.stdout and "seed=1  finished" in done.stdout
    alone = train(tmp_path / "alone", "seed=1", "trainer.steps=2")
    assert (alone / "metrics.jsonl").read_bytes() == (tmp_path / "sweep" / "seed=1" / "metrics.jsonl").read_bytes()
    assert "--- " not in rlent("train", "-m", "seed=0,1", *options, *sweeping, cwd=tmp_path).stdout, "done jobs are skipped"
