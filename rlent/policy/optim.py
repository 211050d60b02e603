"""The optimizer update: non-finite check, clipping by global norm, AdamW, learning-rate schedule."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from rlent.errors import CheckpointError, NonFinite
from rlent.policy.shard import full_tensor, is_split
from rlent.types import JsonObject

Schedule = Literal["constant", "linear", "cosine"]
SCHEDULES: tuple[Schedule, ...] = ("constant", "linear", "cosine")
_HALF = (torch.bfloat16, torch.float16)
_MOMENTS = ("exp_avg", "exp_avg_sq")


def lr_at(
    step: int, *, lr: float, schedule: Schedule = "constant", warmup_steps: int = 0, final_share: float = 0.0, steps: int = 0
) -> float:
    """The learning rate of a step, counted from 0.

    It rises over `warmup_steps` in equal stairs, lr / warmup_steps first; then stays (`constant`), or falls to
    `final_share * lr`, which the last of `steps` has, on a line or along half a cosine, and stays there. A closed form, and none of
    `torch.optim.lr_scheduler`, whose chained factors round otherwise and would be a second counter beside the steps of the run.

    Raises:
        ValueError: an unknown schedule, or one that falls without `steps`.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"optim.schedule is {schedule!r}; one of {', '.join(SCHEDULES)} is accepted")
    if schedule != "constant" and steps < 1:
        raise ValueError(f"optim.schedule is {schedule}, which falls over the steps of the run, and their number was not given")
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    if schedule == "constant":
        return lr
    way = min(1.0, (step - warmup_steps) / max(1, steps - 1 - warmup_steps))
    fall = way if schedule == "linear" else (1 - math.cos(math.pi * way)) / 2
    return lr * (1 - fall * (1 - final_share))


class OptimTensors(TypedDict):
    """The tensors of an optimizer by parameter name: AdamW's `state` by name of the moment, and the float32 `masters` of half-precision weights."""

    state: dict[str, dict[str, Tensor]]
    masters: dict[str, Tensor]


