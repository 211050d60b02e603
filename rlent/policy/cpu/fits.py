"""What a model must be so that its modules can be bypassed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from rlent.policy.forward import Model

Checks = Sequence[tuple[str, Callable[[Model], bool]]]
"""Why a model does not fit, and whether it does, in the order in which they are asked."""


def obstacle(model: Model, checks: Checks) -> str | None:
    """The reason of the first check that a model does not pass, or None."""
    return next((reason for reason, passes in checks if not passes(model)), None)


def causal(model: Model, types: Sequence[str]) -> bool:
    """Whether it is the causal language model of one of these types in transformers."""
    return model.config.model_type in types and type(model).__name__.endswith("ForCausalLM")


def hooked(module: nn.Module) -> bool:
    """Whether a module does something else than its class: it has hooks, or a forward of its own."""
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))
