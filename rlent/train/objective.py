"""From streams to one scalar: token weighting, loss and regularizers, with denominators of the whole minibatch.

Every token enters the objective as `coefficient * weight * loss`. The coefficient is the aggregation, written out per token
from counts over all ranks, so cutting a minibatch into parts changes nothing. The objective works on leaves (detached
copies of what the forward gave), takes their gradient, and hands back `(g * (x - x.detach())).sum()`, whose gradient
through the model is exact. The same step serves functions over the whole minibatch: their `g` is known before the parts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlent.errors import RlentError
from rlent.ranks.world import World
from rlent.recipe.mount import Node
from rlent.recipe.plan import Plan
from rlent.train.calls import View, check_finite, whole
from rlent.train.records import Out, Record, Scale, WholeTerms
from rlent.types import Batch, Stream

SHAPE_KEYS = frozenset({"adv", "weight", "gate", "mask"})
KEPT = ("mask", "adv", "weight", "gate", "loss_mask", "old_logp", "look_logp", "train", "source")
"""Streams of a part that its record has, where the part has them."""


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
        nodes = [n for n in self.plan.nodes["shape"] if (n.when == at and n.scope != "microbatch") or n in lifted]
        if at == "minibatch" and self.plan.pull and any("now_pull" in n.reads for n in self._whole_nodes()):
            batch = batch.with_(now_pull=self._pull(batch))
        for node in nodes:
            renamed = {s: f"now_{s}" for s in self.plan.live} if node in lifted else None
            batch = self._merge_shape(node, batch, whole(node, batch, self.world, renamed, minibatch))
        return batch

    def _whole_nodes(self) -> list[Node]:
        return [n for members in self.plan.nodes.values() for n in members if n.scope != "microbatch"]

    def _merge_shape(self, node: Node, batch: Batch, found: Mapping[str, Stream], live: bool = False) -> Batch:
        changed: dict[str, Stream] = {}
        effect = torch.zeros_like(batch["mask"])
        for key, value in found.items():
            value = (
                value[:, None].expand(*batch["mask"].shape)
                if isinstance(value, Tensor) and value.ndim == 1 and key in SHAPE_KEYS
                else value
            )
            if key in ("weight", "value"):
                check_finite(value, node.path, batch)
                changed["weight"] = batch["weight"] * value.to(batch["weight"].dtype)
                effect = effect | (changed["weight"] != batch["weight"])
            elif key == "adv":
                check_finite(value, node.path, batch)
                changed["adv"] = value.to(batch["adv"].dtype) * batch["mask"]
                effect = effect | (changed["adv"] != batch["adv"])
            elif key == "gate":
                changed["gate"] = batch["gate"] & value.bool()
                effect = effect | (changed["gate"] != batch["gate"])
            elif key == "mask":
                if live:
                    raise RlentError(
                        f"{node.path} changes the mask inside the update, where denominators are already fixed; "
                        + ("with scope=microbatch let it return a weight" if node.scope == "microbatch" else "let it read now_ streams instead")
                    )
                changed["loss_mask"] = batch["loss_mask"] & value.bool()
                effect = effect | (changed["loss_mask"] != batch["loss_mask"])
            else:
                changed[f"{node.name}_{key}"] = value
        if found.keys() & {"weight", "value", "adv", "gate", "mask"}:
            changed["effects"] = {**batch.get("effects", {}), node.name: effect & batch["mask"]}
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
        scale = Scale(coef, minibatch.row, rows, tokens, all_rows, all_tokens, every)
        nodes = [n for n in (*self.plan.of("loss", "minibatch"), *self.plan.of("regularize", "minibatch")) if n.scope != "microbatch"]
        if not nodes:
            return minibatch, scale
        names = ["adv", "weight", "gate", "loss_mask", "train", "coef", "problem_key", "sample", "seed", "step"]
        names += [s for n in nodes for s in n.reads]
        found = self.world.whole(minibatch.with_(coef=coef), names, lambda rows: self._whole_terms(nodes, rows, scale, index))
        scale.whole = found
        return minibatch.with_(**found.streams, effects={**minibatch.get("effects", {}), **found.effects}), scale

    def _whole_terms(self, nodes: Sequence[Node], rows: Batch, scale: Scale, index: int) -> WholeTerms:
        """Values and gradients of whole-minibatch terms, on all rows at once."""
        leaves = {x: rows[f"now_{x}"].detach().clone().requires_grad_(True) for x in self.plan.grad if f"now_{x}" in rows}
        now = {f"now_{x}": leaf for x, leaf in leaves.items()}
        out = WholeTerms()
        for node in nodes:
            with torch.enable_grad():
                found = node(View(rows, node, now, index))
                if node.seat == "loss":
                    matrix = _masked(found, rows["loss_mask"])
                    if "logp" in leaves:
                        out.pull = -_gradient(matrix.sum(), leaves["logp"])
                    out.matrix = matrix.detach()
                    term = (_gated(matrix, rows["gate"]) * rows["weight"] * rows["coef"]).sum()
                    out.values["policy"] = float(term.detach())
                    _accumulate(out.gradients, term, leaves)
                else:
                    share, streams = self._regularizer(node, found, rows, scale)
                    out.streams.update(streams)
                    out.values[node.name] = float(share.detach().sum())
                    out.effects[node.name] = _accumulate(out.gradients, node.coef * share.sum(), leaves, like=rows["coef"])
        return out

    def _regularizer(
        self, node: Node, found: Tensor | Mapping[str, Stream], rows: Batch, scale: Scale, live: bool = False
    ) -> tuple[Tensor, dict[str, Stream]]:
        """A regularizer's share of the objective per token [N,T] (or a scalar), without its coefficient, and its own streams."""
        own: dict[str, Stream] = {}
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
        return _masked(found, mask) * coef, own

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
            matrix = _masked(node(View(batch, node, live)), batch["mask"])
            return -_gradient(matrix.sum(), leaf)

    def _pull_of(self, node: Node, rows: Batch) -> Tensor:
        leaf = rows["now_logp"].detach().clone().requires_grad_(True)
        with torch.enable_grad():
            return -_gradient(_masked(node(View(rows, node, {"now_logp": leaf})), rows["mask"]).sum(), leaf)

    # ---- a part -----------------------------------------------------------------------------------------------

    def __call__(self, part: Batch, live: Mapping[str, Tensor], scale: Scale, index: int = -1) -> Out:
        """The part's share of the objective. `live` streams carry the model's gradient."""
        at = torch.searchsorted(scale.row, part.row)
        coef = scale.coef[at][:, : part.width]
        leaves = {k: v.detach().to(coef.dtype).requires_grad_(k in self.plan.grad or k == "logp") for k, v in live.items()}
        part = self._live_shapes(part, leaves, index)
        grads = {name: pull[at][:, : part.width] for name, pull in scale.whole.gradients.items()}
        terms: dict[str, Tensor] = {}
        effects: dict[str, Tensor] = {}
        made: dict[str, Stream] = {}  # streams of the record that are computed here
        value = torch.zeros((), dtype=coef.dtype)
        node = self.plan.loss
        with torch.enable_grad():
            if node is not None and (node.when != "minibatch" or node.scope == "microbatch"):
                matrix = _masked(node(View(part, node, _seen(node, leaves), index)), part["mask"])
                made["pull"] = -torch.stack([_gradient(matrix.sum(), leaves[x]) for x in self._pulled]).sum(0)
                made["loss"] = matrix.detach()
                share = _gated(matrix, part["gate"]) * part["weight"] * coef
                terms["policy"] = share.detach()
                value = value + share.detach().sum()
                _accumulate(grads, share.sum(), leaves)
            elif scale.whole.matrix is not None and scale.whole.pull is not None:
                made["loss"], made["pull"] = (x[at][:, : part.width] for x in (scale.whole.matrix, scale.whole.pull))
            for reg in self.plan.nodes["regularize"]:
                if reg.when == "minibatch" and reg.scope != "microbatch":
                    continue
                share, streams = self._regularizer(reg, reg(View(part, reg, _seen(reg, leaves), index)), part, scale, live=True)
                made |= streams
                terms[reg.name] = share.detach()
                value = value + reg.coef * share.detach().sum()
                effects[reg.name] = _accumulate(grads, reg.coef * share.sum(), leaves, like=coef)
        loss = value
        for name, grad in grads.items():
            check_finite(grad, f"d(objective)/d({name})", part)
            loss = loss + (grad.to(live[name].dtype) * (live[name] - live[name].detach())).sum()
        per_token = max(scale.response_tokens, 1)  # as if the loss were a token mean
        pull = sum((grads[x] for x in {"logp", *self._pulled} if x in grads), torch.zeros_like(coef))
        made["gradient"] = -pull * per_token
        if "entropy" in grads:
            made["entropy_gradient"] = -grads["entropy"] * per_token
        streams = {k: v.detach() for k, v in leaves.items()} | {k: part[k] for k in KEPT if k in part}
        streams |= {k: v for k, v in part.streams.items() if k.endswith("_selected")} | made
        return Out(loss, Record(Batch(streams, part.row), terms, {**effects, **part.get("effects", {})}))

    def _live_shapes(self, part: Batch, leaves: Mapping[str, Tensor], index: int) -> Batch:
        for node in self.plan.nodes["shape"]:
            if self.plan.lifted and node.when == "live":
                continue
            if node.when == "live" or node.scope == "microbatch":
                streams: dict[str, Tensor] = {k: v.detach() for k, v in leaves.items()}
                if node.scope == "microbatch":
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
            return -_gradient(_masked(node(View(part, node, streams, index)), part["mask"]).sum(), leaf)


