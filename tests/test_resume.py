"""Stopped and resumed equals never stopped: the same metrics.jsonl and the same weights, byte for byte."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import yaml
from runs import SMALL, command, environment, lines, rlent, rows, started, train, wait_for

from rlent.cli import commands
from rlent.errors import CheckpointError, RunExists, UsageError
from rlent.runs import checkpoint
from rlent.runs.folder import RunFolder

STEPS = 12
RECIPE = [
    *SMALL,
    "recipe=aer",
    "shape=[aer,clip_cov]",
    f"trainer.steps={STEPS}",
    "checkpoint.every=4",
    "eval.every=6",
    "eval.n=2",
    "eval.ks=[1]",
    "eval.problems=4",
]
"""With a controller and its knob, a random selection, the ledger and evaluations: everything that has state."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    rlent("train", *RECIPE, f"run.dir={folder}")
    return folder


def same(one: Path, other: Path) -> None:
    assert (one / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    assert (one / "model" / "model.safetensors").read_bytes() == (other / "model" / "model.safetensors").read_bytes()


def test_the_record_has_one_object_per_step_and_no_clock(whole: Path) -> None:
    found = rows(whole)
    assert [r["step"] for r in found] == list(range(1, STEPS + 1))
    assert not [k for r in found for k in r if k.startswith("seconds/")]
    assert len((whole / "timings.jsonl").read_text().splitlines()) == STEPS


def test_ctrl_c_ends_after_the_step_with_a_checkpoint_and_resume_goes_on(whole: Path, run_dir: Path) -> None:
    process = started("train", *RECIPE, f"run.dir={run_dir}")
    wait_for(lambda: lines(run_dir) >= 2, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    done = lines(run_dir)
    assert 2 <= done < STEPS and checkpoint.steps(run_dir / "checkpoints")[-1] == done
    assert RunFolder(run_dir).read_status()["state"] == "stopped"
    output = process.stdout.read() if process.stdout else ""
    assert "Traceback" not in output
    rlent("train", "--resume", str(run_dir))
    same(whole, run_dir)


def test_kill_9_at_any_moment_loses_nothing_but_the_steps_since_the_checkpoint(whole: Path, run_dir: Path) -> None:
    process = started("train", *RECIPE, f"run.dir={run_dir}")
    wait_for(lambda: lines(run_dir) >= 2, process)  # before the first checkpoint
    process.kill()
    process.wait()
    for after in (6, 9):
        process = started("train", "--resume", str(run_dir))
        wait_for(lambda at=after: lines(run_dir) >= at, process)
        process.kill()
        process.wait()
    rlent("train", "--resume", str(run_dir))
    same(whole, run_dir)


def test_a_kill_while_a_checkpoint_is_written_leaves_the_last_good_one(whole: Path, run_dir: Path) -> None:
    process = started("train", *RECIPE, f"run.dir={run_dir}")
    wait_for(lambda: bool(checkpoint.steps(run_dir / "checkpoints")), process)
    process.kill()
    process.wait()
    folder = run_dir / "checkpoints"
    good = checkpoint.steps(folder)
    # what a kill in the middle of writing leaves behind: a partial folder, and a torn last line of the record
    (folder / f".{checkpoint.name(99)}.partial" / "tensors").mkdir(parents=True)
    with (run_dir / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 99, "entropy/mea')
    assert checkpoint.steps(folder) == good
    rlent("train", "--resume", str(run_dir))
    same(whole, run_dir)


def test_a_longer_run_continues_a_finished_one(run_dir: Path, tmp_path: Path) -> None:
    short = ["recipe=clipcov", "checkpoint.every=0"]
    train(run_dir, *short, "trainer.steps=2")
    assert commands.train(["trainer.steps=4"], resume=str(run_dir)) == 0
    other = train(tmp_path / "other", *short, "trainer.steps=4")
    same(other, run_dir)


def test_a_resumed_run_goes_on_counting_towards_an_alarm_and_repeats_none(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An inert method is reported after 20 steps: a run that is cut at 12 and at 21 reports it at 20, once."""
    tiny = [
        "sampler.prompts=2",
        "sampler.n=2",
        "sampler.max_tokens=4",
        "trainer.minibatches=1",
        "data.train_size=200",
        "checkpoint.every=0",
    ]
    inert = [*tiny, "recipe=clipcov", "shape.clip_cov.low=1000", "shape.clip_cov.high=1001", "track.console=plain"]
    whole = train(tmp_path / "whole", *inert, "trainer.steps=23")
    capsys.readouterr()
    train(run_dir, *inert, "trainer.steps=12")
    for end in (21, 23):
        assert commands.train([f"trainer.steps={end}"], resume=str(run_dir)) == 0
    assert [r["alarm/inert"] for r in rows(run_dir)] == [0.0] * 19 + [1.0] * 4
    assert (whole / "metrics.jsonl").read_bytes() == (run_dir / "metrics.jsonl").read_bytes()
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("has changed no token's gradient for 20 steps") == 1


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_checkpoints_are_kept_as_the_recipe_says(keep: int, run_dir: Path) -> None:
    train(run_dir, "trainer.steps=5", "checkpoint.every=1", f"checkpoint.keep={keep}", "data.train_size=200")
    assert checkpoint.steps(run_dir / "checkpoints") == [1, 2, 3, 4, 5][-keep:]


def test_resume_refuses_what_would_be_another_run(run_dir: Path, tmp_path: Path) -> None:
    train(run_dir, "trainer.steps=1")
    with pytest.raises(UsageError, match="optim.lr cannot change"):
        commands.train(["optim.lr=1"], resume=str(run_dir))
    with pytest.raises(UsageError, match="not a run folder"):
        commands.train([], resume=str(tmp_path))
    about = json.loads((run_dir / "run.json").read_text())
    about["data"]["fingerprint"] = "other"
    (run_dir / "run.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="training data"):
        commands.train(["trainer.steps=2"], resume=str(run_dir))


def test_a_checkpoint_from_another_recipe_is_refused_with_the_differences(run_dir: Path, tmp_path: Path) -> None:
    train(run_dir, "trainer.steps=1", "recipe=clipcov")
    other = train(tmp_path / "other", "trainer.steps=1", "recipe=grpo", "optim.lr=0.5")
    shutil.rmtree(run_dir / "checkpoints")
    shutil.copytree(other / "checkpoints", run_dir / "checkpoints")
    said = r"is of another recipe \(grpo, here clipcov\): the checkpoint has optim.lr: .* -> 0.5; this run has loss.*and [0-9]+ more.*use --from"
    with pytest.raises(CheckpointError, match=said):
        commands.train(["trainer.steps=2"], resume=str(run_dir))


@pytest.mark.parametrize("dropped", [{"recipe"}, set()], ids=["before checkpoints said their recipe", "since"])
def test_a_run_of_an_earlier_version_without_the_newer_settings_is_continued(dropped: set[str], run_dir: Path, tmp_path: Path) -> None:
    train(run_dir, "trainer.steps=2")
    config = yaml.safe_load((run_dir / "recipe.yaml").read_text())
    del config["stop"], config["scale"]["packing"], config["trainer"]["old_logprobs"]
    (run_dir / "recipe.yaml").write_text(yaml.safe_dump(config))
    saved = run_dir / "checkpoints" / "step_000002" / "state.json"
    saved.write_text(json.dumps({k: v for k, v in json.loads(saved.read_text()).items() if k not in dropped}))
    assert commands.train(["trainer.steps=3"], resume=str(run_dir)) == 0
    assert rows(run_dir) == rows(train(tmp_path / "whole", "trainer.steps=3"))


def test_a_folder_is_never_overwritten(run_dir: Path) -> None:
    train(run_dir, "trainer.steps=1")
    before = (run_dir / "metrics.jsonl").read_bytes()
    with pytest.raises(RunExists, match=r"finished at step 1.*--resume"):
        train(run_dir, "trainer.steps=1")
    assert (run_dir / "metrics.jsonl").read_bytes() == before


def test_a_second_process_in_the_same_folder_is_refused(run_dir: Path) -> None:
    process = started("train", *SMALL, "trainer.steps=500", f"run.dir={run_dir}")
    try:
        wait_for(lambda: lines(run_dir) >= 1, process)
        for arguments in (["--resume", str(run_dir)], [*SMALL, f"run.dir={run_dir}"]):
            other = rlent("train", *arguments, check=False)
            assert other.returncode == 2
            assert f"pid {process.pid}" in other.stderr or "holds a run already" in other.stderr
    finally:
        process.kill()
        process.wait()


def test_a_failed_start_leaves_no_folder(run_dir: Path) -> None:
    done = rlent("train", *SMALL, "model.path=./no-such-model", f"run.dir={run_dir}", check=False)
    assert done.returncode == 2 and "no-such-model" in done.stderr
    assert not run_dir.exists()


def test_default_folders_are_numbered(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        done = rlent("train", *SMALL, "track.console=plain", "trainer.steps=1", cwd=tmp_path)
        made.append(next(line.split()[1] for line in (done.stdout + done.stderr).splitlines() if line.startswith("run ")))
    assert made[0].endswith("/grpo") and made[1].endswith("/grpo-2")


def test_warm_start_takes_the_weights_and_nothing_else(run_dir: Path, tmp_path: Path) -> None:
    train(run_dir, "trainer.steps=2", "recipe=entropybonus", "regularize.entropy.coef=1")  # moves the weights whatever the rewards
    other = tmp_path / "warm"
    assert commands.train([*SMALL, f"run.dir={other}", "trainer.steps=1"], start_from=str(run_dir)) == 0
    assert [r["step"] for r in rows(other)] == [1]
    cold = train(tmp_path / "cold", "trainer.steps=1")
    assert rows(other)[0]["entropy/mean"] != rows(cold)[0]["entropy/mean"]


def test_the_exported_model_loads_with_transformers(run_dir: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    train(run_dir, "trainer.steps=1")
    model = AutoModelForCausalLM.from_pretrained(run_dir / "model")
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "model")
    prompt = tokenizer("1,2,3:6?", return_tensors="pt", add_special_tokens=False)
    written = model.generate(input_ids=prompt.input_ids, max_new_tokens=8, do_sample=False)
    assert written.shape[1] > prompt.input_ids.shape[1]
    assert {p.suffix for p in (run_dir / "model").iterdir()} <= {".json", ".safetensors", ".jinja", ".txt"}


def test_a_full_disk_stops_with_the_reason_and_keeps_the_last_checkpoint(run_dir: Path) -> None:
    """Writes fail beyond a limit on file size, as they do on a full disk; the run says so and can be resumed."""
    import subprocess

    rlent("train", *SMALL, "trainer.steps=2", "checkpoint.every=2", f"run.dir={run_dir}")
    limited = ["bash", "-c", f"ulimit -f 512; exec {' '.join(command('train', '--resume', str(run_dir), 'trainer.steps=4'))}"]
    done = subprocess.run(limited, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert "checkpoint of step 4 could not be written" in done.stderr and "Traceback" not in done.stderr
    assert checkpoint.steps(run_dir / "checkpoints") == [2]
    rlent("train", "--resume", str(run_dir))
    assert lines(run_dir) == 4
    assert os.path.getsize(run_dir / "metrics.jsonl") > 0
