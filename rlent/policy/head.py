"""The output head: log-probability, entropy and probes from hidden states, without the logits of all tokens.

The logits are made tile by tile (some tokens, some of the vocabulary), used, and forgotten. The forward keeps a running
maximum, a running sum of exponentials and a running sum of exponential times logit for each token (the online softmax of
Milakov and Gimelshein 2018, arXiv:1805.02867, with a second moment for the entropy); the backward makes each tile again
and turns it in place into the gradient

    G_v = g_logp (1[v = target] - p_v) - g_entropy p_v (log p_v + H)

with respect to `logits / temperature` (derivation: `rlent.math.entropy`). The vocabulary is the outer loop, so each row of
the weight is read once in a pass, and its gradient is summed in float32 and written once. A probe sees whole rows of the
vocabulary, so with probes a tile is `chunk` tokens wide and V long.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from rlent.math.entropy import reduction_dtype
from rlent.policy.context import Context
from rlent.policy.probes import Probe, call_probe

TILE = {"cpu": 1 << 23, "cuda": 1 << 26}
"""Most logits of a tile, by device: 32 MB of float32 on a CPU, where threads meet after each operation; 256 MB on a GPU."""

LEAST = 1 << 19
"""Fewest logits worth a tile of their own; above it, a tile is at most 1/32 of all."""

ROWS = {"cpu": 4096, "cuda": 8192}
"""Tokens of a tile, when there are more."""

KEPT = 1 << 26
"""Logits held at a time where probes need whole rows of the vocabulary: 256 MB of float32."""


def token_statistics(
    hidden: Float[Tensor, "n D"],
    weight: Float[Tensor, "V D"],
    target: Int[Tensor, " n"],
    *,
    temperature: float = 1.0,
    bias: Float[Tensor, " V"] | None = None,
    entropy: bool = True,
    probes: Mapping[str, Probe] | None = None,
    streams: Mapping[str, Tensor] | None = None,
    chunk: int | None = None,
    softcap: float | None = None,
) -> dict[str, Float[Tensor, " n"]]:
    """`logp`, `entropy` (if asked) and probes of each token, with gradients for hidden, weight and bias.

    Logits are `softcap(hidden @ weight.T + bias) / temperature`. A statistic that nothing differentiates costs nothing in
    the backward pass. Values are float32 for half-precision and float32 input, float64 for float64.

    Args:
        hidden: the final hidden state at the position that predicts each token.
        target: the token whose log-probability is wanted.
        probes: pure functions by name; parameters name what they read: `logits` [t,V] (at the temperature), `target` [t],
            `hidden` [t,D], or one of `streams`. They return [t], or a mapping of [t] that becomes `<name>_<key>`, and
            must treat tokens separately. They run twice when their gradient is needed.
        streams: other token streams [n, ...] that probes may name; constants.
        chunk: tokens held at a time, V wide, when there are probes; by default as many as fit `KEPT` logits.
        softcap: final soft-capping c tanh(logits / c), as in Gemma 2.
    """
    job = _Job(target, temperature, softcap, entropy, dict(probes or {}), dict(streams or {}), chunk)
    logp, ent, *rest = _Statistics.apply(hidden, weight, bias, job)  # type: ignore[no-untyped-call]
    found = {"logp": logp}
    if entropy:
        found["entropy"] = ent
    return found | dict(zip(job.names, rest, strict=True))


@dataclass
class _Job:
    """What to compute; `names` is filled with the probes' outputs when they first answer."""

    target: Tensor
    temperature: float
    softcap: float | None
    entropy: bool
    probes: dict[str, Probe] = field(default_factory=dict)
    streams: dict[str, Tensor] = field(default_factory=dict)
    chunk: int | None = None
    names: list[str] = field(default_factory=list)

    def ask(self, z: Tensor, hidden: Tensor, a: int, b: int) -> dict[str, Tensor]:
        """The probes' answers on tokens a to b."""
        seen = {"logits": z, "hidden": hidden, "target": self.target[a:b]} | {k: v[a:b] for k, v in self.streams.items()}
        found: dict[str, Tensor] = {}
        for name, probe in self.probes.items():
            found |= call_probe(name, probe, seen)
        for name, value in found.items():
            if value.shape != (b - a,):
                raise ValueError(f"probe '{name}' returned shape {tuple(value.shape)} for {b - a} tokens; [{b - a}] is expected")
        return found


class _Upstream(NamedTuple):
    """Of each token [n]: log-sum-exp and entropy of its logits, and the gradients of its statistics (None: not differentiated)."""

    lse: Tensor
    entropy: Tensor | None
    g_logp: Tensor | None
    g_entropy: Tensor | None


