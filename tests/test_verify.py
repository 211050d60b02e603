"""`rlent verify` finds what differs, and says so where it could compare nothing."""

from __future__ import annotations

import ast
import functools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from rlent.cli.app import app
from rlent.errors import RecipeError, UsageError
from rlent.recipe.catalog import cards
from rlent.system.paths import recipes_dir
from rlent.verify import grammar, report, vectors
from rlent.verify.cases.objective import gradient_of
from rlent.verify.compare import Check
from rlent.verify.grammar import Block, Golden, goldens
from rlent.verify.run import check_file, check_folder
from rlent.verify.vectors import default_folder

ROOT = Path(__file__).parent.parent


def checked(tmp_path: Path, name: str = "epo_epoch_weight_1", **changes: Any) -> Check:
    vector = json.loads((default_folder() / f"{name}.json").read_text())
    file = tmp_path / f"{name}.json"
    file.write_text(json.dumps(vector | changes))
    return check_file(file, goldens())


def test_the_vector_passes_as_it_is_and_fails_at_the_number_that_was_changed(tmp_path: Path) -> None:
    assert checked(tmp_path).failures == []
    right = json.loads((default_folder() / "epo_epoch_weight_1.json").read_text())["outputs"]["weight"]
    (failure,) = checked(tmp_path, outputs={"weight": [right[0], right[1] + 1e-4, *right[2:]]}).failures
    assert failure.startswith("weight at [1]: ") and f"(1 of {len(right)} differ)" in failure


def test_a_vector_none_of_whose_outputs_is_known_does_not_pass(tmp_path: Path) -> None:
    (failure,) = checked(tmp_path, outputs={"factor": [1.0]}).failures
    assert failure == "the golden block compares none of the file's outputs (factor)"


def test_an_option_that_the_card_does_not_know_is_named(tmp_path: Path) -> None:
    (failure,) = checked(tmp_path, config={"max_epochs": 10, "warmup": 3}).failures
    assert "the card does not say what warmup means" in failure and "recipe epo" in failure


def test_a_method_that_no_card_maps_is_a_failure_and_not_skipped(tmp_path: Path) -> None:
    (failure,) = checked(tmp_path, method="clip_cow").failures
    assert failure == "no card verifies 'clip_cow'; did you mean 'clip_cov'?"


# ---- all vectors, and what they run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def every() -> list[Check]:
    return check_folder(default_folder())


def test_every_vector_passes(every: list[Check]) -> None:
    assert {c.file: c.failures for c in every if c.failures} == {}
    assert len(every) == len(list(default_folder().glob("*.json")))


def test_the_last_line_counts_what_the_recipe_mounts_metrics_and_calls_apart(every: list[Check]) -> None:
    by = {t: sum(c.through == t for c in every) for t in ("recipe", "metric", "call")}
    assert sum(by.values()) == len(every)
    assert by["metric"] == 9
    assert report.summary(every) == (
        f"{len(every)} of {len(every)} vectors pass: {by['recipe']} through the mounted recipe, 9 metrics, {by['call']} by `call:`"
    )
    by_file = {c.file: c.through for c in every}
    assert (by_file["prime_1.json"], by_file["spear_replay_1.json"], by_file["pass_at_k_1.json"]) == ("recipe", "call", "metric")
    assert {"file", "method", "reference", "error", "compared", "failures", "passed", "through"} == set(
        json.loads(report.as_json(every))[0]
    )


def test_a_card_that_claims_the_authors_code_has_a_vector_through_what_it_mounts(every: list[Check]) -> None:
    known = goldens()
    mounted = {g.recipe for c in every if c.through == "recipe" for g in known[c.method] if g.mounted}
    assert {c.name for c in cards()[0] if c.proof == "authors"} - mounted == set()


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("rlent.methods.prime.prime_advantage", "prime_1"),
        ("rlent.methods.prime.implicit_reward", "implicit_prm_1"),
        ("rlent.methods.empg.modulated", "empg_1"),
        ("rlent.methods.epo.smoothed_entropy", "epo_1"),
        ("rlent.methods.one_shot_em.tempered_entropy_itself", "em_oneshot_1"),
        ("rlent.methods.bupo.internal_logp", "bupo_1"),
        ("rlent.methods.er_prm.prefix_value", "er_prm_1"),
        ("rlent.methods.pear.phase_reward", "pear_1"),
    ],
)
def test_the_other_sign_of_a_mounted_function_fails_its_vector(
    target: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, function = target.rpartition(".")
    __import__(module)
    right = getattr(sys.modules[module], function)

    @functools.wraps(right)
    def wrong(*streams: Any, **options: Any) -> Any:
        found = right(*streams, **options)
        return {k: -v if k in ("adv", "value") else v for k, v in found.items()} if isinstance(found, dict) else -found

    monkeypatch.setattr(sys.modules[module], function, wrong)
    assert checked(tmp_path, name).failures


# ---- the grammar -----------------------------------------------------------------------------------------------------------


def test_everything_wrong_in_the_blocks_of_all_cards_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "recipe").mkdir()
    blocks = {
        "torn": {"call": "a.b", "node": "loss.x"},
        "lost": {"node": "nowhere.x"},
        "keys": {"clip": {"optoin": "loss.low"}, "inputs": {"x": {"stream": "adv", "vlaues": {}}}},
        "halves": [{"method": "follow"}, {"equal": "roughly"}],
    }
    (tmp_path / "recipe" / "mine.yaml").write_text(yaml.safe_dump({"card": {"name": "Mine", "golden": blocks}}))
    with pytest.raises(RecipeError) as caught:
        goldens([str(tmp_path)])
    text = str(caught.value)
    assert "recipe mine: golden.torn: node and call exclude each other" in text
    assert "recipe mine: golden.lost: node: there is no seat 'nowhere'" in text
    assert "golden.keys.clip.optoin: " in text
    assert "golden.keys.inputs.x.vlaues: " in text
    assert "golden.halves[0]: method needs node or call" in text
    assert "golden.halves[1].equal: " in text


