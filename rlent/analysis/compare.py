"""Several methods on one batch, beside plain GRPO: the tokens they act on, and where their gradients point."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlent.analysis.replay import Played, play
from rlent.analysis.source import Source, load_model
from rlent.errors import RecipeError, UsageError, did_you_mean
from rlent.policy.load import load_tokenizer
from rlent.policy.policy import Policy
from rlent.recipe import compose as recipes
from rlent.recipe.compose import Recipe
from rlent.types import JsonObject, Tokenizer

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

REFERENCE = "grpo"
_SEATS = ("sampler", "reward", "advantage", "shape", "loss", "regularize", "control", "probe")


# ---- recipes ----------------------------------------------------------------------------------------------------------


def compose(names: Sequence[str], overrides: Sequence[str], source: Source, config_dirs: Sequence[str] = ()) -> dict[str, Recipe]:
    """The recipes by name. A run's settings are kept, its seats are not.

    An override of a seat applies to the recipes that have what it names; others apply to all.

    Raises:
        RecipeError: an override that no recipe takes.
        UsageError: no recipe of that name.
    """
    dirs = [*source.config_dirs, *config_dirs]
    known = recipes.groups(dirs)["recipe"]
    for name in names:
        if name not in known:
            raise UsageError(f"recipe: there is no '{name}'{did_you_mean(name, known)} (recipes: {', '.join(sorted(known))})")
    found: dict[str, Recipe] = {}
    refused: dict[str, list[str]] = {}
    taken: set[str] = set()
    for name in names:
        mine = list(overrides)
        while name not in found:
            try:
                found[name] = recipes.load([f"recipe={name}", *_settings(source), *mine], dirs)
            except RecipeError as error:
                for o in (away := [o for o in mine if _seat_of(o) and _problems_of(o, error)]):
                    refused.setdefault(o, []).extend(_problems_of(o, error))
                if not away:
                    raise
                mine = [o for o in mine if o not in away]
        taken.update(mine)
        if source.config is not None:
            found[name] = replace(found[name], config={**found[name].config, "data": source.config["data"]})
    if nobody := [p for o, problems in refused.items() if o not in taken for p in problems]:
        raise RecipeError(nobody)
    return found


def _problems_of(override: str, error: RecipeError) -> list[str]:
    key = override.lstrip("+~").partition("=")[0]
    return [p for p in error.problems if p.startswith(f"{key}:")]


def _seat_of(override: str) -> str:
    first = override.lstrip("+~").partition("=")[0]
    return first.partition(".")[0] if "." in first and first.partition(".")[0] in _SEATS else ""


def _settings(source: Source) -> list[str]:
    """A run's own settings as overrides: the model, the steps and how they are cut, the sampling; not its seats."""
    config = source.config
    if config is None:
        alone = {
            "trainer.minibatches": 1,
            "trainer.epochs": 1,
            "seed": source.batch["seed"],
            "sampler.temperature": source.batch["temperature"],
        }
        return [f"{k}={v}" for k, v in alone.items()]
    keys = {
        "model": config["model"].keys(),
        "trainer": ("steps", "minibatches", "epochs", "max_tokens_per_microbatch"),
        "sampler": ("prompts", "n", "temperature", "top_p", "top_k", "max_tokens"),
    }
    lines = [f"seed={config['seed']}"]
    for block, names in keys.items():
        lines += [f"{block}.{k}={json.dumps(config[block][k])}" for k in names if config[block].get(k) is not None]
    return lines


# ---- comparing --------------------------------------------------------------------------------------------------------


@dataclass
class Comparison:
    """Several methods on one batch. `rows` are plain, one for each method; `overlap` Jaccard shares of the tokens they acted on."""

    source: Source
    played: list[Played]
    rows: list[JsonObject]
    overlap: dict[str, dict[str, float | None]]
    about: JsonObject

    def to_dict(self) -> JsonObject:
        return {"batch": self.source.label, **self.about, "methods": self.rows, "overlap": self.overlap}


