"""Packing: the tokens of a part in one line, each needed one once, and attention that keeps rows apart.

A prompt that several rows share is computed once. Attention still belongs to rows: a response token sees its prompt and what
came before it in its own response, and nothing of its neighbours. Two ways give the same numbers to rounding:

    rows     rows are put back beside each other, padded on the right, for SDPA's causal kernel; every device and dtype
    varlen   flash attention with variable lengths, no padding: CUDA in half precision; causal from the end of the keys, so that
             the queries are a response and the keys its prompt and itself

`PackedForward` runs the model's own modules; only the attention is replaced, by transformers' attention interface. It is
tried on two short rows when a model is loaded, and where it does not give what the padded forward gives, it is not used.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from rlent.policy.forward import Forward, GeneralForward, Layout, Model, attends_fully, text_config

NAME = "rlent_packed"
"""The attention's name in transformers' interface. A config with this name still attends as `sdpa` where nothing is packed."""

WAYS = ("auto", "rows", "varlen", "off")
_HALF = (torch.bfloat16, torch.float16)


@dataclass(slots=True)
class Padded:
    """Rows put back beside each other in `buckets` of (rows, width), one after the other, S places in all.

    `slot` is the packed token at each place (any on padding), `source` a place that holds each packed token, `pick` the place
    that predicts each response token.
    """

    buckets: list[tuple[int, int]]
    slot: Int[Tensor, " S"]
    source: Int[Tensor, " M"]
    pick: Int[Tensor, " n"]


class Packed:
    """The tokens of a layout: M tokens, first the different prompts, then the responses (without the last token).

    `ids`, `position` [M]. `pick` [n] is the packed token that predicts each response token. `prompt_of` [B] is the prompt of each
    row; prompts begin at `starts` and have `prompt_lengths`, what is in the input of each response begins at `begins` [B] and has `answers`.
    """

    ids: Int[Tensor, " M"]
    position: Int[Tensor, " M"]
    pick: Int[Tensor, " n"]

    def __init__(self, layout: Layout) -> None:
        keys: dict[tuple[int, ...], int] = {}
        self.layout = layout
        self.prompt_of = torch.tensor([keys.setdefault(tuple(p), len(keys)) for p in layout.prompts])  # [B]
        self.prompt_lengths = torch.tensor([len(p) for p in keys])
        self.starts = self.prompt_lengths.cumsum(0) - self.prompt_lengths
        self.answers = (layout.length - layout.prompt_length).clamp(min=0)
        total = int(self.prompt_lengths.sum())
        self.begins = total + self.answers.cumsum(0) - self.answers
        self.tokens = total + int(self.answers.sum())
        self.longest = max(int(self.prompt_lengths.max()), int(layout.length.max()))
        column = torch.arange(layout.tokens.shape[1])
        answered = column < self.answers[:, None]
        prompts = [range(len(p)) for p in keys]
        self.ids = torch.cat((torch.tensor([t for p in keys for t in p]), layout.tokens[answered]))
        self.position = torch.cat(
            (torch.tensor([i for p in prompts for i in p]), (layout.prompt_length[:, None] + column).expand_as(answered)[answered])
        )
        self.pick = self._at(layout.row, layout.place)

    def _at(self, row: Tensor, place: Tensor) -> Tensor:
        """The packed token at a place of a row."""
        prompt = self.layout.prompt_length[row]
        return torch.where(place < prompt, self.starts[self.prompt_of[row]] + place, self.begins[row] + place - prompt)

    @functools.cached_property
    def padded(self) -> Padded:
        """The rows, padded; asked for before the tokens are moved to a device."""
        lengths, layout = self.layout.length, self.layout
        source, base = torch.zeros(self.tokens, dtype=torch.long), torch.zeros_like(lengths)
        found, slots, place = [], [], 0
        for rows in buckets(lengths.tolist()):
            width = int(lengths[rows].max())
            column = torch.arange(width)[None].expand(len(rows), -1)
            at, real = self._at(torch.tensor(rows)[:, None], column), column < lengths[rows][:, None]
            source[at[real]] = place + real.flatten().nonzero().squeeze(1)  # of a shared prompt any: all rows give the same
            slots.append(torch.where(real, at, 0).flatten())
            base[rows] = place + torch.arange(len(rows)) * width
            found.append((len(rows), width))
            place += at.numel()
        slot = torch.cat(slots) if slots else torch.zeros(0, dtype=torch.long)
        return Padded(found, slot, source, base[layout.row] + layout.place)

    def to(self, device: torch.device) -> Packed:
        """The same with what `PackedForward` reads on a device, in place and in one transfer; the rest stays on the host."""
        if device.type == "cpu":
            return self
        padded, segments = vars(self).get("padded"), vars(self).get("segments")
        more = (padded.slot, padded.source) if padded else segments[:3] if segments else ()
        self.ids, self.position, self.pick, *moved = _sent((self.ids, self.position, self.pick, *more), device)
        if padded:
            padded.slot, padded.source = moved
        elif segments:
            vars(self)["segments"] = (*moved, *segments[3:])
        return self

    @functools.cached_property
    def segments(self) -> tuple[Tensor, Tensor, Tensor, int, int]:
        """Of variable-length attention: `keys` [K] the packed token of each key, bounds of the queries and of the keys
        [segments + 1] int32, and the longest of each. A segment's queries are a prompt, or a response without its prompt.
        Asked for before the tokens are moved to a device."""
        rows = (self.answers > 0).nonzero().squeeze(1)
        ahead = self.prompt_lengths[self.prompt_of[rows]]
        queries = torch.cat((self.prompt_lengths, self.answers[rows]))
        seen = torch.cat((self.prompt_lengths, ahead + self.answers[rows]))
        where, end = seen.cumsum(0) - seen, int(seen.sum())
        segment = torch.repeat_interleave(torch.arange(len(seen)), seen, output_size=end)
        offset = torch.arange(end) - where[segment]
        begin = torch.cat((self.starts, self.starts[self.prompt_of[rows]]))[segment]  # of the prompt
        before = torch.cat((self.prompt_lengths, ahead))[segment]
        own = torch.cat((self.starts, self.begins[rows]))[segment]
        keys = torch.where(offset < before, begin + offset, own + offset - before)
        zero = torch.zeros(1, dtype=torch.long)
        ends_q, ends_k = (torch.cat((zero, x.cumsum(0))).to(torch.int32) for x in (queries, seen))
        return keys, ends_q, ends_k, int(queries.max()), int(seen.max())


def _sent(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Whole numbers on a device, sent at once."""
    flat = torch.cat([t.long() for t in tensors]).to(device)
    return [part.to(t.dtype) for part, t in zip(torch.split(flat, [t.numel() for t in tensors]), tensors, strict=True)]


