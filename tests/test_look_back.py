"""`trainer.old_logprobs=rollout`: the engine's own log-probabilities and entropies in the place of a forward, or a refusal with every reason."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from runs import SMALL, rlent, rows, train
from safetensors.torch import load_file

from rlent.cli import commands
from rlent.engine import auto
from rlent.engine.native import NativeEngine
from rlent.errors import RecipeError, UsageError
from rlent.eval.targets import targets
from rlent.policy.policy import Policy
from rlent.recipe.compose import load
from rlent.runs import checkpoint
from rlent.sampling.group import GroupSampler
from rlent.train.run import Run
from rlent.types import Batch

SAMPLER = "trainer.old_logprobs=rollout"
FLOAT64 = ["recipe=clipcov", "shape=[erc,clip_cov]", "model.dtype=float64", "trainer.steps=3"]
"""It reads old_logp and old_entropy before, and now_logp inside, the updates."""


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_training_is_the_same_to_the_rounding_of_what_the_engine_said(tmp_path: Path) -> None:
    """In float64, where the engine's numbers are kept in float32: what is left is their rounding, 6e-8 of the number."""
    policy, sampler = train(tmp_path / "policy", *FLOAT64), train(tmp_path / "sampler", *FLOAT64, SAMPLER)
    for mine, theirs in zip(rows(sampler), rows(policy), strict=True):
        assert mine.keys() == theirs.keys()
        for name in mine:
            if not name.startswith(("mismatch/", "noise/")):
                assert mine[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-7), name
        assert 0 < mine["noise/logp_max"] < 1e-6 and theirs["noise/logp_max"] == 0
        assert 0 < mine["mismatch/max"] < 1e-6
    before = weights(train(tmp_path / "before", *FLOAT64, "optim.lr=1e-30"))
    ours = weights(sampler)
    for name, value in weights(policy).items():
        moved = float((value - before[name]).abs().max())
        assert float((value - ours[name]).abs().max()) <= 1e-5 * moved, name


def test_the_look_backs_forward_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    forward, look = Policy.__call__, Policy.look

    def counted(self: Policy, part: Batch, **how: object) -> object:
        calls.append("forward" if torch.is_grad_enabled() else "look")
        return forward(self, part, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Policy, "__call__", counted)
    assert look is Policy.look  # which calls the policy
    found = {}
    for source in ("recompute", "rollout"):
        calls.clear()
        train(tmp_path / source, "trainer.steps=2", "track.ledger.rows=0", f"trainer.old_logprobs={source}")
        found[source] = calls.count("look"), calls.count("forward")
    assert found == {"recompute": (4, 4), "rollout": (0, 4)}  # two minibatches a step, a part each


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["recipe=siren"], "old_nucleus_entropy is asked for"),
        (["sampler.temperature=0.8"], "sampler.temperature is 0.8"),
        (["sampler.top_p=0.9"], r"sampler.top_p is 0.9: tokens are drawn from a part"),
        (["sampler.top_k=5"], "sampler.top_k is 5"),
        (["decode=[em_inf]"], "decode.em_inf: tokens are not drawn from the policy's distribution"),
        (["decode=[diffadapt]"], "decode.diffadapt: tokens are not drawn"),
        (["engine=vllm"], "engine rlent.engine.vllm.VllmEngine: vLLM computes with kernels of its own and gives no exact entropy"),
        (["sampler=replay"], "sampler rlent.sampling.replay.ReplaySampler: it does not say that all of its rows are drawn"),
        (["sampler=tempered"], "sampler rlent.sampling.tempered.TemperedSampler"),
        (["sampler.temperature=0.8", "trainer.minibatches=1"], "sampler.temperature is 0.8"),
    ],
)
def test_a_recipe_that_needs_more_is_refused(overrides: list[str], reason: str) -> None:
    load(overrides)
    with pytest.raises(
        RecipeError,
        match=f"trainer.old_logprobs: rollout cannot take the place of the old-logprob pass here, because {reason}.*; recompute can",
    ):
        load([*overrides, SAMPLER])


def test_all_reasons_are_given_at_once_with_exit_code_2(run_dir: Path) -> None:
    wrong = ["recipe=siren", "sampler=replay", "sampler.top_p=0.9", "sampler.temperature=0.5", "engine=vllm"]
    done = rlent("train", *SMALL, *wrong, SAMPLER, f"run.dir={run_dir}", check=False)
    assert done.returncode == 2 and not run_dir.exists()
    assert done.stderr.count("rollout cannot take the place of the old-logprob pass") == 5


def test_auto_is_refused_where_it_takes_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    load(["engine=auto", SAMPLER])
    monkeypatch.setattr(auto, "choice", lambda: ("vllm", "a GPU is visible and vLLM is installed"))
    with pytest.raises(RecipeError, match="engine.*a GPU is visible and vLLM is installed, so it is vllm: vLLM computes with kernels"):
        load(["engine=auto", SAMPLER])


