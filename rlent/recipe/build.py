"""What a composed configuration names: its functions mounted as nodes, its blocks checked, its objects made."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlent.errors import RecipeError, did_you_mean
from rlent.ranks import launch
from rlent.recipe.mount import Node, locate, mount
from rlent.recipe.option_types import check_options, options_of
from rlent.recipe.settings import BLOCKS
from rlent.seats import MANY, SEATS, SINGLE

if TYPE_CHECKING:
    from rlent.types import Config, Json, JsonObject

BUILT = ("data", "engine")  # blocks built from a class that they name


# ---- checking ---------------------------------------------------------------------------------------------------------


def user_dirs(config_dirs: Sequence[str | Path]) -> list[Path]:
    """The user's folders, also made importable, so that a file beside a recipe works as its function.

    Raises:
        RecipeError: a folder that is not there.
    """
    dirs = []
    for given in config_dirs:
        path = Path(given).expanduser().resolve()
        if not path.is_dir():
            raise RecipeError([f"--config-dir: '{given}' is not a folder"])
        dirs.append(path)
        if str(path) not in sys.path:
            sys.path.append(str(path))
    return dirs


def mount_all(config: JsonObject, problems: list[str]) -> dict[str, list[Node]]:
    """The nodes of every seat, in the recipe's order. A seat without a function holds None afterwards, whatever stood for nothing."""
    nodes: dict[str, list[Node]] = {seat: [] for seat in SEATS}
    for seat in SINGLE:
        spec = config.get(seat)
        if not spec:
            config[seat] = None
        elif node := _sampler(spec, problems) if seat == "sampler" else mount(seat, seat, spec, problems):
            nodes[seat].append(node)
    for seat in MANY:
        for name, spec in (config.get(seat) or {}).items():
            if not isinstance(spec, Mapping):
                problems.append(f"{seat}.{name}: a node with _target_ is expected, found {spec!r}")
            elif node := mount(seat, str(name), spec, problems):
                nodes[seat].append(node)
    return nodes


def _sampler(spec: Config, problems: list[str]) -> Node | None:
    """The sampler as a node: what its class calls `turnable` are knobs, and its state is kept. The run makes the object."""
    if found := _check_built("sampler", spec):
        problems.extend(found)
        return None
    target = locate(spec["_target_"])
    options = {k: spec[k] for k in getattr(target, "turnable", ())}
    return Node("sampler", "sampler", "sampler", spec["_target_"], target, (), options, card=dict(spec.get("card") or {}), stateful=True)


def check_blocks(config: Config) -> list[str]:
    """Problems of the blocks that are not seats: their settings, blocks that nobody knows, ranks that do not divide."""
    problems: list[str] = []
    for block, settings in BLOCKS.items():
        given = config.get(block)
        if isinstance(given, Mapping):
            problems.extend(check_options(block, settings.__init__, given, "this block"))
        else:
            problems.append(f"{block}: a block of settings is expected, found {given!r}")
    if not isinstance(config.get("seed"), int) or isinstance(config.get("seed"), bool):
        problems.append(f"seed: {config.get('seed')!r} is not an int")
    known = {*BLOCKS, *SEATS, *BUILT, "seed", "models", "card"}
    problems.extend(f"{key}: not a block of a recipe{did_you_mean(str(key), known)}" for key in config if key not in known)
    for block in BUILT:
        problems.extend(_check_built(block, config.get(block)))
    for name, spec in (config.get("models") or {}).items():
        if not isinstance(spec, Mapping) or "path" not in spec:
            problems.append(f"models.{name}: needs a path, for example models.{name}.path=tiny")
    return problems or launch.indivisible(config)


def check_built(place: str, spec: Config, config_dirs: Sequence[str | Path] = ()) -> list[str]:
    """Problems of a block that names its class, by the options its class takes; empty if it can be built."""
    user_dirs(config_dirs)
    return _check_built(place, spec)


def _check_built(place: str, spec: Json) -> list[str]:
    """Problems of a block that names its class, nested blocks included (data.grader, sampler.keep)."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("_target_"), str):
        return [f"{place}: needs '_target_: package.module.Class', found {spec!r}"]
    try:
        target = locate(spec["_target_"])
    except ImportError as error:
        return [f"{place}: {error}"]
    maker = target.__init__ if isinstance(target, type) else target
    own = {"_target_"} | ({"streams", "card"} - options_of(maker).keys())
    given = {k: v for k, v in spec.items() if k not in own}
    nested = [k for k, v in given.items() if _is_block(v)]
    problems = [p for key in nested for p in _check_built(f"{place}.{key}", given[key])]
    found = check_options(place, maker, {**given, **dict.fromkeys(nested)}, spec["_target_"])
    return problems + [p for p in found if not p.startswith(tuple(f"{place}.{k}:" for k in nested))]


def _is_block(value: Json) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


# ---- making -----------------------------------------------------------------------------------------------------------


def build(spec: Config, **more: object) -> Any:
    """Make the object a checked block names; nested blocks are made first. Functions are bound to their options.

    Raises:
        RecipeError: a function that does not take the options it is given.
    """
    target = locate(spec["_target_"])
    made = {k: build(v) if _is_block(v) else v for k, v in spec.items() if k not in ("_target_", "streams", "card")}
    if isinstance(target, type):
        return target(**made, **more)
    problems: list[str] = []
    node = mount("reward", "keep", spec, problems)
    if node is None:
        raise RecipeError(problems)
    return node
