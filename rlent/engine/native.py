"""The engine that needs nothing: a Hugging Face causal language model, sampled in this process.

It samples the policy's own module, so there are no weights to copy and nothing to keep in step. Requests with the same
prompt and prefix share one reading of it. Finished rows leave the batch.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.engine.base import Done, Weights, blank, budgets, check_requests
from rlent.engine.rules import Rule, follow
from rlent.engine.warp import draw, entropy_of, warp
from rlent.errors import EngineError, NonFinite
from rlent.math import noise
from rlent.options import PositiveCount
from rlent.policy import cpu
from rlent.policy.decode import Decoder
from rlent.policy.forward import Model, position_limit, text_config
from rlent.types import Request, Rollouts

_NOISE_BLOCK = 64  # positions for which draws are hashed at once
_LEAVE_SHARE = 0.25  # finished rows leave the batch once they are this share of it


class NativeEngine:
    """Samples a Hugging Face causal language model in process.

    `max_batch_tokens` bounds rows times (longest context + longest response) of what is decoded at once; it changes
    memory and time, not results. `lean` chooses the decoder for the plain Llama family: null takes it where it fits,
    false never, true refuses a model that it does not fit. `others` are further models by name: rules may read their logits.
    It takes rules whether or not `ruled` announces them.
    """

    def __init__(
        self,
        model: Model,
        pad_id: int,
        ruled: bool = True,
        others: Mapping[str, Model] | None = None,
        *,
        max_batch_tokens: PositiveCount = 262_144,
        lean: bool | None = None,
    ) -> None:
        self.model = model
        self.pad_id = pad_id
        self.others = dict(others or {})
        self.max_batch_tokens = max_batch_tokens
        self.lean = lean
        self.version = -1
        self._whole: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext  # of a model split over ranks: gathers it
        self.vocab: int = text_config(model).vocab_size
        self.limit = position_limit(model.config)

    @staticmethod
    def departs() -> str | None:
        """Nothing: the policy's own weights, exact entropies; what differs from the update's forward is rounding."""
        return None

    def load(self, policy: Weights, version: int) -> None:
        """Record the version: the weights are the policy's own.

        Raises:
            EngineError: the policy's module is another one.
        """
        if policy.model is not self.model:
            raise EngineError(
                "the native engine samples the module it was made with, and this policy has another one; make the engine with policy.model"
            )
        self.version = version
        self._whole = policy.whole

    @contextlib.contextmanager
    def serving(self, policy: Weights) -> Iterator[None]:
        """While inside, `policy`'s module samples."""
        own = self.model, self._whole
        self.model, self._whole = policy.model, policy.whole
        try:
            yield
        finally:
            self.model, self._whole = own

    def idle(self) -> AbstractContextManager[None]:
        """Nothing to give back: no cache outlives `generate`."""
        return contextlib.nullcontext()

    def generate(self, rows: Sequence[Request], *, entropy: bool = False, rules: Sequence[Rule] = (), done: Done | None = None) -> Rollouts:
        """See `Engine.generate`. A response that reaches the model's last position ends there, with finish "length".

        The module is in eval mode meanwhile and afterwards as it was, also after an error or an interrupt.
        """
        began = time.perf_counter()
        check_requests(rows, vocab=self.vocab, limit=self.limit)
        results, budget = blank(rows, self.version, entropy=entropy), budgets(rows, self.limit)
        with self._whole(), torch.inference_mode(), _evaluating(self.model):
            decoder = self._decoder(self.model)
            others = {f"{name}_logits": self._decoder(model) for name, model in self.others.items()} if rules else {}
            for wave in _waves(rows, budget, self.max_batch_tokens):
                _Wave(self, decoder, rows, wave, budget, rules, others, done).run(results)
        results.seconds = time.perf_counter() - began
        return results

    def _decoder(self, model: Model) -> Decoder:
        if self.lean is False:
            return Decoder(model, self.pad_id)
        obstacle = cpu.LeanDecoder.obstacle(model)
        if obstacle is None:
            return cpu.LeanDecoder(model, self.pad_id)
        if self.lean:
            raise EngineError(f"engine.lean is true, but this model cannot use the lean decoder: {obstacle}; leave engine.lean null")
        return Decoder(model, self.pad_id)


@contextlib.contextmanager
def _evaluating(model: Model) -> Iterator[None]:
    """Eval mode inside; every submodule's own mode is put back."""
    training = [m for m in model.modules() if m.training]
    try:
        for m in training:
            m.training = False
        yield
    finally:
        for m in training:
            m.training = True


