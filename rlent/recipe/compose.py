"""Recipes: what to run, composed by Hydra, checked by us, all problems at once.

Hydra composes the groups (which file sits in which seat). Values given on the command line are applied here, with
Hydra's own parser, so that every problem of a recipe is found and printed together, before any weight is loaded.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlent.errors import RecipeError, did_you_mean
from rlent.ranks import launch
from rlent.recipe.mount import Node, locate, mount
from rlent.recipe.option_types import check_options, options_of
from rlent.recipe.plan import Plan
from rlent.recipe.settings import BLOCKS, RESUMABLE
from rlent.seats import MANY, SEATS, SINGLE
from rlent.system.paths import recipes_dir

BUILT = ("data", "engine")  # blocks built from a class that they name
CHANGEABLE = ("data", "decode", "engine", "eval", "scale", "track")  # groups that may be chosen anew for a recipe that was composed before
CARD = "recipe"
EXPERIMENT = "experiment"  # a list of jobs, not a part of a recipe


def _toy(tiny: Any, real: Any, *, _root_: Any) -> Any:
    return tiny if _root_.model.toy else real


OmegaConf.register_new_resolver("toy", _toy, replace=True)


@dataclass
class Recipe:
    """A composed, checked recipe. `config` is plain data (what the run folder keeps)."""

    name: str
    config: dict[str, Any]
    nodes: dict[str, list[Node]]
    plan: Plan
    overrides: list[str]
    choices: dict[str, Any]
    sources: dict[str, str] = field(default_factory=dict)
    config_dirs: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def __getitem__(self, key: str) -> Any:
        return self.config[key]

    def with_block(self, block: str, **values: Any) -> Recipe:
        """The same recipe with other values in a block of settings; this one stays as it is."""
        return replace(self, config={**self.config, block: {**(self.config.get(block) or {}), **values}})


def groups(config_dirs: Iterable[str | Path] = ()) -> dict[str, dict[str, Path]]:
    """Every group and its option files; a folder given later adds to the shipped one."""
    found: dict[str, dict[str, Path]] = {}
    for root in [recipes_dir(), *map(Path, config_dirs)]:
        for file in sorted(root.glob("*/**/*.yaml")):
            found.setdefault(file.parent.relative_to(root).as_posix(), {})[file.stem] = file
    return found


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides with Hydra's grammar.

    Raises:
        RecipeError: naming every override that does not parse.
    """
    parser, parsed, problems = OverridesParser.create(), [], []
    for text in overrides:
        try:
            override = parser.parse_override(text)
            if not override.key_or_group:
                raise HydraException("no key")
            parsed.append(override)
        except HydraException as error:
            reason = str(error).splitlines()[0]
            problems.append(f"'{text}' is not an override ({reason}); write key=value, +group=option or ~key")
    if problems:
        raise RecipeError(problems)
    return parsed


def load(overrides: Sequence[str] = (), config_dirs: Sequence[str | Path] = ()) -> Recipe:
    """Compose and check a recipe.

    Raises:
        RecipeError: with every problem found; nothing is loaded or written.
    """
    dirs = _user_dirs(config_dirs)
    menus = groups(dirs)
    problems: list[str] = []
    picks, values = [], []
    for override in parse(overrides):
        (picks if override.key_or_group.split("@")[0] in menus else values).append(override)
    for pick in picks:
        problems.extend(_check_pick(pick, menus))
    if problems:
        raise RecipeError(problems)
    empty = [p.key_or_group for p in picks if p.key_or_group in SINGLE and not p.is_delete() and str(p.value()) == "none"]
    config, choices, sources = _compose([p.input_line for p in picks if p.key_or_group not in empty], dirs)
    for seat in empty:
        config[seat], choices[seat] = None, "none"
        sources = {k: v for k, v in sources.items() if not k.startswith(f"{seat}.")}
    for value in values:
        problems.extend(_apply(config, value, sources, menus))
    return _finish(config, choices, sources, list(overrides), [str(d) for d in dirs], problems)


