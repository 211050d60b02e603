"""A recipe in words, as `check` and `train --dry-run` print it."""

from __future__ import annotations

from rlent.recipe.compare import contrast_with_plain
from rlent.recipe.compose import Recipe


def describe(recipe: Recipe) -> list[str]:
    """What would run: what is not plain GRPO, the plan, the warnings."""
    changes = contrast_with_plain(recipe) or ["nothing"]
    lines = [f"recipe {recipe.name}", "differs from plain GRPO with the same model, data, engine, scale and evaluation in:"]
    lines += [f"  {line}" for line in changes]
    lines += ["plan:", *(f"  {line}" for line in recipe.plan.lines())]
    lines += [f"warning: {line}" for line in recipe.warnings]
    return lines
