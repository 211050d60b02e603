"""Bad input is an ordinary case: a clear message or a counted reason, the right exit code, and nothing lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from runs import SMALL, rlent, rows, train
from safetensors.torch import load_file, save_file

from rlent.cli import commands
from rlent.errors import DataError, ModelError, NonFinite, RecipeError, RlentError, StarvedSampler
from rlent.runs import kept as frozen
from rlent.system.paths import tiny_path


def fails(error: type[RlentError], match: str, run_dir: Path, *overrides: str, **more: object) -> str:
    with pytest.raises(error, match=match) as caught:
        commands.train([*SMALL, "trainer.steps=2", f"run.dir={run_dir}", *overrides], **more)
    return str(caught.value)


def test_an_unknown_recipe_on_the_command_line_exits_2_without_a_trace() -> None:
    done = rlent("train", "recipe=clipcv", check=False)
    assert done.returncode == 2
    assert "did you mean 'clipcov'" in done.stderr and "Traceback" not in done.stderr


def test_an_unknown_model_is_named(run_dir: Path) -> None:
    fails(ModelError, "no-such-org/no-such-model", run_dir, "model.path=no-such-org/no-such-model")
    assert not run_dir.exists()


def test_a_missing_and_a_broken_data_file_name_file_and_row(run_dir: Path, tmp_path: Path) -> None:
    fails(DataError, "gone.jsonl", run_dir, f"data.path={tmp_path / 'gone.jsonl'}")
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "1,2,3:6?", "answer": "6"}\n{"prompt": \n{"prompt": "1,2:3?"}\n')
    text = fails(DataError, "broken.jsonl", run_dir, "data=file", f"data.path={broken}")
    assert "row 2" in text or "line 2" in text
    assert not run_dir.exists()


def test_a_prompt_longer_than_the_model_takes_is_named(run_dir: Path, tmp_path: Path) -> None:
    data = tmp_path / "long.jsonl"
    data.write_text("".join(json.dumps({"prompt": "1," * 400 + f"{i}:3?", "answer": "3"}) + "\n" for i in range(1, 9)))
    fails(ModelError, r"80\d|positions|tokens", run_dir, "data=file", f"data.path={data}", "sampler.prompts=2")


def test_a_group_of_one_runs_and_warns(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands.train([*SMALL, "track.console=plain", "trainer.steps=1", "sampler.n=1", f"run.dir={run_dir}"])
    shown = capsys.readouterr()
    assert "sampler.n is 1" in shown.out + shown.err
    assert rows(run_dir)[0]["group/count"] == 4


def test_equal_rewards_give_no_gradient_and_are_counted(run_dir: Path) -> None:
    before = load_file(tiny_path() / "model.safetensors")
    train(run_dir, "trainer.steps=1", "reward.correct.right=0", "reward.correct.wrong=0")
    row = rows(run_dir)[0]
    assert row["group/zero"] == 1 and row["update/grad_norm"] == 0
    after = load_file(run_dir / "model" / "model.safetensors")
    assert all(torch.equal(before[k], after[k]) for k in after)


def test_no_group_left_after_the_filter_says_how_many_were_kept(run_dir: Path) -> None:
    text = fails(StarvedSampler, "kept 0 of", run_dir, "recipe=dapo", "sampler.max_tokens=1", "sampler.rounds=2", "reward=[correct]")
    assert "sampler.rounds" in text


def nan_model(folder: Path) -> Path:
    shutil.copytree(tiny_path(), folder)
    weights = load_file(folder / "model.safetensors")
    name = next(k for k in weights if "layers.0" in k and k.endswith("weight"))
    weights[name][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_model_that_returns_nan_stops_at_the_first_step(run_dir: Path, tmp_path: Path) -> None:
    fails(NonFinite, r"step 1.*not finite", run_dir, f"model.path={nan_model(tmp_path / 'nan')}")


def test_a_loss_that_turns_nan_saves_the_batch_and_keeps_the_last_checkpoint(run_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "loss").mkdir(parents=True)
    (folder / "nan_loss.py").write_text(
        "def late_nan(logp, old_logp, adv, step):\n    return -adv * (logp - old_logp).exp() * (float('nan') if step == 2 else 1.0)\n"
    )
    (folder / "loss" / "late_nan.yaml").write_text("_target_: nan_loss.late_nan\n")
    text = fails(NonFinite, "step 2", run_dir, "loss=late_nan", "checkpoint.every=1", config_dirs=[str(folder)])
    saved = next((run_dir / "batches").glob("failed_step_000002*.safetensors"))
    assert str(saved) in text
    batch = frozen.load(saved)
    assert batch["step"] == 2 and len(batch) == 16 and batch["response"]
    assert [r["step"] for r in rows(run_dir)] == [1]
    assert json.loads((run_dir / "status.json").read_text())["state"] == "failed"
    assert (run_dir / "checkpoints" / "step_000001").is_dir()


def test_a_model_that_ends_at_once_gives_responses_of_one_token(run_dir: Path, tmp_path: Path) -> None:
    """The shortest response there is: end-of-text alone. It is unanswered, wrong, and counted."""
    folder = tmp_path / "mute"
    shutil.copytree(tiny_path(), folder)
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    eos = config["eos_token_id"]
    eos = eos[0] if isinstance(eos, list) else eos
    embedding = weights["model.embed_tokens.weight"]
    if "lm_head.weight" not in weights:  # tied: the final norm points every state at the end token
        norm = weights["model.norm.weight"]
        norm *= 0
    embedding *= 0.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    train(run_dir, "trainer.steps=1", f"model.path={folder}")
    row = rows(run_dir)[0]
    assert row["entropy/mean"] == pytest.approx(torch.tensor(float(len(embedding))).log().item(), rel=1e-5)  # uniform: entropy is log V
    assert row["grader/ok"] + row["grader/no_answer"] + row["grader/unparsed"] + row["grader/limit"] == pytest.approx(1.0)


def test_no_network_is_said_so(run_dir: Path) -> None:
    text = fails(DataError, "hub|network|offline", run_dir, "data=hub", "data.name=openai/gsm8k")
    assert "Traceback" not in text


def test_a_user_function_that_raises_is_named(run_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "reward").mkdir(parents=True)
    (folder / "my_reward.py").write_text("def mine(response, gold):\n    return [1.0 for _ in gold][:1]\n")
    (folder / "reward" / "mine.yaml").write_text("mine:\n  _target_: my_reward.mine\n  coef: 1.0\n")
    fails(RlentError, r"reward\.mine.*16", run_dir, "reward=[mine]", config_dirs=[str(folder)])


def test_a_users_reward_reads_prompt_response_gold_and_meta(run_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "reward").mkdir(parents=True)
    (folder / "short_reward.py").write_text(
        "def short(prompt, response, gold, meta, *, share: float):\n"
        "    assert all('?' in p for p in prompt) and all(m for m in meta) and len(gold) == len(prompt)\n"
        "    return [share * (len(r) < 8) for r in response]\n"
    )
    (folder / "reward" / "short.yaml").write_text("short:\n  _target_: short_reward.short\n  share: 0.5\n  coef: 2.0\n")
    commands.train([*SMALL, "trainer.steps=1", "reward=[correct,short]", f"run.dir={run_dir}"], config_dirs=[str(folder)])
    row = rows(run_dir)[0]
    assert row["reward/mean"] == pytest.approx(row["reward/correct"] + 2.0 * row["reward/short"])
    assert 0 < row["reward/short"] <= 0.5


def test_a_recipe_with_problems_starts_nothing(run_dir: Path) -> None:
    fails(RecipeError, "2 problems, nothing was started", run_dir, "optim.lr=0", "loss.lwo=1")
    assert not run_dir.exists()
