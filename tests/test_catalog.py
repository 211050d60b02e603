"""The catalogue: what `rlent ls` shows is what the files say, and a broken file is named without hiding the others."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from rlent.cli.app import app
from rlent.errors import UsageError
from rlent.recipe.catalog import Card, cards, first_sentence, header, method_table, options, table
from rlent.system.paths import recipes_dir
from rlent.verify import grammar
from rlent.verify.grammar import Golden, goldens

ROOT = Path(__file__).parent.parent


def call(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, list(arguments), prog_name="rlent")
    return done.exit_code, done.stdout, done.stderr


def folder(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "recipe").mkdir()
    for name, text in files.items():
        (tmp_path / "recipe" / f"{name}.yaml").write_text(text)
    return tmp_path


def test_every_shipped_card_is_read_whole() -> None:
    found, problems = cards()
    assert problems == []
    assert {c.name for c in found} == {f.stem for f in (recipes_dir() / "recipe").glob("*.yaml")}
    for card in found:
        assert card.description, card.name
        assert card.paper.startswith("arXiv:") or re.search(r"\b20\d\d\b", card.paper), card.name  # a publication by authors and year
        assert card.name == card.name.lower().replace("_", ""), card.name


def test_a_card_has_the_seats_and_options_it_overrides() -> None:
    by_name = {c.name: c for c in cards()[0]}
    assert by_name["clipcov"].seats == ("shape", "loss")
    assert dict(by_name["clipcov"].picks) == {"loss": ("ppo_wide",), "shape": ("clip_cov",)}
    assert by_name["grpo"].seats == ()
    assert by_name["siren"].seats == ("advantage", "regularize", "control", "probe")
    assert by_name["clipcov"].title == "Clip-Cov"
    assert by_name["clipcov"].description.startswith("Clip-Cov: ")
    assert "@package" not in by_name["clipcov"].description


def test_every_option_a_card_names_exists() -> None:
    there = {(o.group, o.name) for o in options()[0]}
    for card in cards()[0]:
        for seat, names in card.picks.items():
            for name in names:
                assert (seat, name) in there or name == "none", f"{card.name}: {seat}={name}"


def test_proof_follows_the_golden_block_unless_the_card_says_otherwise(tmp_path: Path) -> None:
    found, problems = cards(
        [
            folder(
                tmp_path,
                vectors="card: {name: A, golden: {a: {}}}",
                nothing="card: {name: B, golden: {}}",
                silent="defaults:\n  - override /loss: ppo_clip\n",
                stated="card: {name: C, golden: {c: {}}, proof: formula}",
                wrong="card: {name: D, proof: yes-of-course}",
            )
        ]
    )
    proof = {c.name: c.proof for c in found}
    assert (proof["vectors"], proof["nothing"], proof["silent"], proof["stated"]) == ("authors", "none", "none", "formula")
    assert len(problems) == 1
    assert "wrong.yaml: card.proof: 'yes-of-course' is not one of authors, formula, none" in problems[0]


@pytest.fixture(scope="module")
def ran_authors() -> dict[str, bool]:
    """Methods of the vectors, and whether a file of each was made by the authors' code."""
    found: dict[str, bool] = {}
    for file in (ROOT / "tests" / "golden").glob("*.json"):
        vector = json.loads(file.read_text())
        found[vector["method"]] = found.get(vector["method"], False) or "PAPER" not in str(vector.get("verification", ""))
    return found


def unproven(card: Card, golden: Mapping[str, Golden], ran_authors: Mapping[str, bool]) -> str:
    """Why a card may not claim what it does; empty if it may."""
    ran = {m: ran_authors[m] for m in golden if m in ran_authors}
    if card.proof == "none":
        return f"vectors of {', '.join(ran)} are there" if ran else ""
    if card.proof == "authors" and True not in ran.values():
        return f"no vector of {', '.join(golden)} ran the authors' code"
    if card.proof == "authors" and not any(golden[m].mounted for m, theirs in ran.items() if theirs):
        return "every vector of the authors' code goes through call:, none through what the recipe mounts"
    return ""


def test_checked_against_the_authors_means_that_what_the_recipe_mounts_was_compared_with_their_code(ran_authors: dict[str, bool]) -> None:
    golden = [(m, g) for m, each in goldens().items() for g in each]
    wrong = {c.name: unproven(c, {m: g for m, g in golden if g.recipe == c.name}, ran_authors) for c in cards()[0]}
    assert {name: why for name, why in wrong.items() if why} == {}


