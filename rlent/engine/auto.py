"""The engine for this machine: vLLM where there is a GPU and vLLM is installed, else `native`."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from rlent.engine.base import Done, Engine, Weights
from rlent.engine.native import NativeEngine
from rlent.engine.rules import Rule
from rlent.options import PositiveCount
from rlent.types import Request, Rollouts

VLLM = "rlent.engine.vllm"


def choice() -> tuple[str, str]:
    """The engine that `auto` takes here, and why; nothing is loaded."""
    if not torch.cuda.is_available():
        return "native", "no GPU is visible"
    if importlib.util.find_spec("vllm") is None or importlib.util.find_spec(VLLM) is None:
        return "native", "vLLM is not installed"
    return "vllm", "a GPU is visible and vLLM is installed"


class AutoEngine:
    """Makes the engine of `choice()` and passes everything on to it. `name` and `reason` say which and why.

    The options are those of the native engine; vLLM starts with its defaults (`engine=vllm` gives all of its options).
    """

    def __init__(
        self,
        model: Any,
        pad_id: int,
        ruled: bool = False,
        others: Mapping[str, Any] | None = None,
        *,
        max_batch_tokens: PositiveCount = 262_144,
        dtype: Any = None,
    ) -> None:
        self.name, self.reason = choice()
        self.engine: Engine
        if self.name == "vllm":
            self.engine = importlib.import_module(VLLM).VllmEngine(model, pad_id, ruled, others, dtype=dtype)
        else:
            self.engine = NativeEngine(model, pad_id, ruled, others, max_batch_tokens=max_batch_tokens)

    @staticmethod
    def departs() -> str | None:
        """See the engines: of the one that is taken here."""
        name, reason = choice()
        made = NativeEngine if name == "native" else importlib.import_module(VLLM).VllmEngine
        said = made.departs()
        return said and f"{reason}, so it is {name}: {said}"

    @property
    def version(self) -> int:
        return self.engine.version

    def generate(self, rows: Sequence[Request], *, entropy: bool = False, rules: Sequence[Rule] = (), done: Done | None = None) -> Rollouts:
        return self.engine.generate(rows, entropy=entropy, rules=rules, done=done)

    def load(self, policy: Weights, version: int) -> None:
        self.engine.load(policy, version)

    def serving(self, policy: Weights) -> AbstractContextManager[None]:
        return self.engine.serving(policy)

    def idle(self) -> AbstractContextManager[None]:
        return self.engine.idle()