class Update:
    """Turns accumulated gradients into one change of the weights.

    AdamW with decoupled decay (Loshchilov and Hutter 2017, arXiv:1711.05101), of matrices only: biases and norms do not
    decay. Half-precision weights have float32 masters, without which a step of 1e-6 would round to nothing. The learning
    rate is that of step `count // per_step` of `steps`, so all updates of a step share it.

    Raises:
        ValueError: an unknown schedule, or one that falls without `steps`.
    """

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        *,
        lr: float,
        betas: Iterable[float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        max_norm: float | None = 1.0,
        schedule: Schedule = "constant",
        warmup_steps: int = 0,
        final_share: float = 0.0,
        steps: int = 0,
        per_step: int = 1,
    ) -> None:
        self.params = {name: p for name, p in named if p.requires_grad}
        self.masters = {name: p.detach().float() if p.dtype in _HALF else p for name, p in self.params.items()}
        self.max_norm, self.per_step, self.count = max_norm, per_step, 0
        self.rate = functools.partial(lr_at, lr=lr, schedule=schedule, warmup_steps=warmup_steps, final_share=final_share, steps=steps)
        self.adam = _adam(list(self.masters.values()), lr=self.rate(0), betas=betas, eps=eps, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self) -> dict[str, float]:
        """One update; gradients are used up.

        Returns:
            `grad_norm` before clipping, `lr`, and `clipped` (1.0 or 0.0).

        Raises:
            NonFinite: a gradient has a NaN or an infinity; names the parameters. The weights are as they were.
        """
        grads = [p.grad for p in self.params.values() if p.grad is not None]
        norm = float(_norm(grads))
        if not math.isfinite(norm):
            raise NonFinite(self._blame())
        clipped = self.max_norm is not None and norm > self.max_norm
        if clipped and self.max_norm is not None:
            torch._foreach_mul_(grads, self.max_norm / (norm + 1e-6))  # as `clip_grads_with_norm_`, with the norm on the host already
        for name, p in self.params.items():
            master = self.masters[name]
            if master is not p:
                master.grad = None if p.grad is None else p.grad.to(master.dtype)
        rate = self.rate(self.count // self.per_step)
        for group in self.adam.param_groups:
            group["lr"] = rate
        self.adam.step()
        for name, p in self.params.items():
            master = self.masters[name]
            if master is not p:
                p.copy_(master)
                master.grad = None
        self.zero()
        self.count += 1
        return {"grad_norm": norm, "lr": rate, "clipped": float(clipped)}

    def zero(self) -> None:
        """Forget the gradients."""
        for p in self.params.values():
            p.grad = None

    def _blame(self) -> str:
        bad = {name: int((~torch.isfinite(p.grad)).sum()) for name, p in self.params.items() if p.grad is not None}
        bad = {name: count for name, count in bad.items() if count}
        if not bad:
            return "the gradient is finite, but its norm overflows; lower the scale of the loss"
        listed = ", ".join(f"{name} ({count} of {self.params[name].numel()})" for name, count in list(bad.items())[:6])
        more = f" and {len(bad) - 6} more" if len(bad) > 6 else ""
        return f"the gradient of {listed}{more} is not finite; the weights were not changed"

    def tensors(self) -> OptimTensors:
        """The optimizer's tensors by parameter name, live: loading into them in place is loading."""
        state = {name: {k: self.adam.state[master][k] for k in ("step", *_MOMENTS)} for name, master in self.masters.items()}
        return {"state": state, "masters": {name: m for name, m in self.masters.items() if m is not self.params[name]}}

    def plain(self) -> JsonObject:
        """Numbers that are not tensors."""
        return {"count": self.count}

    @torch.no_grad()
    def load(self, tensors: OptimTensors, plain: Mapping[str, Any]) -> None:
        """Take up a state of `tensors` and `plain`.

        Raises:
            CheckpointError: the state is of other parameters; names them.
        """
        mine = self.tensors()
        kind: Literal["state", "masters"]
        for kind in ("state", "masters"):
            wrong = sorted(mine[kind].keys() ^ tensors[kind].keys())
            if wrong:
                raise CheckpointError(f"the optimizer's {kind} in the checkpoint is of other parameters: {', '.join(wrong[:6])}")
        for name, moments in mine["state"].items():
            for k, value in moments.items():
                _copy(value, tensors["state"][name][k], f"{k} of {name}")
        for name, master in mine["masters"].items():
            _copy(master, tensors["masters"][name], f"master of {name}")
        self.count = int(plain["count"])


def _adam(leaves: Sequence[Tensor], *, lr: float, betas: Iterable[float], eps: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW with its moments there, so that a state can be loaded into them before the first update."""
    groups = [
        {"params": [p for p in leaves if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in leaves if p.ndim <= 1], "weight_decay": 0.0},
    ]
    fused = all(p.device.type in ("cpu", "cuda") for p in leaves)
    first, second = betas
    adam = torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=(first, second), eps=eps, fused=fused)
    for p in leaves:
        place = p.device if fused else torch.device("cpu")
        adam.state[p] = {"step": torch.zeros((), device=place), **{k: torch.zeros_like(p) for k in _MOMENTS}}
    return adam


def _norm(grads: list[Tensor]) -> Tensor:
    """The Euclidean norm of all gradients together.

    Of gradients that are split over ranks it is `get_total_norm`, which adds up over ranks. Of others it is not: that would round the
    norm of each half-precision gradient to half precision, and the sum to float32.
    """
    if not grads:
        return torch.zeros(())
    if any(is_split(g) for g in grads):
        return full_tensor(nn.utils.get_total_norm(grads))
    norms = torch._foreach_norm([g.float() if g.dtype in _HALF else g for g in grads])
    norm: Tensor = torch.linalg.vector_norm(torch.stack([n.to(norms[0].device) for n in norms]).double())
    return norm


def _copy(into: Tensor, value: Tensor, name: str) -> None:
    if into.shape != value.shape:
        raise CheckpointError(f"{name} has shape {tuple(value.shape)} in the checkpoint; the model has {tuple(into.shape)}")
    into.copy_(value)