def _seen(node: Node, leaves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Live streams as a node of a part reads them: with `scope: part` under their `now_*` names, too."""
    return {**leaves, **({f"now_{k}": v for k, v in leaves.items()} if node.scope == "microbatch" else {})}


def _masked(matrix: Tensor, mask: Tensor) -> Tensor:
    if matrix.shape != mask.shape:
        raise RlentError(f"a loss or regularizer returned shape {tuple(matrix.shape)}; {tuple(mask.shape)} is expected")
    return torch.where(mask, matrix, matrix.new_zeros(()))


def _gated(matrix: Tensor, gate: Tensor) -> Tensor:
    return torch.where(gate, matrix, matrix.detach())


def _gradient(value: Tensor, leaf: Tensor) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    (grad,) = torch.autograd.grad(value, leaf, retain_graph=True, allow_unused=True)
    return torch.zeros_like(leaf) if grad is None else grad


def _accumulate(grads: dict[str, Tensor], term: Tensor, leaves: Mapping[str, Tensor], like: Tensor | None = None) -> Tensor:
    """Add a term's gradient to `grads` by stream; returns on which tokens it is not zero [N,T]."""
    names = [k for k, v in leaves.items() if v.requires_grad]
    found = (
        torch.autograd.grad(term, [leaves[k] for k in names], retain_graph=True, allow_unused=True) if term.requires_grad and names else []
    )
    effect = torch.zeros(() if like is None else like.shape, dtype=torch.bool)
    for name, grad in zip(names, found, strict=False):
        if grad is not None:
            grads[name] = grads[name] + grad if name in grads else grad
            effect = effect | (grad != 0)
    return effect