def from_config(config: Mapping[str, Any], *, name: str = "", config_dirs: Sequence[str | Path] = ()) -> Recipe:
    """The recipe of a run folder: its composed configuration, checked again."""
    dirs = _user_dirs([d for d in config_dirs if Path(d).is_dir()])
    trainer = {"look_back": "policy", **(config.get("trainer") or {})}  # runs from before there was such a setting, or such a block
    tree = OmegaConf.create({"stop": {"on": [], "collapse": 0.2, "explosion": 1.0}, **config, "trainer": trainer})
    return _finish(tree, {}, {}, [], [str(d) for d in dirs], [], name=name)


def with_values(config: Mapping[str, Any], overrides: Sequence[str], config_dirs: Sequence[str | Path] = ()) -> dict[str, Any]:
    """A composed configuration with values changed (`data.path=...`) and other files in the groups that do not decide what was trained
    (`eval=paper`, `data=gsm8k`); choosing other files of a seat or a model needs a new composition.

    Raises:
        RecipeError: an unknown key, an option that does not exist, or a group that cannot be chosen anew.
    """
    dirs = _user_dirs([d for d in config_dirs if Path(d).is_dir()])
    menus = groups(dirs)
    tree, problems, values = OmegaConf.create(dict(config)), [], []
    for override in parse(overrides):
        if override.key_or_group not in menus:
            values.append(override)
        elif override.key_or_group not in CHANGEABLE:
            problems.append(f"{override.key_or_group}: cannot be chosen anew for a run that was made (only {', '.join(CHANGEABLE)} can)")
        elif wrong := _check_pick(override, menus):
            problems.extend(wrong)
        else:
            tree[override.key_or_group] = _compose([override.input_line], dirs)[0][override.key_or_group]
    for value in values:
        problems.extend(_apply(tree, value, {}, {}))
    if problems:
        raise RecipeError(problems)
    return OmegaConf.to_container(tree, resolve=True)  # type: ignore[return-value]


def option(
    group: str, name: str, values: Mapping[str, Any], config: Mapping[str, Any], config_dirs: Sequence[str | Path] = ()
) -> dict[str, Any]:
    """The block that option `name` of a group would be in a composed recipe, with some of its values set.

    Raises:
        RecipeError: no such option, no such value, or values that its class does not accept.
    """
    dirs = _user_dirs([d for d in config_dirs if Path(d).is_dir()])
    pick = parse([f"{group}={name}"])[0]
    if problems := _check_pick(pick, groups(dirs)):
        raise RecipeError(problems)
    tree = OmegaConf.create(dict(config))
    tree[group] = _compose([pick.input_line], dirs)[0][group]
    for key, value in values.items():
        if missing := _missing(tree, f"{group}.{key}"):
            problems.append(f"{group}.{key}: {missing}")
        else:
            OmegaConf.update(tree, f"{group}.{key}", value)
    block: dict[str, Any] = _resolve(tree, problems)[group]
    problems.extend(_check_built(group, block) if group in BUILT else [])
    if problems:
        raise RecipeError(problems, where=f"{group}={name}")
    return block


def _finish(
    tree: DictConfig,
    choices: dict[str, Any],
    sources: dict[str, str],
    overrides: list[str],
    dirs: list[str],
    problems: list[str],
    name: str = "",
) -> Recipe:
    config = _resolve(tree, problems)
    nodes = _mount_all(config, problems)
    problems.extend(_check_blocks(config) or launch.indivisible(config))
    plan = Plan.make(nodes, config, problems)
    if problems:
        raise RecipeError(problems)
    name = name or str(choices.get(CARD) or (config.get("card") or {}).get("name") or "grpo")
    return Recipe(name, config, nodes, plan, overrides, choices, sources, dirs, plan.warnings)


