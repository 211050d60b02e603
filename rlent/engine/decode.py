"""Running a causal language model one token at a time: prompts in, next-token logits out.

Two decoders with one interface. `Decoder` goes through the model's own forward and the transformers cache, and is right
for any decoder. `LeanDecoder` calls the same submodules (norms, projections, MLP) but does attention and the cache
itself, for the plain Llama family (Qwen2, Qwen3, Llama) with full attention; on a small model it halves the time.

Prompts are padded on the left, so that all rows share a cache column and only positions differ.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rlent.policy.cpu.products import linear, linear_add

LEAN_TYPES = ("qwen2", "qwen3", "llama")
_ROOM = 128  # columns a cache has free at first


class Decoder:
    """Decodes through `model.forward` with a cache. Use: `start`, then `step` and `select` in any order."""

    def __init__(self, model: nn.Module, pad_id: int) -> None:
        self.model: Any = model
        self.pad_id = pad_id
        self.device = next(model.parameters()).device
        accepted = inspect.signature(model.forward).parameters
        takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in accepted.values())
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self._positions = takes_any or "position_ids" in accepted
        self._cache: Any = None
        self._seen: Tensor | None = None  # [n, columns], 0 on padding; None when no row is padded
        self._columns = 0

    def start(self, contexts: Sequence[Sequence[int]], index: Int[Tensor, " N"], steps: int) -> Float[Tensor, "N V"]:
        """Read the contexts, each once, and go on with row i continuing `contexts[index[i]]`. Returns its next-token logits.

        At most `steps` tokens will follow.
        """
        width = max(map(len, contexts))
        lengths = torch.tensor([len(c) for c in contexts])
        ids = torch.tensor([[self.pad_id] * (width - len(c)) + list(c) for c in contexts]).to(self.device)
        seen = (torch.arange(width) >= (width - lengths)[:, None]).long()
        positions = (seen.cumsum(1) - 1).clamp(min=0)
        padded = bool((lengths < width).any())
        self._cache = self._new_cache()
        self._seen = seen.to(self.device) if padded else None
        self._columns = 0
        logits = self._forward(ids, positions.to(self.device))
        index = index.to(self.device)
        self.select(index)
        return logits.index_select(0, index)

    def step(self, tokens: Int[Tensor, " n"], positions: Int[Tensor, " n"]) -> Float[Tensor, "n V"]:
        """Append one token to every row, at its position in the row's text. Returns the next-token logits."""
        if self._seen is not None:
            self._seen = torch.cat((self._seen, self._seen.new_ones(len(tokens), 1)), 1)
        return self._forward(tokens[:, None], positions[:, None])

    def select(self, index: Int[Tensor, " m"]) -> None:
        """Go on with the rows at `index` only, in that order; a row may be taken more than once."""
        self._cache.reorder_cache(index)
        if self._seen is not None:
            self._seen = self._seen.index_select(0, index)

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def _forward(self, ids: Int[Tensor, "n s"], positions: Int[Tensor, "n s"]) -> Float[Tensor, "n V"]:
        extra = {**self._last_only, **({"position_ids": positions} if self._positions else {})}
        out = self.model(input_ids=ids, attention_mask=self._seen, past_key_values=self._cache, use_cache=True, **extra)
        self._columns += ids.shape[1]
        return out.logits[:, -1]  # type: ignore[no-any-return]


class _LayerProducts:
    """The matrix products of a layer, through `rlent.policy.cpu.products` where its modules are plain ones without hooks."""

    def __init__(self, layer: Any) -> None:
        attn, mlp = layer.self_attn, layer.mlp
        self.query, self.key, self.value = (_product(m) for m in (attn.q_proj, attn.k_proj, attn.v_proj))
        self._out, self._plain_out = attn.o_proj, _is_plain(attn.o_proj) and attn.o_proj.bias is None
        own = [getattr(mlp, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
        plain = all(_is_plain(m) and m.bias is None for m in own) and len(list(mlp.children())) == 4 and not _hooked(mlp)
        self._mlp, self._plain_mlp = mlp, plain and type(mlp.act_fn).__name__ in ("SiLU", "SiLUActivation")
        if self._plain_mlp:
            self._gate, self._up, self._down = (m.weight for m in own)

    def out(self, mixed: Tensor, x: Tensor) -> Tensor:
        """x + o_proj(mixed)."""
        return linear_add(mixed, self._out.weight, x) if self._plain_out else x + self._out(mixed)

    def mlp(self, hidden: Tensor, x: Tensor) -> Tensor:
        """x + mlp(hidden)."""
        if not self._plain_mlp:
            return x + self._mlp(hidden)
        return linear_add(nn.functional.silu(linear(hidden, self._gate)).mul_(linear(hidden, self._up)), self._down, x)


def _product(module: Any) -> Callable[[Tensor], Tensor]:
    return functools.partial(linear, weight=module.weight, bias=module.bias) if _is_plain(module) else module


def _is_plain(module: Any) -> bool:
    return type(module) is nn.Linear and not _hooked(module)


def _hooked(module: Any) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module))


class LeanDecoder(Decoder):
    """Decodes the plain Llama family with one batched product for scores and one for values per layer.

    Keys and values lie in buffers [n * kv_heads, columns, head_dim] that grow by doubling; query heads that share a
    key head are the rows of one small matrix, so nothing is repeated.
    """

    def __init__(self, model: nn.Module, pad_id: int) -> None:
        super().__init__(model, pad_id)
        self._layers: list[Any] = list(self.model.model.layers)
        self._parts = [_LayerProducts(layer) for layer in self._layers]
        self._kv_heads: int = self.model.config.num_key_value_heads
        self._store: list[tuple[Tensor, Tensor]] = []
        self._bias: Tensor | None = None  # [n * kv_heads, 1, capacity], -inf on padding
        self._room = _ROOM

    @staticmethod
    def obstacle(model: Any) -> str | None:
        """Why `model` needs the general decoder, or None."""
        config = getattr(model, "config", None)
        if getattr(config, "model_type", None) not in LEAN_TYPES or not type(model).__name__.endswith("ForCausalLM"):
            return "it is not of the plain Llama family"
        if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
            return "it has layers without full attention"
        bypassed = [model, model.model, *model.model.layers, *(layer.self_attn for layer in model.model.layers)]
        if any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in bypassed):
            return "there are hooks on its layers"
        if not all(type(m).__module__.startswith("transformers.models.") for m in bypassed):
            return "its layers are not those of transformers"
        if any(type(p) is not nn.Parameter for p in model.parameters()):
            return "its parameters are distributed or quantized"
        return None

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
            if hasattr(attn, "q_norm"):
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
        return self.model.lm_head(body.norm(x))  # type: ignore[no-any-return]

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