def buckets(lengths: Sequence[int]) -> list[list[int]]:
    """Rows that are padded together. All of them, unless that would more than double their tokens: then by length, the
    longest first, each bucket's shortest at least half its longest. Rows of length 0 are left out where rows are parted."""
    if not lengths or len(lengths) * max(lengths) <= 2 * sum(lengths):
        return [list(range(len(lengths)))] if lengths else []
    found: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        if not lengths[row]:
            break
        if found and 2 * lengths[row] >= lengths[found[-1][0]]:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def attend_rows(q: Float[Tensor, "M H d"], k: Float[Tensor, "M K d"], v: Float[Tensor, "M K d"], packed: Packed, scale: float) -> Tensor:
    """Causal attention of padded rows, by SDPA. Returns the places of `Padded` [S, H*d]; `source` takes the tokens out."""
    places = [t.index_select(0, packed.padded.slot) for t in (q, k, v)]
    heads, shared = q.shape[1], q.shape[1] != k.shape[1]
    found, at = [], 0
    for rows, width in packed.padded.buckets:
        qs, ks, vs = (t[at : at + rows * width].view(rows, width, -1, t.shape[-1]).transpose(1, 2) for t in places)
        mixed = scaled_dot_product_attention(qs, ks, vs, is_causal=True, scale=scale, enable_gqa=shared)
        found.append(mixed.transpose(1, 2).reshape(rows * width, heads * v.shape[-1]))
        at += rows * width
    return found[0] if len(found) == 1 else torch.cat(found)


def attend_varlen(q: Float[Tensor, "M H d"], k: Float[Tensor, "M K d"], v: Float[Tensor, "M K d"], packed: Packed, scale: float) -> Tensor:
    """The same by flash attention with variable lengths [M, H, d]."""
    keys, ends_q, ends_k, longest_q, longest_k = packed.segments
    return _varlen()(q, k.index_select(0, keys), v.index_select(0, keys), ends_q, ends_k, longest_q, longest_k, scale)


