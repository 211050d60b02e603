"""Measuring a file of responses gives the numbers that training logged on the same responses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import rows, train

from rlent.cli import commands
from rlent.errors import UsageError
from rlent.runs import kept as frozen


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of one step from the embedded model, and its responses as a file of texts."""
    run = train(
        tmp_path_factory.mktemp("measure") / "run",
        "recipe=grpo",
        "trainer.steps=1",
        "track.save_batches=1",
        "sampler.n=8",
        "sampler.max_tokens=12",
    )
    batch = frozen.load(run / "batches" / "step_000001.safetensors")
    file = run.parent / "responses.jsonl"
    columns = zip(batch["prompt"], batch["response"], batch["reward"].tolist(), batch["finish"], strict=True)
    file.write_text("".join(json.dumps({"prompt": p, "response": r, "reward": s, "finish": f}) + "\n" for p, r, s, f in columns))
    return run, file


def test_entropy_covariance_and_accuracy_are_those_the_run_logged(sampled: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    run, file = sampled
    assert commands.measure("tiny", str(file), [], as_json=True) == 0
    found, logged = json.loads(capsys.readouterr().out), rows(run)[0]
    names = [
        "entropy/mean",
        "entropy/seq_mean",
        "entropy/q90",
        "nll/mean",
        "cov/mean",
        "cov/top_0.02",
        "cov/response",
        "correct/mean",
        "length/mean",
        "finish/cut",
    ]
    for name in names:
        assert found["metrics"][name] == pytest.approx(logged[name], rel=1e-5, abs=1e-7), name
    assert found["metrics"]["correct/mean"] == pytest.approx(found["pass_at_k"]["1"]["value"])
    assert found["metrics"]["correct/any"] == pytest.approx(found["pass_at_k"]["8"]["value"])
    assert found["prompts"] == 4 and found["samples"] == [8, 8]


def test_the_table_has_units_and_the_kept_batch_can_be_replayed(
    sampled: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keep = tmp_path / "batch.safetensors"
    assert commands.measure("tiny", str(sampled[1]), ["sampler.temperature=0.5"], keep=str(keep)) == 0
    shown = capsys.readouterr().out
    assert "entropy/mean" in shown and "nats" in shown and "pass@8" in shown and "temperature 0.5" in shown
    with pytest.raises(UsageError, match="nothing is overwritten"):
        commands.measure("tiny", str(sampled[1]), [], keep=str(keep))
    assert commands.replay(str(keep), ["recipe=steer,siren"], as_json=True) == 0
    row = {r["method"]: r for r in json.loads(capsys.readouterr().out)["methods"]}
    assert row["steer"]["differs"] > 0 and "needs nucleus_entropy" in row["siren"]["reason"]


def test_a_lower_temperature_has_a_lower_entropy(sampled: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    values = []
    for temperature in (1.0, 0.5):
        commands.measure("tiny", str(sampled[1]), [f"sampler.temperature={temperature}"], as_json=True)
        values.append(json.loads(capsys.readouterr().out)["metrics"]["entropy/mean"])
    assert values[1] < values[0]


def test_a_run_is_not_a_file_of_responses(sampled: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="a file of responses is wanted"):
        commands.measure("tiny", str(sampled[0]), [])
