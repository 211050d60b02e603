"""The engine for this machine: vLLM where there is a GPU and vLLM is installed, else `native`."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

import torch

from rlent.engine.base import Engine
from rlent.engine.native import NativeEngine
from rlent.options import PositiveCount
from rlent.policy.forward import Model

VLLM = "rlent.engine.vllm"


def choice() -> tuple[str, str]:
    """The engine that `auto` takes here, and why; nothing is loaded."""
    if not torch.cuda.is_available():
        return "native", "no GPU is visible"
    if importlib.util.find_spec("vllm") is None or importlib.util.find_spec(VLLM) is None:
        return "native", "vLLM is not installed"
    return "vllm", "a GPU is visible and vLLM is installed"


class AutoEngine:
    """The engine of `choice()`, under a name of its own: what is asked of it, `engine` does. `name` and `reason` are which and why.

    The options are those of the native engine; vLLM starts with its defaults (`engine=vllm` gives all of its options).
    """

    def __init__(
        self,
        model: Model,
        pad_id: int,
        ruled: bool = False,
        others: Mapping[str, Model] | None = None,
        *,
        max_batch_tokens: PositiveCount = 262_144,
        dtype: str | None = None,
    ) -> None:
        self.name, self.reason = choice()
        engine: Engine
        if self.name == "vllm":
            engine = importlib.import_module(VLLM).VllmEngine(model, pad_id, ruled, others, dtype=dtype)
        else:
            engine = NativeEngine(model, pad_id, ruled, others, max_batch_tokens=max_batch_tokens)
        self.engine = engine
        self.generate, self.load, self.serving, self.idle = engine.generate, engine.load, engine.serving, engine.idle

    @staticmethod
    def departs() -> str | None:
        """See the engines: of the one that is taken here."""
        name, reason = choice()
        made = NativeEngine if name == "native" else importlib.import_module(VLLM).VllmEngine
        why = made.departs()
        return why and f"{reason}, so it is {name}: {why}"

    @property
    def version(self) -> int:
        return self.engine.version
