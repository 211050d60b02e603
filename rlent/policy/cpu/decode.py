"""Decoding for the plain Llama family (Qwen2, Qwen3, Llama) with full attention: on a small model half the time.

The model's own norms, projections and MLP are called; attention and the cache are done here. It is right on every device.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeGuard

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlent.policy.cpu.fits import Checks, causal, hooked, obstacle
from rlent.policy.cpu.products import linear, linear_add
from rlent.policy.decode import Decoder
from rlent.policy.forward import Model

TYPES = ("qwen2", "qwen3", "llama")
_ROOM = 128  # columns a cache has free at first


class _LayerProducts:
    """The matrix products of a layer, through `rlent.policy.cpu.products` where its modules are plain ones without hooks."""

    def __init__(self, layer: Any) -> None:
        attn, mlp = layer.self_attn, layer.mlp
        self.query, self.key, self.value = (_product(m) for m in (attn.q_proj, attn.k_proj, attn.v_proj))
        self._out, self._plain_out = attn.o_proj, _is_plain(attn.o_proj) and attn.o_proj.bias is None
        own = mlp.gate_proj, mlp.up_proj, mlp.down_proj
        plain = all(_is_plain(m) and m.bias is None for m in own) and len(list(mlp.children())) == 4 and not hooked(mlp)
        self._mlp, self._plain_mlp = mlp, plain and type(mlp.act_fn).__name__ in ("SiLU", "SiLUActivation")
        self._gate, self._up, self._down = own

    def out(self, mixed: Tensor, x: Tensor) -> Tensor:
        """x + o_proj(mixed)."""
        return linear_add(mixed, self._out.weight, x) if self._plain_out else x + self._out(mixed)

    def mlp(self, hidden: Tensor, x: Tensor) -> Tensor:
        """x + mlp(hidden)."""
        if not self._plain_mlp:
            return x + self._mlp(hidden)
        return linear_add(nn.functional.silu(linear(hidden, self._gate.weight)).mul_(linear(hidden, self._up.weight)), self._down.weight, x)


def _product(module: nn.Module) -> Callable[[Tensor], Tensor]:
    return functools.partial(linear, weight=module.weight, bias=module.bias) if _is_plain(module) else module


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    return type(module) is nn.Linear and not hooked(module)


def _bypassed(model: Model) -> list[nn.Module]:
    """The modules whose forward is not called."""
    return [model, model.model, *model.model.layers, *(layer.self_attn for layer in model.model.layers)]


_CHECKS: Checks = (
    ("it is not of the plain Llama family", lambda m: causal(m, TYPES)),
    (
        "it has layers without full attention",
        lambda m: all(kind == "full_attention" for kind in getattr(m.config, "layer_types", None) or ()),
    ),
    ("there are hooks on its layers", lambda m: not any(hooked(x) for x in _bypassed(m))),
    (
        "its layers are not those of transformers",
        lambda m: all(type(x).__module__.startswith("transformers.models.") for x in _bypassed(m)),
    ),
    ("its parameters are distributed or quantized", lambda m: all(type(p) is nn.Parameter for p in m.parameters())),
)


class LeanDecoder(Decoder):
    """Decodes the plain Llama family with one batched product for scores and one for values per layer.

    Keys and values lie in buffers [n * kv_heads, columns, head_dim] that grow by doubling; query heads that share a
    key head are the rows of one small matrix, so nothing is repeated.
    """

    def __init__(self, model: Model, pad_id: int) -> None:
        super().__init__(model, pad_id)
        self._layers: list[Any] = list(self.model.model.layers)
        self._parts = [_LayerProducts(layer) for layer in self._layers]
        self._normed = self.model.config.model_type == "qwen3"  # queries and keys, by head
        self._kv_heads: int = self.model.config.num_key_value_heads
        self._store: list[tuple[Tensor, Tensor]] = []
        self._bias: Tensor | None = None  # [n * kv_heads, 1, capacity], -inf on padding
        self._room = _ROOM

    @staticmethod
    def obstacle(model: Model) -> str | None:
        """Why `model` needs the general decoder, or None."""
        return obstacle(model, _CHECKS)

    def start(self, contexts: Sequence[Sequence[int]], index: Int[Tensor, " N"], steps: int) -> Float[Tensor, "N V"]:
        self._store, self._bias = [], None
        self._room = min(steps, _ROOM)
        logits = super().start(contexts, index, steps)
        if self._seen is not None:
            blocked = torch.zeros(self._seen.shape, dtype=self.model.dtype, device=self.device).masked_fill_(self._seen == 0, float("-inf"))
            self._bias = blocked.repeat_interleave(self._kv_heads, 0)[:, None]
        self._cache, self._seen = None, None
        return logits

    def select(self, index: Int[Tensor, " m"]) -> None:
        if not self._store:  # the prompts have just been read into the transformers cache
            for layer in self._cache.layers:
                self._store.append((self._roomy(layer.keys, index), self._roomy(layer.values, index)))
                layer.keys = layer.values = None
            if self._seen is not None:
                self._seen = self._seen.index_select(0, index)
            return
        for i, (keys, values) in enumerate(self._store):
            self._store[i] = (self._pick(keys, index), self._pick(values, index))
        if self._bias is not None:
            self._bias = self._pick(self._bias, index)

    def step(self, tokens: Int[Tensor, " n"], positions: Int[Tensor, " n"]) -> Float[Tensor, "n V"]:
        n, column = len(tokens), self._columns
        if column == self._store[0][0].shape[1]:
            self._store = [(self._grow(k), self._grow(v)) for k, v in self._store]
        self._columns = filled = column + 1
        bias = self._bias_for(filled)
        body = self.model.model
        x = body.embed_tokens(tokens)
        cos, sin = body.rotary_emb(x[:, None], positions[:, None])  # [n, 1, head_dim]
        half = cos.shape[-1] // 2
        sin = torch.cat((-sin[..., :half], sin[..., half:]), -1)  # rotate_half(x) * sin == roll(x, half) * this
        for layer, products, (keys, values) in zip(self._layers, self._parts, self._store, strict=True):
            attn = layer.self_attn
            hidden = layer.input_layernorm(x)
            query = products.query(hidden).view(n, -1, attn.head_dim)
            key = products.key(hidden).view(n, -1, attn.head_dim)
            if self._normed:
                query, key = attn.q_norm(query), attn.k_norm(key)
            turned = torch.cat((query, key), 1)
            turned = torch.addcmul(turned * cos, turned.roll(half, -1), sin)
            heads = query.shape[1]
            keys[:, column] = turned[:, heads:].reshape(-1, attn.head_dim)
            values[:, column] = products.value(hidden).view(-1, attn.head_dim)
            query = turned[:, :heads].reshape(len(keys), -1, attn.head_dim)  # the queries of one key head together
            past = keys[:, :filled].transpose(1, 2)
            if bias is None:
                scores = torch.bmm(query, past) * attn.scaling
            else:
                scores = torch.baddbmm(bias, query, past, alpha=attn.scaling)
            share = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(x.dtype)
            mixed = torch.bmm(share, values[:, :filled]).view(n, -1)
            x = products.out(mixed, x)
            x = products.mlp(layer.post_attention_layernorm(x), x)
        return self.model.lm_head(body.norm(x))

    def _bias_for(self, filled: int) -> Tensor | None:
        if self._bias is None:
            return None
        if self._bias.shape[2] < filled:
            self._bias = nn.functional.pad(self._bias, (0, max(64, filled)))
        return self._bias[:, :, :filled]

    def _roomy(self, states: Float[Tensor, "U K S D"], index: Int[Tensor, " N"]) -> Float[Tensor, "NK C D"]:
        """The states of the rows at `index`, with room for columns to come."""
        kv_heads, width, dim = states.shape[1:]
        room = states.new_empty(len(index), kv_heads, width + self._room, dim)
        room[:, :, :width] = states.index_select(0, index)
        return room.flatten(0, 1)

    def _grow(self, states: Float[Tensor, "NK C D"]) -> Float[Tensor, "NK C2 D"]:
        return nn.functional.pad(states, (0, 0, 0, states.shape[1]))

    def _pick(self, states: Tensor, index: Int[Tensor, " m"]) -> Tensor:
        by_row = states.view(-1, self._kv_heads, *states.shape[1:])
        return by_row.index_select(0, index).flatten(0, 1)  # on the CPU ten times faster than by_row[index]