def compare(source: Source, played: Sequence[Played]) -> Comparison:
    """Numbers against plain GRPO, which is among `played` under its own name."""
    base = next(p for p in played if p.label == REFERENCE)
    mask = source.batch["mask"]
    tokens = int((mask & source.batch["train"][:, None]).sum()) if "train" in source.batch else int(mask.sum())
    rows = []
    for p in played:
        if p.reason:
            rows.append({"method": p.label, "reason": p.reason})
            continue
        row: JsonObject = {"method": p.label, "loss": p.metrics.get("loss/policy")}
        row["selected"] = None if p.selected is None else float(p.selected.sum() / max(tokens, 1))
        row["selected_by"] = p.basis or None
        row["clipped"] = p.metrics.get("clip/share")
        row["reweighted"] = float(reweighted(p, base).sum() / max(tokens, 1)) if not base.reason else None
        row["differs"] = float(differing(p, base).sum() / max(tokens, 1)) if not base.reason else None
        row["logp_norm"] = float(np.linalg.norm(p.gradient))
        row["logp_cosine"] = _cosine(p.gradient, base.gradient)
        row["entropy_norm"] = float(np.linalg.norm(p.by_entropy)) if p.by_entropy.any() else 0.0
        if p.parameters is not None:
            row["parameter_norm"] = math.sqrt(sum(float(g.square().sum()) for g in p.parameters))
            row["parameter_cosine"] = _cosine_of(p.parameters, base.parameters) if base.parameters else None
        row |= {"d1": _finite(p.d1), "d2": _finite(p.d2), "notes": p.notes, "metrics": p.metrics}
        rows.append(row)
    acted = {p.label: p.selected if p.selected is not None else differing(p, base) for p in played if not p.reason and p is not base}
    overlap = {a: {b: _jaccard(x, y) for b, y in acted.items()} for a, x in acted.items()}
    about: JsonObject = {"rows": len(source.batch), "tokens": tokens, "step": int(source.batch["step"]), "reference": REFERENCE}
    if "after_entropy" in source.batch and "old_entropy" in source.batch:
        about["measured"] = float((source.batch["after_entropy"] - source.batch["old_entropy"])[mask].double().mean())
    return Comparison(source, list(played), rows, overlap, about)


def reweighted(p: Played, base: Played) -> Bools:
    """Tokens whose weight is not 1 and not the baseline's, beyond rounding (an importance weight of 1.000001 reweights nothing)."""
    return np.asarray((np.abs(p.weight - base.weight) > 1e-5) & (np.abs(p.weight - 1) > 1e-5))


def differing(a: Played, b: Played) -> Bools:
    """Tokens that two methods push differently, beyond rounding."""
    scale = max(float(np.abs(b.gradient).max(initial=0.0)), 1e-30)
    return np.asarray((np.abs(a.gradient - b.gradient) > 1e-5 * scale) | (a.by_entropy != b.by_entropy))


def _cosine(a: Floats, b: Floats) -> float | None:
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > 0 and a.shape == b.shape else None


def _cosine_of(a: Sequence[Tensor], b: Sequence[Tensor]) -> float | None:
    if len(a) != len(b):
        return None
    dot = sum(float(x @ y) for x, y in zip(a, b, strict=True))
    scale = math.sqrt(sum(float(x @ x) for x in a)) * math.sqrt(sum(float(y @ y) for y in b))
    return dot / scale if scale > 0 else None


def _jaccard(a: Bools, b: Bools) -> float | None:
    """Of the tokens in either set, the share in both; None if both are empty."""
    union = int((a | b).sum())
    return float((a & b).sum()) / union if union else None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def replay(
    source: Source,
    names: Sequence[str],
    overrides: Sequence[str] = (),
    *,
    config_dirs: Sequence[str] = (),
    policy: Policy | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Plain GRPO, the run's own recipe as it was, and the methods of `names`, on one batch."""
    wanted = list(dict.fromkeys([REFERENCE, *names]))
    composed = compose(wanted, overrides, source, config_dirs)
    todo: list[tuple[str, Recipe, bool]] = [(name, recipe, False) for name, recipe in composed.items()]
    if source.config is not None and not (source.kept and policy is None and source.name == REFERENCE and not source.overrides):
        own = recipes.from_config(source.config, name=source.name, config_dirs=source.config_dirs)
        todo.insert(1, (f"run ({source.name})", own, True))
    models: dict[str, Policy] = {}
    box: list[Tokenizer] = []

    def tokenizer() -> Tokenizer:
        if not box:
            block = source.config["model"] if source.config else composed[REFERENCE]["model"]
            wanted = {k: block[k] for k in ("path", "revision", "trust_remote_code")}
            box.append(policy.tokenizer if policy else load_tokenizer(**wanted)[0])
        return box[0]

    played = []
    for label, recipe, own_recipe in todo:
        say(label)
        if policy is not None:
            for name, spec in (recipe.config.get("models") or {}).items():
                if name in recipe.plan.models and name not in models:
                    blocks = recipe.config
                    models[name] = load_model(spec["path"], {**blocks, "model": {**blocks["model"], **spec}})
        played.append(play(recipe, source, label, policy=policy, models=models, tokenizer=tokenizer, own=own_recipe))
    if played[0].reason:
        raise UsageError(f"plain GRPO, which the others are compared with, cannot be replayed: {played[0].reason}")
    return compare(source, played)
