"""Experiments: sweeps that are no product, written down in `recipes/experiment/*.yaml`.

A file has `jobs`, lines of overrides that are each a sweep of their own, and `with`, overrides of every job. Values may be
`${toy:a,b}`: a for the embedded model, b for a real one.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlent.errors import RecipeError, UsageError, did_you_mean
from rlent.recipe.choices import CARD, EXPERIMENT, groups
from rlent.recipe.compose import load
from rlent.recipe.values import parse


@dataclass(frozen=True)
class Job:
    """A run of a sweep: what tells it from its sisters, and all of its overrides."""

    own: list[str]
    overrides: list[str]


def product(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job: the product of the swept values, the last one fastest. A key given twice has its last values.

    Raises:
        UsageError: a sweep without a list of values.
    """
    values: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise UsageError(f"{key}: '{override.input_line}' has no list of values to run a job for (key=a,b or key=range(...) has)")
    return [list(job) for job in itertools.product(*values.values())]


def named(overrides: Sequence[str]) -> str | None:
    """The experiment that a command names.

    Raises:
        UsageError: more than one.
    """
    found = [o for o in parse(overrides) if o.key_or_group == EXPERIMENT]
    if not found:
        return None
    if len(found) > 1 or found[0].is_sweep_override() or found[0].is_delete():
        raise UsageError("one experiment at a time: +experiment=NAME")
    return str(found[0].value())


def expand(name: str, overrides: Sequence[str], config_dirs: Sequence[str | Path] = ()) -> list[Job]:
    """The jobs of an experiment. What the command line says replaces the file's values of the same name; `recipe=` chooses lines.

    Raises:
        RecipeError: no such experiment, a file that is none, or a recipe that no line has.
    """
    menu = groups(config_dirs).get(EXPERIMENT, {})
    if name not in menu:
        raise RecipeError(
            [f"experiment: there is no '{name}'{did_you_mean(name, menu)} (experiments: {', '.join(sorted(menu)) or 'none'})"]
        )
    given = [o for o in parse(overrides) if o.key_or_group != EXPERIMENT]
    lines, shared = _read(menu[name], _is_toy(given, config_dirs))
    lines = _chosen(name, lines, [o for o in given if o.key_or_group == CARD])
    rest = [o for o in given if o.key_or_group != CARD]
    return [job for line in lines for job in _jobs(line, shared, rest)]


def _jobs(line: Sequence[Override], shared: Sequence[Override], given: Sequence[Override]) -> list[Job]:
    """The jobs of one line, without the file's overrides that the command line replaces."""
    replaced = {o.key_or_group for o in given}
    common = {o.input_line for o in (*shared, *given) if not o.is_sweep_override()}
    found = product([*(o for o in (*line, *shared) if o.key_or_group not in replaced), *given])
    return [Job([o for o in job if o not in common], job) for job in found]


def _is_toy(given: Sequence[Override], config_dirs: Sequence[str | Path]) -> bool:
    """Whether the command's model is the embedded one, for which an experiment has sizes of its own.

    Raises:
        UsageError: several models.
    """
    models = [o for o in given if o.key_or_group.split(".")[0] == "model"]
    if any(o.is_sweep_override() for o in models):
        raise UsageError("an experiment is sized for one model; start it once for each")
    picks = [o.input_line or "" for o in models if o.key_or_group != "model.path"]
    return bool(load(["recipe=grpo", *picks], config_dirs)["model"]["toy"])


def _chosen(name: str, lines: list[list[Override]], asked: Sequence[Override]) -> list[list[Override]]:
    """The lines of the recipes that `recipe=` names; all of them, if it is not given.

    Raises:
        RecipeError: recipes that no line has.
    """
    if not asked:
        return lines
    wanted = [job[0].partition("=")[2] for job in product(asked[-1:])]
    cards = [{str(o.value()) for o in line if o.key_or_group == CARD} for line in lines]
    has = sorted({card for of_line in cards for card in of_line})
    if absent := [w for w in wanted if w not in has]:
        raise RecipeError([f"experiment {name}: no line has recipe={m}{did_you_mean(m, has)} (recipes: {', '.join(has)})" for m in absent])
    return [line for line, of_line in zip(lines, cards, strict=True) if of_line & set(wanted)]


def _read(file: Path, toy: bool) -> tuple[list[list[Override]], list[Override]]:
    """The lines and the shared overrides of a file, its `${toy:a,b}` resolved."""
    try:
        tree = OmegaConf.load(file)
        document: Any = OmegaConf.to_container(OmegaConf.merge({"model": {"toy": toy}}, tree), resolve=True)
        lines, shared = document["jobs"], document.get("with") or []
        if not lines or not all(isinstance(x, list) and all(isinstance(o, str) for o in x) for x in (lines, shared)):
            raise ValueError("`jobs` and `with` are lists of overrides, as on the command line")
    except (OmegaConfBaseException, KeyError, ValueError, TypeError) as error:
        raise RecipeError([f"{file}: not an experiment ({type(error).__name__}: {error})"]) from error
    return [parse(shlex.split(line)) for line in lines], parse([x for one in shared for x in shlex.split(one)])
