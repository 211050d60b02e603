"""A method's functions with the options of its recipe, for a training loop of the reader's own.

`method("clipcov")` is a callable. Its arguments are the reader's tensors by the names of `rlent.streams`; what follows from
others is made from them: `mask` as bool, `now_logp` from `logp`, `now_pull` from the recipe's loss, `noise` from a seed.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlent.errors import UsageError, did_you_mean
from rlent.library.recipe import Spec, method_names, read_recipe
from rlent.math import noise
from rlent.math.checks import as_mask
from rlent.recipe.mount import Node, locate, mount
from rlent.recipe.option_types import options_of
from rlent.seats import RUNNER_KEYS, SEATS
from rlent.streams import STREAMS
from rlent.types import Config, Json, Stream

__all__ = ["Function", "Method", "method", "method_names"]

OF_A_RUN = ("sampler", "decode", "control")
"""Stages that act on the rollout engine or on the options of a run, and are no functions of a batch."""

WITH_GRADIENT = ("loss", "regularize", "probe")

ELSEWHERE = {
    "advantage": "adv",
    "advantages": "adv",
    "log_prob": "logp",
    "log_probs": "logp",
    "old_log_prob": "old_logp",
    "old_log_probs": "old_logp",
    "old_logprobs": "old_logp",
    "response_mask": "mask",
}
"""What other trainers call the same tensors."""

Given = dict[str, Any]
"""The tensors and numbers of a call by name, each of the kind that `rlent.streams` states."""


@dataclass(frozen=True)
class Function:
    """One function of a method, with its options.

    Attributes:
        place: the stage and the node's name, `shape.clip_cov`.
        target: the dotted path of the function.
        reads: the names of its tensors.
        options: the recipe's values.
        coef: what a loss multiplies a regularizer's value (or a reward) by; 1 elsewhere.
    """

    place: str
    target: str
    reads: tuple[str, ...]
    options: Config
    coef: float
    _spec: Spec = field(repr=False)
    _node: Node = field(repr=False)
    _loss: Function | None = field(repr=False, default=None)

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self._describe())

    def with_options(self, **options: Json) -> Function:
        """The function with other values for some of its options.

        Raises:
            UsageError: an option that it does not have, or a value outside its range.
        """
        return _function(self.place, {**self._spec, **options}, self._loss)

    def __call__(self, *, seed: int | None = None, **streams: Stream) -> Any:
        """What the function returns for these tensors: one tensor, or a mapping of several by name.

        Args:
            seed: starts the draws of a function that reads `noise`; another one at each update.
            streams: tensors and numbers by name. Token tensors are [N,T], `adv` may be [N].

        Raises:
            UsageError: a tensor that is missing, not read, or of another shape than the rest.
        """
        given = _checked(self, streams)
        arguments = [self._made(name, given, seed) for name in self.reads]
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.stage in WITH_GRADIENT):
            return self._node.fn(*arguments) if self._node.stateful else self._node.fn(*arguments, **self._node.options)

    @property
    def stage(self) -> str:
        """Where it acts: `advantage`, `shape` (token weights), `loss`, `regularize` (auxiliary loss), `reward` or `probe`."""
        return self.place.partition(".")[0]

    def _describe(self) -> str:
        read = "".join(f"\n    {name:<14} {_stream(name)}" for name in self.reads)
        shown = "".join(f"\n    {name} = {value!r}" for name, value in self.options.items())
        text = inspect.getdoc(locate(self.target)) or ""
        return f"{self.place}: {self.target}\n\n{text}\n\nReads:{read}\nOptions:{shown or ' none'}\n"

    def _made(self, name: str, given: Given, seed: int | None) -> Stream:
        """The tensor of this name: as given, or made from what was given."""
        if name in given:
            return given[name]
        mask, source = given.get("mask"), given.get(name.removeprefix("now_"))
        if name == "now_pull" and self._loss is not None:
            return pull_of(self._loss, given)
        if name.startswith("now_") and source is not None:
            return source if self.stage in WITH_GRADIENT else source.detach()
        if name in ("noise", "row_noise") and mask is not None:
            return _noise(self.place, mask, seed, tokens=name == "noise")
        if name in ("loss_mask", "length") and mask is not None:
            return mask if name == "loss_mask" else mask.sum(1)
        either = f"; give it, or {name.removeprefix('now_')}" if name.startswith("now_") and name != "now_pull" else ""
        raise UsageError(f"{self.place} reads '{name}' ({_stream(name)}), which was not given{either}")


@dataclass(frozen=True, repr=False)
class Method:
    """A recipe's functions. Calling it calls `own`, the function that is the method's own.

    Attributes:
        name: as one types it, `clipcov`; `title` is what the paper calls it.
        paper: its identifier.
        functions: every function of the recipe, by place; what the recipe leaves as it is comes from plain GRPO.
        own: the place of the function that a call goes to; None where the method has several, or none outside a run.
        left_out: stages of the recipe that act on the rollout engine or on a run's options.
    """

    name: str
    title: str
    paper: str
    functions: Mapping[str, Function]
    own: str | None
    left_out: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self._describe())

    def __call__(self, *, seed: int | None = None, **streams: Stream) -> Any:
        """What the method's own function returns; see `Function.__call__`.

        Raises:
            UsageError: the method has no function of its own, or several.
        """
        return self._own()(seed=seed, **streams)

    def __repr__(self) -> str:
        if self.own is None:
            return f"<method {self.name} ({self.paper}): {', '.join(self.functions)}>"
        own = self.functions[self.own]
        options = ", ".join(f"{k}={v!r}" for k, v in own.options.items())
        return f"<method {self.name} ({self.paper}): {own.place} = {own.target}({options}), reads {', '.join(own.reads)}>"

    def _describe(self) -> str:
        others = [f for place, f in self.functions.items() if place != self.own]
        lines = [f"{self.title}, {self.paper} (recipe={self.name})", ""]
        lines += [str(self.functions[self.own].__doc__)] if self.own else []
        lines += ["Other functions of the recipe:", *(f"    {f.place:<24} {f.target}" for f in others)]
        lines += [f"Not a function of a batch, so not here: {', '.join(self.left_out)}."] if self.left_out else []
        return "\n".join(lines)

    def _own(self) -> Function:
        if self.own is not None:
            return self.functions[self.own]
        acts = f" It acts through {', '.join(self.left_out)}: use `rlent train recipe={self.name}`." if self.left_out else ""
        raise UsageError(f"'{self.name}' has no single function of its own. Call one of .functions: {', '.join(self.functions)}.{acts}")


def method(name: str, **options: Json) -> Method:
    """A method by its recipe's name, with the recipe's options; `options` replace those of its own function.

    `method(name).__doc__` lists what it reads, and its `repr` shows the module and the function.

    Raises:
        UsageError: no such method, no such option, or a value outside its range.
    """
    recipe, changed, nodes = read_recipe(name)
    card = recipe.get("card") or {}
    loss = _function("loss", nodes["loss"]["loss"], None) if "loss" in nodes else None
    found = {}
    for stage in SEATS:
        for node, spec in nodes.get(stage, {}).items() if stage not in OF_A_RUN else ():
            place = f"{stage}.{node}" if SEATS[stage].many else stage
            if stage in changed or stage in ("advantage", "loss"):
                found[place] = loss if stage == "loss" and loss else _function(place, spec, loss)
    own = None if "decode" in changed else _own_function([f for f in found.values() if f.stage in changed] or list(found.values()))
    if options:
        if own is None:
            raise UsageError(f"'{name}' has no single function of its own; use .functions[...].with_options(...): {', '.join(found)}")
        found[own] = found[own].with_options(**options)
    left_out = tuple(f"{s}.{n}" if SEATS[s].many else s for s in OF_A_RUN if s in changed for n in nodes.get(s, {}))
    return Method(name, str(card.get("name") or name), str(card.get("paper") or "-"), found, own, left_out)


def _own_function(changed: list[Function]) -> str | None:
    """The one that is the method's own, among those that its recipe changes.

    A probe measures what another function reads, and a loss, or an advantage, of another module than the rest accompanies them.
    """
    for stage in ("probe", "loss", "advantage"):
        rest = [f for f in changed if f.stage != stage]
        modules = {f.target.rpartition(".")[0] for f in rest}
        if rest:
            changed = [f for f in changed if f.stage != stage or (stage != "probe" and f.target.rpartition(".")[0] in modules)]
    return changed[0].place if len(changed) == 1 else None


def _function(place: str, spec: Spec, loss: Function | None) -> Function:
    stage, _, name = place.partition(".")
    target = str(spec["_target_"])
    made = locate(target)
    known = options_of(made.__init__ if inspect.isclass(made) else made)
    unknown = [k for k in spec if k not in known and k not in RUNNER_KEYS]
    if unknown:
        raise UsageError(f"{place} has no option '{unknown[0]}'{did_you_mean(unknown[0], known)} (options: {', '.join(known) or 'none'})")
    problems: list[str] = []
    node = mount(stage, name or stage, spec, problems)
    if node is None:
        raise UsageError("; ".join(problems))
    return Function(place, target, node.reads, dict(node.options), node.coef, dict(spec), node, loss)


def _stream(name: str) -> str:
    known = STREAMS.get(name)
    return f"{known.shape}: {known.meaning}" if known else "a stream of the recipe's own, made by another of its functions"


def _checked(function: Function, streams: Mapping[str, Stream]) -> Given:
    """The tensors, of shapes that agree, with the mask as bool; other names than a function can use are refused."""
    usable = {*function.reads, *(name.removeprefix("now_") for name in function.reads), "mask"}
    if "now_pull" in function.reads and function._loss is not None:
        usable |= set(function._loss.reads)
    given: Given = dict(streams)
    for name in given:
        if name not in usable:
            hint = f"; did you mean '{ELSEWHERE[name]}'?" if name in ELSEWHERE else did_you_mean(name, usable)
            raise UsageError(f"{function.place} does not read '{name}'{hint} (it reads {', '.join(function.reads)})")
    tensors = {k: v for k, v in given.items() if isinstance(v, Tensor) and k in STREAMS}
    tokens = {k: v for k, v in tensors.items() if STREAMS[k].shape.startswith(("[N,T]", "[B,T]"))}
    width = next((v for v in tokens.values() if v.ndim == 2), None)
    for name, value in tokens.items():
        if width is not None and name == "adv" and value.ndim == 1 and len(value) == len(width):
            given[name] = value = value[:, None].expand(width.shape)
        if width is None or value.shape != width.shape:
            raise UsageError(f"{name} has shape {list(value.shape)}; {_expected(tokens, width)}")
        if "bool" not in STREAMS[name].shape and "int" not in STREAMS[name].shape and not value.is_floating_point():
            raise UsageError(f"{name} is {str(value.dtype).removeprefix('torch.')}; a floating-point tensor is needed")
    for name, value in tensors.items():
        if STREAMS[name].shape.startswith("[N]") and (value.ndim != 1 or (width is not None and len(value) != len(width))):
            raise UsageError(
                f"{name} has shape {list(value.shape)}; [{'N' if width is None else len(width)}] is needed, a number for each response"
            )
    for name in ("mask", "loss_mask"):
        if name in tokens:
            given[name] = as_mask(given[name], given[name], name=name)
    if "adv" in given and "mask" in given:
        given["adv"] = given["adv"].masked_fill(~given["mask"], 0.0)
    return given


def _expected(tokens: Mapping[str, Tensor], width: Tensor | None) -> str:
    if width is None:
        return "token tensors are [N,T], responses x positions"
    return f"{next(k for k, v in tokens.items() if v is width)} has {list(width.shape)}, and token tensors need one shape"


def pull_of(loss: Function, given: Given) -> Tensor:
    """-d(loss)/d(logp) of each token [N,T], before any weight; 0 where the loss clips it and outside the mask.

    Raises:
        UsageError: a tensor that the loss reads is missing.
    """
    now = given.get("logp", given.get("now_logp"))
    missing = [name for name in loss.reads if name not in given and name != "logp"]
    if now is None or missing:
        raise UsageError(
            f"now_pull follows from the loss {loss.target}, which reads {', '.join(loss.reads)}; '{(missing or ['logp'])[0]}' was not given. "
            "Give it, or now_pull itself"
        )
    leaf = now.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        found = loss(**{**{k: v for k, v in given.items() if k in loss.reads}, "logp": leaf})
        value = found if "mask" not in given else found.masked_fill(~given["mask"], 0.0)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return -gradient


def _noise(place: str, mask: Tensor, seed: int | None, *, tokens: bool) -> Tensor:
    """Uniform numbers in [0, 1) for tokens [N,T] or rows [N], from the seed, the function's place, row and position."""
    if seed is None:
        raise UsageError(f"{place} draws at random: give seed=, another number at each update (or noise itself)")
    rows = torch.arange(len(mask), device=mask.device)
    if not tokens:
        return noise.uniform(seed, place, rows)
    return noise.uniform(seed, place, rows[:, None], torch.arange(mask.shape[1], device=mask.device))
