"""Recipes: what to run, composed by Hydra, checked by us, all problems at once.

Hydra composes the groups (which file sits in which seat). Values given on the command line are applied here, with
Hydra's own parser, so that every problem of a recipe is found and printed together, before any weight is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from rlent.errors import RecipeError
from rlent.recipe import aliases
from rlent.recipe.build import BUILT, build, check_blocks, check_built, mount_all, user_dirs
from rlent.recipe.cautions import cautions
from rlent.recipe.choices import CARD, EXPERIMENT, Composed, check_pick, choose, group_of, groups
from rlent.recipe.mount import Node
from rlent.recipe.plan import Plan
from rlent.recipe.planning import make_plan
from rlent.recipe.values import apply, flat, missing, parse, resolve

if TYPE_CHECKING:
    from rlent.types import Config, Json, JsonObject

__all__ = [
    "CARD",
    "CHANGEABLE",
    "EXPERIMENT",
    "Recipe",
    "build",
    "check_built",
    "flat",
    "from_config",
    "groups",
    "load",
    "option",
    "parse",
    "with_values",
]

CHANGEABLE = ("data", "decode", "engine", "eval", "scale", "track")  # groups that may be chosen anew for a recipe that was composed before
_NEWER = {"stop": {"on": [], "collapse": 0.2, "explosion": 1.0}, "trainer": {"old_logprobs": "recompute"}}
"""Settings that the runs of earlier versions do not have, as those runs behaved."""


@dataclass(frozen=True)
class Recipe:
    """A composed, checked recipe. `config` is plain data (what the run folder keeps)."""

    name: str
    config: JsonObject
    plan: Plan
    overrides: list[str] = field(default_factory=list)
    choices: JsonObject = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    config_dirs: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __getitem__(self, key: str) -> Any:
        return self.config[key]

    def with_block(self, block: str, **values: Json) -> Recipe:
        """The same recipe with other values in a block of settings; this one stays as it is."""
        return replace(self, config={**self.config, block: {**(self.config.get(block) or {}), **values}})

    @property
    def nodes(self) -> dict[str, list[Node]]:
        """The mounted functions by seat."""
        return self.plan.nodes


# ---- recipes ----------------------------------------------------------------------------------------------------------


def load(overrides: Sequence[str] = (), config_dirs: Sequence[str | Path] = ()) -> Recipe:
    """Compose and check a recipe.

    Raises:
        RecipeError: with every problem found; nothing is loaded or written.
    """
    dirs = user_dirs(config_dirs)
    menus = groups(dirs)
    given = parse(overrides)
    picks = [o for o in given if group_of(o) in menus]
    if problems := [p for pick in picks for p in check_pick(pick, menus)]:
        raise RecipeError(problems)
    found = choose(picks, dirs)
    for value in given:
        if group_of(value) not in menus:
            problems.extend(apply(found.tree, value, found.sources, menus))
    found.notes.extend(note for note in aliases.notes(overrides) if note not in found.notes)
    return _finish(found, list(overrides), dirs, problems)


def from_config(config: Config, *, name: str = "", config_dirs: Sequence[str | Path] = ()) -> Recipe:
    """The recipe of a run folder: its composed configuration, checked again.

    Raises:
        RecipeError: this version does not take it.
    """
    dirs = user_dirs([d for d in config_dirs if Path(d).is_dir()])
    now, notes = aliases.modern_config(config)
    for block, settings in _NEWER.items():
        given = now.get(block)
        now[block] = {**settings, **(given or {})} if isinstance(given, Mapping | None) else given
    return _finish(Composed(OmegaConf.create(now), {}, {}, notes), [], dirs, [], name=name)


def with_values(config: Config, overrides: Sequence[str], config_dirs: Sequence[str | Path] = ()) -> JsonObject:
    """A composed configuration with values changed (`data.path=...`) and other files in the groups that do not decide what was trained
    (`eval=paper`, `data=gsm8k`); choosing other files of a seat or a model needs a new composition.

    Raises:
        RecipeError: an unknown key, an option that does not exist, or a group that cannot be chosen anew.
    """
    dirs = user_dirs([d for d in config_dirs if Path(d).is_dir()])
    menus = groups(dirs)
    tree, problems, values = OmegaConf.create(aliases.modern_config(config)[0]), [], []
    for override in parse(overrides):
        if override.key_or_group not in menus:
            values.append(override)
        elif override.key_or_group not in CHANGEABLE:
            problems.append(f"{override.key_or_group}: cannot be chosen anew for a run that was made (only {', '.join(CHANGEABLE)} can)")
        elif wrong := check_pick(override, menus):
            problems.extend(wrong)
        else:
            tree[override.key_or_group] = choose([override], dirs).tree[override.key_or_group]
    for value in values:
        problems.extend(apply(tree, value, {}, {}))
    if problems:
        raise RecipeError(problems)
    return resolve(tree, problems)


def option(group: str, name: str, values: Config, config: Config, config_dirs: Sequence[str | Path] = ()) -> JsonObject:
    """The block that option `name` of a group would be in a composed recipe, with some of its values set.

    Raises:
        RecipeError: no such option, no such value, or values that its class does not accept.
    """
    dirs = user_dirs([d for d in config_dirs if Path(d).is_dir()])
    pick = parse([f"{group}={name}"])[0]
    if problems := check_pick(pick, groups(dirs)):
        raise RecipeError(problems)
    tree = OmegaConf.create(dict(config))
    tree[group] = choose([pick], dirs).tree[group]
    for key, value in values.items():
        if absent := missing(tree, f"{group}.{key}"):
            problems.append(f"{group}.{key}: {absent}")
        else:
            OmegaConf.update(tree, f"{group}.{key}", value)
    block: JsonObject = resolve(tree, problems)[group]
    problems.extend(check_built(group, block) if group in BUILT else [])
    if problems:
        raise RecipeError(problems, where=f"{group}={name}")
    return block


def _finish(found: Composed, overrides: list[str], dirs: Sequence[Path], problems: list[str], name: str = "") -> Recipe:
    """Mount, check and plan what was composed.

    Raises:
        RecipeError: with every problem.
    """
    config = resolve(found.tree, problems)
    nodes = mount_all(config, problems)
    problems.extend(check_blocks(config))
    plan, unplanned = make_plan(nodes, config)
    problems.extend(unplanned)
    if problems:
        raise RecipeError(problems)
    name = name or str(found.choices.get(CARD) or (config.get("card") or {}).get("name") or "grpo")
    warnings = [*found.notes, *cautions(plan, config)]
    return Recipe(name, config, plan, overrides, found.choices, found.sources, list(map(str, dirs)), warnings)
