"""From prompts and responses to the hidden states that predict response tokens.

Rows are padded on the right, so with causal attention no real token sees padding, and no attention mask is needed. The
last response token predicts nothing and is left out of the input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from rlent.errors import ModelError


class Head(Protocol):
    """The output head: a linear layer."""

    weight: Tensor
    bias: Tensor | None


class Output(Protocol):
    """What a causal language model returns: logits [B, L, V]."""

    logits: Tensor


class Model(Protocol):
    """What rlent asks of a causal language model (`transformers.PreTrainedModel` is one). `config` and modules are those of its family."""

    config: Any
    model: Any
    forward: Callable[..., object]

    def __call__(self, *, input_ids: Tensor, use_cache: bool) -> Output: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def eval(self) -> object: ...

    def to(self, device: str | torch.device, /) -> Self: ...

    def get_decoder(self) -> nn.Module: ...

    def get_output_embeddings(self) -> Head: ...

    def save_pretrained(self, folder: str | Path, /, *, state_dict: dict[str, Tensor] = ...) -> None: ...


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a part go: B rows, L input positions (the longest prompt with its response but one), n response tokens.

    `prompts` are token ids by row; `prompt_length` [B]; `length` [B] input positions of each row; `tokens` [B,T]; `row`
    and `place` [n] are each response token's row, and the input position that predicts it, in row-major order.
    """

    prompts: Sequence[Sequence[int]]
    tokens: Int[Tensor, "B T"]
    prompt_length: Int[Tensor, " B"]
    length: Int[Tensor, " B"]
    row: Int[Tensor, " n"]
    place: Int[Tensor, " n"]

    @staticmethod
    def of(prompts: Sequence[Sequence[int]], tokens: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"], limit: int | None = None) -> Layout:
        """The layout of a part.

        Raises:
            ModelError: a prompt without tokens, or a row with more than `limit` positions; names the row.
        """
        prompt_length = torch.tensor([len(p) for p in prompts], dtype=torch.long, device=mask.device)
        row, position = mask.nonzero(as_tuple=True)
        last = torch.zeros_like(prompt_length).scatter_reduce_(0, row, position, "amax")
        length = torch.where(mask.any(1), prompt_length + last, 0)
        empty = (prompt_length == 0) & mask.any(1)
        if bool(empty.any()):
            raise ModelError(
                f"row {int(empty.nonzero()[0])} has a prompt of 0 tokens, and nothing predicts its first response token; 1 or more are needed"
            )
        if limit is not None and len(prompts) and int(length.max()) > limit:
            worst = int(length.argmax())
            raise ModelError(
                f"row {worst} has {int(length[worst])} positions ({len(prompts[worst])} of the prompt); the model has {limit}. "
                "Lower sampler.max_tokens or drop long prompts"
            )
        return Layout(prompts, tokens, prompt_length, length, row, prompt_length[row] + position - 1)

    @property
    def width(self) -> int:
        """L."""
        return int(self.length.max()) if len(self.length) else 0

    def input_ids(self) -> Int[Tensor, "B L"]:
        """Prompts and responses, padded on the right with token 0."""
        return self._fill(torch.zeros(len(self.prompts), self.width, dtype=torch.long, device=self.tokens.device))

    def _fill(self, ids: Tensor) -> Tensor:
        if not ids.numel():
            return ids
        widest = min(max(len(p) for p in self.prompts), ids.shape[1])
        padded = [list(p[:widest]) + [0] * (widest - len(p)) for p in self.prompts]
        ids[:, :widest] = torch.tensor(padded, dtype=torch.long, device=ids.device).view(len(padded), widest)
        column = torch.arange(ids.shape[1], device=ids.device)
        offset = column - self.prompt_length[:, None]
        inside = (offset >= 0) & (column < self.length[:, None])
        ids[inside] = self.tokens.gather(1, offset.clamp(0, self.tokens.shape[1] - 1))[inside]
        return ids


class Forward(Protocol):
    """Runs the model on a layout. `packs`: it costs the layout's tokens, a shared prompt once, and not rows times the longest."""

    packs: bool

    def __call__(self, layout: Layout, layers: Sequence[int] = ()) -> dict[str, Float[Tensor, "n D"]]:
        """`hidden`, the final hidden state that predicts each response token, and `hidden_<k>` for each k in `layers`:
        0 is the embedding, k the output of the k-th layer, and the last one is after the final norm."""
        ...


class GeneralForward:
    """Through the model's own body, whatever it is."""

    packs = False

    def __init__(self, model: Model) -> None:
        self.body = model.get_decoder()
        self.blocks: Sequence[nn.Module] = getattr(self.body, "layers", ())
        self.device: torch.device = next(model.parameters()).device

    def __call__(self, layout: Layout, layers: Sequence[int] = ()) -> dict[str, Tensor]:
        index = (layout.row * layout.width + layout.place).to(self.device)
        states: dict[str, Tensor] = {}
        with self._listening(layers, states):
            out = self.body(input_ids=layout.input_ids().to(self.device), use_cache=False)
        states["hidden"] = out.last_hidden_state
        if len(self.blocks) in layers:
            states[f"hidden_{len(self.blocks)}"] = out.last_hidden_state
        return {name: value.flatten(0, 1).index_select(0, index) for name, value in states.items()}

    @contextlib.contextmanager
    def _listening(self, layers: Sequence[int], states: dict[str, Tensor]) -> Iterator[None]:
        """While inside, what goes into the k-th of the body's layers is kept as `hidden_<k>`."""

        def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor]], None]:
            def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
                states[name] = args[0] if args else kwargs["hidden_states"]

            return hook

        handles = [self.blocks[k].register_forward_pre_hook(keep(f"hidden_{k}"), with_kwargs=True) for k in layers if k < len(self.blocks)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def text_config(model: Model) -> Any:
    """The configuration of the language model, also of a model that does more."""
    return model.config.get_text_config()


def position_limit(config: Any) -> int | None:
    """The most tokens of a row, from a model's configuration; None: no limit."""
    limit: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return limit


def attends_fully(config: object) -> bool:
    """Whether each layer of a language model attends to all earlier tokens, and to no window of them."""
    kinds = getattr(config, "layer_types", None) or ()
    return getattr(config, "sliding_window", None) is None and all(kind == "full_attention" for kind in kinds)
