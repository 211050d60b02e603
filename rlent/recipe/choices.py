"""Choices: which option file sits in each group, composed by Hydra."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlent.errors import RecipeError, did_you_mean
from rlent.recipe.aliases import modern_config, modern_key
from rlent.recipe.values import flat
from rlent.seats import MANY, SINGLE
from rlent.system.paths import recipes_dir

if TYPE_CHECKING:
    from rlent.types import Json, JsonObject

CARD = "recipe"
EXPERIMENT = "experiment"  # a list of jobs, not a part of a recipe


def _toy(tiny: Json, real: Json, *, _root_: DictConfig) -> Json:
    return tiny if _root_.model.toy else real


OmegaConf.register_new_resolver("toy", _toy, replace=True)


@dataclass(frozen=True)
class Composed:
    """What Hydra made of the picks: the tree, the option chosen in each group, the file that each value is from, and notes on old names."""

    tree: DictConfig
    choices: JsonObject
    sources: dict[str, str]
    notes: list[str]


Menus = dict[str, dict[str, Path]]


def groups(config_dirs: Iterable[str | Path] = ()) -> Menus:
    """Every group and its option files; a folder given later adds to the shipped one."""
    found: Menus = {}
    for root in [recipes_dir(), *map(Path, config_dirs)]:
        for file in sorted(root.glob("*/**/*.yaml")):
            found.setdefault(file.parent.relative_to(root).as_posix(), {})[file.stem] = file
    return found


def group_of(override: Override) -> str:
    """The group that an override chooses in, if it is the name of one."""
    return override.key_or_group.split("@")[0]


def check_pick(pick: Override, menus: Menus) -> list[str]:
    """Why a group cannot be chosen like this, or nothing."""
    group = group_of(pick)
    if pick.is_sweep_override():
        return [f"{group}: '{pick.input_line}' is a sweep; add -m to run one job for each value"]
    if group == EXPERIMENT:
        return [f"{group}: '{pick.input_line}' is a list of jobs; add -m to run them"]
    if pick.is_delete():
        return []
    value = pick.value()
    if isinstance(value, list) and group not in MANY:
        return [f"{group}: takes one option, found a list {value}"]
    listed = value if isinstance(value, list) else [value]
    menu = menus[group]
    return [
        f"{group}: there is no '{v}'{did_you_mean(str(v), menu)} (options: {', '.join(sorted(menu)) or 'none'})"
        for v in listed
        if v is not None and str(v) not in menu and str(v) != "none"
    ]


def choose(picks: Sequence[Override], dirs: Sequence[Path]) -> Composed:
    """The tree of what was picked; `none` for a seat that takes one function empties it.

    Raises:
        RecipeError: Hydra cannot compose it.
    """
    empty = {group_of(p) for p in picks if group_of(p) in SINGLE and not p.is_delete() and str(p.value()) == "none"}
    found = copy.deepcopy(_composed(tuple(p.input_line or "" for p in picks if p.key_or_group not in empty), tuple(dirs)))
    for seat in empty:
        found.tree[seat], found.choices[seat] = None, "none"
        for key in [k for k in found.sources if k.startswith(f"{seat}.")]:
            del found.sources[key]
    return found


@lru_cache(maxsize=64)
def _composed(picks: tuple[str, ...], dirs: tuple[Path, ...]) -> Composed:
    search = [f"hydra.searchpath=[{','.join(f'file://{d}' for d in dirs)}]"] if dirs else []
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(recipes_dir().resolve()), version_base="1.3"):
            full = compose("config", overrides=[*search, *picks], return_hydra_config=True)
            listed = GlobalHydra.instance().config_loader().compute_defaults_list("config", [*search, *picks], RunMode.RUN).defaults
    except (HydraException, OmegaConfBaseException) as error:
        raise RecipeError([str(error).strip().replace("\n", " ")]) from error
    choices = {k: v for k, v in full.hydra.runtime.choices.items() if not k.startswith("hydra")}
    plain: Any = OmegaConf.to_container(full, resolve=False)
    del plain["hydra"]
    plain.update({seat: {} for seat in MANY if plain.get(seat) is None})
    sources: dict[str, str] = {}
    for default in listed:
        if default.config_path and not default.config_path.startswith("hydra/"):
            sources.update(_sources(default.config_path, default.package or "", dirs))
    now, notes = modern_config(plain)
    return Composed(OmegaConf.create(now), choices, {modern_key(k): v for k, v in sources.items()}, notes)


def _sources(config_path: str, package: str, dirs: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """The keys that a file sets, each with the file's name."""
    for root in [recipes_dir(), *dirs]:
        file = root / f"{config_path}.yaml"
        if file.is_file():
            raw = yaml.safe_load(file.read_text()) or {}
            for key in flat({k: v for k, v in raw.items() if k != "defaults"}):
                yield (f"{package}.{key}" if package else key), f"{config_path}.yaml"
