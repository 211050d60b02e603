"""A frozen batch replayed: the run's own numbers come back, and other methods are set beside them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import SMALL, rlent, rows, train

from rlent.analysis.command import parse
from rlent.analysis.compare import compare, replay
from rlent.analysis.replay import Played, Replay, play
from rlent.analysis.source import Source, before_credit, load_model, open_kept
from rlent.cli import commands
from rlent.errors import DataError, RecipeError, UsageError
from rlent.recipe.compose import from_config
from rlent.runs import kept as frozen
from rlent.types import Batch

OWN = {
    "grpo": ["recipe=grpo"],
    "clipcov": ["recipe=clipcov", "shape.clip_cov.fraction=0.1", "shape.clip_cov.low=0.0"],
    "klcov": ["recipe=klcov", "regularize.kl_cov.fraction=0.1", "trainer.epochs=2"],
    "siren": ["recipe=siren"],
    "steer": ["recipe=steer", "shape.steer.least=0.3"],
    "entropybonus": ["recipe=entropybonus", "regularize.entropy.coef=0.05"],
    "erc": ["recipe=erc", "trainer.max_tokens_per_microbatch=45"],
    "kl": ["recipe=kl", "regularize.kl.coef=0.2"],
    "aent": ["recipe=aent"],
    "one update": ["recipe=grpo", "trainer.minibatches=1"],
    "srft": ["recipe=srft", "sampler.max_tokens=12"],
}


@pytest.mark.parametrize("name", OWN)
def test_a_replayed_step_gives_the_loss_pull_and_metrics_that_the_run_had(name: str, run_dir: Path) -> None:
    train(run_dir, *OWN[name], "trainer.steps=3", "track.save_batches=1", "optim.lr=1e-3", "sampler.n=8")
    for number, theirs in enumerate(rows(run_dir), 1):
        source = open_kept(run_dir, number)
        replayed = Replay(from_config(source.config, name=source.name), source)
        replayed.as_it_was()
        step = replayed.go()
        assert_same_records(replayed, source)
        ours = replayed.metrics(step)
        shared = [k for k in theirs if k in ours]
        assert {"loss/policy", "clip/share", "pull/abs", "cov/mean", "ratio/max"} <= set(shared)
        assert {k: ours[k] for k in shared} == {k: theirs[k] for k in shared}, f"step {number}"
    assert theirs["ratio/max"] != 1.0 or name == "one update"  # later updates are off policy, and their ratios were put to the test


def assert_same_records(replayed: Replay, source: Source) -> None:
    """The loss, pull, gradient, weight and gate of every token in every update, bit for bit."""
    for update in source.saved.updates:
        for index in update["index"].unique().tolist():
            for part in (r.tokens for r in replayed.step.records[index]):
                at = torch.tensor([source.batch.row.tolist().index(r) for r in part.row.tolist()])
                for stream in ("loss", "pull", "gradient", "weight", "gate"):
                    theirs = update[stream][at][:, : part.width]
                    assert torch.equal(part[stream], theirs), f"{stream} of update {index}"


@pytest.mark.slow
def test_a_step_of_two_ranks_is_kept_whole_and_replayed_in_one_process(run_dir: Path) -> None:
    more = ["sampler.prompts=6", "sampler.n=16", "sampler.max_tokens=16", "model.dtype=float64", "trainer.steps=2", "track.save_batches=2"]
    rlent("train", *SMALL, *OWN["clipcov"], *more, "scale.ranks=2", f"run.dir={run_dir}")
    source, theirs = open_kept(run_dir), rows(run_dir)[1]
    assert len(source.batch) == 96 and theirs["pull/abs"] > 0
    replayed = Replay(from_config(source.config, name=source.name), source)
    replayed.as_it_was()
    ours = replayed.metrics(replayed.go())
    assert_same_records(replayed, source)
    for name in ("loss/policy", "pull/abs", "cov/mean", "clip/share", "select/clip_cov/share", "ratio/max"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-12), name


def test_keeping_batches_changes_no_number_of_the_run(tmp_path: Path) -> None:
    common = ["recipe=siren", "trainer.steps=3", "trainer.max_tokens_per_microbatch=45"]
    plain = train(tmp_path / "plain", *common)
    kept = train(tmp_path / "kept", *common, "track.save_batches=1")
    assert (plain / "metrics.jsonl").read_bytes() == (kept / "metrics.jsonl").read_bytes()
    assert (plain / "model" / "model.safetensors").read_bytes() == (kept / "model" / "model.safetensors").read_bytes()
    assert list(frozen.steps(kept)) == [1, 2, 3]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GRPO run with two kept steps, its rewards mixed enough for every method to have something to do."""
    folder = tmp_path_factory.mktemp("replay") / "run"
    return train(
        folder,
        "recipe=grpo",
        "trainer.steps=4",
        "track.save_batches=2",
        "sampler.n=16",
        "optim.lr=4e-4",
        "sampler.max_tokens=16",
        "sampler.prompts=6",
    )


