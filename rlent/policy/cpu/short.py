"""Attention of short packed rows on the CPU, by batched products.

A query is computed once: those of a prompt, and those of a response, which sees its prompt and itself. So a prompt of 20 tokens with
16 responses of 10 makes 16 x 10 x 30 scores and not 16 x 30 x 30, and nothing but the small scores is ever padded. The whole scores
are held, which is the faster way while rows are short (`LONGEST`); longer rows go to SDPA (`rlent.policy.packing.attend_rows`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlent.policy.context import Context
from rlent.policy.packing import Packed, buckets

LONGEST = 256
"""Tokens of a row from which on SDPA is taken."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Segments that are padded together: R of at most A queries and W keys.

    Numbers are packed tokens; on padding `query` and `key` are any.
    """

    query: Int[Tensor, " R*A"]
    key: Int[Tensor, " R*W"]
    real: Bool[Tensor, " R*A 1"]
    hidden: Float[Tensor, "R 1 A W"]  # 0 where a query sees a key, -inf elsewhere

    @staticmethod
    def of(queries: Tensor, starts: Tensor, before: Tensor, ahead: Tensor, dtype: torch.dtype) -> Segments:
        """From the number of queries of each segment [R] and the token of its first one, and the same of the keys ahead of them."""
        rows, wide, most = torch.arange(len(queries))[:, None], int(queries.max()), int((before + queries).max())
        column, place = torch.arange(wide)[None], torch.arange(most)[None]
        query = torch.where(column < queries[:, None], starts[:, None] + column, 0)
        own = place - before[:, None]
        key = torch.where(own < 0, ahead[:, None] + place, torch.where(own < queries[:, None], starts[:, None] + own, 0))
        last = (before[:, None] + column.expand(len(rows), -1)).unsqueeze(2)  # the last key a query sees, itself
        sees = place[:, None] <= last
        hidden = torch.zeros(sees.shape, dtype=dtype).masked_fill_(~sees, -torch.inf)
        return Segments(query.flatten(), key.flatten(), (column < queries[:, None]).reshape(-1, 1), hidden[:, None])

    @property
    def shape(self) -> tuple[int, int, int]:
        rows, _, queries, keys = self.hidden.shape
        return rows, queries, keys


@dataclass(frozen=True, slots=True)
class Short:
    """All segments of packed tokens, and the place of every token among their queries [M].

    Fillers behind the tokens take place 0, the first token of a prompt: it sees itself alone, so its query has no gradient.
    """

    segments: tuple[Segments, ...]
    place: Int[Tensor, " M"]

    @staticmethod
    def of(packed: Packed, size: int, dtype: torch.dtype) -> Short:
        """For packed tokens that are filled up to `size`."""
        found: list[Segments] = []
        rows = (packed.answers > 0).nonzero().squeeze(1)
        prompt = packed.prompt_of[rows]
        none = torch.zeros_like(packed.prompt_lengths)
        for queries, starts, before, ahead in (
            (packed.prompt_lengths, packed.starts, none, none),
            (packed.answers[rows], packed.begins[rows], packed.prompt_lengths[prompt], packed.starts[prompt]),
        ):
            for some in buckets((before + queries).tolist()):
                found.append(Segments.of(queries[some], starts[some], before[some], ahead[some], dtype))
        place = torch.zeros(size, dtype=torch.long)
        at = 0
        for s in found:
            real = s.real.squeeze(1)
            place[s.query[real]] = at + real.nonzero().squeeze(1)
            at += len(real)
        return Short(tuple(found), place)


def fits(packed: Packed) -> bool:
    """Whether all rows are short."""
    return packed.longest <= LONGEST


def attend_short(q: Float[Tensor, "M H d"], k: Float[Tensor, "M K d"], v: Float[Tensor, "M K d"], short: Short, scale: float) -> Tensor:
    """Causal attention within rows, of packed tokens [M, H*d]. With gradient."""
    return _Attend.apply(q, k, v, short, scale)  # type: ignore[no-untyped-call]


class _Context(Context, Protocol):
    saved_tensors: tuple[Tensor, ...]  # of each of the segments: queries, keys, values and shares
    short: Short
    scale: float
    shapes: tuple[torch.Size, torch.Size]  # of the queries and of the keys


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, q: Tensor, k: Tensor, v: Tensor, short: Short, scale: float) -> Tensor:
        found, kept = [], []
        shared = k.shape[1]
        for s in short.segments:
            rows, queries, _ = s.shape
            qs, ks, vs = _heads(q, s.query, rows, shared), _heads(k, s.key, rows, shared), _heads(v, s.key, rows, shared)
            scores = torch.bmm(qs, ks.transpose(1, 2)).view(rows, -1, queries, ks.shape[1])
            p = torch.softmax(torch.add(s.hidden, scores, alpha=scale, out=scores), -1).view(len(qs), -1, ks.shape[1])
            found.append(_tokens(torch.bmm(p, vs), rows, queries))
            kept += [qs, ks, vs, p]
        ctx.save_for_backward(*kept)
        ctx.short, ctx.scale, ctx.shapes = short, scale, (q.shape, k.shape)
        mixed = found[0] if len(found) == 1 else torch.cat(found)
        return mixed.index_select(0, short.place)

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, g: Tensor) -> tuple[Tensor | None, ...]:
        short, kept, (wide, narrow) = ctx.short, ctx.saved_tensors, ctx.shapes
        g_k, g_v = g.new_zeros(2, narrow[0], narrow[1] * narrow[2])
        found = []
        for i, s in enumerate(short.segments):
            rows, queries, keys = s.shape
            qs, ks, vs, p = kept[4 * i : 4 * i + 4]
            up = _heads((g.index_select(0, s.query) * s.real).view(rows * queries, wide[1], -1), None, rows, narrow[1])
            g_p = torch.bmm(up, vs.transpose(1, 2))
            g_s = torch.ops.aten._softmax_backward_data(g_p, p, -1, p.dtype).mul_(ctx.scale)
            found.append(_tokens(torch.bmm(g_s, ks), rows, queries))
            g_k.index_add_(0, s.key, _tokens(torch.bmm(g_s.transpose(1, 2), qs), rows, keys))
            g_v.index_add_(0, s.key, _tokens(torch.bmm(p.transpose(1, 2), up), rows, keys))
        g_q = (found[0] if len(found) == 1 else torch.cat(found)).index_select(0, short.place)
        return g_q.view(wide), g_k.view(narrow), g_v.view(narrow), None, None


def _heads(x: Tensor, index: Tensor | None, rows: int, shared: int) -> Tensor:
    """Tokens [M,H,d] to [R*K, H/K * width, d]: the heads that share keys stand one after the other."""
    x = x if index is None else x.index_select(0, index)
    heads, size = x.shape[1:]
    x = x.view(rows, -1, shared, heads // shared, size).permute(0, 2, 3, 1, 4)
    return x.reshape(rows * shared, -1, size)


def _tokens(x: Tensor, rows: int, width: int) -> Tensor:
    """The way back: [R*K, H/K * width, d] to [R*width, H*d]."""
    size = x.shape[-1]
    return x.view(rows, -1, width, size).transpose(1, 2).reshape(rows * width, -1)