def test_what_is_not_a_word_of_the_grammar_is_an_option_of_the_file() -> None:
    block = Block.model_validate({"with": ["loss=none"], "cov_ratio": "shape.x.fraction", "high": {"option": "loss.high", "shift": -1}})
    assert block.with_ == ["loss=none"]
    assert block.options["cov_ratio"].paths == ["shape.x.fraction"]
    assert block.options["high"].shift == -1
    called = Block.model_validate({"call": "a.b", "beta": "coef"})
    assert (called.options["beta"].argument, called.options["beta"].paths) == ("coef", [])


def test_values_are_translated_whatever_way_yaml_writes_them() -> None:
    block = Block.model_validate({"scale": {"option": "loss.x", "values": {True: "group", False: "none", None: 3}}})
    assert block.options["scale"].values == {"true": "group", "false": "none", "null": 3}


def test_a_golden_is_mounted_if_one_of_its_blocks_is() -> None:
    call, node = Block.model_validate({"call": "a.b"}), Block.model_validate({"node": "loss.x"})
    assert [Golden("r", blocks).mounted for blocks in ([call], [node], [call, node])] == [False, True, True]


def test_every_word_of_the_grammar_is_explained() -> None:
    assert grammar.__doc__
    assert [w for w in grammar.WORDS if f"{w}:" not in grammar.__doc__ and f"`{w}" not in grammar.__doc__] == []


# ---- which vectors ---------------------------------------------------------------------------------------------------------

BY_RECIPE = {"clipcov": ["clip_cov"], "epo": ["epo", "epo_epoch_weight"]}


@pytest.mark.parametrize(
    ("only", "methods"),
    [
        (["clip_cov"], {"clip_cov"}),
        (["clipcov"], {"clip_cov"}),
        (["epo"], {"epo", "epo_epoch_weight"}),  # a recipe's name that is a method's as well takes all of the recipe's
        (["epo_epoch_weight", "clipcov"], {"epo_epoch_weight", "clip_cov"}),
        (["kl_cov"], {"kl_cov"}),
    ],
)
def test_vectors_are_chosen_by_method_or_by_recipe(only: list[str], methods: set[str]) -> None:
    chosen = vectors.choose(default_folder(), only, BY_RECIPE)
    assert {json.loads(f.read_text())["method"] for f in chosen} == methods


def test_a_name_without_vectors_is_refused_with_the_nearest_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--only: no vectors of clipcow; did you mean 'clipcov'\?"):
        vectors.choose(default_folder(), ["clip_cov", "clipcow"], BY_RECIPE)
    with pytest.raises(UsageError, match="no vector files"):
        vectors.choose(tmp_path, [], BY_RECIPE)


def test_the_command_takes_both_kinds_of_names() -> None:
    done = CliRunner().invoke(app, ["verify", "--only", "clipcov,kl_cov", "--json"], prog_name="rlent")
    assert done.exit_code == 0
    assert {c["method"] for c in json.loads(done.stdout)} == {"clip_cov", "kl_cov"}


# ---- nothing that only proves in methods/ ------------------------------------------------------------------------------------


def targets(tree: Any) -> Iterator[str]:
    """Every `_target_` of a recipe file."""
    if isinstance(tree, dict):
        yield from (v for k, v in tree.items() if k == "_target_")
        for value in tree.values():
            yield from targets(value)


def test_a_method_holds_only_what_some_recipe_reaches() -> None:
    trees = {f"rlent.methods.{f.stem}": ast.parse(f.read_text()) for f in (ROOT / "rlent" / "methods").glob("*.py")}
    defined = {f"{m}.{n.name}": n for m, tree in trees.items() for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    names = {
        m: {a.asname or a.name: f"{n.module}.{a.name}" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
        for m, tree in trees.items()
    }
    todo = [t for f in recipes_dir().glob("*/**/*.yaml") for t in targets(yaml.safe_load(f.read_text()))]
    todo += [d for f in (ROOT / "rlent" / "sampling").glob("*.py") for d in defined if d in f.read_text()]
    reached: set[str] = set()
    while todo:
        name = todo.pop()
        if name not in defined or name in reached:
            continue
        reached.add(name)
        module = name.rpartition(".")[0]
        used = {n.id for n in ast.walk(defined[name]) if isinstance(n, ast.Name)}
        todo += [names[module].get(u, f"{module}.{u}") for u in used]
    assert sorted(set(defined) - reached) == [], "only proves: it belongs to rlent/verify/released"


def test_a_gradient_that_did_not_arrive_is_zero_and_not_an_error() -> None:
    assert gradient_of(torch.ones(2, requires_grad=True)).tolist() == [0.0, 0.0]
