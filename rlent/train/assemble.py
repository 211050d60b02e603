"""From a recipe to the parts of a run: how a policy is loaded, its actor, its objective."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from rlent.policy.policy import Policy
from rlent.policy.shard import Sharding
from rlent.ranks import launch
from rlent.ranks.world import World
from rlent.recipe.compose import Recipe
from rlent.recipe.plan import Plan
from rlent.train.actor import Actor
from rlent.train.objective import Objective
from rlent.types import Config


def loading(model: Config, scale: Config) -> dict[str, object]:
    """How a policy is loaded: the options of `Policy.load` in the blocks `model` and `scale`."""
    known = {k: model[k] for k in ("path", "dtype", "attn", "revision", "trust_remote_code") if k in model}
    known |= {"device": scale["device"], "recompute": scale["recompute"], "packing": scale.get("packing", "auto")}
    known["compile"] = scale.get("compile", False)
    if scale["shard"] and launch.is_rank():
        compute = getattr(torch, scale["compute"]) if scale["compute"] else None
        known["sharding"] = Sharding(replicas=launch.copies(scale), compute=compute, offload=bool(scale["offload"]))
    return known


def load_policy(recipe: Recipe) -> Policy:
    """The policy with its optimizer."""
    trainer = recipe["trainer"]
    return Policy.load(
        **loading(recipe["model"], recipe["scale"]),
        optim=recipe["optim"],
        steps=int(trainer["steps"]),
        updates_per_step=int(trainer["minibatches"]) * int(trainer["epochs"]),
    )


def load_models(recipe: Recipe) -> dict[str, Policy]:
    """The frozen models that the plan asks, by name."""
    return {
        name: Policy.load(**loading({**recipe["model"], **spec}, recipe["scale"]))
        for name, spec in (recipe["models"] or {}).items()
        if name in recipe.plan.models
    }


def make_actor(
    recipe: Recipe, plan: Plan, policy: Policy | None, models: Mapping[str, Policy], world: World, kind: type[Actor] = Actor
) -> Actor:
    """The actor of a recipe: how its policy goes over a batch."""
    trainer = recipe["trainer"]
    return kind(
        policy,
        plan,
        models,
        world,
        temperature=float(recipe["sampler"]["temperature"]),
        minibatches=int(trainer["minibatches"]),
        epochs=int(trainer["epochs"]),
        tokens_per_part=int(trainer["max_tokens_per_microbatch"]),
        seed=int(recipe["seed"]),
    )


def make_objective(recipe: Recipe, plan: Plan, world: World) -> Objective:
    """The objective of a recipe."""
    settings = recipe["objective"]
    return Objective(
        plan,
        aggregate=settings["aggregate"],
        length=float(settings["length"] or recipe["sampler"]["max_tokens"]),
        empty_rows=bool(settings["empty_rows"]),
        world=world,
    )
