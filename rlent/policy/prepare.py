"""Making a model ready for the loop: no dropout, the way its tokens go through it, and checks of both against the model itself."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from rlent.errors import ModelError
from rlent.policy.forward import Forward, GeneralForward, Layout, Model, text_config
from rlent.policy.packing import WAYS, PackedForward, apart, chosen, difference, obstacle, two_rows
from rlent.policy.shard import compile_layers


def no_dropout(model: Model) -> None:
    """Set every dropout of a model to 0."""
    for config in {id(c): c for c in (model.config, text_config(model))}.values():
        _zero(config, ("dropout", "_pdrop", "_dropout_prob"))
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        _zero(module, ("dropout",))


def _zero(owner: object, endings: tuple[str, ...]) -> None:
    """Set the numbers of an object whose names end so to 0."""
    for name, value in vars(owner).copy().items():
        if name.endswith(endings) and isinstance(value, float) and value:
            setattr(owner, name, 0.0)


def general_forward(model: Model, packing: str, compute: torch.dtype) -> Forward:
    """The packed forward if it gives what the padded one gives when products are in `compute`, else the padded one.

    Raises:
        ModelError: a way of packing was asked for by name, and the model cannot be packed.
    """
    padded = GeneralForward(model)
    if packing == "off":
        return padded
    if packing not in WAYS:
        raise ModelError(f"scale.packing is {packing!r}; one of {', '.join(WAYS)} is accepted")
    config, weight = text_config(model), next(model.parameters())
    before = config._attn_implementation
    reason = obstacle(model)
    if reason is None:
        try:
            packed = PackedForward(model, chosen(packing, weight.device, compute))
            with _computing(weight, compute):
                off = difference(packed, padded, config.vocab_size)
            if off <= _rounding(compute):
                return packed
            reason = f"its packed hidden states are off by {off:.2g} of the largest"
        except (TypeError, ValueError, RuntimeError, AttributeError, ImportError, IndexError, NotImplementedError) as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        config._attn_implementation = before
    if packing != "auto":
        raise ModelError(f"scale.packing is {packing}, and this model cannot be packed that way: {reason}; auto or off is accepted")
    return padded


@torch.no_grad()
def compile_checked(model: Model, forward: Forward, compute: torch.dtype) -> None:
    """Compile a model's layers, and compare hidden states before and after on two rows.

    Raises:
        ModelError: torch.compile fails, as without a C++ compiler, or the numbers are others.
    """
    layout = two_rows(text_config(model).vocab_size)
    with _computing(model.get_output_embeddings().weight, compute):
        before = forward(layout)["hidden"]
        compile_layers(model)
        try:
            after = forward(layout)["hidden"]
        except Exception as error:  # a compiler may raise anything
            first = str(error).strip().partition("\n")[0][:200]
            raise ModelError(
                f"scale.compile is true, and torch.compile fails here: {type(error).__name__}: {first}; false is accepted"
            ) from error
    off = apart(after, before)
    if not off <= _rounding(compute):
        raise ModelError(
            f"scale.compile is true, and the compiled layers give hidden states off by {off:.2g} of the largest; false is accepted"
        )


@torch.no_grad()
def check_head(model: Model, forward: Forward, softcap: float | None) -> None:
    """Compare the policy's logits of two tokens with the model's own.

    Raises:
        ModelError: they differ: the model scales or shifts its logits in a way the head does not know.
    """
    head = model.get_output_embeddings()
    tokens = torch.tensor([[0, min(1, len(head.weight) - 1)]])  # on the CPU, where a batch's tokens and masks are
    part = Layout.of([[0]], tokens, torch.ones_like(tokens, dtype=torch.bool))
    mine = nn.functional.linear(forward(part)["hidden"], head.weight, head.bias).float()
    if softcap is not None:
        mine = softcap * torch.tanh(mine / softcap)
    theirs = model(input_ids=part.input_ids().to(head.weight.device), use_cache=False).logits[0].float()
    bound = _rounding(head.weight.dtype) * theirs.abs().max().clamp(min=1e-3)
    if not bool(((mine - theirs).abs().max() <= bound) | ~torch.isfinite(theirs).all()):
        raise ModelError(
            f"{type(model).__name__} does not compute its logits as softcap(hidden @ weight.T + bias), which is what rlent's head does; "
            "this model cannot be trained yet"
        )


def _computing(weight: Tensor, dtype: torch.dtype) -> AbstractContextManager[object]:
    """Inside, products are in `dtype`, as under FSDP's mixed precision."""
    return torch.autocast(weight.device.type, dtype=dtype, enabled=dtype != weight.dtype)


def _rounding(dtype: torch.dtype) -> float:
    """How far two ways to compute may be apart, as a share of the largest value."""
    return 0.05 if dtype in (torch.bfloat16, torch.float16) else 1e-3
