"""The actor: the policy as the loop uses it. Which rows go through the model together, and which streams come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from rlent.errors import UsageError
from rlent.math import noise
from rlent.math.entropy import entropy_from_logits
from rlent.policy.parts import cut, pack, run_halving, share_out
from rlent.policy.policy import Policy
from rlent.ranks.world import World, merge
from rlent.recipe.mount import Node
from rlent.recipe.plan import Plan
from rlent.train.ledger import second_moment
from rlent.train.records import Minibatch, Out
from rlent.types import Batch


def _entropy_at_one(temperature: float, logits: Tensor, target: Tensor) -> Tensor:
    """A probe: entropy (nats) at temperature 1, from logits that were divided by `temperature`."""
    return entropy_from_logits(logits * temperature)


def _own(batch: Batch, logp: Tensor) -> Tensor:
    """Log-probabilities [N,T], with those that rows bring along in the place of the policy's."""
    return torch.where(batch["own"][:, None], batch["own_logp"].to(logp), logp) if "own" in batch else logp


def _put(out: dict[str, Tensor], name: str, value: Tensor, rows: Sequence[int], batch: Batch) -> None:
    """Put a stream of some rows ([b, t] or [b]) in its place among all rows of the batch, 0 elsewhere."""
    if name not in out:
        out[name] = value.new_zeros((len(batch), batch.width) if value.ndim > 1 else len(batch))
    if len(rows):
        index = torch.as_tensor(rows, dtype=torch.long)
        out[name][(index[:, None], torch.arange(value.shape[1])) if value.ndim > 1 else index] = value


Probe = Callable[[Tensor, Tensor], Tensor] | Node
"""What is computed from logits or hidden states in the forward: a function, or a node of the recipe."""