@functools.cache
def _varlen() -> Callable[..., Tensor]:
    """Torch's own variable-length attention (since 2.10; its options have grown from version to version), or flash-attn's.

    Raises:
        ImportError: there is neither.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        from flash_attn import flash_attn_varlen_func  # it takes fewer heads of keys, and is causal from the end of the keys

        def flash(q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, longest_q: int, longest_k: int, scale: float) -> Tensor:
            return flash_attn_varlen_func(q, k, v, ends_q, ends_k, longest_q, longest_k, softmax_scale=scale, causal=True)

        return flash
    known = inspect.signature(varlen_attn).parameters
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}

    def own(q: Tensor, k: Tensor, v: Tensor, ends_q: Tensor, ends_k: Tensor, longest_q: int, longest_k: int, scale: float) -> Tensor:
        options = dict(causal)
        if "scale" in known:
            options["scale"] = scale
        else:
            q = q * (scale * q.shape[-1] ** 0.5)
        if q.shape[1] != k.shape[1]:
            if "enable_gqa" in known:
                options["enable_gqa"] = True
            else:
                k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        mixed: Any = varlen_attn(q, k, v, ends_q, ends_k, longest_q, longest_k, **options)
        return mixed

    return own


def chosen(way: str, device: torch.device, dtype: torch.dtype) -> str:
    """What `auto` means: varlen on CUDA in half precision (Ampere or newer) where it is installed, else rows."""
    if way != "auto":
        return way
    if device.type != "cuda" or dtype not in _HALF or torch.cuda.get_device_capability(device)[0] < 8:
        return "rows"
    try:
        _varlen()
    except ImportError:
        return "rows"
    return "varlen"


def obstacle(model: Model) -> str | None:
    """Why a model cannot be packed, before it is tried, or None."""
    config = text_config(model)
    if config._attn_implementation not in ("sdpa", NAME):
        return f"its attention is {config._attn_implementation}"
    if not attends_fully(config):
        return "it has layers without full attention"
    return None


class PackedForward(GeneralForward):
    """Through the model's own modules, packed; the interface is `rlent.policy.forward.Forward`."""

    packs = True

    def __init__(self, model: Model, way: str = "rows") -> None:
        super().__init__(model)
        self.way = way
        _register()
        text_config(model)._attn_implementation = NAME

    def __call__(self, layout: Layout, layers: Sequence[int] = ()) -> dict[str, Tensor]:
        packed = Packed(layout)
        _ = packed.padded if self.way == "rows" else packed.segments
        packed.to(self.device)
        states: dict[str, Tensor] = {}
        with self._listening(layers, states):
            out = self.body(
                input_ids=packed.ids[None],
                position_ids=packed.position[None],
                attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.device),  # four dimensions: no mask is made
                use_cache=False,
                packed=packed,
                way=self.way,
            )
        states["hidden"] = out.last_hidden_state
        if len(self.blocks) in layers:
            states[f"hidden_{len(self.blocks)}"] = out.last_hidden_state
        return {name: value[0].index_select(0, packed.pick) for name, value in states.items()}


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, *, packed: Packed | None = None, way: str = "rows",
    scaling: float | None = None, **others: Any,
) -> tuple[Tensor, None]:  # fmt: skip
    """Transformers' attention interface: queries [1,H,M,d], keys and values [1,K,M,d] to [1,M,H,d]."""
    if packed is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **others)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    q, k, v = (t[0].transpose(0, 1) for t in (query, key, value))
    if way == "varlen":
        return attend_varlen(q.contiguous(), k, v, packed, scale)[None], None
    mixed = attend_rows(q, k, v, packed, scale).index_select(0, packed.padded.source)
    return mixed.view(1, len(mixed), q.shape[1], -1), None


@functools.cache
def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def two_rows(vocab: int) -> Layout:
    """Two rows of one prompt, of different lengths, with which forwards of a model are compared."""
    tokens = torch.tensor([[3, 1, 4, 1], [2, 7, 0, 0]]) % vocab
    return Layout.of([[1 % vocab, 5 % vocab, 9 % vocab]] * 2, tokens, torch.tensor([[True] * 4, [True, True, False, False]]))


def apart(a: Tensor, b: Tensor) -> float:
    """The largest difference of hidden states, as a share of the largest of `b`."""
    a, b = a.float(), b.float()
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-6))


@torch.no_grad()
def difference(one: Forward, other: Forward, vocab: int) -> float:
    """How far two forwards of a model are apart on two rows of one prompt, as a share of the largest hidden state."""
    layout = two_rows(vocab)
    return apart(one(layout)["hidden"], other(layout)["hidden"])
