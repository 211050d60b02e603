"""Whether what the rollout engine reports of its draws may stand for the policy's own log-probabilities and entropies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlent.recipe.mount import Node, locate
from rlent.recipe.plan import Plan

if TYPE_CHECKING:
    from rlent.types import Config, Json

_COMPUTED = frozenset({"logp", "entropy"})
"""Streams that an engine can report; any other takes a pass over the policy."""


def changes_draws(node: Node) -> bool:
    """Whether a decode function changes what tokens are drawn from."""
    return "logits" in node.reads or bool(node.card.get("forces"))


def departures(plan: Plan, config: Config) -> list[str]:
    """Where the engine's numbers are not those of a pass over the policy; empty if they are, or nobody needs them."""
    sampler = config.get("sampler") or {}
    temperature = sampler.get("temperature")
    if not plan.from_sampler or not (plan.needs_look or temperature != 1):
        return []
    found = [f"old_{p} is asked for, which only the policy's own pass computes" for p in sorted((plan.look | plan.now) - _COMPUTED)]
    if temperature != 1:
        found.append(f"sampler.temperature is {temperature}, and entropy at temperature 1 takes the policy's own pass")
    for option, whole in (("top_p", 1), ("top_k", 0)):
        if sampler.get(option, whole) != whole:
            found.append(f"sampler.{option} is {sampler[option]}: tokens are drawn from a part of the policy's distribution")
    for node in plan.nodes["decode"]:
        if changes_draws(node):
            found.append(f"{node.path}: tokens are not drawn from the policy's distribution")
    for place, reason_of in (("sampler", _of_sampler), ("engine", _of_engine)):
        target = (config.get(place) or {}).get("_target_")
        if reason := reason_of(target):
            found.append(f"{place} {target}: {reason}")
    return [
        f"trainer.old_logprobs: rollout cannot take the place of the old-logprob pass here, because {reason}; recompute can"
        for reason in found
    ]


def _of_sampler(target: Json) -> str:
    """Why a sampler's rows may have other log-probabilities and entropies than the policy's, or an empty string."""
    own = _declared(target)
    if own is None or own.get("faithful"):
        return ""
    return "it does not say that all of its rows are drawn from the policy as it is (`faithful`)"


def _of_engine(target: Json) -> str:
    """Why an engine does not give the policy's own log-probabilities and exact entropies, or an empty string."""
    own = _declared(target)
    if own is None:
        return ""
    if "departs" not in own:
        return "it does not say that its log-probabilities and entropies are the policy's (`departs`)"
    return own["departs"]() or ""


def _declared(target: Json) -> Mapping[str, Any] | None:
    """What a class declares itself, without what it builds on; None if there is no such class, which is another problem of the recipe."""
    try:
        return vars(locate(target))
    except (ImportError, AttributeError, TypeError):
        return None
