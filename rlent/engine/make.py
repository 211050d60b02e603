"""From a recipe's `engine` block to an engine for a policy."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature
from typing import Any

from rlent.engine.base import Engine
from rlent.mount import locate
from rlent.policy.policy import Policy


def make_engine(spec: Mapping[str, Any], policy: Policy) -> Engine:
    """The engine the recipe names, sampling from the policy's weights."""
    tokenizer = policy.tokenizer
    pad = getattr(tokenizer, "pad_token_id", None)
    pad_id = pad if pad is not None else getattr(tokenizer, "eos_token_id", 0)
    options = {k: v for k, v in spec.items() if k != "_target_"}
    maker = locate(spec["_target_"])
    if options.get("dtype") is None and "dtype" in signature(maker).parameters:
        options["dtype"] = str(policy.compute).removeprefix("torch.")
    engine: Engine = maker(policy.model, pad_id, **options)
    return engine