def _user_dirs(config_dirs: Sequence[str | Path]) -> list[Path]:
    """The user's folders, also made importable, so that a file beside a recipe works as its function."""
    dirs = []
    for given in config_dirs:
        path = Path(given).expanduser().resolve()
        if not path.is_dir():
            raise RecipeError([f"--config-dir: '{given}' is not a folder"])
        dirs.append(path)
        if str(path) not in sys.path:
            sys.path.append(str(path))
    return dirs


def _check_pick(pick: Override, menus: dict[str, dict[str, Path]]) -> list[str]:
    group = pick.key_or_group.split("@")[0]
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


def _compose(picks: list[str], dirs: list[Path]) -> tuple[DictConfig, dict[str, Any], dict[str, str]]:
    return copy.deepcopy(_composed(tuple(picks), tuple(dirs)))


@lru_cache(maxsize=64)
def _composed(picks: tuple[str, ...], dirs: tuple[Path, ...]) -> tuple[DictConfig, dict[str, Any], dict[str, str]]:
    search = [f"hydra.searchpath=[{','.join(f'file://{d}' for d in dirs)}]"] if dirs else []
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(recipes_dir().resolve()), version_base="1.3"):
            full = compose("config", overrides=[*search, *picks], return_hydra_config=True)
            choices = {k: v for k, v in full.hydra.runtime.choices.items() if not k.startswith("hydra")}
            defaults = GlobalHydra.instance().config_loader().compute_defaults_list("config", [*search, *picks], RunMode.RUN).defaults
    except (HydraException, OmegaConfBaseException) as error:
        raise RecipeError([str(error).strip().replace("\n", " ")]) from error
    tree = OmegaConf.create({k: v for k, v in OmegaConf.to_container(full, resolve=False).items() if k != "hydra"})  # type: ignore[union-attr]
    for seat in MANY:
        if tree.get(seat) is None:
            tree[seat] = {}
    sources: dict[str, str] = {}
    for default in defaults:
        if default.config_path and not default.config_path.startswith("hydra/"):
            _note_sources(default.config_path, default.package or "", list(dirs), sources)
    return tree, choices, sources


