"""The forward and backward of the plain Llama family (Llama, Qwen2, Mistral) without what a small model need not pay for.

The same mathematics as the model's own modules, on the same weights, with four savings that matter when a layer is small
and memory is what costs time:

* tokens are packed (`rlent.policy.packing`): no matrix product touches padding, and a shared prompt is computed once, its
  attention, too, where rows are short (`rlent.policy.cpu.short`);
* in the last layer only positions that predict a response token go on after the attention;
* norm, projection and rotation are one autograd function, norm and MLP another, with few visits to memory;
* products go through the faster of the libraries (`rlent.policy.cpu.products`).

Everything stays in the weights' precision; in float64 nothing passes through float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from rlent.policy.context import Context
from rlent.policy.cpu.fits import Checks, causal, hooked, obstacle
from rlent.policy.cpu.products import ROWS, linear, linear_add, outer, times, times_add
from rlent.policy.cpu.short import Short, attend_short, fits
from rlent.policy.forward import Layout, Model, attends_fully
from rlent.policy.packing import NAME, Packed, attend_rows

TYPES = ("llama", "mistral", "qwen2")


_CHECKS: Checks = (
    (f"it is not one of {', '.join(TYPES)}", lambda m: causal(m, TYPES)),
    ("it has layers without full attention", lambda m: attends_fully(m.config)),
    ("its MLP is not plain SwiGLU", lambda m: m.config.hidden_act in ("silu", "swish") and not getattr(m.config, "mlp_bias", False)),
    ("its attention is not SDPA", lambda m: m.config._attn_implementation in ("sdpa", NAME)),
    ("there are hooks on its modules", lambda m: not any(hooked(x) for x in m.modules())),
    ("its modules are not those of transformers", lambda m: all(type(x).__module__.startswith(("transformers.", "torch.nn.")) for x in m.modules())),
    ("its parameters are not plain float32 or float64 ones on the CPU", lambda m: all(_wide(p) for p in m.parameters())),
    ("it recomputes activations", lambda m: not m.model.gradient_checkpointing),
)  # fmt: skip


def _wide(p: Tensor) -> bool:
    return type(p) is nn.Parameter and p.dtype in (torch.float32, torch.float64) and p.device.type == "cpu"


class LeanForward:
    """See the module; the interface is `rlent.policy.forward.Forward`."""

    packs = True

    def __init__(self, model: Model) -> None:
        self.body: Any = model.model
        self.head_dim: int = self.body.layers[0].self_attn.head_dim

    @staticmethod
    def obstacle(model: Model) -> str | None:
        """Why a model needs the general forward, or None."""
        return obstacle(model, _CHECKS)

    def __call__(self, layout: Layout, layers: Sequence[int] = ()) -> dict[str, Tensor]:
        packed = Packed(layout)
        table, final = self.body.embed_tokens.weight, self.body.norm
        ids, position = _rounded(packed.ids, 0), _rounded(packed.position, 0)
        pick = _rounded(packed.pick, int(packed.pick[0]) if len(packed.pick) else 0)
        x = torch.embedding(table, ids)
        short = Short.of(packed, len(ids), x.dtype) if fits(packed) else None
        cos, signed_sin = self._rotation(position, x)
        count = len(self.body.layers)
        found: dict[str, Tensor] = {}
        for k, layer in enumerate(self.body.layers):
            if k in layers:
                found[f"hidden_{k}"] = x.index_select(0, packed.pick)
            attn, norm = layer.self_attn, layer.input_layernorm
            flat = _Project.apply(  # type: ignore[no-untyped-call]
                x, norm.weight, norm.variance_epsilon, cos, signed_sin,
                *(t for p in (attn.q_proj, attn.k_proj, attn.v_proj) for t in (p.weight, p.bias)),
            )  # fmt: skip
            q, key, v = (t.view(len(t), -1, self.head_dim) for t in flat)
            last = k == count - 1
            if short is not None:
                mixed = attend_short(q, key, v, short, attn.scaling)
                mixed = mixed.index_select(0, pick) if last else mixed
            else:
                place = packed.padded.pick if last else packed.padded.source
                mixed = attend_rows(q, key, v, packed, attn.scaling).index_select(0, _rounded(place, 0))
            x = x.index_select(0, pick) if last else x
            x = _Add.apply(x, mixed, attn.o_proj.weight, attn.o_proj.bias)  # type: ignore[no-untyped-call]
            norm, mlp = layer.post_attention_layernorm, layer.mlp
            weights = (mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight)
            x = _Mlp.apply(x, norm.weight, norm.variance_epsilon, *weights)  # type: ignore[no-untyped-call]
        found["hidden"] = _Norm.apply(x, final.weight, final.variance_epsilon)[: len(packed.pick)]  # type: ignore[no-untyped-call]
        if count in layers:
            found[f"hidden_{count}"] = found["hidden"]
        return found

    def _rotation(self, position: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """cos [M,1,d] and sin [M,1,d] with the first half negated, so that rotating is x cos + roll(x, d/2) sin."""
        cos, sin = self.body.rotary_emb(x, position[None])
        half = self.head_dim // 2
        return cos[0, :, None], torch.cat((-sin[0, :, None, :half], sin[0, :, None, half:]), -1)


def _rounded(index: Tensor, fill: int) -> Tensor:
    """An index with a few more entries, so that few different sizes occur (`rlent.policy.cpu.products`). Their rows are computed and not used."""
    return torch.nn.functional.pad(index, (0, -len(index) % ROWS), value=fill)


class _Saved(Context, Protocol):
    saved_tensors: tuple[Tensor, ...]


class _AddContext(_Saved, Protocol):
    biased: bool


class _ProjectContext(_Saved, Protocol):
    biased: tuple[bool, bool, bool]  # queries, keys, values


class _Norm(torch.autograd.Function):
    """weight * x / rms(x)."""

    @staticmethod
    def forward(ctx: _Saved, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        unit, rate = _unit(x, eps)
        ctx.save_for_backward(x, weight, rate)
        return unit.mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Saved, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, rate = ctx.saved_tensors
        return *_unit_backward(g, x * rate, weight, rate), None


class _Add(torch.autograd.Function):
    """x + out(mixed)."""

    @staticmethod
    def forward(ctx: _AddContext, x: Tensor, mixed: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(mixed, weight)
        ctx.biased = bias is not None
        return linear_add(mixed, weight, x if bias is None else x + bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: _AddContext, g: Tensor) -> tuple[Tensor | None, ...]:
        mixed, weight = ctx.saved_tensors
        return g, times(g, weight), outer(g, mixed), g.sum(0) if ctx.biased else None


class _Project(torch.autograd.Function):
    """Queries, keys [M, heads*d] (rotated) and values from the normed x."""

    @staticmethod
    def forward(
        ctx: _ProjectContext, x: Tensor, scale: Tensor, eps: float, cos: Tensor, sin: Tensor,
        wq: Tensor, bq: Tensor | None, wk: Tensor, bk: Tensor | None, wv: Tensor, bv: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        unit, rate = _unit(x, eps)
        normed = unit.mul_(scale)
        q, k, v = (linear(normed, w, b) for w, b in ((wq, bq), (wk, bk), (wv, bv)))
        ctx.save_for_backward(x, rate, scale, cos, sin, wq, wk, wv)
        ctx.biased = (bq is not None, bk is not None, bv is not None)
        return _rotate(q, cos, sin), _rotate(k, cos, sin), v

    @staticmethod
    @once_differentiable
    def backward(ctx: _ProjectContext, gq: Tensor, gk: Tensor, gv: Tensor) -> tuple[Tensor | None, ...]:
        x, rate, scale, cos, sin, wq, wk, wv = ctx.saved_tensors
        unit = x * rate
        normed = unit * scale
        gq, gk = _rotate(gq, cos, -sin), _rotate(gk, cos, -sin)
        g = times_add(gv, wv, times_add(gk, wk, times(gq, wq)))
        grads: list[Tensor | None] = []
        for upstream, biased in zip((gq, gk, gv), ctx.biased, strict=True):
            grads += [outer(upstream, normed), upstream.sum(0) if biased else None]
        return *_unit_backward(g, unit, scale, rate), None, None, None, *grads


class _Mlp(torch.autograd.Function):
    """x + down(silu(gate(norm(x))) * up(norm(x)))."""

    @staticmethod
    def forward(ctx: _Saved, x: Tensor, scale: Tensor, eps: float, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        unit, rate = _unit(x, eps)
        normed = unit.mul_(scale)
        a, b = linear(normed, gate), linear(normed, up)
        ctx.save_for_backward(x, rate, scale, a, b, gate, up, down)
        return linear_add(torch.nn.functional.silu(a).mul_(b), down, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Saved, g: Tensor) -> tuple[Tensor | None, ...]:
        x, rate, scale, a, b, gate, up, down = ctx.saved_tensors
        unit = x * rate
        normed = unit * scale
        act = torch.nn.functional.silu(a)
        inner = times(g, down)
        g_up = inner * act
        g_down = outer(g, act.mul_(b))
        g_gate = torch.ops.aten.silu_backward(inner.mul_(b), a)
        through = times_add(g_up, up, times(g_gate, gate))
        g_gate_weight, g_up_weight = outer(g_gate, normed), outer(g_up, normed)
        g_x, g_scale = _unit_backward(through, unit, scale, rate)
        return g_x.add_(g), g_scale, None, g_gate_weight, g_up_weight, g_down


def _unit(x: Float[Tensor, "M D"], eps: float) -> tuple[Tensor, Tensor]:
    """x / rms(x), and 1 / rms(x) [M,1]."""
    rate = torch.linalg.vector_norm(x, dim=1, keepdim=True).square_().div_(x.shape[1]).add_(eps).rsqrt_()
    return x * rate, rate


def _unit_backward(g: Tensor, unit: Tensor, weight: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of x and weight from that of weight * x / rms(x). `g` is used up."""
    along = g * unit
    g_weight = along.sum(0)
    mean = (along @ weight).div_(unit.shape[1]).mul_(rate.squeeze(1))
    g = g.mul_(weight).mul_(rate)
    return g.addcmul_(unit, mean[:, None], value=-1.0), g_weight


def _rotate(x: Float[Tensor, "M HD"], cos: Tensor, sin: Tensor) -> Tensor:
    heads = x.view(len(x), -1, cos.shape[-1])
    return torch.addcmul(heads * cos, heads.roll(cos.shape[-1] // 2, -1), sin).view_as(x)
