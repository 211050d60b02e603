"""Streams that some functions ask for: answer classes, the entropy at temperature 1, noise, and the time limit of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs import SMALL, lines, rows, train

from rlent.cli import commands
from rlent.runs import kept


def test_answer_classes_are_made_when_a_function_names_them(run_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "reward").mkdir(parents=True)
    (folder / "vote_reward.py").write_text(
        "import torch\n\n\ndef vote(answer, answer_id, group):\n"
        "    for g in group.unique():\n"
        "        at = (group == g).nonzero()[:, 0].tolist()\n"
        "        for i in at:\n"
        "            for j in at:\n"
        "                if answer[i] is None:\n"
        "                    assert answer_id[i] == -1\n"
        "                elif answer[i] == answer[j]:\n"
        "                    assert answer_id[i] == answer_id[j]\n"
        "    return (answer_id >= 0).float()\n"
    )
    (folder / "reward" / "vote.yaml").write_text("vote:\n  _target_: vote_reward.vote\n  coef: 1.0\n")
    commands.train(
        [*SMALL, "trainer.steps=1", "reward=[vote]", "sampler.max_tokens=16", "track.save_batches=1", f"run.dir={run_dir}"],
        config_dirs=[str(folder)],
    )
    batch = kept.load(run_dir / "batches" / kept.file_name(1))
    answered = torch.tensor([a is not None for a in batch["answer"]])
    assert torch.equal(batch["reward"], answered.float()) and answered.any()
    assert len(set(zip(batch["group"].tolist(), batch["answer_id"].tolist(), strict=True))) > 4, "classes differ within groups"


def test_the_text_of_each_token_is_made_when_a_function_names_it(run_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "reward").mkdir(parents=True)
    (folder / "piece_reward.py").write_text(
        "import torch\n\n\ndef spelled(pieces, response, length):\n"
        "    assert [len(p) for p in pieces] == length.tolist()\n"
        "    assert all(''.join(p).removesuffix('<eos>') == r for p, r in zip(pieces, response))\n"
        "    return length.float()\n"
    )
    (folder / "reward" / "spelled.yaml").write_text("spelled:\n  _target_: piece_reward.spelled\n  coef: 1.0\n")
    commands.train([*SMALL, "trainer.steps=1", "reward=[spelled]", f"run.dir={run_dir}"], config_dirs=[str(folder)])
    assert rows(run_dir)[0]["reward/spelled"] == rows(run_dir)[0]["length/mean"] > 1


def test_another_temperature_also_logs_the_entropy_at_one(tmp_path: Path) -> None:
    warm = rows(train(tmp_path / "warm", "trainer.steps=1", "sampler.temperature=1.5"))[0]
    assert warm["entropy_t1/mean"] < warm["entropy/mean"], "a higher temperature flattens the distribution"
    plain = rows(train(tmp_path / "plain", "trainer.steps=1"))[0]
    assert "entropy_t1/mean" not in plain


def test_the_sampler_and_the_trainer_agree_on_log_probabilities(run_dir: Path) -> None:
    train(run_dir, "trainer.steps=2", "sampler.temperature=1.3")
    for row in rows(run_dir):
        assert row["mismatch/max"] < 1e-4
        assert row["entropy/sampler"] == pytest.approx(row["entropy/mean"], abs=1e-4)


def test_the_time_limit_stops_with_a_checkpoint_that_resumes(run_dir: Path, tmp_path: Path) -> None:
    train(run_dir, "trainer.steps=4", "trainer.max_time=0.000001")
    assert json.loads((run_dir / "status.json").read_text())["state"] == "stopped"
    assert lines(run_dir) == 0
    assert commands.train(["trainer.max_time=null"], resume=str(run_dir)) == 0
    whole = train(tmp_path / "whole", "trainer.steps=4")
    assert (whole / "metrics.jsonl").read_bytes() == (run_dir / "metrics.jsonl").read_bytes()
