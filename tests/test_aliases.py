"""Old names of keys still work: in overrides, in recipe files, in run folders and in the lines of a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rlent.errors import RecipeError
from rlent.recipe import aliases
from rlent.recipe.compare import identity
from rlent.recipe.compose import from_config, load, with_values
from rlent.recipe.values import flat, parse
from rlent.studies import sweep
from rlent.system.paths import recipes_dir

OLD = ["trainer.look_back=sampler", "trainer.tokens_per_part=99", "track.keep_batches=7", "+shape.clip_cov.scope=part"]
NEW = ["trainer.old_logprobs=rollout", "trainer.max_tokens_per_microbatch=99", "track.save_batches=7", "+shape.clip_cov.scope=microbatch"]


@pytest.mark.parametrize(("old", "new"), list(zip(OLD, NEW, strict=True)))
def test_an_old_override_is_read_as_the_new_one_with_a_note(old: str, new: str) -> None:
    assert parse([old])[0].input_line == new
    (note,) = aliases.notes([old, old, new])
    assert new.lstrip("+").split("=")[0].rpartition(".")[2] in note and "the old name still works" in note
    assert aliases.notes([new]) == []


@pytest.mark.parametrize(
    ("text", "now"),
    [
        ("trainer.look_back=policy,sampler", "trainer.old_logprobs=recompute,rollout"),
        ("trainer.look_back=choice('policy','sampler')", "trainer.old_logprobs=choice('recompute','rollout')"),
        ("~trainer.look_back", "~trainer.old_logprobs"),
        ("++track.keep_batches=2", "++track.save_batches=2"),
        ("loss.scope=part", "loss.scope=microbatch"),
        ("loss.scope=minibatch", "loss.scope=minibatch"),
        ("data.scope=part", "data.scope=part"),
        ("shape.clip_cov.part=scope", "shape.clip_cov.part=scope"),
        ("run.dir=sampler", "run.dir=sampler"),
        ("run.tags=[trainer.look_back=policy]", "run.tags=[trainer.look_back=policy]"),
        ("=", "="),
        ("trainer.look_back_at=sampler", "trainer.look_back_at=sampler"),
    ],
)
def test_only_what_was_renamed_changes(text: str, now: str) -> None:
    assert aliases.modern_override(text)[0] == now


def test_a_recipe_by_its_old_names_is_the_recipe_by_its_new_ones() -> None:
    old, new = load(["recipe=clipcov", *OLD]), load(["recipe=clipcov", *NEW])
    assert old.config == new.config and old.plan.lines() == new.plan.lines()
    assert len(old.warnings) == len(new.warnings) + 4 and old.overrides == ["recipe=clipcov", *OLD]
    assert old.sources["track.save_batches"] == "command line"


def test_a_file_of_somebodys_own_may_use_the_old_names(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    (tmp_path / "track").mkdir()
    (tmp_path / "shape").mkdir()
    (tmp_path / "recipe" / "mine.yaml").write_text(
        "# @package _global_\n# Mine.\ndefaults:\n  - override /shape: [cut]\n  - override /track: mine\n"
        "trainer: {look_back: sampler, tokens_per_part: 99}\nsampler: {max_tokens: '${trainer.tokens_per_part}'}\n"
    )
    (tmp_path / "track" / "mine.yaml").write_text("defaults: [none]\nkeep_batches: 7\n")
    (tmp_path / "shape" / "cut.yaml").write_text("cut: {_target_: mine_cut.cut, scope: part}\n")
    (tmp_path / "mine_cut.py").write_text("def cut(adv, weight):\n    return weight\n")
    recipe = load(["recipe=mine"], [tmp_path])
    assert recipe["trainer"]["old_logprobs"] == "rollout" and recipe["trainer"]["max_tokens_per_microbatch"] == 99
    assert recipe["sampler"]["max_tokens"] == 99 and recipe["track"]["save_batches"] == 7
    assert recipe.nodes["shape"][0].scope == "microbatch"
    assert not {alias.old for alias in aliases.ALIASES} & set(flat(recipe.config))
    assert len([w for w in recipe.warnings if "the old name still works" in w]) == 4
    assert recipe.sources["trainer.old_logprobs"] == "recipe/mine.yaml"
    assert load(["recipe=mine", "trainer.old_logprobs=recompute"], [tmp_path])["trainer"]["old_logprobs"] == "recompute"


def old_config() -> dict:
    config = load(["recipe=clipcov", *NEW]).config
    for alias in aliases.ALIASES[:3]:
        block, old = alias.old.split(".")
        value = config[block].pop(alias.new.split(".")[1])
        config[block][old] = {new: word for word, new in alias.values.items()}.get(value, value)
    config["shape"]["clip_cov"]["scope"] = "part"
    return config


def test_the_configuration_of_an_earlier_run_composes_as_it_would_now() -> None:
    now = load(["recipe=clipcov", *NEW])
    recipe = from_config(old_config())
    assert recipe.config == now.config and len(recipe.warnings) == len(now.warnings) + 4
    assert from_config(with_values(old_config(), ["track.keep_batches=3"]))["track"]["save_batches"] == 3


def test_a_block_that_is_no_block_is_a_problem_as_in_any_recipe() -> None:
    with pytest.raises(RecipeError, match="stop: a block of settings is expected, found 5"):
        from_config(with_values(old_config(), ["stop=5"]))
    without = {k: v for k, v in old_config().items() if k != "stop"}
    assert from_config(without)["stop"] == load()["stop"]


def test_the_lines_of_an_earlier_checkpoint_are_those_of_today() -> None:
    now = identity(load(["recipe=clipcov", *NEW]).config)
    old = [
        {"trainer.old_logprobs: recompute -> rollout": "trainer.look_back: policy -> sampler"}.get(
            line, line.replace("max_tokens_per_microbatch", "tokens_per_part").replace("-> microbatch", "-> part")
        )
        for line in now
    ]
    assert sum(a != b for a, b in zip(old, now, strict=True)) == 3
    assert aliases.modern_lines(old) == now == aliases.modern_lines(now)


def test_the_table_leads_to_keys_that_are_there_and_the_shipped_files_use_them() -> None:
    known = flat(load().config)
    for alias in aliases.ALIASES[:3]:
        assert alias.new in known and alias.old not in known
    for file in recipes_dir().rglob("*.yaml"):
        raw = yaml.safe_load(file.read_text()) or {}
        group = file.parent.relative_to(recipes_dir()).as_posix()
        tree = raw if group in (".", "recipe", "experiment") else {group: raw}
        assert aliases.modern_config(tree)[1] == [], file


def test_a_sweep_over_an_old_name_is_over_the_new_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep.run(["trainer.tokens_per_part=64,128", "track.keep_batches=1"], dry_run=True) == 0
    shown = capsys.readouterr().out
    assert shown.count("warning: ") == 2 and "  trainer.max_tokens_per_microbatch=64  new" in shown
    assert sweep.jobs(["trainer.look_back=policy,sampler"]) == [["trainer.old_logprobs=recompute"], ["trainer.old_logprobs=rollout"]]