def _note_sources(config_path: str, package: str, dirs: list[Path], sources: dict[str, str]) -> None:
    for root in [recipes_dir(), *dirs]:
        file = root / f"{config_path}.yaml"
        if file.is_file():
            raw = yaml.safe_load(file.read_text()) or {}
            for key in _flat({k: v for k, v in raw.items() if k != "defaults"}):
                sources[f"{package}.{key}" if package else key] = f"{config_path}.yaml"


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            out.update(_flat(value, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = value
    return out


flat = _flat


def _apply(config: DictConfig, override: Override, sources: dict[str, str], menus: Mapping[str, Any]) -> list[str]:
    key = override.key_or_group
    if override.is_sweep_override():
        return [f"{key}: '{override.input_line}' is a sweep; add -m to run one job for each value"]
    missing = _missing(config, key)
    free = key.split(".")[0] in ("models", "card") or key.startswith("eval.paths.")
    if override.is_delete():
        if missing:
            return [f"{key}: {missing}"]
        parent, _, leaf = key.rpartition(".")
        del (OmegaConf.select(config, parent) if parent else config)[leaf]
        return []
    if missing and not (override.is_add() or override.is_force_add() or free):
        known = set(_flat(OmegaConf.to_container(config, resolve=False))) | set(menus)  # type: ignore[arg-type]
        return [f"{key}: {missing}{did_you_mean(key, known)}"]
    OmegaConf.update(config, key, override.value(), merge=True, force_add=True)
    sources[key] = "command line"
    return []


def _missing(config: DictConfig, key: str) -> str:
    """Why `key` does not exist in the composed recipe, or an empty string."""
    node: Any = config
    walked: list[str] = []
    for part in key.split("."):
        if not isinstance(node, DictConfig) or part not in node:
            place = ".".join(walked) or "the recipe"
            has = ", ".join(map(str, node.keys())) if isinstance(node, DictConfig) and len(node) else "nothing"
            return f"{place} has no '{part}' here (it has: {has})"
        walked.append(part)
        node = node._get_node(part) if isinstance(node, DictConfig) else None
    return ""


def _resolve(tree: DictConfig, problems: list[str]) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(tree, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise RecipeError([*problems, str(error).splitlines()[0]]) from error


def _mount_all(config: dict[str, Any], problems: list[str]) -> dict[str, list[Node]]:
    nodes: dict[str, list[Node]] = {seat: [] for seat in SEATS}
    for seat in SINGLE:
        spec = config.get(seat)
        if not spec:
            if seat in ("sampler", "advantage", "loss"):
                config[seat] = None
            continue
        if seat == "sampler":
            before = len(problems)
            problems.extend(_check_built("sampler", spec))
            if len(problems) == before:
                nodes[seat].append(_sampler(spec))
            continue
        node = mount(seat, seat, spec, problems)
        if node:
            nodes[seat].append(node)
    for seat in MANY:
        for name, spec in (config.get(seat) or {}).items():
            if not isinstance(spec, Mapping):
                problems.append(f"{seat}.{name}: a node with _target_ is expected, found {spec!r}")
                continue
            node = mount(seat, str(name), spec, problems)
            if node:
                nodes[seat].append(node)
    return nodes


def _sampler(spec: Mapping[str, Any]) -> Node:
    """The sampler as a node: what its class calls `turnable` are knobs, and its state is kept. The run makes the object."""
    target = locate(spec["_target_"])
    options = {k: spec[k] for k in getattr(target, "turnable", ())}
    return Node("sampler", "sampler", "sampler", spec["_target_"], target, (), options, card=dict(spec.get("card") or {}), stateful=True)


def _check_blocks(config: Mapping[str, Any]) -> list[str]:
    problems: list[str] = []
    for block, settings in BLOCKS.items():
        given = config.get(block)
        if not isinstance(given, Mapping):
            problems.append(f"{block}: a block of settings is expected, found {given!r}")
            continue
        problems.extend(check_options(block, settings.__init__, given, "this block"))
    if not isinstance(config.get("seed"), int) or isinstance(config.get("seed"), bool):
        problems.append(f"seed: {config.get('seed')!r} is not an int")
    known = {*BLOCKS, *SEATS, *BUILT, "seed", "models", "card"}
    problems.extend(f"{key}: not a block of a recipe{did_you_mean(str(key), known)}" for key in config if key not in known)
    for block in BUILT:
        problems.extend(_check_built(block, config.get(block)))
    for name, spec in (config.get("models") or {}).items():
        if not isinstance(spec, Mapping) or "path" not in spec:
            problems.append(f"models.{name}: needs a path, for example models.{name}.path=tiny")
    return problems


def _check_built(place: str, spec: Any) -> list[str]:
    """Problems of a block that names its class, nested blocks included (data.grader, sampler.keep)."""
    if not isinstance(spec, Mapping) or not isinstance(spec.get("_target_"), str):
        return [f"{place}: needs '_target_: package.module.Class', found {spec!r}"]
    try:
        target = locate(spec["_target_"])
    except ImportError as error:
        return [f"{place}: {error}"]
    maker = target.__init__ if isinstance(target, type) else target
    given = {k: v for k, v in spec.items() if k != "_target_" and (k not in ("streams", "card") or k in options_of(maker))}
    problems = []
    for key, value in given.items():
        if isinstance(value, Mapping) and "_target_" in value:
            problems.extend(_check_built(f"{place}.{key}", value))
            given = {**given, key: None}
    nested = {k for k, v in spec.items() if isinstance(v, Mapping) and "_target_" in v}
    found = check_options(place, maker, given, spec["_target_"])
    return problems + [p for p in found if not any(p.startswith(f"{place}.{k}:") for k in nested)]


def check_built(place: str, spec: Mapping[str, Any], config_dirs: Sequence[str | Path] = ()) -> list[str]:
    """Problems of a block that names its class, by the options its class takes; empty if it can be built."""
    _user_dirs(config_dirs)
    return _check_built(place, spec)


def build(spec: Mapping[str, Any], **more: Any) -> Any:
    """Make the object a checked block names; nested blocks are made first. Functions are bound to their options."""
    target = locate(spec["_target_"])
    made = {
        k: build(v) if isinstance(v, Mapping) and "_target_" in v else v
        for k, v in spec.items()
        if k not in ("_target_", "streams", "card")
    }
    if isinstance(target, type):
        return target(**made, **more)
    problems: list[str] = []
    node = mount("reward", "keep", spec, problems)
    if node is None:
        raise RecipeError(problems)
    return node


@lru_cache(maxsize=1)
def baseline() -> dict[str, Any]:
    """Plain GRPO, flat: what a recipe is compared with."""
    return _flat(load(["recipe=grpo"]).config)


def differences(config: Mapping[str, Any]) -> list[str]:
    """The lines in which a recipe differs from plain GRPO; sorted, `key: theirs -> ours`."""
    base, mine = baseline(), _flat(config)
    lines = []
    for key in sorted({*base, *mine}):
        if key.startswith(("card.", "data.card.")) or base.get(key, ...) == mine.get(key, ...):
            continue
        lines.append(f"{key}: {base.get(key, '-')} -> {mine.get(key, '-')}")
    return lines


def identity(config: Mapping[str, Any]) -> list[str]:
    """What makes a run another than plain GRPO, without what a resumed run may change."""
    free = tuple(f"{key}: " for key in RESUMABLE) + ("run.", "scale.", "track.", "checkpoint.", "eval.", "stop.")
    return [line for line in differences(config) if not line.startswith(free)]


def contrast(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> list[str]:
    """Two recipes' differences in a few lines: functions that go and come, by place, then values that change, `key: theirs -> ours`."""
    one, other = ({k: v for k, v in _flat(c).items() if not k.startswith(("card.", "run.")) and ".card." not in k} for c in (theirs, ours))
    places = [{k.removesuffix("._target_"): v for k, v in c.items() if k.endswith("._target_")} for c in (one, other)]
    gone = [p for p in places[0] if p not in places[1]]
    came = [p for p in places[1] if p not in places[0]]
    swapped = [p for p in places[0] if p in places[1] and places[0][p] != places[1][p]]
    lines = []
    if gone:
        lines.append(f"without {', '.join(gone)}")
    if came:
        lines.append(f"with {', '.join(_said(p, other) for p in came)}")
    lines += [f"{p}: {places[0][p].rpartition('.')[2]} -> {_said(p, other)}" for p in swapped]
    covered = tuple(f"{p}." for p in (*gone, *came, *swapped))
    for key in sorted({*one, *other}):
        values = [c.get(key, "-") for c in (one, other)]
        if "-" in values and key.split(".")[0] not in (*SEATS, "models"):
            continue  # a setting that one of them, made with another version, does not have
        if values[0] != values[1] and not key.startswith(covered) and values not in (["-", {}], [{}, "-"]):
            lines.append(f"{key}: {values[0]} -> {values[1]}")
    return lines


def _said(place: str, config: Mapping[str, Any]) -> str:
    """`shape.clip_cov(fraction=0.02, low=1.0)`"""
    options = {k.removeprefix(f"{place}."): v for k, v in config.items() if k.startswith(f"{place}.") and not k.endswith("_target_")}
    name = place if "." in place else str(config.get(f"{place}._target_", place)).rpartition(".")[2]
    return f"{name}({', '.join(f'{k}={v}' for k, v in options.items())})"