def test_methods_are_compared_with_grpo_on_the_kept_step(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = ["recipe=grpo,clipcov,klcov,entropybonus", "shape.clip_cov.fraction=0.05", "shape.clip_cov.low=0.0"]
    assert commands.replay(str(kept), [*recipe, "regularize.kl_cov.fraction=0.05"], as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    row = {r["method"]: r for r in found["methods"]}
    assert row["grpo"]["logp_cosine"] == pytest.approx(1.0) and row["grpo"]["differs"] == 0
    assert row["run (grpo)"]["differs"] == 0 and row["run (grpo)"]["d1"] == row["grpo"]["d1"]
    tokens = found["tokens"]
    # each of the two updates drops or holds max(1, int(5 % of its tokens)); as shares of all tokens
    assert 0.02 < row["clipcov"]["selected"] <= 0.05 and row["clipcov"]["reweighted"] == row["clipcov"]["selected"]
    assert 0.03 < row["klcov"]["selected"] <= 0.05 and row["klcov"]["reweighted"] == 0
    assert 0 < row["klcov"]["differs"] <= row["klcov"]["selected"]  # only where the token has drifted
    assert row["entropybonus"]["entropy_norm"] > 0 == row["grpo"]["entropy_norm"]
    assert row["clipcov"]["logp_cosine"] < 1 and row["clipcov"]["logp_norm"] < row["grpo"]["logp_norm"] * 1.05
    assert found["overlap"]["clipcov"]["clipcov"] == 1 and found["overlap"]["clipcov"]["klcov"] == found["overlap"]["klcov"]["clipcov"]
    assert found["measured"] != 0 and tokens > 400


def test_the_overlap_is_of_the_tokens_that_either_acted_on() -> None:
    base = Played("grpo", "grpo", gradient=np.zeros(5), by_entropy=np.zeros(5), weight=np.ones(5))
    chosen = {"a": [1, 1, 1, 0, 0], "b": [0, 0, 1, 1, 0], "none": [0] * 5}
    played = [replace(base, label=name, selected=np.array(marks, dtype=bool)) for name, marks in chosen.items()]
    batch = Batch({"mask": torch.ones(1, 5).bool(), "step": 1})
    found = compare(Source(batch, "x"), [base, *played]).overlap
    assert found["a"] == {"a": 1.0, "b": 0.25, "none": 0.0} and found["none"]["none"] is None


def test_without_the_dropped_tokens_the_gradient_is_that_of_grpo(kept: Path) -> None:
    found = replay(open_kept(kept), ["clipcov"], ["loss=ppo_clip", "shape.clip_cov.fraction=0.05", "shape.clip_cov.low=0.0"])
    grpo, clipcov = (next(p for p in found.played if p.label == name) for name in ("grpo", "clipcov"))
    assert clipcov.selected is not None and clipcov.selected.any()
    assert (clipcov.gradient[clipcov.selected] == 0).all()
    assert (clipcov.gradient[~clipcov.selected] == grpo.gradient[~clipcov.selected]).all()


def test_d1_of_a_replay_is_what_the_ledger_logged(tmp_path: Path) -> None:
    run = train(
        tmp_path / "run",
        "recipe=grpo",
        "trainer.steps=2",
        "track.save_batches=2",
        "track.ledger.rows=1000",
        "sampler.n=16",
        "sampler.prompts=6",
        "sampler.max_tokens=16",
    )
    found = replay(open_kept(run), ["grpo"])
    last = rows(run)[-1]
    assert last["ledger/d1"] != 0
    assert found.rows[0]["d1"] == pytest.approx(last["ledger/d1"], rel=1e-6) and found.rows[0]["d2"] == pytest.approx(
        last["ledger/d2"], rel=1e-6
    )
    assert found.about["measured"] == pytest.approx(last["ledger/measured"], rel=1e-6)


def test_a_method_that_needs_more_than_the_batch_has_says_what_and_the_others_go_on(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.replay(str(kept), ["recipe=siren,kl,steer"]) == 0
    shown = capsys.readouterr().out
    assert "siren: needs nucleus_entropy, which this batch does not have" in shown
    assert "kl: needs ref_logp of the frozen model 'ref'" in shown
    assert "give --model" in shown and "steer " in shown


def test_a_model_gives_parameter_gradients_probes_and_frozen_models(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.replay(str(kept), ["recipe=siren,kl,entropybonus,tis"], model=str(kept), as_json=True) == 0
    row = {r["method"]: r for r in json.loads(capsys.readouterr().out)["methods"]}
    assert all("reason" not in r for r in row.values())
    assert row["grpo"]["parameter_norm"] > 0 and row["grpo"]["parameter_cosine"] == pytest.approx(1.0)
    assert row["tis"]["reweighted"] == 0  # its weights are 1 up to the rounding between engine and trainer
    assert row["kl"]["parameter_cosine"] < 1 and row["kl"]["logp_cosine"] < 1


def test_the_weights_of_the_step_s_beginning_give_the_gradient_the_run_had(tmp_path: Path) -> None:
    """One update a step, from the embedded model: the norm that the optimizer saw."""
    run = train(
        tmp_path / "run",
        "recipe=clipcov",
        "trainer.steps=1",
        "trainer.minibatches=1",
        "track.save_batches=1",
        "sampler.n=8",
        "shape.clip_cov.fraction=0.02",
        "shape.clip_cov.low=0",
    )
    assert rows(run)[0]["select/clip_cov/share"] == pytest.approx(
        int(0.02 * rows(run)[0]["tokens/step"]) / rows(run)[0]["tokens/step"]
    )  # a draw
    found = replay(open_kept(run), ["clipcov"], policy=load_model("tiny", open_kept(run).config))
    own = next(r for r in found.rows if r["method"] == "run (clipcov)")
    assert own["parameter_norm"] == pytest.approx(rows(run)[0]["update/grad_norm"], rel=1e-4)


def test_wrong_input_is_explained(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="recipe=clipcov,klcov names them"):
        commands.replay(str(kept), [])
    with pytest.raises(UsageError, match="no 'klkov'; did you mean 'klcov'"):
        commands.replay(str(kept), ["recipe=klkov"])
    with pytest.raises(RecipeError, match=r"shape\.clip_cov\.fractoin"):
        commands.replay(str(kept), ["recipe=clipcov,grpo", "shape.clip_cov.fractoin=1"])
    with pytest.raises(UsageError, match="not kept step 3; it has 2, 4"):
        commands.replay(str(kept), ["recipe=grpo"], step=3)
    with pytest.raises(DataError, match="does not exist"):
        commands.replay(str(tmp_path / "nowhere"), ["recipe=grpo"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="track.save_batches=N"):
        commands.replay(str(empty), ["recipe=grpo"])
    with pytest.raises(UsageError, match="other minibatches"):
        commands.replay(str(kept), ["recipe=klcov", "trainer.minibatches=4"])


def test_recipes_and_overrides_are_told_apart() -> None:
    assert parse(["recipe=a,b", "loss=gspo", "recipe=b,c"]) == (["a", "b", "c"], ["loss=gspo"])


def test_nothing_of_the_run_s_credit_reaches_another_method(kept: Path) -> None:
    source = open_kept(kept)
    clean = before_credit(source.batch)
    assert not {"adv", "weight", "reward", "gate", "loss_mask"} & set(clean) and {"old_logp", "correct"} <= set(clean)
    assert play(from_config(source.config), source, "again").metrics["cov/mean"] == rows(kept)[3]["cov/mean"]
