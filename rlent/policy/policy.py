"""The policy: a causal language model, its output head, and its optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rlent.errors import CheckpointError, ModelError
from rlent.math.entropy import reduction_dtype
from rlent.policy import packing as packed_family
from rlent.policy.cpu import lean as lean_family
from rlent.policy.forward import Forward, GeneralForward, Layout, text_config
from rlent.policy.head import Probe, call_probe, probe_reads, token_statistics, token_statistics_backward
from rlent.policy.optim import Update
from rlent.policy.shard import Sharding, compile_layers, gathered, recompute_layers, shard
from rlent.system.write import atomic
from rlent.types import Batch

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64, "float16": torch.float16}


class Policy:
    """A Hugging Face causal language model as the loop sees it.

    `model` is in eval mode with dropout 0, so a pass with gradient and one without give the same numbers, bit for bit, for
    the same part. `optim` holds the options of `Update`; without it there is no optimizer and `step` is refused.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        optim: Mapping[str, Any] | None = None,
        steps: int = 0,
        updates_per_step: int = 1,
        lean: bool | None = None,
        sharding: Sharding | None = None,
        recompute: bool = False,
        packing: str = "auto",
        compile: bool = False,
    ) -> None:
        """Wrap a model.

        Args:
            sharding: split the weights over the ranks (all of them must do this together).
            recompute: activation checkpointing.
            optim: options of `rlent.policy.optim.Update` (those of `recipes/optim`).
            steps: steps of the run, over which the learning rate's schedule runs.
            updates_per_step: optimizer updates in a step; they share a learning rate.
            lean: use the lean forward (`rlent.policy.cpu.lean`); None where it fits, True refuses a model it does not fit.
            packing: how packed rows attend (`rlent.policy.packing`); `off` pads rows, and so does a model that cannot be packed.
            compile: norms and MLPs by torch.compile, in the general forward.

        Raises:
            ModelError: `lean` or a way of packing was asked for and does not fit, torch.compile fails or gives other numbers, or
                the model changes its logits in a way the head does not know.
        """
        self.model, self.tokenizer = model, tokenizer
        self.compute: torch.dtype = (sharding and sharding.compute) or next(model.parameters()).dtype  # of the forward pass
        _no_dropout(model)
        model.eval()
        reason = lean_family.obstacle(model) or (
            "it is split over ranks"
            if sharding
            else "its layers are recomputed"
            if recompute
            else "its layers are compiled"
            if compile
            else None
        )
        if lean and reason:
            raise ModelError(f"the lean forward does not fit this model: {reason}; leave lean null")
        self.lean = reason is None if lean is None else lean
        self._forward: Forward = lean_family.LeanForward(model) if self.lean else _general(model, packing, sharding)
        config = text_config(model)
        self.limit: int | None = getattr(config, "max_position_embeddings", None)
        self.head: Any = model.get_output_embeddings()
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        if compile:
            _compile(self)
        _check_head(self)
        if recompute:
            recompute_layers(model)
        self.root = shard(model, sharding) if sharding else None
        self.update = Update(model.named_parameters(), **optim, steps=steps, per_step=updates_per_step) if optim is not None else None

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        dtype: str | torch.dtype = "float32",
        attn: str = "sdpa",
        revision: str | None = None,
        trust_remote_code: bool = False,
        device: str | torch.device = "cpu",
        optim: Mapping[str, Any] | None = None,
        steps: int = 0,
        updates_per_step: int = 1,
        lean: bool | None = None,
        sharding: Sharding | None = None,
        recompute: bool = False,
        packing: str = "auto",
        compile: bool = False,
    ) -> Policy:
        """Load a model and its tokenizer from a folder, from the hub by name, or the embedded one as `tiny`.

        Raises:
            ModelError: nothing there, no network, weights that are not safetensors, an unknown dtype or attention.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        if str(dtype).removeprefix("torch.") not in _DTYPES:
            raise ModelError(f"model.dtype is {dtype!r}; one of {', '.join(_DTYPES)} is accepted")
        place = _locate(path)
        common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        try:
            tokenizer = AutoTokenizer.from_pretrained(place, **common)
            model = AutoModelForCausalLM.from_pretrained(
                place, dtype=_DTYPES[str(dtype).removeprefix("torch.")], attn_implementation=attn, use_safetensors=True, **common
            )
        except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
            raise ModelError(_why(path, place, error)) from error
        moved: Any = model
        moved.to(device)
        return cls(
            moved,
            tokenizer,
            optim=optim,
            steps=steps,
            updates_per_step=updates_per_step,
            lean=lean,
            sharding=sharding,
            recompute=recompute,
            packing=packing,
            compile=compile,
        )

    @property
    def packs(self) -> bool:
        """Whether a part costs its tokens (a shared prompt once), and not its rows times the longest."""
        return not isinstance(self._forward, GeneralForward) or isinstance(self._forward, packed_family.PackedForward)

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
        flat = self._statistics(layout, part, mask, states, temperature, entropy, {k: p for k, p in probes.items() if k not in rowwise})
        out = {name: _scatter(value, mask) for name, value in flat.items()}
        for name, probe in rowwise.items():
            wide = {k: part[k] for k in probe_reads(probe) if k in part} | {"mask": mask.to(states["hidden"].device)}
            answer = call_probe(probe, wide | {k: _scatter(v, mask, v.device) for k, v in states.items()})
            answers = {f"{name}_{k}": v for k, v in answer.items()} if isinstance(answer, Mapping) else {name: answer}
            out |= {k: v.to(mask.device) for k, v in answers.items()}
        return out

    @torch.no_grad()
    def look(
        self, part: Batch, *, temperature: float = 1.0, entropy: bool = True, probes: Mapping[str, Probe] | None = None
    ) -> dict[str, Float[Tensor, "B T"]]:
        """The same numbers without gradient."""
        return self(part, temperature=temperature, entropy=entropy, probes=probes)

    def backward(
        self, part: Batch, g_logp: Float[Tensor, "B T"], g_entropy: Float[Tensor, "B T"] | None = None, *, temperature: float = 1.0
    ) -> dict[str, Float[Tensor, "B T"]]:
        """Values, and gradients added to the parameters, for upstream gradients known beforehand.

        The head then visits its logits once. Equal to calling, and `backward` with `g_logp` and `g_entropy`, which is what a
        policy split over ranks does.
        """
        mask = part["mask"].bool()
        if self.root is not None:
            values = self(part, temperature=temperature, entropy=g_entropy is not None)
            given = {"logp": g_logp, **({} if g_entropy is None else {"entropy": g_entropy})}
            torch.autograd.backward([values[k] for k in given], [g.to(values[k]) for k, g in given.items()])
            return {k: v.detach() for k, v in values.items()}
        layout = Layout.of(part["prompt_ids"], part["tokens"], mask, self.limit)
        states = self._states(layout, {})["hidden"]
        weight, bias = self.head.weight, self.head.bias
        place = states.device
        done = token_statistics_backward(
            states.detach(),
            weight,
            part["tokens"][mask].to(place),
            g_logp[mask].to(place),
            None if g_entropy is None else g_entropy[mask].to(place),
            temperature=temperature,
            bias=bias,
            softcap=self.softcap,
        )
        if states.requires_grad:
            torch.autograd.backward(states, done.d_hidden)
        for parameter, grad in ((weight, done.d_weight), (bias, done.d_bias)):
            if parameter is not None and parameter.requires_grad and grad is not None:
                grad = grad.to(parameter.dtype)
                parameter.grad = grad if parameter.grad is None else parameter.grad.add_(grad)
        return {name: _scatter(value, mask) for name, value in done.values.items()}

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
        layout: Layout,
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
                answer = call_probe(
                    probe, {**streams, **states, "target": target, "unembed": partial(self.unembed, temperature=temperature)}
                )
                found |= {f"{name}_{k}": v for k, v in answer.items()} if isinstance(answer, Mapping) else {name: answer}
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
            yield name, p.full_tensor() if hasattr(p, "full_tensor") else p.detach()

    def whole(self) -> AbstractContextManager[None]:
        """Whole weights in `model`'s modules while inside, also where they are split over ranks."""
        return contextlib.nullcontext() if self.root is None else gathered(self.root)

    def model_state(self) -> dict[str, Any]:
        """The weights, live, under `model`: the part of `state_dict` that evaluation needs."""
        return {"model": {name: p.detach() for name, p in self.model.named_parameters()}}

    def load_model_state(self, tensors: Mapping[str, Any]) -> None:
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

    def state_dict(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """(tensors, plain): live tensors by name, which may be loaded into in place, and plain numbers."""
        tensors = self.model_state()
        return (tensors, {}) if self.update is None else (tensors | {"optim": self.update.tensors()}, self.update.plain())

    def load_state_dict(self, tensors: Mapping[str, Any], plain: Mapping[str, Any]) -> None:
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
        final = Path(folder)
        if final.exists():
            raise CheckpointError(f"{final} exists, and nothing is overwritten; remove it or choose another folder")
        try:
            with atomic(final, sync=True) as temporary:
                self.model.save_pretrained(temporary, **({} if weights is None else {"state_dict": dict(weights)}))
                if self.tokenizer is not None:
                    self.tokenizer.save_pretrained(temporary)
        except OSError as error:
            raise CheckpointError(f"the model could not be written to {final} ({error})") from error
        return final


def load_tokenizer(path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> tuple[Any, int | None]:
    """A model's tokenizer and its number of positions (None: no limit), without its weights.

    Raises:
        ModelError: nothing there, or no network.
    """
    from transformers import AutoConfig, AutoTokenizer

    place = _locate(path)
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(place, **common)
        return AutoTokenizer.from_pretrained(place, **common), getattr(config.get_text_config(), "max_position_embeddings", None)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise ModelError(_why(path, place, error)) from error


def _general(model: Any, packing: str, sharding: Sharding | None) -> Forward:
    """The packed forward if it gives what the padded one gives, else the padded one.

    Raises:
        ModelError: a way of packing was asked for by name, and the model cannot be packed.
    """
    padded = GeneralForward(model)
    if packing == "off":
        return padded
    if packing not in packed_family.WAYS:
        raise ModelError(f"scale.packing is {packing!r}; one of {', '.join(packed_family.WAYS)} is accepted")
    config, weight = text_config(model), next(model.parameters())
    before = config._attn_implementation
    reason = packed_family.obstacle(model)
    if reason is None:
        try:
            compute = sharding.compute if sharding and sharding.compute else weight.dtype
            packed = packed_family.PackedForward(model, packed_family.chosen(packing, weight.device, compute))
            with _computing(weight, compute):
                off = packed_family.difference(packed, padded, config.vocab_size)
            if off <= _rounding(compute):
                return packed
            reason = f"its packed hidden states are off by {off:.2g} of the largest"
        except (TypeError, ValueError, RuntimeError, AttributeError, ImportError, IndexError, NotImplementedError) as error:
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        config._attn_implementation = before
    if packing != "auto":
        raise ModelError(f"scale.packing is {packing}, and this model cannot be packed that way: {reason}; auto or off is accepted")
    return padded


def _locate(path: str | Path) -> str:
    """`tiny`, a folder, or a name on the hub.

    Raises:
        ModelError: a path that looks like a folder and is none, or a folder without safetensors.
    """
    if str(path) == "tiny":
        from rlent.system.paths import tiny_path

        return str(tiny_path())
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not any(folder.glob("*.safetensors")):
            pickled = sorted(p.name for p in [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
            found = f"only pickled weights ({', '.join(pickled[:3])}), which can run code when loaded" if pickled else "no weights"
            raise ModelError(f"model.path '{path}' has {found}; *.safetensors is accepted (convert it with save_pretrained)")
        return str(folder)
    if folder.exists() or folder.is_absolute() or str(path).startswith((".", "~")) or str(path).count("/") > 1:
        raise ModelError(f"model.path '{path}' is no folder; a folder, a name on the hub (owner/name) or tiny is accepted")
    return str(path)


def _why(path: str | Path, place: str, error: Exception) -> str:
    """The reason a model did not load, as a sentence."""
    said = " ".join(str(error).split())
    low = said.lower()
    if Path(place).is_dir():
        return f"model.path '{path}' could not be loaded: {said[:300]}"
    if "safetensors" in low and "connect" not in low:
        return f"model.path '{path}' has no safetensors on the hub; pickled weights are refused because they can run code. {said[:200]}"
    if any(word in low for word in ("connect", "offline", "couldn't reach", "timed out", "resolve", "proxy", "max retries")):
        return f"model.path '{path}' is no folder here, and the hub cannot be reached to look for it; give a folder or tiny, or go online. ({said[:160]})"
    return f"model.path '{path}' could not be loaded: {said[:300]}"


def _no_dropout(model: Any) -> None:
    """Set every dropout of a model to 0."""
    for config in {id(c): c for c in (model.config, text_config(model))}.values():
        for name, value in vars(config).copy().items():
            if name.endswith(("dropout", "_pdrop", "_dropout_prob")) and isinstance(value, float) and value:
                setattr(config, name, 0.0)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).copy().items():
            if name.endswith("dropout") and isinstance(value, float) and value:
                setattr(module, name, 0.0)


@torch.no_grad()
def _compile(policy: Policy) -> None:
    """Compile the layers, and compare hidden states before and after on two rows.

    Raises:
        ModelError: torch.compile fails, as without a C++ compiler, or the numbers are others.
    """
    layout = packed_family.two_rows(text_config(policy.model).vocab_size)
    with _computing(policy.head.weight, policy.compute):
        before = policy._forward(layout)["hidden"]
        compile_layers(policy.model)
        try:
            after = policy._forward(layout)["hidden"]
        except Exception as error:  # whatever a compiler can say
            first = str(error).strip().partition("\n")[0][:200]
            raise ModelError(
                f"scale.compile is true, and torch.compile fails here: {type(error).__name__}: {first}; false is accepted"
            ) from error
    off = packed_family.apart(after, before)
    if not off <= _rounding(policy.compute):
        raise ModelError(
            f"scale.compile is true, and the compiled layers give hidden states off by {off:.2g} of the largest; false is accepted"
        )


def _computing(weight: Tensor, dtype: torch.dtype) -> AbstractContextManager[Any]:
    """Inside, products are in `dtype`, as under FSDP's mixed precision."""
    return torch.autocast(weight.device.type, dtype=dtype, enabled=dtype != weight.dtype)


def _rounding(dtype: torch.dtype) -> float:
    """How far two ways to compute may be apart, as a share of the largest value."""
    return 0.05 if dtype in (torch.bfloat16, torch.float16) else 1e-3


@torch.no_grad()
def _check_head(policy: Policy) -> None:
    """Compare the head on two tokens with the model's own logits.

    Raises:
        ModelError: they differ: the model scales or shifts its logits in a way the head does not know.
    """
    model, head = policy.model, policy.head
    tokens = torch.tensor([[0, min(1, len(head.weight) - 1)]])  # on the CPU, where a batch's tokens and masks are
    part = Layout.of([[0]], tokens, torch.ones_like(tokens, dtype=torch.bool))
    mine = policy._forward(part)["hidden"]
    mine = torch.nn.functional.linear(mine, head.weight, head.bias).float()
    if policy.softcap is not None:
        mine = policy.softcap * torch.tanh(mine / policy.softcap)
    theirs = model(input_ids=part.input_ids().to(head.weight.device), use_cache=False).logits[0].float()
    scale = theirs.abs().max().clamp(min=1e-3)
    bound = _rounding(head.weight.dtype)
    if not bool(((mine - theirs).abs().max() <= bound * scale) | ~torch.isfinite(theirs).all()):
        raise ModelError(
            f"{type(model).__name__} does not compute its logits as softcap(hidden @ weight.T + bias), which is what rlent's head does; "
            "this model cannot be trained yet"
        )


def _layer(stream: str, depth: int, probe: str) -> int:
    """The k of `hidden_<k>`."""
    k = stream.removeprefix("hidden_")
    if not k.isdigit() or int(k) > depth:
        raise ModelError(f"probe '{probe}' asks for '{stream}'; the model has hidden_0 (embedding) to hidden_{depth}")
    return int(k)


def _scatter(value: Tensor, mask: Tensor, device: torch.device | None = None) -> Tensor:
    """[n, ...] back to [B,T, ...], zero where the mask is False, on the mask's device unless told."""
    device = device or mask.device
    value, mask = value.to(device), mask.to(device)
    wide = value.new_zeros(*mask.shape, *value.shape[1:])
    index = mask.flatten().nonzero().squeeze(1)
    return wide.flatten(0, 1).index_copy(0, index, value).view_as(wide)
