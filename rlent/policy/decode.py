"""Running a causal language model one token at a time: prompts in, next-token logits out.

`Decoder` goes through the model's own forward and the transformers cache, and is right for any decoder. Prompts are padded on
the left, so that all rows share a cache column and only positions differ.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlent.policy.forward import Model

if TYPE_CHECKING:
    from transformers import DynamicCache


class Decoder:
    """Decodes through `model.forward` with a cache. Use: `start`, then `step` and `select` in any order."""

    def __init__(self, model: Model, pad_id: int) -> None:
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

    def _new_cache(self) -> DynamicCache:
        from transformers import DynamicCache

        return DynamicCache(config=self.model.config)

    def _forward(self, ids: Int[Tensor, "n s"], positions: Int[Tensor, "n s"]) -> Float[Tensor, "n V"]:
        extra = {**self._last_only, **({"position_ids": positions} if self._positions else {})}
        out = self.model(input_ids=ids, attention_mask=self._seen, past_key_values=self._cache, use_cache=True, **extra)
        self._columns += ids.shape[1]
        return out.logits[:, -1]
