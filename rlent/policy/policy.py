"""The policy: a causal language model, its output head, and its optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from rlent.errors import CheckpointError, ModelError
from rlent.math.entropy import reduction_dtype
from rlent.policy import cpu
from rlent.policy.forward import Forward, Layout, Model, position_limit, text_config
from rlent.policy.head import token_statistics
from rlent.policy.load import ModelSpec, ModelTokenizer, load_model, write_model
from rlent.policy.optim import OptimTensors, Update
from rlent.policy.prepare import check_head, compile_checked, general_forward, no_dropout
from rlent.policy.probes import Probe, call_probe, probe_reads
from rlent.policy.shard import Sharding, full_tensor, gathered, recompute_layers, shard
from rlent.types import Batch, JsonObject


class PolicyTensors(TypedDict):
    """The tensors of a policy: weights by Hugging Face name and, where it is trained, those of its optimizer."""

    model: dict[str, Tensor]
    optim: NotRequired[OptimTensors]


class Policy:
    """A Hugging Face causal language model as the loop sees it.

    `model` is in eval mode with dropout 0, so a pass with gradient and one without give the same numbers, bit for bit, for
    the same part. `optim` holds the options of `Update`; without it there is no optimizer and `step` is refused.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: ModelTokenizer | None = None,
        *,
        optim: Mapping[str, Any] | None = None,
        steps: int = 0,
        updates_per_step: int = 1,
        recompute: bool = False,
        packing: str = "auto",
        compile: bool = False,
        sharding: Sharding | None = None,
        lean: bool = True,
    ) -> None:
        """Wrap a model.

        Args:
            optim: options of `rlent.policy.optim.Update` (those of `recipes/optim`).
            steps: steps of the run, over which the learning rate's schedule runs.
            updates_per_step: optimizer updates in a step; they share a learning rate.
            recompute: activation checkpointing.
            packing: how packed rows attend (`rlent.policy.packing`); `off` pads rows, and so does a model that cannot be packed.
            compile: norms and MLPs by torch.compile.
            sharding: split the weights over the ranks (all of them must do this together).
            lean: where it fits, and nothing of `recompute`, `compile` and `sharding` is asked for, take the CPU's own forward
                (`rlent.policy.cpu`).

        Raises:
            ModelError: a way of packing was asked for and does not fit, torch.compile fails or gives other numbers, or
                the model changes its logits in a way the head does not know.
        """
        self.model, self.tokenizer = model, tokenizer
        self.compute: torch.dtype = (sharding and sharding.compute) or next(model.parameters()).dtype  # of the forward pass
        no_dropout(model)
        model.eval()
        self.lean = lean and not (recompute or compile or sharding) and cpu.LeanForward.obstacle(model) is None
        self._forward: Forward = cpu.LeanForward(model) if self.lean else general_forward(model, packing, self.compute)
        config = text_config(model)
        self.limit = position_limit(config)
        self.head = model.get_output_embeddings()
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        if compile:
            compile_checked(model, self._forward, self.compute)
        check_head(model, self._forward, self.softcap)
        if recompute:
            recompute_layers(model)
        self.root = shard(model, sharding) if sharding else None
        self.update = Update(model.named_parameters(), **optim, steps=steps, per_step=updates_per_step) if optim is not None else None

    @classmethod
    def load(
        cls,
        spec: ModelSpec | str | Path | None = None,
        *,
        optim: Mapping[str, Any] | None = None,
        steps: int = 0,
        updates_per_step: int = 1,
        **options: Any,
    ) -> Policy:
        """A policy of the model that `spec` names, with its tokenizer. A path stands for `ModelSpec(path, **options)`.

        Raises:
            ModelError: see `rlent.policy.load.load_model`, and the constructor.
        """
        if not isinstance(spec, ModelSpec):
            spec = ModelSpec(**options) if spec is None else ModelSpec(spec, **options)
        model, tokenizer = load_model(spec)
        return cls(
            model,
            tokenizer,
            optim=optim,
            steps=steps,
            updates_per_step=updates_per_step,
            recompute=spec.recompute,
            packing=spec.packing,
            compile=spec.compile,
            sharding=spec.sharding,
        )

    @property
    def packs(self) -> bool:
        """Whether a part costs its tokens (a shared prompt once), and not its rows times the longest."""
        return self._forward.packs

    # ---- forward --------------------------------------------------------------------------------------------------

    def __call__(
        self, part: Batch, *, temperature: float = 1.0, entropy: bool = True, probes: Mapping[str, Probe] | None = None
    ) -> dict[str, Float[Tensor, "B T"]]:
        """`logp`, `entropy` (if asked) and probes of a part's response tokens [B,T], 0 where `mask` is False, with gradient.

        Reads `prompt_ids`, `tokens`, `mask`, and the token streams that probes name. A probe that names `logits` or
        `target`, `hidden` or `hidden_<k>` answers by token ([n], or a mapping that becomes `<name>_<key>`). A probe of
        hidden states that also names `mask` sees whole rows ([B,T,D] and [B,T]) and answers as it likes, [B] for example.

        Raises:
            ModelError: an empty prompt, or a row longer than the model has positions.
        """
        if self.root is not None:
            return dict(self.root(lambda: {k: v.clone() for k, v in self._call(part, temperature, entropy, probes or {}).items()}))
        return self._call(part, temperature, entropy, probes or {})

    def _call(self, part: Batch, temperature: float, entropy: bool, probes: Mapping[str, Probe]) -> dict[str, Tensor]:
        mask = part["mask"].bool()
        layout = Layout.of(part["prompt_ids"], part["tokens"], mask, self.limit)
        states = self._states(layout, probes)
        rowwise = {k: p for k, p in probes.items() if "mask" in probe_reads(p)}
        flat = self._statistics(part, mask, states, temperature, entropy, {k: p for k, p in probes.items() if k not in rowwise})
        out = {name: _scatter(value, mask) for name, value in flat.items()}
        for name, probe in rowwise.items():
            wide = {k: part[k] for k in probe_reads(probe) if k in part} | {"mask": mask.to(states["hidden"].device)}
            answers = call_probe(name, probe, wide | {k: _scatter(v, mask, v.device) for k, v in states.items()})
            out |= {k: v.to(mask.device) for k, v in answers.items()}
        return out

    @torch.no_grad()
    def look(
        self, part: Batch, *, temperature: float = 1.0, entropy: bool = True, probes: Mapping[str, Probe] | None = None
    ) -> dict[str, Float[Tensor, "B T"]]:
        """The same numbers without gradient."""
        return self(part, temperature=temperature, entropy=entropy, probes=probes)

    def _states(self, layout: Layout, probes: Mapping[str, Probe]) -> dict[str, Tensor]:
        """Hidden states [n,D] that predict the response tokens. Without any nothing is run, or one token where ranks run together."""
        depth = text_config(self.model).num_hidden_layers
        layers = sorted({_layer(s, depth, n) for n, p in probes.items() for s in probe_reads(p) if s.startswith("hidden_")})
        if not len(layout.row) and self.root is not None:
            one = torch.zeros(1, 1, dtype=torch.long)
            return {k: v[:0] for k, v in self._forward(Layout.of([[0]], one, one == 0), layers).items()}
        if not len(layout.row):
            empty = self.head.weight.new_zeros(0, self.head.weight.shape[1])
            return {"hidden": empty} | {f"hidden_{k}": empty for k in layers}
        return self._forward(layout, layers)

    def _statistics(
        self,
        part: Batch,
        mask: Tensor,
        states: Mapping[str, Tensor],
        temperature: float,
        entropy: bool,
        probes: Mapping[str, Probe],
    ) -> dict[str, Tensor]:
        """Flat statistics [n]: those of the head, and probes that need no logits, which autograd follows as it is."""
        place = states["hidden"].device
        target = part["tokens"][mask].to(place)
        asked = {s for p in probes.values() for s in probe_reads(p)} - {"logits", "hidden", "target"}
        streams = {s: part[s][mask].to(place) for s in asked if s in part and s not in states}
        inner = {k: p for k, p in probes.items() if "logits" in probe_reads(p)}
        layered = {s for p in inner.values() for s in probe_reads(p)} & (states.keys() - {"hidden"})
        found = token_statistics(
            states["hidden"],
            self.head.weight,
            target,
            temperature=temperature,
            bias=self.head.bias,
            entropy=entropy,
            probes=inner,
            streams=streams | {k: states[k].detach() for k in layered},
            softcap=self.softcap,
        )
        for name, probe in probes.items():
            if name not in inner:
                unembed = partial(self.unembed, temperature=temperature)
                found |= call_probe(name, probe, {**streams, **states, "target": target, "unembed": unembed})
        return found

    def unembed(self, hidden: Float[Tensor, "n D"], temperature: float) -> Float[Tensor, "n V"]:
        """The head's logits at a temperature, in full: for a probe that takes another state than the last, with gradient."""
        dtype = reduction_dtype(hidden.dtype, self.head.weight.dtype)
        bias = None if self.head.bias is None else self.head.bias.to(dtype)
        logits = torch.nn.functional.linear(hidden.to(dtype), self.head.weight.to(dtype), bias)
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits / temperature

    # ---- update ---------------------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """One optimizer update from the accumulated gradients: `grad_norm`, `lr`, `clipped`.

        Raises:
            NonFinite: a gradient is not finite; the weights are as they were.
            ModelError: the policy was made without `optim`.
        """
        if self.update is None:
            raise ModelError("this policy was made without an optimizer; give `optim` to train it")
        return self.update.step()

    # ---- weights and state ----------------------------------------------------------------------------------------

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter by its Hugging Face name, whole, one at a time; a tied one once."""
        for name, p in self.model.named_parameters():
            yield name, full_tensor(p.detach())

    def whole(self) -> AbstractContextManager[None]:
        """Whole weights in `model`'s modules while inside, also where they are split over ranks."""
        return contextlib.nullcontext() if self.root is None else gathered(self.root)

    def model_state(self) -> PolicyTensors:
        """The weights, live, under `model`: the part of `state_dict` that evaluation needs."""
        return {"model": {name: p.detach() for name, p in self.model.named_parameters()}}

    def load_model_state(self, tensors: PolicyTensors) -> None:
        """Take up weights of `model_state`.

        Raises:
            CheckpointError: names or shapes are another model's.
        """
        mine, given = dict(self.model.named_parameters()), tensors["model"]
        wrong = sorted(mine.keys() ^ given.keys()) or [n for n, p in mine.items() if p.shape != given[n].shape]
        if wrong:
            more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
            raise CheckpointError(f"the checkpoint is of another model: it differs in {', '.join(wrong[:6])}{more}")
        with torch.no_grad():
            for name, p in mine.items():
                p.copy_(given[name])

    def state_dict(self) -> tuple[PolicyTensors, JsonObject]:
        """(tensors, plain): live tensors by name, which may be loaded into in place, and plain numbers."""
        tensors = self.model_state()
        return (tensors, {}) if self.update is None else (tensors | {"optim": self.update.tensors()}, self.update.plain())

    def load_state_dict(self, tensors: PolicyTensors, plain: Mapping[str, Any]) -> None:
        """Take up a state. Training goes on from it exactly as it would have.

        Raises:
            CheckpointError: names or shapes are another model's.
        """
        self.load_model_state(tensors)
        if self.update is not None:
            self.update.load(tensors["optim"], plain)

    def export(self, folder: str | Path, weights: Mapping[str, Tensor] | None = None) -> Path:
        """Write the model as safetensors with its tokenizer, whole or not at all.

        `weights` are those of `named_weights`, gathered by all ranks, where they are split over ranks.

        Raises:
            CheckpointError: the folder exists, or cannot be written.
        """
        return write_model(self.model, self.tokenizer, folder, weights)


def _layer(stream: str, depth: int, probe: str) -> int:
    """The k of `hidden_<k>`."""
    k = stream.removeprefix("hidden_")
    if not k.isdigit() or int(k) > depth:
        raise ModelError(f"probe '{probe}' asks for '{stream}'; the model has hidden_0 (embedding) to hidden_{depth}")
    return int(k)


def _scatter(value: Tensor, mask: Tensor, device: torch.device | None = None) -> Tensor:
    """[n, ...] back to [B,T, ...], zero where the mask is False, on the mask's device or the given one."""
    device = device or mask.device
    value, mask = value.to(device), mask.to(device)
    wide = value.new_zeros(*mask.shape, *value.shape[1:])
    index = mask.flatten().nonzero().squeeze(1)
    return wide.flatten(0, 1).index_copy(0, index, value).view_as(wide)
