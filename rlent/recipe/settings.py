"""The run's own settings: one class for each block of `recipes/config.yaml` that is not a seat.

The classes exist for their signatures: the loader checks names, types and ranges against them, as it does for seats.
Defaults live in the option files, where each has a remark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rlent.options import Count, NonNegative, Positive, PositiveCount, PositiveShare, Share

Seconds = Positive


@dataclass(frozen=True, kw_only=True)
class Run:
    dir: str | None
    tags: list[str]


@dataclass(frozen=True, kw_only=True)
class Trainer:
    steps: PositiveCount
    minibatches: PositiveCount
    epochs: PositiveCount
    max_tokens_per_microbatch: PositiveCount
    max_time: Positive | None
    old_logprobs: Literal["recompute", "rollout"] = "recompute"


@dataclass(frozen=True, kw_only=True)
class Objective:
    aggregate: Literal["token_mean", "seq_mean", "seq_sum", "constant"]
    length: PositiveCount | None
    empty_rows: bool


@dataclass(frozen=True, kw_only=True)
class Stop:
    on: list[Literal["collapse", "explosion"]]
    collapse: Share
    explosion: Positive


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    every: Count
    keep: PositiveCount


@dataclass(frozen=True, kw_only=True)
class Scale:
    device: Literal["cpu", "cuda"]
    ranks: PositiveCount
    shard: bool
    replicas: PositiveCount | Literal["machines"]
    compute: Literal["bfloat16", "float16"] | None
    offload: bool
    recompute: bool
    threads: PositiveCount | None
    timeout: Seconds
    packing: Literal["auto", "rows", "varlen", "off"] = "auto"
    compile: bool = False


@dataclass(frozen=True, kw_only=True)
class Model:
    path: str
    toy: bool
    dtype: Literal["float32", "bfloat16", "float64"]
    revision: str | None
    trust_remote_code: bool
    attn: str


@dataclass(frozen=True, kw_only=True)
class Optim:
    lr: Positive
    betas: list[Share]
    eps: Positive
    weight_decay: NonNegative
    max_norm: Positive | None
    schedule: Literal["constant", "linear", "cosine"]
    warmup_steps: Count
    final_share: Share


@dataclass(frozen=True, kw_only=True)
class Eval:
    every: Count
    n: PositiveCount | None
    ks: list[PositiveCount]
    problems: PositiveCount | None
    temperature: NonNegative | None
    top_p: PositiveShare | None
    top_k: Count
    max_tokens: PositiveCount | None
    seed: int
    sets: list[str] = field(default_factory=list)
    paths: Mapping[str, str] = field(default_factory=dict)
    template: str | None = None
    batch_rows: PositiveCount = 1024
    decode: bool = True


@dataclass(frozen=True, kw_only=True)
class Ledger:
    rows: Count


@dataclass(frozen=True, kw_only=True)
class Track:
    mode: Literal["auto", "online", "offline", "disabled"]
    project: str
    entity: str | None
    group: str | None
    tags: list[str]
    samples_every: Count
    samples: Count
    console: Literal["auto", "plain", "rich", "off"]
    tensorboard: bool = False
    trackio: bool = False
    ledger: Mapping[str, Any]
    save_batches: Count


BLOCKS: dict[str, type] = {
    "run": Run,
    "trainer": Trainer,
    "objective": Objective,
    "stop": Stop,
    "checkpoint": Checkpoint,
    "scale": Scale,
    "model": Model,
    "optim": Optim,
    "eval": Eval,
    "track": Track,
}


RESUMABLE = (
    "trainer.steps",
    "trainer.max_time",
    "checkpoint.every",
    "checkpoint.keep",
    "track.console",
    "track.mode",
    "scale.threads",
    "scale.ranks",
)
"""Settings that a resumed run may change: its end, and how it is watched and spread out."""
