"""Weights, gradients and optimizer state split over ranks: FSDP2 (`torch.distributed.fsdp.fully_shard`).

The policy enters its own modules below the model's `forward`: the body for hidden states, then the head's weight. So the
root that FSDP watches is a module around the whole work, and each layer is gathered when the body calls it. Denominators are
global already, so gradients are summed over ranks and not averaged.

Every rank must go through the model equally often, or the others wait for it: `Actor` gives all ranks the same number of
parts, and a part without rows still runs one token.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from rlent.errors import ModelError, UsageError
from rlent.policy.forward import Model


@dataclass(frozen=True, slots=True)
class Sharding:
    """How a model is split.

    `replicas`: whole copies, each split over world / replicas ranks (HSDP). `compute`: dtype of forward and backward; weights
    and optimizer keep the model's own (None: no other). `offload`: weights and optimizer state wait in host memory.
    """

    replicas: int = 1
    compute: torch.dtype | None = None
    offload: bool = False


class Root(nn.Module):
    """Gathers what belongs to no layer (embedding, last norm, head) for as long as some work takes."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        return work()


def recompute_layers(model: Model) -> None:
    """Keep only each layer's input for the backward pass and compute the rest again (activation checkpointing).

    `forward` is replaced and not wrapped in a module, so that parameters keep their names.
    """
    for layer in _layers(model):
        layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)


def compile_layers(model: Model) -> None:
    """Compile each layer's norms and MLP, for rows of any number; the attention stays as it is, since packed rows go through it.

    A module compiles itself: parameters keep their names.
    """
    for layer in _layers(model):
        for name in ("input_layernorm", "post_attention_layernorm", "mlp"):
            if isinstance(part := getattr(layer, name, None), nn.Module):
                part.compile(dynamic=True)


def shard(model: Model, how: Sharding) -> Root:
    """Split a model over all ranks, in place.

    Raises:
        UsageError: `replicas` does not divide the number of ranks.
        ModelError: the model's layers cannot be found.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

    ranks = dist.get_world_size()
    if ranks % how.replicas:
        raise UsageError(f"scale.replicas is {how.replicas}, which does not divide the {ranks} ranks; a divisor of {ranks} is accepted")
    device = next(model.parameters()).device.type
    if how.replicas == 1:
        mesh = init_device_mesh(device, (ranks,))
    else:
        mesh = init_device_mesh(device, (how.replicas, ranks // how.replicas), mesh_dim_names=("replicate", "shard"))
    waiting = how.offload and device != "cpu"  # on a CPU they are in host memory already
    options: dict[str, Any] = {"mesh": mesh, "offload_policy": CPUOffloadPolicy() if waiting else OffloadPolicy()}
    if how.compute is not None:
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=how.compute, reduce_dtype=torch.float32)
    root = Root(model)
    for module in (*_layers(model), root):
        fully_shard(module, **options)
    for module in _sharded(root):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # a plain sum, which every backend has
    return root


def is_split(tensor: Tensor) -> bool:
    """Whether ranks hold a part of it each."""
    return isinstance(tensor, DTensor)


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor with the parts that other ranks hold; of a split one all ranks must ask together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _layers(model: Model) -> list[nn.Module]:
    body = model.get_decoder()
    found = getattr(body, "layers", None) or getattr(body, "h", None)
    if not found:
        raise ModelError(
            f"{type(model).__name__} has no list of layers (`layers` or `h`) in its decoder, by which it could be split over ranks"
        )
    return list(found)


def _sharded(root: nn.Module) -> list[Any]:
    from torch.distributed.fsdp import FSDPModule

    return [m for m in root.modules() if isinstance(m, FSDPModule)]


@contextlib.contextmanager
def gathered(root: nn.Module) -> Iterator[None]:
    """Whole weights on every rank while inside, for sampling, where ranks take different numbers of steps."""
    modules = _sharded(root)
    with torch.no_grad():
        root(dict)  # before its first forward FSDP does not know which module is the root
        for module in modules:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.reshard()
            module.set_reshard_after_forward(module is not root, recurse=False)
