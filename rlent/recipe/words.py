"""The sentences in which a plan is printed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from rlent.recipe.mount import Node

_WHEN = {"step": "once a step", "minibatch": "once a minibatch", "live": "inside the update"}


def before_updates(needed: bool, from_sampler: bool, looked: Set[str]) -> str:
    """The old-logprob pass, or why there is none."""
    if not needed:
        return "old-logprob pass: none (one update a step, old_logp is the live log-probability)"
    if from_sampler:
        return "old-logprob pass: none (trainer.old_logprobs=rollout: old_entropy, old_logp are what the engine reported as it sampled)"
    return f"old-logprob pass: one forward without gradient for {_names({'logp', 'entropy'} | looked, 'old_')}"


def frozen_models(models: Mapping[str, Set[str]]) -> Iterator[str]:
    """What each frozen model computes."""
    for model, wanted in sorted(models.items()):
        if seen := wanted - {"reward", "logits"}:
            yield f"model {model}: one forward without gradient for {_names(seen, model + '_')}"
        elif "logits" not in wanted:
            yield f"model {model}: answers every prompt beside the policy, for {model}_reward"
        if "logits" in wanted:
            yield f"model {model}: reads every token drawn, for {model}_logits"


def before_each_update(now: Set[str]) -> str:
    """The pass over a minibatch before its update."""
    return f"before each update but the first of a step: one forward without gradient for {_names(now, 'now_')}"


def update(grad: Set[str], live: Set[str]) -> str:
    """The pass with gradient."""
    return f"update: forward with gradient for {_names(grad or {'logp'})}; without for {_names(live - grad) or 'nothing more'}"


def node(node: Node, *, lifted: bool) -> str:
    """When a function runs, and what it reads. `lifted`: live shapes run on the whole minibatch."""
    reads = f"reads {', '.join(node.reads)}"
    if node.seat == "decode":
        return f"{node.path}: {'around the engine' if 'requests' in node.reads else 'at every token drawn'}; {reads}"
    if node.seat == "probe":
        return f"{node.path}: on the logits, chunk by chunk"
    if node.scope == "microbatch" and node.when != "live":
        return f"{node.path}: inside the update, micro-batch by micro-batch; {reads}"
    if lifted and node.seat == "shape" and node.when == "live":
        return f"{node.path}: once a minibatch (lifted); {reads}"
    return f"{node.path}: {_WHEN[node.when]}; {reads}"


def _names(names: Set[str], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{n}" for n in sorted(names))
