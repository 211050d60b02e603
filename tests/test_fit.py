"""`rlent fit` on run folders: which numbers are paired, what is refused, and a real run."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from runs import rlent, rows, train
from safetensors.torch import save_file

from rlent.analysis.fit import fit_run
from rlent.cli import commands
from rlent.errors import DataError
from rlent.recipe.compose import load
from rlent.train.law import LiveLaw, pairs


def written(
    folder: Path,
    values: list[dict[str, float]],
    config: str = "shape: {}\nloss: {_target_: rlent.methods.ppo_clip.clipped_surrogate, low: 0.2, high: 0.2}\n",
) -> Path:
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(config)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(v) + "\n" for v in values))
    return folder


def curve(steps: int = 40, a: float = 0.2, b: float = 0.6) -> list[dict[str, float]]:
    """Entropy of a step before its update; the score after it follows the law at the next step's entropy."""
    h = [0.8 * 0.93**t for t in range(steps + 1)]
    return [
        {"step": t + 1, "entropy/mean": h[t], **({"eval/pass@1": b - a * math.exp(h[t + 1])} if t % 4 == 3 else {})} for t in range(steps)
    ]


def test_demonstrations_are_an_intervention_and_a_filter_over_groups_is_none():
    assert LiveLaw(load(["recipe=grpo", "sampler=demonstrations"]).config).acting == ["sampler=DemonstrationSampler"]
    assert LiveLaw(load(["recipe=grpo", "sampler=dynamic"]).config).acting == []


def test_a_score_is_paired_with_the_entropy_of_the_weights_it_was_measured_on():
    steps, entropy, score = pairs(curve())
    assert steps[:2] == [4, 8] and len(steps) == 9  # the last step's weights have no entropy yet
    assert score == pytest.approx([0.6 - 0.2 * math.exp(h) for h in entropy], abs=1e-12)


def test_the_law_is_printed_drawn_and_given_as_json(tmp_path: Path):
    run = written(tmp_path / "sweep" / "grpo", curve())
    found = json.loads(rlent("fit", str(tmp_path / "sweep"), "--json", "--out", str(tmp_path / "law")).stdout)
    law = found["runs"][0]["law"]
    assert (law["a"], law["b"], law["ceiling"], law["r2"]) == pytest.approx((0.2, 0.6, 0.4, 1.0))
    assert found["runs"][0]["forecast"]["rmse"] == pytest.approx(0, abs=1e-9)
    assert [Path(f).suffix for f in found["files"]] == [".png", ".svg", ".csv"] and all(Path(f).stat().st_size for f in found["files"])
    assert "0.400" in rlent("fit", str(run)).stdout


def sized(run: Path, parameters: int) -> Path:
    """A run whose exported model has so many parameters, and embeddings, which do not count."""
    (run / "model").mkdir()
    save_file({"layer.weight": torch.zeros(parameters), "embed_tokens.weight": torch.zeros(99)}, run / "model" / "model.safetensors")
    return run


def test_runs_of_several_sizes_give_lines_in_the_logarithm_of_the_size_and_one_look_for_each(tmp_path: Path):
    runs = [sized(written(tmp_path / f"{n}-{i}", curve(a=a, b=0.6)), n) for n, a in ((100, 0.1), (1000, 0.2)) for i in (0, 1)]
    found = json.loads(rlent("fit", *map(str, runs), "--json", "--predict", "10000", "--out", str(tmp_path / "law")).stdout)
    slope = 0.1 / math.log(10)
    assert found["sizes"]["a"] == pytest.approx([0.1 - slope * math.log(100), slope]) and found["sizes"]["b"] == pytest.approx([0.6, 0])
    assert found["sizes"]["ceiling"] == pytest.approx(0.3) and [r["parameters"] for r in found["runs"]] == [100, 100, 1000, 1000]
    picture = (tmp_path / "law.svg").read_text()
    assert [picture.count(f"<!-- {text} -->") for text in ("0.0001 M parameters, 2 runs", "0.001 M parameters, 2 runs")] == [1, 1]
    assert "<!-- ceiling b - a -->" in picture and "<!-- 100-0 -->" not in picture
    with (tmp_path / "law.csv").open() as file:
        assert {(r["run"], r["parameters"]) for r in csv.DictReader(file)} == {(r.name, r.name.split("-")[0]) for r in runs}
    assert "<!-- ceiling b - a -->" not in one_size(tmp_path, runs[:2])


