"""Matrix products by the fastest library there is, for small models on the CPU.

Torch takes MKL for float32, and MKL uses AVX-512 on Intel's processors only: on others oneDNN, which torch brings as well, is
twice as fast (1000 x 128 by 128 x 384, one thread of an EPYC: 245 against 108 GFLOP/s; `scripts/bench_products.py`). The
results are those of torch up to rounding, and the choice depends on the build and the processor alone, so a run repeats itself bit
for bit. Other dtypes and devices, and processors without AVX-512, go through torch.

None of these is followed by autograd: they are for custom functions and for passes without gradient.

oneDNN makes a kernel for each new shape, which takes as long as the product of a small one, and keeps the last thousand. So callers
whose number of rows varies round it up to a multiple of `ROWS`.
"""

from __future__ import annotations

import functools
import platform

import torch
from jaxtyping import Float
from torch import Tensor

ROWS = 64


@functools.cache
def available() -> bool:
    """Whether products of float32 on the CPU go through oneDNN."""
    if platform.machine() not in ("x86_64", "AMD64") or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):  # type: ignore[no-untyped-call]
        return False
    try:
        x = torch.arange(6.0).view(2, 3)
        return torch.equal(_onednn(x, x, None), x @ x.t()) and torch.equal(_onednn_add(x, x, torch.ones(2, 2)), x @ x.t() + 1)
    except (RuntimeError, TypeError):
        return False


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", [], "")


def _onednn_add(x: Tensor, weight: Tensor, residual: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise.binary(x, residual, weight, None, "add")


def _fits(x: Tensor, weight: Tensor) -> bool:
    small = x.dtype is torch.float32 and weight.dtype is torch.float32 and x.device.type == "cpu" and weight.device.type == "cpu"
    return small and x.numel() > 0 and available()


def linear(x: Float[Tensor, "M K"], weight: Float[Tensor, "N K"], bias: Float[Tensor, " N"] | None = None) -> Float[Tensor, "M N"]:
    """x @ weight.T + bias."""
    return _onednn(x, weight, bias) if _fits(x, weight) else torch.nn.functional.linear(x, weight, bias)


def linear_add(x: Float[Tensor, "M K"], weight: Float[Tensor, "N K"], residual: Float[Tensor, "M N"]) -> Float[Tensor, "M N"]:
    """residual + x @ weight.T."""
    return _onednn_add(x, weight, residual) if _fits(x, weight) else torch.addmm(residual, x, weight.t())


def times(g: Float[Tensor, "M N"], weight: Float[Tensor, "N K"]) -> Float[Tensor, "M K"]:
    """g @ weight."""
    return _onednn(g, weight.t(), None) if _fits(g, weight) else g @ weight


def times_add(g: Float[Tensor, "M N"], weight: Float[Tensor, "N K"], total: Float[Tensor, "M K"]) -> Float[Tensor, "M K"]:
    """total + g @ weight; `total` may be used up."""
    return _onednn_add(g, weight.t(), total) if _fits(g, weight) else total.addmm_(g, weight)


def outer(g: Float[Tensor, "M N"], x: Float[Tensor, "M K"]) -> Float[Tensor, "N K"]:
    """g.T @ x, the gradient of a weight."""
    return _onednn(g.t(), x.t(), None) if _fits(g, x) else g.t() @ x
