"""The meter: token records of a step, put back in row order, and the numbers computed from them.

Everything is computed at the end of the step, on rank 0, in float64, from rows in the order of their ids. So a number
does not depend on parts, ranks or padding, given the same log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from rlent import metrics
from rlent.ranks.world import World, merge
from rlent.train.ledger import EntropyLedger, account, token_terms
from rlent.train.records import Record, Step
from rlent.types import Batch

_STEP_STREAMS = frozenset(
    "mask old_entropy old_entropy_t1 old_logp adv reward correct finish status length group sampler_logp sampler_entropy train weight step answer_id source policy_logp".split()
)


class Meter:
    """Turns a step's records into metrics. `ledger` compares predicted with measured entropy changes; None: it is off."""

    def __init__(self, world: World, ledger: EntropyLedger | None, *, from_sampler: bool = False) -> None:
        """`from_sampler`: `old_logp` of a step's batch is the sampler's (`Plan.from_sampler`)."""
        self.world, self.ledger, self.from_sampler = world, ledger, from_sampler

    def reduce(self, step: Step, batch: Batch, after: Mapping[str, Tensor] | None) -> dict[str, float] | None:
        """The step's metrics on rank 0, None elsewhere; on rank 0 the step gets its `account`.

        `after` holds the values of the step's entropy sample after the updates.
        """
        updates = [self._whole(parts) for parts in step.records]
        extra = {k for k in batch if k.startswith("reward_") or k.endswith("_selected")}
        whole = self._gather(Batch({k: v for k, v in batch.streams.items() if k in _STEP_STREAMS | extra}, batch.row))
        ledger = self._ledger_rows(step, after)
        noise = max(self.world.all_gather(step.noise))
        if whole is None:
            return None
        pairs = [(record, terms) for record, terms in zip(updates, step.terms, strict=True) if record is not None]
        records = [record for record, _ in pairs]
        tokens = [r.tokens for r in records]
        whole = _complete(whole, tokens)
        found = metrics.step_metrics(whole)
        if self.from_sampler and "old_logp" in batch:  # of the step there is nothing else to compare with
            found.update(metrics.mismatch_metrics(tokens[0]))
        found.update(metrics.update_metrics(tokens))
        found.update(_terms(records, [terms for _, terms in pairs]))
        found.update(_effects(records))
        found.update(_optimizer(step.updates))
        if "old_logp" in batch:
            found["noise/logp_max"] = noise
        if ledger is not None and self.ledger is not None and bool(ledger["mask"].any()):
            terms = token_terms(ledger)
            found["entropy/after"] = float(ledger["after"].double()[ledger["mask"]].mean())
            found.update(self.ledger.update(**{k: float(terms[k].mean()) for k in ("d1", "d2", "measured")}))
            if "correct" in whole:
                step.account = account(ledger, _accuracy(whole))
        found.update(step.numbers)
        return found

    def _gather(self, batch: Batch) -> Batch | None:
        shares = self.world.gather(batch)
        return None if shares is None else merge(shares)

    def _whole(self, parts: list[Record]) -> Record | None:
        """A minibatch's records of all ranks as one, on rank 0."""
        shares = self.world.gather(parts)
        if shares is None:
            return None
        flat = [p for share in shares for p in share]
        return Record.merge(flat) if flat else None

    def _ledger_rows(self, step: Step, after: Mapping[str, Tensor] | None) -> Batch | None:
        """The sampled rows of all ranks with what `ledger.account` reads, on rank 0."""
        if self.ledger is None or step.sample is None or after is None:
            return None
        rows, before = step.sample.rows, step.sample.before
        gradient = torch.zeros((len(rows), rows.width), dtype=torch.float64)
        place = {int(r): i for i, r in enumerate(rows.row.tolist())}
        for record in (part.tokens for parts in step.records for part in parts):
            for i, r in enumerate(record.row.tolist()):
                if r in place:
                    width = min(record.width, rows.width)
                    gradient[place[r], :width] += record["gradient"][i, :width].double()
        payload = Batch(
            {
                **{k: rows[k] for k in ("mask", "adv", "tokens", "group")},
                "gradient": gradient,
                **{k: before[k] for k in ("logp", "entropy", "second")},
                "after": after["entropy"],
            },
            rows.row,
        )
        return self._gather(payload)


def _complete(whole: Batch, records: Sequence[Batch]) -> Batch:
    """Streams that only the updates have: selections, and the old policy's values where no pass before the updates was run."""
    place = {int(r): i for i, r in enumerate(whole.row.tolist())}
    for record in records:
        at = torch.tensor([place[int(r)] for r in record.row.tolist()], dtype=torch.long)
        for key, value in record.streams.items():
            name = {"logp": "old_logp", "entropy": "old_entropy"}.get(key, key)
            fill = key.endswith("_selected") or (name != key and len(records) == 1 and name not in whole)
            if not fill or not isinstance(value, Tensor) or value.ndim < 2:
                continue
            if name not in whole:
                whole[name] = value.new_zeros((len(whole), whole.width))
            whole[name][at[:, None], torch.arange(value.shape[1])] = value
    return whole


def _terms(records: Sequence[Record], whole: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each term of the objective, before its coefficient, averaged over the updates; `whole` are those of whole minibatches."""
    sums: dict[str, list[float]] = {}
    for record, fixed in zip(records, whole, strict=True):
        here = {**fixed, **{name: float(value.double().sum()) for name, value in record.terms.items()}}
        for name, value in here.items():
            sums.setdefault(name, []).append(value)
    return {f"loss/{name}": sum(values) / len(values) for name, values in sums.items()}


def _effects(records: Sequence[Record]) -> dict[str, float]:
    """Share of trained tokens whose gradient each shape or regularizer changed: what is left of 0 is an inert method."""
    counts: dict[str, int] = {}
    tokens = 0
    for record in records:
        mask = record.tokens["mask"]
        trained = mask & record.tokens["train"][:, None] if "train" in record.tokens else mask
        tokens += int(trained.sum())
        for name, value in record.effects.items():
            counts[name] = counts.get(name, 0) + int((value & trained).sum())
    return {f"effect/{name}": count / max(tokens, 1) for name, count in counts.items()}


def _optimizer(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Gradient norms, clipping and the learning rate over the step's updates."""
    out: dict[str, float] = {}
    if not updates:
        return out
    norms = [u["grad_norm"] for u in updates if "grad_norm" in u]
    if norms:
        out["update/grad_norm"] = sum(norms) / len(norms)
        out["update/grad_norm_max"] = max(norms)
    clipped = [float(u["clipped"]) for u in updates if "clipped" in u]
    if clipped:
        out["update/grad_clipped"] = sum(clipped) / len(clipped)
    out["update/lr"] = updates[-1].get("lr", math.nan)
    out["update/count"] = float(len(updates))
    return out


def _accuracy(whole: Batch) -> dict[int, float]:
    """Share of correct responses by group."""
    group = whole["group"]
    return {int(g): float(whole["correct"][group == g].double().mean()) for g in group.unique()}
