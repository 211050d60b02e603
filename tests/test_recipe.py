"""Recipes: every problem at once, before anything starts, with the key, what was found and what is accepted."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from rlent.errors import RecipeError
from rlent.recipe.compare import contrast_with_plain, differences
from rlent.recipe.compose import groups, load
from rlent.recipe.describe import describe
from rlent.system.paths import recipes_dir


def problems(*overrides: str, config_dirs: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load(overrides, config_dirs)
    assert caught.value.exit_code == 2
    assert "nothing was started" in str(caught.value)
    return caught.value.problems


def user_folder(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        path = tmp_path / name.replace("__", "/").replace("_yaml", ".yaml").replace("_py", ".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path


@pytest.mark.parametrize("name", sorted(groups()["recipe"]))
def test_every_shipped_recipe_composes_and_has_a_plan(name: str) -> None:
    recipe = load([f"recipe={name}"])
    assert recipe.plan.lines()
    assert recipe.config["card"]["name"]


def test_all_problems_are_reported_together() -> None:
    found = problems("recipe=clipcov", "shape.clip_cov.fractoin=0.1", "loss.low=2", "trainer.steps=many", "nothing.at.all=1")
    assert len(found) == 4
    text = "\n".join(found)
    assert "did you mean 'shape.clip_cov.fraction'" in text
    assert "loss.low: 2 is outside [0, 1]" in text
    assert "trainer.steps: 'many' is not an int" in text


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("recipe=clipcv", "did you mean 'clipcov'"),
        ("recipe=[grpo,clipcov]", "takes one option"),
        ("loss=[ppo_clip]", "takes one option"),
        ("shape=[clipcov]", "did you mean 'clip_cov'"),
        ("recipe=grpo,clipcov", "add -m"),
        ("seed=0,1", "add -m"),
        ("seed=zero", "seed: 'zero' is not an int"),
        ("optim.lr=-1", "optim.lr: -1 is outside (0, inf]"),
        ("sampler.n=0", "sampler.n: 0 is outside [1, inf]"),
        ("sampler.temperature=0", "sampler.temperature: 0 is outside (0, inf]"),
        ("sampler.top_p=1.5", "is outside (0, 1]"),
        ("objective.aggregate=mean", "not one of token_mean, seq_mean, seq_sum, constant"),
        ("eval.ks=[0]", "eval.ks"),
        ("shape.clip_cov.fraction=0.1", "shape has no 'clip_cov'"),
        ("trainer.minibatches=null", "trainer.minibatches: None is not an int"),
        ("model.dtype=float16", "is not one of float32, bfloat16, float64"),
        ("=", "is not an override"),
        ("seed", "is not an override"),
    ],
)
def test_a_wrong_override_names_the_key_what_was_found_and_what_is_accepted(override: str, expected: str) -> None:
    assert any(expected in p for p in problems(override)), problems(override)


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("lr=1e-5", "did you mean 'optim.lr'?"),
        ("trainer.lr=1e-5", "did you mean 'optim.lr'?"),
        ("n=4", "did you mean 'eval.n' or 'sampler.n'?"),
        ("fraction=0.1", "did you mean 'shape.clip_cov.fraction'?"),
        ("max_token=5", "did you mean 'eval.max_tokens'?"),
        ("trainer.stesp=5", "did you mean 'trainer.steps'?"),
        ("sampel.n=5", "did you mean 'sampler.n' or 'eval.n'?"),
        ("modle=tiny", "did you mean 'model'?"),
    ],
)
def test_a_key_in_the_wrong_place_is_looked_for_in_all(override: str, meant: str) -> None:
    (found,) = problems("recipe=clipcov", override)
    assert meant in found


def test_a_name_that_nothing_resembles_has_no_proposal() -> None:
    (found,) = problems("zzzzzz=1")
    assert "did you mean" not in found


def test_an_unknown_stream_and_a_missing_knob_are_named(tmp_path: Path) -> None:
    folder = user_folder(
        tmp_path,
        my_spark_py="def keep_rare(old_lgp, weight, *, share: float):\n    return weight\n",
        shape__spark_yaml="spark:\n  _target_: my_spark.keep_rare\n  share: 0.5\n",
    )
    found = problems("recipe=aer", "shape=[spark]", "regularize=[]", config_dirs=(str(folder),))
    text = "\n".join(found)
    assert "shape.spark: my_spark.keep_rare asks for 'old_lgp', which no part of the run provides; did you mean 'old_logp'?" in text
    assert "control.aer: knob 'regularize.aer.coef' does not exist in this recipe" in text


def test_naming_a_stream_live_and_now_is_refused(tmp_path: Path) -> None:
    folder = user_folder(
        tmp_path,
        both_py="def both(logp, now_logp, adv):\n    return logp * adv\n",
        loss__both_yaml="_target_: both.both\n",
    )
    assert any("names both 'logp' and 'now_logp'" in p for p in problems("loss=both", config_dirs=(str(folder),)))


def test_a_seat_sees_only_streams_that_exist_when_it_runs(tmp_path: Path) -> None:
    folder = user_folder(
        tmp_path,
        peek_py="def peek(adv):\n    return adv\n\n\ndef early(logp, group):\n    return group\n",
        reward__peek_yaml="peek:\n  _target_: peek.peek\n",
        advantage__early_yaml="_target_: peek.early\n",
    )
    found = problems("reward=[peek]", "advantage=early", config_dirs=(str(folder),))
    assert any("reward.peek: a function in seat reward may not read 'adv'" in p for p in found)
    assert any("advantage: a function in seat advantage may not read 'logp'" in p for p in found)


def test_options_without_a_value_and_unknown_targets_are_named(tmp_path: Path) -> None:
    folder = user_folder(
        tmp_path,
        half_py="from rlent.options import Share\n\n\ndef half(adv, weight, *, share: Share, low: float = 0.0):\n    return weight\n",
        shape__half_yaml="half:\n  _target_: half.half\n",
        shape__gone_yaml="gone:\n  _target_: half.hal\n",
        shape__lost_yaml="lost:\n  _target_: not_there.at_all\n",
    )
    text = "\n".join(problems("shape=[half,gone,lost]", config_dirs=(str(folder),)))
    assert "shape.half: half.half needs option 'share' (float in [0, 1])" in text
    assert "'half' has no 'hal'; did you mean 'half'?" in text
    assert "no module for 'not_there.at_all'" in text


def test_a_folder_outside_the_repository_needs_no_registration(tmp_path: Path) -> None:
    folder = user_folder(
        tmp_path,
        my_method_py='''
            def soft(adv, old_logp, *, floor: float):
                """Scale by probability."""
                return old_logp.exp().clamp(min=floor)
            ''',
        shape__soft_yaml="soft:\n  _target_: my_method.soft\n  floor: 0.1\n",
        recipe__mine_yaml="# @package _global_\n# Mine.\ndefaults:\n  - override /shape: [soft]\ncard: {name: Mine}\n",
    )
    recipe = load(["recipe=mine", "shape.soft.floor=0.3"], [folder])
    (node,) = recipe.nodes["shape"]
    assert node.options == {"floor": 0.3} and node.when == "step" and node.reads == ("adv", "old_logp")
    assert recipe.sources["shape.soft.floor"] == "command line"


def test_streams_can_be_fed_under_another_name() -> None:
    recipe = load(["recipe=dapo", "+sampler.keep.streams={correct: reward}"])
    assert recipe.config["sampler"]["keep"]["streams"] == {"correct": "reward"}
    recipe = load(["recipe=entropybonus", "+regularize.entropy.streams={entropy: logp}"])
    assert recipe.nodes["regularize"][0].reads == ("logp",)


def test_appending_to_a_cards_list() -> None:
    assert [n.name for n in load(["recipe=clipcov", "+shape=erc"]).nodes["shape"]] == ["clip_cov", "erc"]
    assert [n.name for n in load(["recipe=clipcov", "shape=[erc,clip_cov]"]).nodes["shape"]] == ["erc", "clip_cov"]


def test_a_card_may_change_settings_and_sets_no_option_inside_a_seat() -> None:
    import yaml

    assert load(["recipe=drgrpo"]).config["objective"]["aggregate"] == "constant"
    seats = {"sampler", "reward", "advantage", "shape", "loss", "regularize", "control", "probe"}
    for name, file in groups()["recipe"].items():
        assert not seats & set(yaml.safe_load(file.read_text())), name


def test_toy_options_carry_the_papers_value_beside_the_tiny_models() -> None:
    tiny, real = load(["recipe=clipcov"]), load(["recipe=clipcov", "model=qwen2_5_7b"])
    assert tiny.config["shape"]["clip_cov"]["fraction"] > 2e-4
    assert real.config["shape"]["clip_cov"]["fraction"] == 2e-4
    assert load(["recipe=klcov", "model=qwen2_5_7b"]).config["regularize"]["kl_cov"]["fraction"] == 2e-3


def test_sources_say_which_file_a_value_came_from() -> None:
    recipe = load(["recipe=clipcov", "optim.lr=2e-4"])
    assert recipe.sources["shape.clip_cov.fraction"] == "shape/clip_cov.yaml"
    assert recipe.sources["loss.low"] == "loss/ppo_wide.yaml"
    assert recipe.sources["optim.lr"] == "command line"
    assert recipe.sources["trainer.steps"] == "config.yaml"


def test_differences_from_plain_grpo_are_short() -> None:
    assert differences(load(["recipe=grpo"]).config) == []
    lines = differences(load(["recipe=entropybonus", "seed=3"]).config)
    assert any(line.startswith("seed: 0 -> 3") for line in lines)
    assert any("regularize.entropy.coef" in line for line in lines)


def test_what_is_printed_as_different_from_plain_grpo_is_the_method_and_not_the_model() -> None:
    """A real model, its data and its machines change some fifty settings; Clip-Cov changes its seats."""
    real = ["model=qwen2_5_7b", "data=dapo_math_17k", "data.path=somewhere.jsonl", "scale=gpus8", "eval.every=7"]
    found = contrast_with_plain(load(["recipe=clipcov", *real, "seed=3"]))
    assert [line.partition(": ")[0] for line in found] == [
        *("loss.clamp", "loss.dual", "loss.high", "loss.low", "seed"),
        *(f"shape.clip_cov.{k}" for k in ("_target_", "fraction", "high", "low")),
    ]
    assert contrast_with_plain(load(["recipe=grpo", *real])) == []
    assert len(differences(load(["recipe=clipcov", *real]).config)) > 3 * len(found), "which a run's own record does not leave out"
    shown = describe(load(["recipe=clipcov", *real]))
    assert "  shape.clip_cov.fraction: - -> 0.0002" in shown and not [line for line in shown if "model." in line or "scale." in line]


def test_a_method_that_can_do_nothing_warns() -> None:
    warnings = load(["recipe=klcov", "trainer.minibatches=1"]).warnings
    assert any("regularize.kl_cov does nothing here" in w for w in warnings)
    assert not load(["recipe=klcov"]).warnings
    for cut in ("sampler.top_p=0.9", "sampler.top_k=5"):
        assert any("cuts the sampling distribution" in w for w in load([cut]).warnings), cut
    assert any("advantage does nothing here" in w for w in load(["sampler.n=1"]).warnings)


def test_the_plan_runs_no_forward_that_nobody_asks_for() -> None:
    plain, once = load(["recipe=grpo"]).plan, load(["recipe=grpo", "trainer.minibatches=1"]).plan
    assert plain.needs_look and not once.needs_look
    assert not plain.now and not plain.models and plain.live == {"logp"}
    assert once.live == {"logp", "entropy"} and once.grad == {"logp"}, "the entropy of the step is measured in its only update"
    assert load(["recipe=clipcov"]).plan.now == {"logp"}
    assert load(["recipe=kl"]).plan.models == {"ref": {"logp"}}
    assert load(["recipe=siren"]).plan.now == {"nucleus_entropy"}
    assert load(["recipe=entropybonus"]).plan.grad == {"logp", "entropy"}
    assert load(["recipe=clipcov", "+shape.clip_cov.scope=microbatch"]).plan.now == set()


def test_the_config_lists_self_first_so_that_a_card_can_set_steps() -> None:
    import yaml

    assert yaml.safe_load((recipes_dir() / "config.yaml").read_text())["defaults"][0] == "_self_"
