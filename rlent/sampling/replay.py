"""Good responses of earlier steps beside the step's own: they bring the log-probabilities they were drawn with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rlent.engine.base import Engine
from rlent.math import noise
from rlent.options import Count, NonNegative, PositiveCount
from rlent.ranks.world import merge
from rlent.sampling.buffer import Item, TrajectoryBuffer
from rlent.sampling.group import GroupSampler, SamplerContext, Source, blank
from rlent.types import Batch, Json, JsonObject, Problem, Stream, Verdict

_PLAIN = ("prompt_ids", "prompt", "response", "answer", "status", "finish", "gold", "meta", "data_source")
_TOKENS = ("tokens", "sampler_logp", "sampler_entropy")
_NUMBERS = ("correct", "problem_key")


@dataclass(kw_only=True, eq=False)
class ReplaySampler(GroupSampler):
    """`n` responses to each prompt and, when the buffer is full, some of earlier steps, each a group of its own.

    A replayed row has `source` replay, `own` True, `own_logp` [T] as it was sampled, and `replay_adv` [N], its advantage against what
    groups have earned so far. The buffer is filled from the rewards of this step, which must not read the policy's numbers.
    """

    brings: ClassVar = ("replay",)

    buffer: PositiveCount
    tolerance: Count
    by_std: bool
    decay: float
    epsilon: NonNegative

    def __post_init__(self) -> None:
        self.stored = TrajectoryBuffer(
            group_size=self.n, tolerance=self.tolerance, size=self.buffer, by_std=self.by_std, decay=self.decay, epsilon=self.epsilon
        )

    def __call__(
        self, engine: Engine, data: Source, grade: Callable[[Sequence[str], Sequence[Problem]], list[Verdict]], context: SamplerContext
    ) -> Batch:
        """One step's rollouts, this rank's share, graded, and this rank's share of what is replayed."""
        batch = super().__call__(engine, data, grade, context)
        replays: list[tuple[Item, float]] = []
        if self.stored.full:
            replays = self.stored.take(noise.uniform(context.seed, context.step, "replay", torch.arange(len(self.stored.kept))))
        everyone = sorted(
            (row for share in context.world.all_gather(self._stored(batch, context)) for row in share), key=lambda row: row[0]
        )
        self.stored.add(context.step, [r[1] for r in everyone], [True] * len(everyone), [r[2] for r in everyone])
        context.note("sampler/replayed", len(replays))
        context.note("sampler/stored", len(self.stored.items))
        batch = batch.with_(
            own=torch.zeros(len(batch), dtype=torch.bool),
            own_logp=torch.zeros_like(batch["sampler_logp"]),
            replay_adv=torch.zeros(len(batch)),
        )
        last = max(g for share in context.world.all_gather(batch["group"].tolist()) for g in share)  # a filter leaves gaps in the numbers
        mine, places = list(context.world.share(replays)), list(context.world.share(range(len(replays))))
        if not mine:
            return batch
        first = max(r[0] for r in everyone) + 1
        return merge([batch, self._replayed(batch, mine, [last + 1 + p for p in places], [first + p for p in places])])

    def _stored(self, batch: Batch, context: SamplerContext) -> list[tuple[int, float, JsonObject]]:
        """Row id, reward, and what is needed to train on the row again, as plain values."""
        reward, length = context.reward(batch)["reward"].tolist(), batch["length"].tolist()
        out = []
        for i, row in enumerate(batch.row.tolist()):
            kept: JsonObject = {k: batch[k][i] for k in _PLAIN}
            kept["meta"] = dict(kept["meta"])
            kept |= {k: batch[k][i, : length[i]].tolist() for k in _TOKENS if k in batch}
            out.append((row, reward[i], kept | {k: batch[k][i].item() for k in _NUMBERS}))
        return out

    def _replayed(self, batch: Batch, items: Sequence[tuple[Item, float]], groups: Sequence[int], rows: Sequence[int]) -> Batch:
        """Stored responses as rows with the streams of `batch`; what was not stored is 0."""
        data: list[Mapping[str, Json]] = [item.data for item, _ in items]
        lengths = torch.tensor([len(d["tokens"]) for d in data])
        width = max(int(lengths.max()), 1)

        def padded(name: str, like: Tensor) -> Tensor:
            out = like.new_zeros((len(data), width))
            for i, d in enumerate(data):
                out[i, : len(d["tokens"])] = torch.tensor(d[name], dtype=like.dtype)
            return out

        streams: dict[str, Stream] = {}
        for name, value in batch.streams.items():
            if name in _TOKENS:
                streams[name] = padded(name, value)
            elif name in _NUMBERS:
                streams[name] = torch.tensor([d[name] for d in data], dtype=value.dtype)
            elif name in _PLAIN:
                streams[name] = [d[name] for d in data]
            else:
                streams[name] = blank(value, len(data), width)
        every = torch.ones(len(data), dtype=torch.bool)
        streams |= {
            "mask": torch.arange(width) < lengths[:, None],
            "length": lengths,
            "group": torch.tensor(groups),
            "sample": torch.tensor(rows),
            "train": every,
            "own": every,
            "own_logp": streams["sampler_logp"].clone(),
            "source": ["replay"] * len(data),
            "replay_adv": torch.tensor([adv for _, adv in items], dtype=torch.float32),
        }
        return Batch(streams, torch.tensor(rows))

    def state_dict(self) -> JsonObject:
        return self.stored.state_dict()

    def load_state_dict(self, state: JsonObject) -> None:
        self.stored.load_state_dict(state)