def one_size(folder: Path, runs: list[Path]) -> str:
    rlent("fit", *map(str, runs), "--out", str(folder / "one"))
    return (folder / "one.svg").read_text()


def test_a_run_that_is_writing_a_line_is_fitted_without_it(tmp_path: Path):
    run = written(tmp_path / "run", curve())
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 41, "entropy/mean": 0.0')
    assert fit_run(run).law.ceiling == pytest.approx(0.4)
    (run / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match="has logged no step yet"):
        fit_run(run)


def test_an_intervened_run_has_no_ceiling(tmp_path: Path):
    config = "shape: {clip_cov: {}}\nloss: {_target_: rlent.methods.ppo_clip.clipped_surrogate, low: 0.2, high: 0.28}\n"
    run = written(tmp_path / "run", curve(), config)
    refused = rlent("fit", str(run), check=False)
    assert refused.returncode == 1 and "shape=clip_cov" in refused.stdout and "loss.high" in refused.stdout
    assert rlent("fit", str(run), "--force").returncode == 0


def test_of_a_branch_only_what_came_after_the_fork_is_fitted(tmp_path: Path):
    values = curve(60)
    for row in values[:20]:
        row["eval/pass@1"] = 0.0  # the parent's past, of another recipe
    run = written(tmp_path / "run", values)
    (run / "run.json").write_text(json.dumps({"fork": {"step": 20, "changed": ["loss.high: 1 -> 2"]}}))
    found = json.loads(rlent("fit", str(run), "--json").stdout)["runs"][0]
    assert min(found["steps"]) > 20 and found["law"]["r2"] == pytest.approx(1.0)
    assert found["warnings"] == ["a branch: only what came after step 20 is fitted"]


@pytest.mark.parametrize(
    "values, said",
    [
        ([{"step": 1, "entropy/mean": 0.5}], "never logged eval/pass@1"),
        ([{"step": 1, "entropy/mean": 0.5, "eval/pass@2": 1.0}], "it has eval/pass@2"),
    ],
)
def test_a_run_without_scores_says_what_it_has(tmp_path: Path, values, said):
    done = rlent("fit", str(written(tmp_path / "run", values)), check=False)
    assert done.returncode != 0 and said in " ".join(done.stderr.split())


def test_no_run_is_named(tmp_path: Path):
    done = rlent("fit", str(tmp_path), check=False)
    assert done.returncode == 2 and "is no run and no sweep" in " ".join(done.stderr.split())


def test_a_run_in_progress_forecasts_its_ceiling_once_it_can():
    live, said = LiveLaw({"loss": {"_target_": "rlent.methods.ppo_clip.clipped_surrogate"}}), {}
    for row in curve():
        half = LiveLaw({})
        half.load_state_dict(json.loads(json.dumps(live.state_dict())))
        live.load_state_dict(half.state_dict())
        said[row["step"]] = live.see(row)
    first = min(step for step, found in said.items() if found)
    assert first == 36 and said[40]["law/ceiling"] == pytest.approx(0.4)  # eight pairs are whole once the ninth score comes
    assert LiveLaw({"shape": {"clip_cov": {}}}).acting == ["shape=clip_cov"]


def test_a_real_run_is_fitted_and_its_live_forecast_survives_a_resume(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    options = [
        "recipe=grpo",
        "optim.lr=1e-3",
        "trainer.steps=12",
        "eval.every=1",
        "eval.n=2",
        "eval.ks=[1]",
        "eval.problems=8",
        "checkpoint.every=11",
    ]
    train(run_dir, *options)
    capsys.readouterr()
    assert commands.fit([str(run_dir)], as_json=True) == 0
    found = json.loads(capsys.readouterr().out)["runs"][0]
    entropy = {r["step"]: r["entropy/mean"] for r in rows(run_dir)}
    assert found["entropy"] == [entropy[s + 1] for s in found["steps"]] and found["steps"] == [*range(1, 12)]
    whole = (run_dir / "metrics.jsonl").read_bytes()
    (run_dir / "checkpoints" / "step_000012").rename(tmp_path / "gone")
    assert commands.train([], resume=str(run_dir)) == 0
    assert (run_dir / "metrics.jsonl").read_bytes() == whole
