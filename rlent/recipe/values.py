"""Values of a composed recipe: overrides in Hydra's grammar, and what each of them changes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlent.errors import RecipeError
from rlent.recipe.aliases import modern_override

if TYPE_CHECKING:
    from rlent.types import Config, JsonObject

COMMAND_LINE = "command line"
_FREE = ("models", "card")  # blocks whose keys the user chooses
_MOST = 3  # keys of one name that are proposed


def parse(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides with Hydra's grammar; a key's old name is read as its new one.

    Raises:
        RecipeError: naming every override that does not parse.
    """
    parser, parsed, problems = OverridesParser.create(), [], []
    for text in overrides:
        try:
            override = parser.parse_override(modern_override(text)[0])
            if not override.key_or_group:
                raise HydraException("no key")
            parsed.append(override)
        except HydraException as error:
            reason = str(error).splitlines()[0]
            problems.append(f"'{text}' is not an override ({reason}); write key=value, +group=option or ~key")
    if problems:
        raise RecipeError(problems)
    return parsed


def flat(tree: Config, prefix: str = "") -> JsonObject:
    """Nested blocks as one mapping with dotted keys; an empty block stays as it is."""
    out: JsonObject = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = value
    return out


def apply(config: DictConfig, override: Override, sources: dict[str, str], menus: Collection[str]) -> list[str]:
    """Change one value in place and note its source; the problems, if it cannot be changed. `menus` are the groups, for a proposal."""
    key = override.key_or_group
    if override.is_sweep_override():
        return [f"{key}: '{override.input_line}' is a sweep; add -m to run one job for each value"]
    absent = missing(config, key)
    free = key.split(".")[0] in _FREE or key.startswith("eval.paths.")
    if override.is_delete():
        if absent:
            return [f"{key}: {absent}"]
        parent, _, leaf = key.rpartition(".")
        del (OmegaConf.select(config, parent) if parent else config)[leaf]
        return []
    if absent and not (override.is_add() or override.is_force_add() or free):
        return [f"{key}: {absent}{_proposal(key, flat(_plain(config)), menus)}"]
    OmegaConf.update(config, key, override.value(), merge=True, force_add=True)
    sources[key] = COMMAND_LINE
    return []


def missing(config: DictConfig, key: str) -> str:
    """Why `key` does not exist in the composed recipe, or an empty string."""
    node: object = _plain(config)
    walked: list[str] = []
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            place = ".".join(walked) or "the recipe"
            has = ", ".join(map(str, node)) if isinstance(node, Mapping) and node else "nothing"
            return f"{place} has no '{part}' here (it has: {has})"
        walked.append(part)
        node = node[part]
    return ""


def resolve(tree: DictConfig, problems: Sequence[str]) -> JsonObject:
    """Plain data, with every interpolation replaced by its value.

    Raises:
        RecipeError: an interpolation without a value, with the problems found before.
    """
    try:
        return OmegaConf.to_container(tree, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise RecipeError([*problems, str(error).splitlines()[0]]) from error


def _proposal(key: str, known: Config, menus: Collection[str]) -> str:
    """`; did you mean 'optim.lr'?`: keys that end in the same name, else the closest key, else keys that end in the closest name."""
    leaf = key.rpartition(".")[2]
    ends: dict[str, list[str]] = {}
    for place in known:
        if not place.startswith("card."):
            ends.setdefault(place.rpartition(".")[2], []).append(place)
    found = ends.get(leaf, [])
    if not 0 < len(found) <= _MOST:
        found = get_close_matches(key, [*known, *menus], n=1) or ends.get(next(iter(get_close_matches(leaf, ends, n=1)), ""), [])
    nearest = get_close_matches(key, found, n=_MOST, cutoff=0.0)
    return f"; did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""


def _plain(config: DictConfig) -> JsonObject:
    return OmegaConf.to_container(config, resolve=False)  # type: ignore[return-value]
