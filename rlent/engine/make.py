"""From a recipe's `engine` block to an engine for a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

from rlent.engine.base import Engine
from rlent.errors import UsageError
from rlent.policy.load import ModelTokenizer
from rlent.policy.policy import Policy
from rlent.recipe.mount import Node, locate


def make_engine(spec: Mapping[str, Any], policy: Policy, decode: Sequence[Node] = (), models: Mapping[str, Policy] | None = None) -> Engine:
    """The engine the recipe names, sampling from the policy's weights, ready for the recipe's decode functions.

    Raises:
        UsageError: a decode function reads another model's logits, and the policy is split over ranks.
    """
    options = {k: v for k, v in spec.items() if k != "_target_"}
    maker = locate(spec["_target_"])
    if options.get("dtype") is None and "dtype" in signature(maker).parameters:
        options["dtype"] = str(policy.compute).removeprefix("torch.")
    read = {stream.removesuffix("_logits") for node in decode for stream in node.reads if stream.endswith("_logits")}
    others = {name: model.model for name, model in (models or {}).items() if name in read}
    if others and policy.root is not None:
        raise UsageError(
            f"{', '.join(sorted(others))}: a second model cannot sample beside a policy that is split over ranks; scale.shard=false"
        )
    engine: Engine = maker(policy.model, _pad_id(policy.tokenizer), *((True, others) if decode else ()), **options)
    return engine


def _pad_id(tokenizer: ModelTokenizer | None) -> int:
    """The token that fills up short prompts; nothing attends to it."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id) if tokenizer is not None else ()
    return next((token for token in known if token is not None), 0)
