"""Samplers that build on the group sampler: their options, and the rows they bring beside its own, in real runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from runs import rows, train

from rlent.engine.native import NativeEngine
from rlent.errors import RecipeError
from rlent.policy.policy import Policy
from rlent.ranks.world import World, merge
from rlent.recipe.compose import load
from rlent.runs import kept as frozen
from rlent.sampling.group import GroupSampler, SamplerContext
from rlent.system.paths import recipes_dir
from rlent.train.run import Run
from rlent.types import Batch, Problem, Verdict

OPTIONS = {"prompts": 2, "n": 3, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 8, "keep": None, "rounds": 1}


@pytest.mark.parametrize("name", ["demonstrations", "group", "reference", "replay", "tempered", "vote"])
def test_every_sampler_has_the_options_of_the_group_sampler_with_their_ranges(name: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load([f"sampler={name}", "sampler.n=0", "sampler.top_p=0", "sampler.rounds=2.5", "sampler.temperature=-1"])
    said = "\n".join(caught.value.problems)
    assert "sampler.n: 0 is outside [1, inf]" in said and "sampler.top_p: 0 is outside (0, 1]" in said
    assert "sampler.rounds: 2.5 is not an int" in said and "sampler.temperature: -1 is outside (0, inf]" in said


def test_an_option_of_one_sampler_is_checked_and_no_other_has_it() -> None:
    with pytest.raises(RecipeError, match=r"sampler.trained: 0 is outside \[1, inf\]"):
        load(["sampler=vote", "sampler.trained=0"])
    with pytest.raises(RecipeError, match="has no option 'trained'.*options: keep, max_tokens, model, n, prompts"):
        load(["sampler=reference", "+sampler.trained=1"])


def test_a_response_ends_at_every_token_that_ends_one_in_evaluation() -> None:
    policy = Policy.load("tiny")
    problems = [Problem("1", "3 5 8 = 16", None), Problem("2", "2 4 6 = 12", None)]
    context = SamplerContext(
        tokenizer=policy.tokenizer, template="none", stop=frozenset(), seed=0, step=1, world=World(), rows_are={},
        reward=lambda batch: batch, note=lambda *_: None,
    )  # fmt: skip
    drawn = {}
    for stop in (frozenset[int](), frozenset(range(policy.model.config.vocab_size))):
        lent = replace(context, stop=stop)
        engine = NativeEngine(policy.model, 0)
        engine.load(policy, 0)
        source = SimpleNamespace(draw=lambda count: problems[:count])
        drawn[bool(stop)] = GroupSampler(**OPTIONS)(engine, source, lambda texts, _: [Verdict(False)] * len(texts), lent)["length"].tolist()
    assert drawn == {False: [8] * 6, True: [1] * 6}


def test_what_decode_functions_say_of_the_tempered_rows_is_kept_too(run_dir: Path) -> None:
    train(run_dir, "recipe=aepo", "decode=[edt]", "trainer.steps=1", "track.save_batches=1", "sampler.share=0.5")
    batch = frozen.load(frozen.steps(run_dir)[1])
    heat = batch["edt_temperature"][torch.tensor([s == "tempered" for s in batch["source"]])]
    assert len(heat) == 2 * 4 and bool((heat[:, 0] > 0).all())


def test_a_reward_that_compares_the_answers_of_a_group_can_fill_the_buffer(run_dir: Path) -> None:
    found = rows(train(run_dir, "recipe=spear", "reward=ttrl", "sampler.n=8", "sampler.buffer=2", "trainer.steps=3"))
    assert max(r["sampler/replayed"] for r in found) == 2


def test_a_replayed_response_is_in_no_group_that_the_filter_kept(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Batch] = []
    sample = Run.sample
    monkeypatch.setattr(Run, "sample", lambda run, step: (seen.append(sample(run, step)), seen[-1])[1])
    keep = "{_target_: rlent.methods.dapo.keep_mixed, tolerance: 0.0, keep_single: true}"
    options = [f"sampler.keep={keep.replace(': ', ':')}", "sampler.n=8", "sampler.buffer=1", "sampler.max_tokens=16", "sampler.prompts=2"]
    train(run_dir, "recipe=spear", *options, "trainer.steps=6")
    gaps = 0
    for batch in seen:
        replay = torch.tensor([s == "replay" for s in batch["source"]])
        kept, again = set(batch["group"][~replay].tolist()), batch["group"][replay].tolist()
        gaps += bool(again) and max(kept) > len(kept) - 1
        assert not kept & set(again) and len(set(again)) == len(again)
    assert gaps, "the filter has left out a group in a step with replays"


def test_a_part_without_rows_need_not_have_the_streams_of_the_others() -> None:
    full = Batch({"mask": torch.ones(2, 3).bool(), "said": torch.arange(6.0).view(2, 3), "step": 4}, torch.tensor([5, 3]))
    empty = Batch({"mask": torch.ones(0, 1).bool(), "step": 4}, torch.zeros(0, dtype=torch.long))
    for parts in ([empty, full], [full, empty]):
        whole = merge(parts)
        assert whole.row.tolist() == [3, 5] and whole["said"].tolist() == [[3.0, 4.0, 5.0], [0.0, 1.0, 2.0]]
    assert len(merge([empty, empty])) == 0


def test_groups_beyond_what_a_step_needs_are_dropped(run_dir: Path, tmp_path: Path) -> None:
    """4 prompts are needed: the filter keeps 3 of the first round and all of the second, of which one is taken."""
    (tmp_path / "keeping.py").write_text(
        "import torch\n\nrounds = []\n\n\ndef some(correct, group):\n"
        "    rounds.append(len(rounds))\n"
        "    return torch.tensor([len(rounds) > 1, True, True, True])\n"
    )
    (tmp_path / "sampler").mkdir()
    dynamic = (recipes_dir() / "sampler" / "group.yaml").read_text().replace("keep: null", "keep: {_target_: keeping.some}")
    (tmp_path / "sampler" / "some.yaml").write_text(dynamic)
    train(run_dir, "sampler=some", "trainer.steps=1", "sampler.rounds=3", "track.save_batches=1", config_dirs=[tmp_path])
    (row,) = rows(run_dir)
    assert (row["group/count"], row["sampler/rounds"], row["sampler/kept"]) == (4, 2, 4 / 8)
    kept_groups = frozen.load(run_dir / "batches" / frozen.file_name(1))["group"].unique().tolist()
    assert kept_groups == [1, 2, 3, 4], "three of the first round, the first of the second"


def test_the_sampler_s_nll_is_the_token_mean(run_dir: Path) -> None:
    train(run_dir, "trainer.steps=1", "sampler.max_tokens=16")  # nothing is discarded, so it is the trainer's number
    (row,) = rows(run_dir)
    assert row["sampler/nll"] == pytest.approx(row["nll/mean"], rel=1e-5) and row["sampler/nll"] > 0.1