class _Head:
    """The linear layer with its scale, cap and precision: makes logits of a tile, and takes gradients back through it."""

    def __init__(self, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job) -> None:
        self.hidden, self.weight, self.job = hidden, weight, job
        self.dtype = reduction_dtype(hidden.dtype, weight.dtype)
        self.place = hidden.device.type if hidden.device.type in TILE else "cpu"
        self.scale = 1.0 / job.temperature
        self.cap = None if job.softcap is None else job.softcap / job.temperature
        # A logit of -inf would give 0 * inf in the entropy; a probability is 0 long before this bound.
        self.bias = None if bias is None else bias.to(self.dtype).clamp(min=-1e30) * self.scale
        half = hidden.dtype == weight.dtype and hidden.dtype in (torch.bfloat16, torch.float16)
        self.half = hidden.dtype if half and hidden.is_cuda else None  # tensor cores: half in, float32 out
        if self.half is None:
            self.hidden = hidden.to(self.dtype)
        self.tile = min(TILE[self.place], max(LEAST, len(hidden) * len(weight) // 32))
        self.whole_rows = job.chunk or _whole_rows(len(hidden), len(weight), self.tile)
        self._cached: tuple[int, int, Tensor] | None = None

    def tiles(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Spans of the vocabulary and of the tokens."""
        n, size = len(self.hidden), len(self.weight)
        if self.job.probes:
            return [(0, size)], list(_spans(n, self.whole_rows))
        rows = min(n, self.job.chunk or ROWS[self.place]) or 1
        return list(_spans(size, max(1, self.tile // rows))), list(_spans(n, rows))

    def work(self, rows: int, cols: int) -> Tensor:
        """A buffer for one tile."""
        return torch.empty(rows * cols, dtype=self.dtype, device=self.hidden.device)

    def _columns(self, lo: int, hi: int) -> Tensor:
        """Rows lo to hi of the weight as the products take them; the last one is remembered."""
        if self.half is not None or self.weight.dtype == self.dtype:
            return self.weight[lo:hi]
        if self._cached is None or self._cached[:2] != (lo, hi):
            self._cached = (lo, hi, self.weight[lo:hi].to(self.dtype))
        return self._cached[2]

    def logits(self, a: int, b: int, lo: int, hi: int, out: Tensor) -> Tensor:
        """Logits of tokens a to b over the vocabulary lo to hi, at the temperature [b-a, hi-lo], in the buffer `out`."""
        h, w, z = self.hidden[a:b], self._columns(lo, hi).t(), _view(out, b - a, hi - lo)
        if self.half is not None:
            z = torch.mul(torch.mm(h, w, out_dtype=self.dtype), self.scale, out=z)
        else:
            z.addmm_(h, w, beta=0.0, alpha=self.scale)
        if self.bias is not None:
            z.add_(self.bias[lo:hi])
        if self.cap is not None:
            z.div_(self.cap).tanh_().mul_(self.cap)
        return z

    def gradient(
        self, z: Tensor, upstream: _Upstream, a: int, b: int, lo: int, hi: int, *, work: Tensor, extra: Tensor | None = None
    ) -> Tensor:
        """Turn a tile's logits in place into the gradient of the linear layer's output over the temperature.

        `extra` is a gradient with respect to the logits that comes from elsewhere.
        """
        damp = None
        if self.cap is not None:
            damp = z.clone().div_(self.cap).square_().neg_().add_(1.0)
        z.sub_(upstream.lse[a:b, None])  # log p
        up = None if upstream.g_logp is None else upstream.g_logp[a:b]
        if upstream.g_entropy is not None and upstream.entropy is not None:
            slope = upstream.g_entropy[a:b]
            level = slope * upstream.entropy[a:b] if up is None else slope * upstream.entropy[a:b] + up
            p = torch.exp(z, out=_view(work, *z.shape))
            z.mul_(slope[:, None]).add_(level[:, None]).mul_(p).neg_()
        elif up is not None:
            z.exp_().mul_(up[:, None]).neg_()
        else:
            z.zero_()
        if up is not None:
            place = self.job.target[a:b] - lo
            inside = (place >= 0) & (place < hi - lo)
            z.scatter_add_(1, place.clamp(0, hi - lo - 1)[:, None], torch.where(inside, up, 0.0)[:, None])
        if extra is not None:
            z.add_(extra)
        return z if damp is None else z.mul_(damp)

    def add_hidden(self, d_hidden: Tensor, g: Tensor, a: int, b: int, lo: int, hi: int) -> None:
        """d_hidden[a:b] += g @ weight[lo:hi] / temperature."""
        w = self._columns(lo, hi)
        if self.half is not None:
            d_hidden[a:b].add_(torch.mm(g.to(self.half), w, out_dtype=self.dtype), alpha=self.scale)
        else:
            d_hidden[a:b].addmm_(g, w, alpha=self.scale)

    def add_weight(self, d_weight: Tensor, g: Tensor, a: int, b: int, first: bool) -> None:
        """d_weight (+)= g.T @ hidden[a:b] / temperature."""
        h = self.hidden[a:b]
        if self.half is not None:
            product = torch.mm(g.to(self.half).t(), h, out_dtype=self.dtype)
            if first:
                torch.mul(product, self.scale, out=d_weight)
            else:
                d_weight.add_(product, alpha=self.scale)
        else:
            d_weight.addmm_(g.t(), h, beta=0.0 if first else 1.0, alpha=self.scale)


class _Running:
    """Softmax statistics of each token over the vocabulary seen so far: maximum, sum of e, sum of e * (z - maximum)."""

    def __init__(self, n: int, head: _Head) -> None:
        zeros = torch.zeros(n, dtype=head.dtype, device=head.hidden.device)
        self.top = zeros - 1e30
        self.sum = zeros.clone()
        self.moment = zeros.clone() if head.job.entropy else None
        self.logp = zeros.clone()  # the target's logit until `finish`
        self.target = head.job.target

    def add(self, z: Tensor, a: int, b: int, lo: int, hi: int, work: Tensor) -> None:
        """Take in a tile, which is used up."""
        place = self.target[a:b] - lo
        inside = (place >= 0) & (place < hi - lo)
        hit = z.gather(1, place.clamp(0, hi - lo - 1)[:, None]).squeeze(1)
        self.logp[a:b] = torch.where(inside, hit, self.logp[a:b])
        shift = torch.maximum(self.top[a:b], z.amax(1))
        fall = self.top[a:b] - shift
        keep = fall.exp()
        e = torch.exp(z.sub_(shift[:, None]), out=_view(work, *z.shape))
        if self.moment is not None:
            self.moment[a:b].addcmul_(self.sum[a:b], fall).mul_(keep)
        self.sum[a:b].mul_(keep).add_(e.sum(1))
        if self.moment is not None:
            self.moment[a:b].add_(e.mul_(z).sum(1))
        self.top[a:b] = shift

    def finish(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """After the whole vocabulary: log-probability, log-sum-exp and entropy [n]."""
        log_sum = self.sum.log()
        entropy = None if self.moment is None else log_sum - self.moment / self.sum
        return self.logp.sub_(self.top).sub_(log_sum), self.top + log_sum, entropy


class _Context(Context, Protocol):
    saved_tensors: tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor | None]  # hidden, weight, bias, log-sum-exp, entropy
    job: _Job


class _Statistics(torch.autograd.Function):
    @staticmethod
    def forward(ctx: _Context, hidden: Tensor, weight: Tensor, bias: Tensor | None, job: _Job) -> tuple[Tensor | None, ...]:
        head = _Head(hidden, weight, bias, job)
        n = len(hidden)
        cols, rows = head.tiles()
        running = _Running(n, head)
        probed: dict[str, Tensor] = {}
        tile, work = _buffers(head, cols, rows)
        for lo, hi in cols:
            for a, b in rows:
                z = head.logits(a, b, lo, hi, tile)
                for name, value in job.ask(z, hidden[a:b], a, b).items() if job.probes else ():
                    if name not in probed:
                        probed[name] = value.new_empty(n, dtype=value.dtype if value.is_floating_point() else head.dtype)
                    probed[name][a:b] = value
                running.add(z, a, b, lo, hi, work)
        logp, lse, ent = running.finish()
        if job.probes and n == 0:
            probed = _empty_answers(job, head)
        job.names = list(probed)
        ctx.job = job
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, weight, bias, lse, ent)
        return logp, None if ent is None else ent.clone(), *probed.values()

    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, g_logp: Tensor | None, g_entropy: Tensor | None, *g_probes: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, lse, ent = ctx.saved_tensors
        job = ctx.job
        head = _Head(hidden, weight, bias, job)
        cols, rows = head.tiles()
        upstream = _Upstream(lse, ent, g_logp, g_entropy)
        probed = {k: g for k, g in zip(job.names, g_probes, strict=True) if g is not None}
        sums = _Sums(head, hidden, weight, bias, ctx.needs_input_grad)
        tile, work = _buffers(head, cols, rows)
        for lo, hi in cols:
            sums.open(lo, hi)
            for a, b in rows:
                z = head.logits(a, b, lo, hi, tile)
                extra, to_hidden = _probe_gradient(job, z, hidden[a:b], a, b, probed) if probed else (None, None)
                sums.add(head.gradient(z, upstream, a, b, lo, hi, work=work, extra=extra), to_hidden, a, b, lo, hi)
            sums.close(lo, hi)
        return *sums.gradients(), None


class _Sums:
    """The gradients of hidden states, weight and bias, summed over tiles; None where none is asked for."""

    def __init__(self, head: _Head, hidden: Tensor, weight: Tensor, bias: Tensor | None, wanted: Sequence[bool]) -> None:
        self.head = head
        self.hidden = torch.zeros(hidden.shape, dtype=head.dtype, device=hidden.device) if wanted[0] else None
        self.weight = (torch.empty_like if len(hidden) else torch.zeros_like)(weight) if wanted[1] else None
        self.bias = None if bias is None or not wanted[2] else torch.zeros_like(bias, dtype=head.dtype)
        self.dtypes = hidden.dtype, None if bias is None else bias.dtype
        self.columns: Tensor | None = None  # the weight's rows lo to hi, in the reduction precision

    def open(self, lo: int, hi: int) -> None:
        """Begin with the rows lo to hi of the weight."""
        if self.weight is not None:
            own = self.weight[lo:hi]
            self.columns = own if own.dtype == self.head.dtype else torch.empty(own.shape, dtype=self.head.dtype, device=own.device)

    def add(self, g: Tensor, to_hidden: Tensor | None, a: int, b: int, lo: int, hi: int) -> None:
        """Add a tile's gradient, and what else goes to its hidden states."""
        if self.hidden is not None:
            self.head.add_hidden(self.hidden, g, a, b, lo, hi)
            if to_hidden is not None:
                self.hidden[a:b].add_(to_hidden)
        if self.columns is not None:
            self.head.add_weight(self.columns, g, a, b, a == 0)
        if self.bias is not None:
            self.bias[lo:hi].add_(g.sum(0), alpha=self.head.scale)

    def close(self, lo: int, hi: int) -> None:
        """All tokens were seen for the rows lo to hi of the weight."""
        if self.weight is not None and self.columns is not None and self.columns.dtype != self.weight.dtype and len(self.head.hidden):
            self.weight[lo:hi] = self.columns

    def gradients(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Those of hidden states, weight and bias, in their own precision."""
        hidden, bias = (None if g is None else g.to(dtype) for g, dtype in zip((self.hidden, self.bias), self.dtypes, strict=True))
        return hidden, self.weight, bias


def _probe_gradient(
    job: _Job, z: Tensor, hidden: Tensor, a: int, b: int, upstream: Mapping[str, Tensor]
) -> tuple[Tensor | None, Tensor | None]:
    """Gradients of the probes with respect to logits [t,V] and hidden [t,D], by autograd within the chunk."""
    leaves = (z.detach().requires_grad_(), hidden.detach().requires_grad_())
    with torch.enable_grad():
        found = job.ask(*leaves, a, b)
    pairs = [(found[k], g[a:b].to(found[k].dtype)) for k, g in upstream.items() if found[k].requires_grad]
    if not pairs:
        return None, None
    values, grads = zip(*pairs, strict=True)
    to_z, to_hidden = torch.autograd.grad(values, leaves, grads, allow_unused=True)
    return to_z, to_hidden


def _empty_answers(job: _Job, head: _Head) -> dict[str, Tensor]:
    """What the probes would answer on no tokens: asked about one token of zeros, which is dropped."""
    streams = {k: v.new_zeros(1, *v.shape[1:]) for k, v in job.streams.items()}
    one = _Job(job.target.new_zeros(1), job.temperature, job.softcap, False, job.probes, streams)
    z = torch.zeros(1, len(head.weight), dtype=head.dtype, device=head.hidden.device)
    found = one.ask(z, head.hidden.new_zeros(1, head.hidden.shape[1]), 0, 1)
    return {k: v[:0] if v.is_floating_point() else v[:0].to(head.dtype) for k, v in found.items()}


def _buffers(head: _Head, cols: list[tuple[int, int]], rows: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Two tiles to work in: the logits, and their exponentials."""
    most = (rows[0][1] if rows else 0), cols[0][1]
    return head.work(*most), head.work(*most)


def _whole_rows(n: int, size: int, tile: int) -> int:
    """Tokens held at a time when their whole rows are: within `KEPT` logits, and a quarter of all, but for a small tile."""
    return max(1, min(KEPT // max(1, size), max(-(-n // 4), tile // max(1, size))))


def _view(buffer: Tensor, rows: int, cols: int) -> Tensor:
    return buffer[: rows * cols].view(rows, cols)


def _spans(n: int, size: int) -> Iterator[tuple[int, int]]:
    """Cut range(n) into the fewest spans of at most `size`, as even as possible, the longest first."""
    if n == 0:
        return
    step = -(-n // -(-n // size))
    for start in range(0, n, step):
        yield start, min(start + step, n)
