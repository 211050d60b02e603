"""Settings: every key of a recipe is read, and every setting has a key."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

import rlent
from rlent.recipe.compose import load
from rlent.recipe.settings import BLOCKS, RESUMABLE
from rlent.recipe.values import flat
from rlent.system.paths import recipes_dir

PACKAGE = Path(rlent.__file__).parent


def words(file: Path) -> Iterator[str]:
    """What can name a setting in a file: the strings by which mappings are read, parameters, and attributes."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            yield str(node.slice.value)
        elif isinstance(node, ast.Call):
            first = node.args[0] if node.args else None
            if isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop") and isinstance(first, ast.Constant):
                yield str(first.value)
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            yield node.target.id
        elif isinstance(node, ast.Tuple | ast.Set | ast.List):
            yield from (str(e.value) for e in node.elts if isinstance(e, ast.Constant))


READ = {word for file in PACKAGE.rglob("*.py") if file.name != "settings.py" and "_recipes" not in file.parts for word in words(file)}


@pytest.mark.parametrize("block", sorted(BLOCKS))
def test_every_setting_is_read_outside_the_room_of_recipes(block: str) -> None:
    unread = {f.name for f in fields(BLOCKS[block])} - READ
    assert not unread, f"{block}: nothing reads {sorted(unread)}"


def test_every_setting_has_a_key_and_every_key_a_setting() -> None:
    config = load(["recipe=grpo"]).config
    for block, settings in BLOCKS.items():
        assert set(config[block]) <= {f.name for f in fields(settings)}, block
        without_default = {f.name for f in fields(settings) if f.default is f.default_factory}
        assert without_default <= set(config[block]), block
    assert set(config) - set(BLOCKS) - {"seed", "data", "engine", "models", "card"} == set(load().plan.nodes)


def test_a_key_of_config_yaml_is_of_a_block_with_settings() -> None:
    raw = yaml.safe_load((recipes_dir() / "config.yaml").read_text())
    for key in flat({k: v for k, v in raw.items() if k != "defaults"}):
        block, _, name = key.partition(".")
        assert block in ("seed", "models", "card") or name in {f.name for f in fields(BLOCKS[block])}, key


def test_what_a_resumed_run_may_change_exists() -> None:
    assert set(RESUMABLE) <= set(flat(load().config))
