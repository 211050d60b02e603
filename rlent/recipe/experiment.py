"""Experiments: sweeps that are no product, written down in `recipes/experiment/*.yaml`.

A file has `jobs`, lines of overrides that are each a sweep of their own, and `with`, overrides of every job. Values may be
`${toy:a,b}`: a for the embedded model, b for a real one.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlent.errors import RecipeError, UsageError, did_you_mean
from rlent.recipe.compose import CARD, EXPERIMENT, groups, load, parse


@dataclass(frozen=True)
class Job:
    """A run of a sweep: what tells it from its sisters, and all of its overrides."""

    own: list[str]
    overrides: list[str]


def product(overrides: Sequence[Override]) -> list[list[str]]:
    """The overrides of each job: the product of the swept values, in Hydra's order."""
    return [list(job) for job in BasicSweeper.split_arguments(list(overrides), max_batch_size=None)[0]]


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
    models = [o for o in given if o.key_or_group.split(".")[0] == "model"]
    if any(o.is_sweep_override() for o in models):
        raise UsageError("an experiment is sized for one model; start it once for each")
    toy = bool(
        load(["recipe=grpo", *(o.input_line or "" for o in models if not o.key_or_group == "model.path")], config_dirs)["model"]["toy"]
    )
    lines, shared = _read(menu[name], toy)
    chosen = [o for o in given if o.key_or_group == CARD]
    rest = [o for o in given if o.key_or_group != CARD]
    if chosen:
        wanted = [job[0].partition("=")[2] for job in product(chosen[-1:])]
        kept = [line for line in lines if any(o.key_or_group == CARD and str(o.value()) in wanted for o in line)]
        has = sorted({str(o.value()) for line in lines for o in line if o.key_or_group == CARD})
        if missing := [w for w in wanted if w not in has]:
            raise RecipeError(
                [f"experiment {name}: no line has recipe={m}{did_you_mean(m, has)} (recipes: {', '.join(has)})" for m in missing]
            )
        lines = kept
    replaced = {o.key_or_group for o in rest}
    jobs = []
    for line in lines:
        whole = [*(o for o in (*line, *shared) if o.key_or_group not in replaced), *rest]
        common = {o.input_line for o in (*shared, *rest) if not o.is_sweep_override()}
        jobs += [Job([o for o in job if o not in common], job) for job in product(whole)]
    return jobs


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
