"""The functions of a recipe and their options, read from its YAML files without composing a run.

Hydra is not needed for this. Where a file has two values, `${toy:a,b}`, the second is taken: the reference's value for a real
model. A reference to another option, `${loss.low}`, gets that option's value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rlent.errors import UsageError, did_you_mean
from rlent.seats import SEATS
from rlent.system.paths import recipes_dir

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TWO_VALUES = re.compile(r"\$\{\w+:(.*)\}", re.DOTALL)
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")

Spec = dict[str, Any]


def method_names() -> list[str]:
    """The names that `method` accepts: those of `rlent ls`."""
    return sorted(file.stem for file in (recipes_dir() / "recipe").glob("*.yaml"))


def read_recipe(name: str) -> tuple[Spec, set[str], dict[str, dict[str, Spec]]]:
    """A recipe's card, the stages it changes, and the function of every stage: by stage and node, `_target_` and options.

    A stage with one function has it under the stage's own name.

    Raises:
        UsageError: no such recipe.
    """
    names = method_names()
    if name not in names:
        raise UsageError(f"there is no method '{name}'{did_you_mean(name, names)}; rlent.method_names() lists them all")
    recipe, config = _load(recipes_dir() / "recipe" / f"{name}.yaml"), _load(recipes_dir() / "config.yaml")
    plain, own = _picks(config), _picks(recipe)
    tree: Spec = {}
    for stage, files in {**plain, **own}.items():
        tree[stage] = {} if SEATS[stage].many else None
        for file in files:
            read = _load(recipes_dir() / stage / f"{file}.yaml")
            tree[stage] = {**tree[stage], **read} if SEATS[stage].many else read
    for stage in SEATS.keys() & recipe.keys():
        _merge(tree, stage, recipe[stage])
    nodes = {stage: _nodes(stage, tree[stage], tree) for stage in tree}
    return recipe, own.keys() & SEATS.keys(), {stage: found for stage, found in nodes.items() if found}


def _load(file: Path) -> Spec:
    return yaml.load(file.read_text(encoding="utf-8"), Loader=_LOADER) or {}


def _picks(tree: Spec) -> dict[str, list[str]]:
    """The option files of each stage in a list of defaults: `- override /shape: [clip_cov]`."""
    found: dict[str, list[str]] = {}
    for entry in tree.get("defaults") or []:
        for key, value in entry.items() if isinstance(entry, Mapping) else ():
            stage = str(key).removeprefix("override").strip().lstrip("/")
            if stage in SEATS:
                found[stage] = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
    return found


def _merge(tree: Spec, key: str, over: object) -> None:
    if isinstance(over, Mapping) and isinstance(tree.get(key), dict):
        for inner, value in over.items():
            _merge(tree[key], str(inner), value)
    else:
        tree[key] = over


def _nodes(stage: str, section: Spec | None, tree: Spec) -> dict[str, Spec]:
    if not section:
        return {}
    named = section if SEATS[stage].many else {stage: section}
    return {name: _resolved(spec, tree) for name, spec in named.items() if isinstance(spec, Mapping)}


def _resolved(value: object, tree: Spec) -> Any:
    if isinstance(value, Mapping):
        return {k: _resolved(v, tree) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolved(v, tree) for v in value]
    if not isinstance(value, str):
        return value
    if two := _TWO_VALUES.fullmatch(value):
        return yaml.load(f"[{two[1]}]", Loader=_LOADER)[1]
    if two := re.fullmatch(r"(.*?)(\$\{\w+:.*\})(.*)", value, re.DOTALL):
        return f"{two[1]}{_resolved(two[2], tree)}{two[3]}"
    if reference := _REFERENCE.fullmatch(value):
        found: object = tree
        for key in reference[1].split("."):
            if not isinstance(found, Mapping) or key not in found:
                return value
            found = found[key]
        return _resolved(found, tree)
    return value
