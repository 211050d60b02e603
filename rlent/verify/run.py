"""Vector files against the recipes that the cards map them to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlent.errors import RlentError, did_you_mean
from rlent.verify import vectors
from rlent.verify.case import Case
from rlent.verify.cases.advantage import AdvantageCase
from rlent.verify.cases.call import CallCase, CalledObjectCase, MountedObjectCase
from rlent.verify.cases.decode import DecodeCase
from rlent.verify.cases.metric import METRICS, compare_metric
from rlent.verify.cases.node import AdaptedCase, ControlCase, FilterCase, NodeCase, ProbeCase, RewardCase
from rlent.verify.cases.objective import ObjectiveCase, SelectionCase
from rlent.verify.compare import Check
from rlent.verify.grammar import Block, Golden, goldens
from rlent.verify.vectors import Vector

SEAT_CASES: Mapping[str, type[Case]] = {
    "decode": DecodeCase,
    "sampler": FilterCase,
    "control": ControlCase,
    "reward": RewardCase,
    "probe": ProbeCase,
}
KIND_CASES: Mapping[str, type[Case]] = {
    "policy_loss": ObjectiveCase,
    "logits_loss": ObjectiveCase,
    "loss": ObjectiveCase,
    "selection_property": SelectionCase,
    "advantage": AdvantageCase,
}


def case_for(block: Block, kind: str) -> type[Case] | type[CallCase] | None:
    """The kind of case that a block asks for, on vectors of a kind; None if there is none."""
    if block.call:
        return CalledObjectCase if block.method else CallCase
    if block.method:
        return MountedObjectCase
    if block.node:
        return AdaptedCase if block.adapter else SEAT_CASES.get(block.node.partition(".")[0], NodeCase)
    return KIND_CASES.get(block.as_ or kind)


def check_file(file: Path, known: Mapping[str, Sequence[Golden]], config_dirs: Sequence[str] = ()) -> Check:
    """Run one vector file; what goes wrong is a failure of the check."""
    vector = vectors.read(file)
    check = Check(vector.file, vector.method, vector.reference)
    try:
        if vector.kind == "metric" and vector.method in METRICS:
            check.through = "metric"
            compare_metric(vector, check)
        elif vector.method not in known:
            check.failures.append(f"no card verifies '{vector.method}'{did_you_mean(vector.method, known)}")
        else:
            for golden in known[vector.method]:
                _check_blocks(vector, golden, config_dirs, check)
    except (RlentError, KeyError, ValueError, TypeError, RuntimeError, IndexError) as error:
        check.failures.append(f"{type(error).__name__}: {str(error).strip()}")
    if not check.compared and not check.failures:
        check.failures.append(f"the golden block compares none of the file's outputs ({', '.join(vector.outputs)})")
    return check


def _check_blocks(vector: Vector, golden: Golden, config_dirs: Sequence[str], check: Check) -> None:
    for block in golden.blocks:
        case = case_for(block, vector.kind)
        if case is None:
            check.failures.append(f"no rule for vectors of kind '{vector.kind}'")
            continue
        before = check.compared
        case(vector, golden, block, config_dirs).run(check)
        if check.compared > before and check.through != "recipe":
            check.through = case.through


def check_folder(folder: Path, only: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> list[Check]:
    """Run every vector file of a folder; with `only`, those of the named methods or recipes.

    Raises:
        UsageError: no such folder, no vectors, or a name of `only` without vectors.
        RecipeError: a card's `golden:` block that is not in the grammar.
    """
    known = goldens(config_dirs)
    by_recipe: dict[str, list[str]] = {}
    for method, golden in ((m, g) for m, each in known.items() for g in each):
        by_recipe.setdefault(golden.recipe, []).append(method)
    return [check_file(f, known, config_dirs) for f in vectors.choose(folder, only, by_recipe)]