@dataclass
class Actor:
    """The policy, the frozen models, and the plan of what to compute.

    Parts are drawn once a step, before the look-back, and the first epoch uses the same cut, so that `old_logp` and the first
    update's `logp` come from the same arithmetic.
    """

    policy: Policy | None
    plan: Plan
    models: Mapping[str, Policy]
    world: World
    temperature: float
    minibatches: int
    epochs: int
    tokens_per_part: int
    seed: int
    layout: list[list[list[int]]] = field(default_factory=list)
    halved: int = 0

    @property
    def model(self) -> Policy:
        """The policy; an actor without one (of a saved step) does not ask for it."""
        assert self.policy is not None, "this actor has no model"
        return self.policy

    def _packs(self, policy: Policy | None) -> bool:
        return policy is not None and policy.packs

    def _split_over_ranks(self, policy: Policy | None) -> bool:
        return policy is not None and policy.root is not None

    # ---- cutting ------------------------------------------------------------------------------------------------

    def balance(self, batch: Batch) -> Batch:
        """The same rows shared out anew, so that every rank has nearly as many tokens of each minibatch as the others.

        In each minibatch ranks take consecutive rows, so a group is on two ranks at most where ranks have more than a row each.
        """
        if self.world.size == 1:
            return batch
        lengths = batch.lengths.tolist()
        mine = list(zip(batch["group"].tolist(), batch.row.tolist(), map(len, batch["prompt_ids"]), lengths, strict=True))
        everyone = sorted(row for share in self.world.all_gather(mine) for row in share)
        place: dict[int, int] = {}
        for groups in self._minibatch_groups([row[0] for row in everyone], batch["step"], epoch=0):
            rows = [row for row in everyone if row[0] in groups]
            seen: set[int] = set()
            costs = []
            for group, _, prompt, length in rows:  # a packed prompt is paid once
                costs.append(length + (0 if self._packs(self.policy) and group in seen else prompt))
                seen.add(group)
            place.update(zip([row[1] for row in rows], share_out(costs, self.world.size), strict=True))
        ranks = [place[row] for row in batch.row.tolist()]
        parcels = [batch.select([i for i, rank in enumerate(ranks) if rank == to]) for to in range(self.world.size)]
        return merge(self.world.exchange(parcels))

    def _minibatch_groups(self, groups: Sequence[int], step: int, epoch: int) -> list[set[int]]:
        """The groups of each minibatch: in an order drawn per (seed, step, epoch). The same on every rank."""
        known = sorted(set(groups))
        order = [known[i] for i in noise.permutation(len(known), self.seed, step, "minibatches", epoch)]
        count = min(self.minibatches, len(order)) or 1
        bounds = [len(order) * i // count for i in range(count + 1)]
        return [set(order[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]

    def _minibatch_rows(self, batch: Batch, epoch: int) -> list[list[int]]:
        """Positions of this rank's rows in each minibatch: whole groups over all ranks."""
        groups = [g for share in self.world.all_gather(sorted(set(batch["group"].tolist()))) for g in share]
        minibatches = self._minibatch_groups(groups, batch["step"], epoch)
        where = {g: m for m, members in enumerate(minibatches) for g in members}
        rows: list[list[int]] = [[] for _ in minibatches]
        for position, group in enumerate(batch["group"].tolist()):
            rows[where[group]].append(position)
        return rows

    def _parts(self, batch: Batch, policy: Policy | None = None) -> list[list[int]]:
        """This rank's parts; where the model is split over ranks, as many as any rank has, the last ones empty."""
        policy = policy or self.policy
        prompts, lengths = batch["prompt_ids"], batch.lengths.tolist()
        if self._packs(policy):
            parts = pack(prompts, lengths, self.tokens_per_part)
        else:
            parts = cut([len(p) + n for p, n in zip(prompts, lengths, strict=True)], self.tokens_per_part)
        if self._split_over_ranks(policy):
            parts += [[]] * (max(self.world.all_gather(len(parts))) - len(parts))
        return parts

    def split(self, batch: Batch) -> Iterator[Minibatch]:
        """The minibatches of a step, epoch after epoch. Rows that are not trained on stay behind."""
        index, train = 0, batch["train"].tolist()
        for epoch in range(self.epochs):
            for rows in self._minibatch_rows(batch, epoch):
                picked = batch.select([r for r in rows if train[r]])
                yield Minibatch(picked, index, self._parts(picked))
                index += 1

    # ---- forwards without gradient --------------------------------------------------------------------------------

    @torch.no_grad()
    def _forward(
        self, policy: Policy, batch: Batch, parts: Sequence[Sequence[int]], *, entropy: bool, probes: Mapping[str, Probe]
    ) -> dict[str, Tensor]:
        """Streams of all rows, [n, T] or [n], part by part; without rows their names and nothing in them."""
        out: dict[str, Tensor] = {}
        for positions in parts or [[]]:
            part = batch.select(positions)
            for name, value in policy.look(part, temperature=self.temperature, entropy=entropy, probes=probes).items():
                _put(out, name, value, positions, batch)
        return out

    def probes(self, wanted: set[str]) -> dict[str, Probe]:
        """The planned probes among `wanted`, bound to their options."""
        return {n.name: n for n in self.plan.nodes["probe"] if n.name in wanted}

    def look_back(self, batch: Batch) -> Batch:
        """`old_*` and the streams of frozen models, with the cut of the first epoch. Nothing runs that the plan does not need."""
        if self.plan.needs_look or self.temperature != 1.0:
            batch = self._as_sampled(batch) if self.plan.from_sampler else self._as_it_is(batch)
        for name, wanted in self.plan.models.items():
            if not wanted & {"logp", "entropy"}:
                continue
            streams = self._forward(self.models[name], batch, self._parts(batch, self.models[name]), entropy="entropy" in wanted, probes={})
            batch = batch.with_(**{f"{name}_{k}": v for k, v in streams.items() if k in wanted})
        return batch

    def _as_it_is(self, batch: Batch) -> Batch:
        """`old_*` from a forward of the policy."""
        found: dict[str, Tensor] = {}
        for rows in self._minibatch_rows(batch, 0):
            picked = batch.select(rows)
            probes = self.probes(self.plan.look | self.plan.now)
            if self.temperature != 1.0:  # the paper's entropy is at temperature 1, whatever the sampler's
                probes["entropy_t1"] = partial(_entropy_at_one, self.temperature)
            streams = self._forward(self.model, picked, self._parts(picked), entropy=True, probes=probes)
            for name, value in streams.items():
                _put(found, name, value, rows, batch)
        batch = batch.with_(**{f"old_{k}": v for k, v in found.items()})
        if "own" in batch:  # the policy's own values are what `now_logp` is in the first minibatch
            batch = batch.with_(policy_logp=batch["old_logp"], old_logp=_own(batch, batch["old_logp"]))
        return batch

    def _as_sampled(self, batch: Batch) -> Batch:
        """`old_logp` and `old_entropy` as the engine said them, in the precision that a forward gives (`Plan.from_sampler`).

        Raises:
            UsageError: rows that were not drawn from the policy as it is, or an engine that gave no entropies.
        """
        lacks = "sampler_entropy" not in batch
        if lacks or "own" in batch or set(batch["source"]) - {"policy"}:
            why = "the engine gave no entropies" if lacks else "the step has rows that were not drawn from the policy as it is"
            raise UsageError(f"trainer.old_logprobs is rollout, and {why}; recompute is accepted")
        dtype = torch.promote_types(self.model.compute, torch.float32)
        return batch.with_(**{f"old_{k}": batch[f"sampler_{k}"].to(dtype) for k in ("logp", "entropy")})

    def now(self, minibatch: Minibatch) -> Minibatch:
        """`now_*` of a minibatch: the look-back's values in the first one, a forward without gradient after that."""
        wanted = self.plan.now
        if not wanted:
            return minibatch
        if minibatch.first:
            streams = {k: minibatch.batch[f"old_{k}"] for k in wanted}
            if "policy_logp" in minibatch.batch and "logp" in wanted:
                streams["logp"] = minibatch.batch["policy_logp"]
        else:
            streams = self._forward(self.model, minibatch.batch, minibatch.parts, entropy="entropy" in wanted, probes=self.probes(wanted))
        return minibatch.with_batch(minibatch.batch.with_(**{f"now_{k}": v for k, v in streams.items() if k in wanted}))

    def measure(self, batch: Batch, *, moment: bool = True) -> dict[str, Tensor]:
        """`logp`, `entropy` and, with `moment`, the second moment of given rows under the current policy (the entropy ledger)."""
        probes = {"second": second_moment} if moment else {}
        return self._forward(self.model, batch, self._parts(batch), entropy=True, probes=probes)

    def watch(self, minibatch: Minibatch) -> dict[str, Tensor]:
        """`logp`, `entropy`, the second moment and the probes of a minibatch before its update, whatever the plan needs; for a kept step."""
        probes = {"second": second_moment, **self.probes(self.plan.live | self.plan.now)}
        return self._forward(self.model, minibatch.batch, minibatch.parts, entropy=True, probes=probes)

    # ---- the forward with gradient, and the step ------------------------------------------------------------------

    def __call__(self, part: Batch) -> dict[str, Tensor]:
        """The live streams of a part, with gradient."""
        live = self.plan.live
        return self.model(part, temperature=self.temperature, entropy="entropy" in live, probes=self.probes(live))

    @staticmethod
    def on_policy(part: Batch, live: Mapping[str, Tensor]) -> Batch:
        """The part of a step's first update: the policy has not moved, so `old_*` is what the forward just gave.

        Rows padded otherwise give other log-probabilities in the last digits; taking `old_logp` from the same forward keeps
        that noise out of the ratio. The look-back's value (or the sampler's) stays under `look_logp`. A row with a log-probability of its own
        (`own`, `own_logp`: it was drawn by an earlier policy) keeps it.
        """
        fresh = {f"old_{k}": v.detach() for k, v in live.items() if k == "logp" or f"old_{k}" in part}
        look = part.get("old_logp")
        if look is not None and "own" in part:
            look = torch.where(part["own"][:, None], fresh["old_logp"].to(look), look)  # there is no distance to report
        fresh["old_logp"] = _own(part, fresh["old_logp"])
        return part.with_(**({} if look is None else {"look_logp": look}), **fresh)

    def through(self, once: Callable[[Batch], Out], part: Batch, halved: Callable[[int], None]) -> Iterator[Out]:
        """Take a part through the model: as a whole or, where memory runs out, in halves (`halved` is called with the rows that did not fit)."""
        if self.policy is None:
            yield once(part)
        elif self.policy.root is None:
            yield from run_halving(once, part, halved, self.policy.model.parameters())
        elif len(part):
            yield once(part)
        else:  # the other ranks have rows: go through the model with them
            sum(value.sum() for value in self(part).values()).backward()

    def step(self) -> dict[str, float]:
        """One optimizer update; gradients are summed over ranks first (denominators are global already)."""
        policy = self.model
        if self.world.size > 1 and policy.root is None:
            for parameter in policy.model.parameters():
                if parameter.requires_grad:
                    if parameter.grad is None:
                        parameter.grad = torch.zeros_like(parameter)
                    dist.all_reduce(parameter.grad)
        return policy.step()