def _waves(rows: Sequence[Request], budget: Sequence[int], max_tokens: int) -> Iterator[list[list[int]]]:
    """Row indices to decode together, grouped by equal context, within `max_tokens` (a row alone may exceed it)."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, r in enumerate(rows):
        if budget[i] > 0:
            groups.setdefault((*r.prompt, *r.prefix), []).append(i)
    wave: list[list[int]] = []
    count = context = response = 0
    for ids, group in sorted(groups.items(), key=lambda item: len(item[0])):
        fresh = True
        for i in group:
            wide = max(context, len(ids)) + max(response, budget[i])
            if wave and (count + 1) * wide > max_tokens:
                yield wave
                wave, count, context, response, fresh = [], 0, 0, 0, True
            if fresh:
                wave.append([])
                fresh = False
            wave[-1].append(i)
            count, context, response = count + 1, len(ids), max(response, budget[i])
    if wave:
        yield wave


class _Wave:
    """Rows decoded together. Names: n rows still in the batch; `alive` says which of the wave's N rows they are."""

    def __init__(
        self,
        engine: NativeEngine,
        decoder: Decoder,
        requests: Sequence[Request],
        groups: list[list[int]],
        budget: Sequence[int],
        rules: Sequence[Rule],
        others: Mapping[str, Decoder],
        done: Done | None = None,
    ) -> None:
        self.engine, self.decoder, self.rules, self.others, self.done = engine, decoder, rules, others, done
        self.memory: dict[str, Tensor] = {}
        self.notes: dict[str, list[tuple[Tensor, Tensor]]] = {}  # by name, for each token: the rows alive, and what was noted of them
        self.device = decoder.device
        self.order = [i for group in groups for i in group]
        rows = [requests[i] for i in self.order]
        self.contexts = [[*requests[g[0]].prompt, *requests[g[0]].prefix] for g in groups]
        self.context_of = torch.tensor([g for g, group in enumerate(groups) for _ in group])
        self.steps = max(budget[i] for i in self.order)
        self.keys = [r.key for r in rows]
        self.start = torch.tensor([len(r.prefix) for r in rows])  # response position of the first sampled token
        self.text_start = torch.tensor([len(r.prompt) + len(r.prefix) for r in rows]).to(self.device)
        self.alive = torch.arange(len(rows), device=self.device)
        self.end = torch.tensor([budget[i] for i in self.order]).to(self.device)  # sampled tokens of each alive row, at most
        self.stopped = torch.zeros(len(rows), dtype=torch.bool, device=self.device)
        self.reported = torch.zeros_like(self.stopped)  # the wave's rows that `done` was called with
        self.settings = _settings(rows, self.device)
        self.stop = _stop_table([r.stop for r in rows], self.device)

    def run(self, results: Rollouts) -> None:
        """Sample every row to its end and write it into `results`."""
        total, device, want_entropy = len(self.order), self.device, results.sampler_entropy is not None
        look_every = 1 if device.type == "cpu" else 8  # how often the host waits for the device
        logits = self.decoder.start(self.contexts, self.context_of, self.steps)
        beside = {name: d.start(self.contexts, self.context_of, self.steps) for name, d in self.others.items()}
        number = torch.promote_types(logits.dtype, torch.float32)
        tokens = torch.zeros(total, self.steps, dtype=torch.long, device=device)
        logps = torch.zeros(total, self.steps, dtype=number, device=device)
        entropies = torch.zeros(total, self.steps if want_entropy else 0, dtype=number, device=device)
        end, stopped = torch.zeros_like(self.end), torch.zeros_like(self.stopped)
        for t in range(self.steps):
            if t % _NOISE_BLOCK == 0:
                u = self._uniforms(t)
            logp = warp(*self._ruled(logits, beside, t))
            token = draw(logp, u[:, t % _NOISE_BLOCK][self.alive])
            tokens[self.alive, t] = token
            logps[self.alive, t] = logp.gather(1, token[:, None]).squeeze(1)
            if want_entropy:
                entropies[self.alive, t] = entropy_of(logp)
            hit = (token[:, None] == self.stop).any(1) & (t < self.end)
            self.stopped |= hit
            self.end = torch.where(hit, t + 1, self.end)
            if (t + 1) % look_every == 0 or t + 1 == self.steps:
                end[self.alive], stopped[self.alive] = self.end, self.stopped
                self._refuse_nan(logps[:, : t + 1], end)
                going = self.end > t + 1
                self._report(going, tokens, end)
                left = int(going.sum())
                if left == 0:
                    break
                if left <= (1 - _LEAVE_SHARE) * len(going):
                    keep = _kept(going)
                    self._select(keep)
                    token = token[keep]
            position = self.text_start[self.alive] + t
            if self.engine.limit is not None:
                position = position.clamp(max=self.engine.limit - 1)  # only finished rows come that far
            logits = self.decoder.step(token, position)
            beside = {name: d.step(token, position) for name, d in self.others.items()}
        self._write(results, tokens, logps, entropies, end, stopped)

    def _report(self, going: Bool[Tensor, " n"], tokens: Tensor, end: Tensor) -> None:
        """Call `done` with the rows that have ended since its last call."""
        if self.done is None:
            return
        rows = self.alive[~going]
        rows = rows[~self.reported[rows]]
        if len(rows):
            self.reported[rows] = True
            sampled = [row[:n] for row, n in zip(tokens[rows].tolist(), end[rows].tolist(), strict=True)]
            self.done([self.order[i] for i in rows.tolist()], sampled)

    def _ruled(
        self, logits: Float[Tensor, "n V"], beside: Mapping[str, Tensor], t: int
    ) -> tuple[Tensor, float | Tensor, int | Tensor, float | Tensor]:
        """Logits, temperature, top-k and top-p as the rules leave them."""
        if not self.rules:
            return logits, *self.settings
        temperature, top_k, top_p = self.settings
        position = self.start.to(self.device)[self.alive] + t
        done = follow(self.rules, logits, temperature, self.memory, {**beside, "position": position})
        self.memory = done.memory
        for name, values in done.notes.items():
            self.notes.setdefault(name, []).append((self.alive, values))
        return done.logits, done.temperature, top_k, top_p

    def _uniforms(self, t: int) -> Float[Tensor, "N block"]:
        """The draws of all rows of the wave for sampled tokens t, t + 1, ..."""
        positions = self.start[:, None] + torch.arange(t, min(t + _NOISE_BLOCK, self.steps))
        u = torch.empty(positions.shape, dtype=torch.float64)
        by_length: dict[int, list[int]] = {}
        for i, key in enumerate(self.keys):
            by_length.setdefault(len(key), []).append(i)
        for rows in by_length.values():
            counters = torch.tensor([self.keys[i] for i in rows]).T[..., None]  # [counters, rows, 1]
            u[rows] = noise.uniform(*counters, positions[rows])
        return u.to(self.device)

    def _select(self, keep: Int[Tensor, " m"]) -> None:
        for decoder in (self.decoder, *self.others.values()):
            decoder.select(keep)
        self.memory = {name: value[keep] for name, value in self.memory.items()}
        self.alive, self.end, self.stopped = self.alive[keep], self.end[keep], self.stopped[keep]
        temperature, top_k, top_p = (s[keep] if isinstance(s, Tensor) else s for s in self.settings)
        self.settings = temperature, top_k, top_p  # type: ignore[assignment]
        self.stop = self.stop[keep] if len(self.stop) > 1 else self.stop

    def _refuse_nan(self, logps: Float[Tensor, "N t"], end: Int[Tensor, " N"]) -> None:
        bad = logps.isnan() & (torch.arange(logps.shape[1], device=self.device) < end[:, None])
        if not bool(bad.any()):
            return
        which = bad.any(1).nonzero().squeeze(1).tolist()
        first = bad.int().argmax(1)
        named = sorted((self.order[i], int(self.start[i]) + int(first[i])) for i in which)
        listed = ", ".join(f"row {row} at response position {position}" for row, position in named[:8])
        more = f" and {len(named) - 8} more" if len(named) > 8 else ""
        share = f"{len(named)} of {len(self.order)} rows (weights version {self.engine.version})"
        raise NonFinite(f"the logits are not finite for {share}: {listed}{more}")

    def _write(self, results: Rollouts, tokens: Tensor, logps: Tensor, entropies: Tensor, end: Tensor, stopped: Tensor) -> None:
        lengths, ended = end.tolist(), stopped.tolist()
        table, scores = tokens.tolist(), logps.tolist()
        spread = entropies.tolist()
        for row, i in enumerate(self.order):
            n = lengths[row]
            results.tokens[i], results.sampler_logp[i] = table[row][:n], scores[row][:n]
            results.finish[i] = "stop" if ended[row] else "length"
            if results.sampler_entropy is not None:
                results.sampler_entropy[i] = spread[row][:n]
        for name, noted in self.notes.items():
            listed = results.notes.setdefault(name, [[] for _ in results.tokens])
            for alive, values in noted:
                for row, value in zip(alive.tolist(), values.tolist(), strict=True):
                    if len(listed[self.order[row]]) < lengths[row]:
                        listed[self.order[row]].append(value)


