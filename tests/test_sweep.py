"""Sweeps by Hydra's multirun: every job a child process, equal to the run alone; done jobs are skipped."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from runs import SMALL, lines, rlent, started, train, wait_for

from rlent.cli import commands
from rlent.errors import RecipeError, UsageError
from rlent.recipe import experiment
from rlent.recipe.compose import load
from rlent.studies import sweep


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
    assert again.stdout.endswith(f"compare: rlent report {folder} -o report.html\n")
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


# --- experiments -----------------------------------------------------------------------------------------------------


def names(overrides: list[str], **options: object) -> list[str]:
    return [sweep.job_name(job.own, []) for job in experiment.expand("entropy_mechanism", overrides, **options)]  # type: ignore[arg-type]


def test_the_papers_comparison_is_every_line_with_its_grid_and_every_seed() -> None:
    found = names([])
    assert len(found) == len(set(found)) == 12 * 3
    assert found[:4] == ["recipe=grpo,seed=0", "recipe=grpo,seed=1", "recipe=grpo,seed=2", "recipe=cliphigher,seed=0"]
    assert "recipe=kl,regularize.kl.coef=0.05,seed=2" in found


def test_an_experiment_is_sized_for_its_model() -> None:
    real = experiment.expand("entropy_mechanism", ["model=qwen2_5_7b"])
    assert len(real) == 12 and "recipe=entropybonus,regularize.entropy.coef=0.005" in [sweep.job_name(j.own, []) for j in real]
    assert {"optim.lr=5e-07", "sampler=dynamic", "seed=0", "model=qwen2_5_7b"} <= set(real[0].overrides) | {"optim.lr=5e-07"}
    toy = experiment.expand("entropy_mechanism", [])
    assert "sampler=group" in toy[0].overrides and "optim.lr=0.0001" in toy[0].overrides


def test_the_command_line_replaces_values_and_chooses_lines() -> None:
    assert names(["recipe=grpo,klcov", "seed=5", "trainer.steps=2"]) == ["recipe=grpo", "recipe=klcov"]
    (job,) = experiment.expand("entropy_mechanism", ["recipe=grpo", "seed=5", "trainer.steps=2"])
    assert job.overrides.count("seed=5") == 1 and "trainer.steps=600" not in job.overrides and "trainer.steps=2" in job.overrides
    assert len(names(["recipe=kl", "regularize.kl.coef=0.3", "seed=0"])) == 1


def test_what_an_experiment_cannot_be_is_said() -> None:
    with pytest.raises(RecipeError, match="there is no 'entropy_mechanisms'; did you mean 'entropy_mechanism'"):
        sweep.run(["+experiment=entropy_mechanisms"])
    with pytest.raises(RecipeError, match="no line has recipe=siren"):
        sweep.run(["+experiment=entropy_mechanism", "recipe=siren"])
    with pytest.raises(RecipeError, match="is a list of jobs; add -m"):
        commands.train(["+experiment=entropy_mechanism"])


def test_every_job_of_the_shipped_experiments_composes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "p.jsonl"
    data.write_text('{"prompt": "1+1", "answer": "2"}\n')
    real = ["model=qwen2_5_7b", "data=file", f"data.path={data}", "scale=gpus8"]
    for more, count in ([], 36), (real, 12):
        assert sweep.run(["+experiment=entropy_mechanism", *more], dry_run=True) == 0
        assert f"{count} jobs in outputs/sweeps/entropy_mechanism-" in capsys.readouterr().out
        for job in experiment.expand("entropy_mechanism", more):
            found = load(job.overrides)
            own = dict(o.split("=", 1) for o in job.own)
            for name, value in own.items() - {("recipe", own["recipe"])}:
                assert OmegaConf.select(OmegaConf.create(found.config), name) == float(value)
            sampler, updates = found["sampler"], found["trainer"]["minibatches"]
            # 7B as in the paper's section 4.3: 256 prompts with mixed outcomes, 8 responses of 8192 tokens, 8 updates, learning rate 5e-7
            size = (sampler["prompts"], sampler["n"], sampler["max_tokens"], updates, found["optim"]["lr"], bool(sampler["keep"]))
            assert size == ((256, 8, 8192, 8, 5e-7, True) if more else (16, 16, 16, 4, 1e-4, False)), job.own


def test_an_experiment_of_ones_own_runs_and_is_continued(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "my" / "experiment").mkdir(parents=True)
    (tmp_path / "my" / "experiment" / "two.yaml").write_text(
        "jobs: ['recipe=grpo', 'recipe=kl regularize.kl.coef=0.1']\nwith: [trainer.steps=1]\n"
    )
    command = ["+experiment=two", *SMALL, f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    assert sweep.run(command, [str(tmp_path / "my")]) == 0
    done = [p.parent.name for p in sorted((tmp_path / "sweep").glob("*/metrics.jsonl"))]
    assert done == ["recipe=grpo", "recipe=kl,regularize.kl.coef=0.1"]
    capfd.readouterr()
    assert sweep.run(command, [str(tmp_path / "my")]) == 0
    assert "--- " not in capfd.readouterr().out
    (tmp_path / "my" / "experiment" / "bad.yaml").write_text("jobs: {a: 1}\n")
    with pytest.raises(RecipeError, match="not an experiment"):
        sweep.run(["+experiment=bad"], [str(tmp_path / "my")])


def test_an_experiment_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    """SIGKILL of the run in progress, as when memory runs out; the same command ends both jobs."""
    (tmp_path / "my" / "experiment").mkdir(parents=True)
    (tmp_path / "my" / "experiment" / "two.yaml").write_text(
        "jobs: ['recipe=grpo', 'recipe=kl regularize.kl.coef=0.1']\nwith: [trainer.steps=4, checkpoint.every=1]\n"
    )
    folder, arguments = tmp_path / "sweep", ["train", "-m", "--config-dir", str(tmp_path / "my"), "+experiment=two", *SMALL]
    arguments.append(f"hydra.sweep.dir={folder}")
    second = folder / "recipe=kl,regularize.kl.coef=0.1"
    process = started(*arguments)
    wait_for(lambda: lines(second) >= 2, process)
    (run,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(run), signal.SIGKILL)
    assert process.wait() == 1 and sweep.state(second) == "running" and (first := folder / "recipe=grpo" / "metrics.jsonl").is_file()
    before = first.stat().st_mtime_ns
    again = rlent(*arguments)
    assert "recipe=kl,regularize.kl.coef=0.1  finished" in again.stdout and first.stat().st_mtime_ns == before
    assert again.stdout.count("--- ") == 1, "the job that was done is skipped"
    alone = train(tmp_path / "alone", "recipe=kl", "regularize.kl.coef=0.1", "trainer.steps=4", "checkpoint.every=1")
    assert (alone / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()


# --- early stop ------------------------------------------------------------------------------------------------------


def test_a_collapse_ends_the_run_as_finished_with_its_reason_and_a_sweep_does_not_take_it_up_again(run_dir: Path) -> None:
    """A threshold that the first steps meet stands in for a collapse, which takes hundreds of steps."""
    train(run_dir, "trainer.steps=40", "stop.on=[collapse]", "stop.collapse=1.0", "optim.lr=3e-3", "sampler.n=8")
    status = json.loads((run_dir / "status.json").read_text())
    assert status["state"] == "finished" and status["reason"].startswith("stop.on=collapse: step ") and 7 <= status["step"] < 40
    assert sweep.state(run_dir) == "finished" and (run_dir / "model" / "config.json").is_file()
    kept = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert len(kept) == status["step"] and [r["alarm/collapse"] for r in kept[-2:]] == [0.0, 1.0]
    assert commands.train(["trainer.steps=41"], resume=str(run_dir)) == 0  # who asks for more gets it
    assert json.loads((run_dir / "status.json").read_text())["step"] > status["step"]


def test_without_stop_on_an_alarm_only_speaks(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(run_dir, "trainer.steps=12", "stop.collapse=1.0", "optim.lr=3e-3", "sampler.n=8", "track.console=plain")
    assert capsys.readouterr().err.count("entropy has collapsed") == 1 and lines(run_dir) == 12
    with pytest.raises(RecipeError, match="stop.on: in .'colapse'., 'colapse' is not one of collapse, explosion"):
        commands.train(["stop.on=[colapse]"])