def test_a_card_with_vectors_by_call_alone_may_not_claim_the_authors_code(tmp_path: Path) -> None:
    blocks = {"called": "{a: {call: rlent.x.f}}", "mounted": "{a: [{call: rlent.x.f}, {node: loss.ppo_clip}]}", "formula": "{a: {}}"}
    place = folder(tmp_path, **{name: f"card: {{name: A, golden: {block}}}" for name, block in blocks.items()})
    found = {c.name: c for c in cards([place])[0]}
    problems: list[str] = []
    golden = {name: grammar.read(name, yaml.safe_load(block), problems) for name, block in blocks.items()}
    assert problems == []
    assert unproven(found["called"], golden["called"], {"a": True}).startswith("every vector of the authors' code goes through call:")
    assert unproven(found["mounted"], golden["mounted"], {"a": True}) == ""
    assert unproven(found["formula"], golden["formula"], {"a": False}) == "no vector of a ran the authors' code"


def test_a_broken_file_is_named_and_the_rest_is_listed(tmp_path: Path) -> None:
    place = folder(tmp_path, good="card: {name: Good}", torn="card: {name: [\n", textual="just words", defaults="defaults: shape")
    found, problems = cards([place])
    assert "good" in {c.name for c in found}
    assert len(problems) == 3
    assert any("torn.yaml: line 2: " in p for p in problems)
    assert any("textual.yaml: a mapping is expected, found a str" in p for p in problems)
    code, out, err = call("ls", "--config-dir", str(place))
    assert code == 1
    assert "good" in out
    assert "clipcov" in out
    assert "torn.yaml" in err


def test_the_table_has_one_line_for_each_method_and_json_is_the_same_list() -> None:
    code, out, _ = call("ls")
    head, *lines = out.splitlines()
    assert code == 0
    assert re.split(r" {2,}", head) == ["METHOD", "PAPER", "CHECKED", "STATE", "WHAT IT IS"]
    listed = json.loads(call("ls", "--json")[1])
    assert [line.split()[0] for line in lines] == [c["name"] for c in listed]
    for line, card in zip(lines, listed, strict=True):
        assert line.endswith(f"  {card['state']:<12}  {card['description'].splitlines()[0]}")
        assert card["paper"].partition(",")[0] in line
    assert next(c for c in listed if c["name"] == "aer")["proof"] == "none"


def test_on_a_terminal_of_100_columns_every_description_is_whole_on_lines_that_fit() -> None:
    found, _ = cards()
    head, *lines = method_table(found, width=100).splitlines()
    assert max(map(len, lines)) <= 100
    at = head.index("WHAT IT IS")
    shown: list[str] = []
    for line in lines:
        if line[:at].strip():
            shown.append(line[at:])
        else:
            shown[-1] += " " + line[at:]
    assert shown == [card.does for card in found]


def test_a_seat_lists_its_options_and_who_uses_them() -> None:
    out = call("ls", "--seat", "shape")[1]
    line = next(x for x in out.splitlines() if x.startswith("shape=clip_cov"))
    assert "clipcov" in line
    assert "METHOD " not in out
    listed = json.loads(call("ls", "--seat", "shape", "--json")[1])
    assert {o["group"] for o in listed} == {"shape"}
    assert next(o for o in listed if o["name"] == "clip_cov")["target"] == "rlent.methods.clip_cov.drop_high_covariance"


def test_all_lists_the_groups_that_are_not_seats_too() -> None:
    found = json.loads(call("ls", "--all", "--json")[1])
    groups = [o["group"] for o in found["options"]]
    assert {"model", "data", "engine", "scale", "optim", "track", "eval", "shape", "loss"} <= set(groups)
    assert groups.index("loss") < groups.index("model")  # seats come first
    assert "clipcov" in {c["name"] for c in found["methods"]}
    text = call("ls", "--all")[1]
    assert re.search(r"^model=tiny +\(default\) +The embedded model", text, re.MULTILINE)
    assert "data=countdown" in text


def test_a_users_folder_adds_and_does_not_replace(tmp_path: Path) -> None:
    found, problems = cards([folder(tmp_path, mine="# Mine: a try.\ncard: {name: Mine}", grpo="card: {name: Not GRPO}")])
    by_name = {c.name: c for c in found}
    assert by_name["mine"].description == "Mine: a try."
    assert by_name["grpo"].title == "GRPO"
    assert problems == []
    with pytest.raises(UsageError, match="'nowhere' is not a folder"):
        cards(["nowhere"])


def test_header_and_columns() -> None:
    assert first_sentence("The model of 0.8 M parameters,\nin one file. It runs.\n\nMore.") == "The model of 0.8 M parameters, in one file."
    assert header("# @package _global_\n# One.\n#\n# Two.\nkey: 1\n# not this\n") == "One.\n\nTwo."
    assert table(("A", "B"), [("xyz", "1"), ("u", "2")]) == "A    B\nxyz  1\nu    2"
    assert table(("A", "B"), [("u", "a long remark")], width=10) == "A  B\nu  a lo..."
    remark = "a remark that is longer than thirty characters"
    assert table(("A", "B"), [("u", remark)], width=35, wrap=True) == "A  B\nu  a remark that is longer than\n   thirty characters"
