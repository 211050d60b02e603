"""From streams to one scalar: credit, shapes, loss and regularizers, with denominators of the whole minibatch.

Every token enters the objective as `coefficient * weight * loss`. The coefficient is the aggregation, written out per token
from counts over all ranks, so cutting a minibatch into parts changes nothing. The objective works on leaves (detached
copies of what the forward gave), takes their gradient, and hands back `(g * (x - x.detach())).sum()`, whose gradient
through the model is exact. The same step serves functions over the whole minibatch: their `g` is known before the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rlent.errors import NonFinite, RlentError
from rlent.math import noise
from rlent.ranks.world import World
from rlent.recipe.mount import Node
from rlent.recipe.plan import Plan
from rlent.types import Batch

SHAPE_KEYS = frozenset({"adv", "weight", "gate", "mask"})


class View(Mapping[str, Any]):
    """What one function sees: live values over stored streams, and its own noise."""

    def __init__(self, batch: Batch, node: Node, live: Mapping[str, Any] | None = None, minibatch: int = -1) -> None:
        self.batch, self.node, self.live, self.minibatch = batch, node, live or {}, minibatch

    def __getitem__(self, name: str) -> Any:
        if name in self.live:
            return self.live[name]
        if name in self.batch:
            return self.batch[name]
        if name in ("noise", "row_noise"):
            return draw(self.batch, self.node.path, self.minibatch, tokens=name == "noise")
        raise KeyError(f"{self.node.path} reads '{name}', which is not there yet; the streams are {', '.join(sorted(self.batch.streams))}")

    def __iter__(self) -> Iterator[str]:
        return iter({**self.batch.streams, **self.live})

    def __len__(self) -> int:
        return len({**self.batch.streams, **self.live})


def draw(batch: Batch, purpose: str, minibatch: int, *, tokens: bool) -> Tensor:
    """Uniform numbers in [0, 1) for rows [N] or tokens [N,T], from (seed, step, minibatch, prompt, sample, position, node)."""
    base = noise.fold(batch["seed"], batch["step"], minibatch, purpose, batch["problem_key"], batch["sample"])
    if not tokens:
        return noise.uniform(base)
    return noise.uniform(base[:, None], torch.arange(batch.width))


def coefficients(mask: Tensor, how: str, *, rows: int, tokens: int, length: float, dtype: torch.dtype) -> Tensor:
    """How much each token's loss counts [N,T]: the aggregation, per token.

    token_mean: 1/tokens; seq_mean: 1/(rows * the row's tokens); seq_sum: 1/rows; constant: 1/(rows * length).
    `rows` and `tokens` are counts over the whole minibatch and all ranks.
    """
    share = mask.to(dtype)
    if how == "token_mean":
        return share / max(tokens, 1)
    if how == "seq_mean":
        return share / mask.sum(1, keepdim=True).clamp(min=1).to(dtype) / max(rows, 1)
    if how == "seq_sum":
        return share / max(rows, 1)
    return share / (max(rows, 1) * length)


def add_reward(batch: Batch, nodes: Sequence[Node], world: World) -> Batch:
    """`reward` [N] and `token_reward` [N,T]: the sum of the rewards with their coefficients."""
    mask = batch["mask"]
    dtype = torch.float32 if "old_logp" not in batch else batch["old_logp"].dtype
    total = torch.zeros(mask.shape, dtype=dtype)
    rows = torch.zeros(len(batch), dtype=dtype)
    for node in nodes:
        answer = whole(node, batch, world)
        found = torch.as_tensor(answer.pop("value")).to(dtype)
        batch = batch.with_(**{f"{node.name}_{k}": v for k, v in answer.items()})
        if found.shape not in (mask.shape[:1], mask.shape):
            raise RlentError(
                f"{node.path} returned shape {tuple(found.shape)}; one reward for each of the {len(batch)} responses is expected, or one per token"
            )
        _check_finite(found, node.path, batch)
        batch[f"reward_{node.name}"] = found
        if found.ndim == 1:
            total += node.coef * at_the_end(found, mask)
            rows += node.coef * found
        else:
            total += node.coef * found * mask
            rows += node.coef * (found * mask).sum(1)
    return batch.with_(reward=rows, token_reward=total)


def at_the_end(outcome: Tensor, mask: Tensor) -> Tensor:
    """An outcome [N] as a reward per token [N,T]: on the last response token (the last column of a row without any)."""
    last = mask.sum(1).sub(1).where(mask.any(1), torch.tensor(mask.shape[1] - 1))
    placed = torch.zeros(mask.shape, dtype=outcome.dtype)
    placed[torch.arange(len(mask)), last] = outcome
    return placed


def add_advantage(batch: Batch, node: Node | None, world: World) -> Batch:
    """`adv` [N,T], zero outside the mask, and the streams the advantage makes.

    Rows without `train` take no part in it: their group is compared without them, and their advantage is 0.
    """
    mask = batch["mask"]
    if node is None:
        return batch.with_(adv=batch["reward"][:, None] * mask)
    if "train" in batch and not bool(batch["train"].all()):
        trained = batch["train"].nonzero()[:, 0]
        picked = add_advantage(batch.select(trained), node, world)
        made = {k: v for k, v in picked.streams.items() if k == "adv" or (k.startswith(f"{node.name}_") and k not in batch)}
        return batch.with_(**{k: _back(v, trained, batch) for k, v in made.items()})
    found = whole(node, batch, world)
    adv = found.pop("adv", found.pop("value", None))
    if adv.shape not in (mask.shape[:1], mask.shape):
        raise RlentError(f"{node.path} returned shape {tuple(adv.shape)}; [{len(batch)}] or {list(mask.shape)} is expected")
    _check_finite(adv, node.path, batch)
    adv = (adv[:, None] if adv.ndim == 1 else adv) * mask
    return batch.with_(adv=adv.to(batch["reward"].dtype), **{f"{node.name}_{k}": v for k, v in found.items()})


def _back(value: Any, rows: Tensor, batch: Batch) -> Any:
    """Values of some rows [n] or [n,t] among all [N] or [N,T], 0 elsewhere; numbers as they are."""
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    out = value.new_zeros((len(batch), batch.width) if value.ndim > 1 else len(batch))
    if value.ndim > 1:
        out[rows[:, None], torch.arange(value.shape[1])] = value
    else:
        out[rows] = value
    return out


def whole(node: Node, batch: Batch, world: World, renamed: Mapping[str, str] | None = None, minibatch: int = -1) -> dict[str, Any]:
    """Call a function once on all ranks' rows, in row order. A bare result comes back under `value`."""
    names = [*(renamed or {}).values(), *node.reads, "problem_key", "sample", "seed", "step"]

    def work(rows: Batch) -> dict[str, Any]:
        with torch.no_grad():
            found = node(View(rows, node, minibatch=minibatch), renamed)
        return dict(found) if isinstance(found, Mapping) else {"value": found}

    return world.whole(batch, names, work)


@dataclass
class Scale:
    """What a minibatch knows before its parts: coefficients of the loss, and gradients of whole-minibatch terms.

    `coef` [N,T]; `pulls` d(term)/d(stream) by live stream; `terms` the value of each whole-minibatch term;
    `streams` what whole-minibatch regularizers returned beside their value (`<node>_selected`).
    """

    coef: Tensor
    rows: int
    tokens: int
    response_rows: int
    response_tokens: int
    all_rows: int
    pulls: dict[str, Tensor] = field(default_factory=dict)
    terms: dict[str, float] = field(default_factory=dict)
    pull: Tensor | None = None
    matrix: Tensor | None = None
    row: Tensor | None = None


@dataclass
class Out:
    """One part's contribution. `loss` has the gradient; `record` holds token streams for metrics (`term:<name>` among them)."""

    loss: Tensor
    record: Batch


class Objective:
    """The loss of a recipe as a function of streams. It knows seats, and no method."""

    def __init__(self, plan: Plan, *, aggregate: str, length: float, empty_rows: bool = False, world: World | None = None) -> None:
        self.plan, self.aggregate, self.length, self.empty_rows = plan, aggregate, float(length), empty_rows
        self.world = world or World()

    # ---- shapes -----------------------------------------------------------------------------------------------

    def shape(self, batch: Batch, at: str, minibatch: int = -1) -> Batch:
        """Run the shapes of a moment (`step` or `minibatch`) on whole rows; their results are streams of the batch."""
        if at == "step" and "weight" not in batch:
            ones = torch.ones_like(batch["adv"])
            batch = batch.with_(weight=ones, gate=ones.bool(), loss_mask=batch["mask"] & batch["train"][:, None])
        lifted = self.plan.of("shape", "live") if at == "minibatch" and self.plan.lifted else []
        nodes = [n for n in self.plan.nodes["shape"] if (n.when == at and n.scope != "part") or n in lifted]
        if at == "minibatch" and self.plan.pull and any("now_pull" in n.reads for n in self._whole_nodes()):
            batch = batch.with_(now_pull=self._pull(batch))
        for node in nodes:
            renamed = {s: f"now_{s}" for s in self.plan.live} if node in lifted else None
            batch = self._merge_shape(node, batch, whole(node, batch, self.world, renamed, minibatch))
        return batch

    def _whole_nodes(self) -> list[Node]:
        return [n for members in self.plan.nodes.values() for n in members if n.scope != "part"]

    def _merge_shape(self, node: Node, batch: Batch, found: Mapping[str, Any], live: bool = False) -> Batch:
        changed: dict[str, Any] = {}
        effect = torch.zeros_like(batch["mask"])
        for key, value in found.items():
            value = (
                value[:, None].expand(*batch["mask"].shape)
                if isinstance(value, Tensor) and value.ndim == 1 and key in SHAPE_KEYS
                else value
            )
            if key in ("weight", "value"):
                _check_finite(value, node.path, batch)
                changed["weight"] = batch["weight"] * value.to(batch["weight"].dtype)
                effect = effect | (changed["weight"] != batch["weight"])
            elif key == "adv":
                _check_finite(value, node.path, batch)
                changed["adv"] = value.to(batch["adv"].dtype) * batch["mask"]
                effect = effect | (changed["adv"] != batch["adv"])
            elif key == "gate":
                changed["gate"] = batch["gate"] & value.bool()
                effect = effect | (changed["gate"] != batch["gate"])
            elif key == "mask":
                if live:
                    raise RlentError(
                        f"{node.path} changes the mask inside the update, where denominators are already fixed; "
                        + ("with scope=part let it return a weight" if node.scope == "part" else "let it read now_ streams instead")
                    )
                changed["loss_mask"] = batch["loss_mask"] & value.bool()
                effect = effect | (changed["loss_mask"] != batch["loss_mask"])
            else:
                changed[f"{node.name}_{key}"] = value
        if found.keys() & {"weight", "value", "adv", "gate", "mask"}:
            changed[f"effect:{node.name}"] = effect & batch["mask"]
        return batch.with_(**changed)

    # ---- before the parts -------------------------------------------------------------------------------------

    def prepare(self, minibatch: Batch, index: int = -1) -> tuple[Batch, Scale]:
        """Denominators over all ranks, and the gradients of losses and regularizers over the whole minibatch."""
        loss_mask, mask = minibatch["loss_mask"], minibatch["mask"] & minibatch["train"][:, None]
        counts = [int(loss_mask.any(1).sum()), int(loss_mask.sum()), int(mask.any(1).sum()), int(mask.sum()), len(minibatch)]
        rows, tokens, all_rows, all_tokens, every = self.world.sums(counts)
        if self.empty_rows:
            rows = all_rows = every
        dtype = minibatch["adv"].dtype
        coef = coefficients(loss_mask, self.aggregate, rows=rows, tokens=tokens, length=self.length, dtype=dtype)
        scale = Scale(coef, rows, tokens, all_rows, all_tokens, every, row=minibatch.row)
        nodes = [n for n in (*self.plan.of("loss", "minibatch"), *self.plan.of("regularize", "minibatch")) if n.scope != "part"]
        if not nodes:
            return minibatch, scale
        names = ["adv", "weight", "gate", "loss_mask", "train", "coef", "problem_key", "sample", "seed", "step"]
        names += [s for n in nodes for s in n.reads]
        found = self.world.whole(minibatch.with_(coef=coef), names, lambda rows: self._whole_terms(nodes, rows, scale, index))
        own = {}
        for key, value in found.items():
            kind, _, name = key.partition(":")
            if kind == "pull":
                scale.pulls[name] = value
            elif kind == "term":
                scale.terms[name] = float(value)
            elif kind == "loss":
                setattr(scale, name, value)
            else:
                own[name] = value
        return minibatch.with_(**own), scale

    def _whole_terms(self, nodes: Sequence[Node], rows: Batch, scale: Scale, index: int) -> dict[str, Any]:
        """Values and gradients of whole-minibatch terms, on all rows at once."""
        leaves = {f"now_{x}": rows[f"now_{x}"].detach().clone().requires_grad_(True) for x in self.plan.grad if f"now_{x}" in rows}
        out: dict[str, Any] = {}
        grads: dict[str, Tensor] = {}
        for node in nodes:
            with torch.enable_grad():
                found = node(View(rows, node, leaves, index))
                if node.seat == "loss":
                    matrix = self._masked(found, rows["loss_mask"])
                    if "now_logp" in leaves:
                        out["loss:pull"] = -_gradient(matrix.sum(), leaves["now_logp"])
                    out["loss:matrix"] = matrix.detach()
                    term = (self._gated(matrix, rows["gate"]) * rows["weight"] * rows["coef"]).sum()
                    out["term:policy"] = float(term.detach())
                    _accumulate(grads, term, leaves)
                else:
                    share, own = self._regularizer(node, found, rows, scale)
                    out.update({f"own:{k}": v for k, v in own.items()})
                    out[f"term:{node.name}"] = float(share.detach().sum())
                    out[f"own:effect:{node.name}"] = _accumulate(grads, node.coef * share.sum(), leaves, like=rows["coef"])
        return {**out, **{f"pull:{k.removeprefix('now_')}": v for k, v in grads.items()}}

    def _regularizer(self, node: Node, found: Any, rows: Batch, scale: Scale, live: bool = False) -> tuple[Tensor, dict[str, Any]]:
        """A regularizer's share of the objective per token [N,T] (or a scalar), without its coefficient, and its own streams."""
        own: dict[str, Any] = {}
        mask = rows["mask"] & rows["train"][:, None]
        counts = (scale.response_rows, scale.response_tokens)
        if isinstance(found, Mapping):
            own = {
                f"{node.name}_{k}": v.detach() if isinstance(v, Tensor) else v
                for k, v in found.items()
                if k not in ("value", "mask", "rows")
            }
            if "mask" in found:
                if live:
                    raise RlentError(
                        f"{node.path} brings its own mask inside the update, where denominators are already fixed; let it read now_ streams instead"
                    )
                mask = mask & found["mask"].bool()
                among = found["rows"] & rows["train"] if "rows" in found else mask.any(1)  # the rows a sequence mean is taken over
                among = torch.ones_like(among) if self.empty_rows and "rows" in found else among
                counts = (int(among.sum()), int(mask.sum()))
            found = found["value"]
        if found.ndim == 0:  # already reduced; of a part, its share of the rows
            return found * (len(rows) / max(scale.all_rows, 1) if live else 1.0), own
        if found.ndim == 1:
            found = found[:, None].expand(*mask.shape)
        how = node.aggregate or self.aggregate
        coef = coefficients(mask, how, rows=counts[0], tokens=counts[1], length=self.length, dtype=found.dtype)
        return self._masked(found, mask) * coef, own

    def _pull(self, batch: Batch) -> Tensor:
        """-d(loss)/d(logp) of each token before shapes, at the current policy [N,T]."""
        node = self.plan.loss
        if node is None:
            return torch.zeros_like(batch["adv"])
        leaf = batch["now_logp"].detach().clone().requires_grad_(True)
        live = {"logp": leaf, "now_logp": leaf}
        live |= {x: batch[f"now_{x}"] for x in self.plan.live if x != "logp" and f"now_{x}" in batch}
        if node.when == "minibatch":
            return self.world.whole(batch, [*node.reads, "now_logp"], lambda rows: {"pull": self._pull_of(node, rows)})["pull"]
        with torch.enable_grad():
            matrix = self._masked(node(View(batch, node, live)), batch["mask"])
            return -_gradient(matrix.sum(), leaf)

    def _pull_of(self, node: Node, rows: Batch) -> Tensor:
        leaf = rows["now_logp"].detach().clone().requires_grad_(True)
        with torch.enable_grad():
            return -_gradient(self._masked(node(View(rows, node, {"now_logp": leaf})), rows["mask"]).sum(), leaf)

    # ---- a part -----------------------------------------------------------------------------------------------

    def __call__(self, part: Batch, live: Mapping[str, Tensor], scale: Scale, index: int = -1) -> Out:
        """The part's share of the objective. `live` streams carry the model's gradient."""
        at = torch.searchsorted(scale.row, part.row) if scale.row is not None else torch.arange(len(part))
        coef = scale.coef[at][:, : part.width]
        leaves = {k: v.detach().to(coef.dtype).requires_grad_(k in self.plan.grad or k == "logp") for k, v in live.items()}
        part = self._live_shapes(part, leaves, index)
        record: dict[str, Any] = dict(leaves)
        grads = {name: pull[at][:, : part.width] for name, pull in scale.pulls.items()}
        value = torch.zeros((), dtype=coef.dtype)
        node = self.plan.loss
        with torch.enable_grad():
            if node is not None and (node.when != "minibatch" or node.scope == "part"):
                streams = {**leaves, **({f"now_{k}": v for k, v in leaves.items()} if node.scope == "part" else {})}
                matrix = self._masked(node(View(part, node, streams, index)), part["mask"])
                record["pull"] = -torch.stack([_gradient(matrix.sum(), leaves[x]) for x in self._pulled]).sum(0)
                record["loss"] = matrix
                record["term:policy"] = share = self._gated(matrix, part["gate"]) * part["weight"] * coef
                value = value + share.detach().sum()
                _accumulate(grads, share.sum(), leaves)
            elif scale.matrix is not None and scale.pull is not None:
                record["loss"], record["pull"] = (x[at][:, : part.width] for x in (scale.matrix, scale.pull))
            for reg in self.plan.nodes["regularize"]:
                if reg.when == "minibatch" and reg.scope != "part":
                    continue
                streams = {**leaves, **({f"now_{k}": v for k, v in leaves.items()} if reg.scope == "part" else {})}
                share, own = self._regularizer(reg, reg(View(part, reg, streams, index)), part, scale, live=True)
                record |= {f"term:{reg.name}": share, **own}
                value = value + reg.coef * share.detach().sum()
                record[f"effect:{reg.name}"] = _accumulate(grads, reg.coef * share.sum(), leaves, like=coef)
        loss = value
        for name, grad in grads.items():
            _check_finite(grad, f"d(objective)/d({name})", part)
            loss = loss + (grad.to(live[name].dtype) * (live[name] - live[name].detach())).sum()
        keep = {k: v.detach() if isinstance(v, Tensor) else v for k, v in record.items()}
        keep |= {
            k: part[k] for k in ("mask", "adv", "weight", "gate", "loss_mask", "old_logp", "look_logp", "train", "source") if k in part
        }
        keep |= {k: v for k, v in part.streams.items() if k.endswith("_selected") or k.startswith("effect:")}
        pull = sum((grads[x] for x in {"logp", *self._pulled} if x in grads), torch.zeros_like(coef))
        keep["gradient"] = -pull * max(scale.response_tokens, 1)  # per token, as if the loss were a token mean
        return Out(loss, Batch(keep, part.row))

    def _live_shapes(self, part: Batch, leaves: Mapping[str, Tensor], index: int) -> Batch:
        for node in self.plan.nodes["shape"]:
            if self.plan.lifted and node.when == "live":
                continue
            if node.when == "live" or node.scope == "part":
                streams: dict[str, Any] = {k: v.detach() for k, v in leaves.items()}
                if node.scope == "part":
                    streams |= {f"now_{k}": v for k, v in streams.items()}
                    if "now_pull" in node.reads:
                        streams["now_pull"] = self._live_pull(part, leaves, index)
                with torch.no_grad():
                    found = node(View(part, node, streams, index))
                part = self._merge_shape(node, part, found if isinstance(found, Mapping) else {"weight": found}, live=True)
        return part

    @property
    def _pulled(self) -> list[str]:
        """The log-probabilities whose gradient is the loss's pull: `logp`, or the live streams of a loss that makes its own of them."""
        own = [s for s in (self.plan.loss.reads if self.plan.loss else ()) if s in self.plan.live]
        return own if own and "logp" not in own else ["logp"]

    def _live_pull(self, part: Batch, leaves: Mapping[str, Tensor], index: int) -> Tensor:
        node = self.plan.loss
        if node is None:
            return torch.zeros_like(part["adv"])
        leaf = leaves["logp"].detach().clone().requires_grad_(True)
        streams = {**{k: v.detach() for k, v in leaves.items()}, "logp": leaf, "now_logp": leaf}
        with torch.enable_grad():
            return -_gradient(self._masked(node(View(part, node, streams, index)), part["mask"]).sum(), leaf)

    @staticmethod
    def _masked(matrix: Tensor, mask: Tensor) -> Tensor:
        if matrix.shape != mask.shape:
            raise RlentError(f"a loss or regularizer returned shape {tuple(matrix.shape)}; {tuple(mask.shape)} is expected")
        return torch.where(mask, matrix, matrix.new_zeros(()))

    @staticmethod
    def _gated(matrix: Tensor, gate: Tensor) -> Tensor:
        return torch.where(gate, matrix, matrix.detach())


def _gradient(value: Tensor, leaf: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (grad,) = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if grad is None else grad


def _accumulate(grads: dict[str, Tensor], term: Tensor, leaves: Mapping[str, Tensor], like: Tensor | None = None) -> Tensor:
    """Add a term's gradient to `grads`; returns on which tokens it is not zero [N,T]."""
    names = [k for k, v in leaves.items() if v.requires_grad]
    found = (
        torch.autograd.grad(term, [leaves[k] for k in names], retain_graph=True, allow_unused=True) if term.requires_grad and names else []
    )
    effect = torch.zeros(() if like is None else like.shape, dtype=torch.bool)
    for name, grad in zip(names, found, strict=False):
        if grad is not None:
            key = name.removeprefix("now_")
            grads[key] = grads[key] + grad if key in grads else grad
            effect = effect | (grad != 0)
    return effect


def _check_finite(value: Tensor, place: str, batch: Batch) -> None:
    bad = ~torch.isfinite(value)
    if bad.any():
        where = bad.nonzero()
        rows = sorted({int(batch.row[int(i[0])]) for i in where}) if value.ndim else []
        position = f", first at position {int(where[0][1])}" if value.ndim > 1 else ""
        step = f"step {batch['step']}: " if "step" in batch else ""
        raise NonFinite(f"{step}{place} has {int(bad.sum())} non-finite values (responses {', '.join(map(str, rows[:8]))}{position})")