class Partly(GroupSampler):
    """A sampler of somebody's own, which does not say where its rows are from."""


class Borrowed(NativeEngine):
    """An engine of somebody's own."""


def test_a_sampler_or_an_engine_that_does_not_say_so_itself_is_refused() -> None:
    for place, target in (("sampler", "Partly"), ("engine", "Borrowed")):
        with pytest.raises(RecipeError, match=f"{place} test_look_back.{target}: it does not say"):
            load([f"{place}._target_=test_look_back.{target}", "engine=native", SAMPLER])


def test_where_nothing_is_looked_back_at_nothing_is_refused() -> None:
    recipe = load(["trainer.minibatches=1", "engine=vllm", SAMPLER])
    assert recipe.plan.lines()[0].startswith("old-logprob pass: none (one update a step")


def test_rows_that_the_policy_did_not_draw_are_refused_when_they_come(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sampler that says it is faithful and is not, and an engine that gives no entropies."""
    sample = GroupSampler.__call__

    def mixed(self: GroupSampler, *a: object) -> Batch:
        batch = sample(self, *a)  # type: ignore[arg-type]
        return batch.with_(source=["demo", *batch["source"][1:]])

    monkeypatch.setattr(GroupSampler, "__call__", mixed)
    with pytest.raises(UsageError, match="old_logprobs is rollout, and the step has rows that were not drawn from the policy as it is"):
        train(run_dir, SAMPLER, "trainer.steps=1")
    monkeypatch.setattr(GroupSampler, "__call__", sample)
    generate = NativeEngine.generate
    monkeypatch.setattr(NativeEngine, "generate", lambda self, requests, **how: generate(self, requests, **{**how, "entropy": False}))
    with pytest.raises(UsageError, match="old_logprobs is rollout, and the engine gave no entropies"):
        train(run_dir.with_name("other"), SAMPLER, "trainer.steps=1")


def test_a_distance_between_sampler_and_update_is_still_measured(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = NativeEngine.generate

    def off(self: NativeEngine, requests: object, **how: object) -> object:
        found = generate(self, requests, **how)  # type: ignore[arg-type]
        found.sampler_logp = [[value - 0.25 for value in row] for row in found.sampler_logp]
        return found

    monkeypatch.setattr(NativeEngine, "generate", off)
    (found,) = rows(train(run_dir, SAMPLER, "trainer.steps=1"))
    for name in ("noise/logp_max", "mismatch/mean", "mismatch/max"):
        assert found[name] == pytest.approx(0.25, abs=1e-4), name
    assert found["mismatch/k1"] == pytest.approx(-0.25, abs=1e-4)


def test_the_plan_in_the_folder_and_show_say_it(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(run_dir, SAMPLER, "trainer.steps=1")
    said = "old-logprob pass: none (trainer.old_logprobs=rollout: old_entropy, old_logp are what the engine reported as it sampled)"
    assert said in (run_dir / "plan.txt").read_text()
    capsys.readouterr()
    assert commands.show("grpo", [SAMPLER]) == 0
    assert said in capsys.readouterr().out


def test_a_run_is_resumed_byte_for_byte_and_evaluated_with_any_engine(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", "recipe=clipcov", SAMPLER, "trainer.steps=3")
    part = train(tmp_path / "part", "recipe=clipcov", SAMPLER, "trainer.steps=2")
    assert commands.train(["trainer.steps=3"], resume=str(part)) == 0
    assert (whole / "metrics.jsonl").read_bytes() == (part / "metrics.jsonl").read_bytes()
    assert (whole / "model" / "model.safetensors").read_bytes() == (part / "model" / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="trainer.old_logprobs cannot change"):
        commands.train(["trainer.old_logprobs=recompute"], resume=str(part))
    (target,) = targets([f"run={part}", "engine=vllm"])
    assert target.recipe["engine"]["_target_"] == "rlent.engine.vllm.VllmEngine"


def test_a_checkpoint_says_which_of_the_two_it_is_of(tmp_path: Path) -> None:
    one, other = train(tmp_path / "one", SAMPLER, "trainer.steps=1"), train(tmp_path / "other", "trainer.steps=1")
    state = json.loads((one / "checkpoints" / checkpoint.name(1) / "state.json").read_text())
    assert "trainer.old_logprobs: recompute -> rollout" in state["recipe"]["differences"]
    shutil.rmtree(other / "checkpoints")
    shutil.copytree(one / "checkpoints", other / "checkpoints")
    with pytest.raises(Exception, match="another recipe.*old_logprobs: recompute -> rollout"):
        Run.resume(other, {"trainer.steps": 2})