def _kept(going: Bool[Tensor, " n"]) -> Int[Tensor, " m"]:
    """The rows that go on, and of a large batch as many finished ones as make a multiple of `cpu.ROWS`, so that few sizes occur."""
    keep = going.nonzero().squeeze(1)
    spare = -len(keep) % cpu.ROWS
    if len(keep) < cpu.ROWS or len(keep) + spare >= len(going):
        return keep
    return torch.cat((keep, (~going).nonzero().squeeze(1)[:spare])).sort().values


def _settings(rows: Sequence[Request], device: torch.device) -> tuple[float | Tensor, int | Tensor, float | Tensor]:
    """Temperature, top-k and top-p of requests."""
    columns = ([r.temperature for r in rows], [r.top_k for r in rows], [r.top_p for r in rows])
    return tuple(_shared(values, device) for values in columns)  # type: ignore[return-value]


def _shared(values: Sequence[float], device: torch.device) -> float | Tensor:
    """One number when all rows agree, which is cheaper, else a tensor with one for each (float64 or int64)."""
    if len(set(values)) == 1:
        return values[0]
    return torch.tensor(values, dtype=torch.float64 if isinstance(values[0], float) else None, device=device)


def _stop_table(stops: Sequence[frozenset[int]], device: torch.device) -> Int[Tensor, "N S"]:
    """Stop tokens by row, padded with -1; a single row when all agree."""
    if len(set(stops)) == 1:
        stops = stops[:1]
    width = max(1, *map(len, stops))
    return torch.tensor([sorted(s) + [-1] * (width - len(s)) for s in stops]).to(device)
