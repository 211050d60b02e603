"""The meter: token records of a step, put back in row order, and the numbers computed from them.

Everything is computed at the end of the step, on rank 0, in float64, from rows in the order of their ids. So a number
does not depend on parts, ranks or padding, given the same log-probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rlent import metrics
from rlent.ranks.world import World, merge
from rlent.train.ledger import EntropyLedger, account, token_terms
from rlent.train.objective import Out, Scale
from rlent.types import Batch

_STEP_STREAMS = frozenset(
    "mask old_entropy old_entropy_t1 old_logp adv reward correct finish status length group sampler_logp sampler_entropy train weight step answer_id source policy_logp".split()
)


class Meter:
    """Collects what a step's parts and updates report; `reduce` turns it into metrics."""

    def __init__(self, world: World, ledger: EntropyLedger | None, ledger_rows: int, *, from_sampler: bool = False) -> None:
        """`from_sampler`: `old_logp` of a step's batch is the sampler's (`Plan.from_sampler`)."""
        self.world, self.ledger, self.ledger_rows, self.from_sampler = world, ledger, ledger_rows, from_sampler
        self.clear()

    def clear(self) -> None:
        self.records: list[list[Batch]] = []
        self.updates: list[dict[str, float]] = []
        self.constant_terms: list[dict[str, float]] = []
        self.numbers: dict[str, float] = {}
        self.noise = 0.0
        self.account: dict[str, Any] | None = None
        self.sample: Batch | None = None
        self.before: dict[str, Tensor] = {}

    def begin(self, scale: Scale) -> None:
        """A minibatch begins."""
        self.records.append([])
        self.constant_terms.append(dict(scale.terms))

    def add(self, out: Out) -> None:
        """One part's record. In the first minibatch `look_logp`, the look-back's value, shows how far rounding goes."""
        self.records[-1].append(out.record)
        if "look_logp" in out.record and bool(out.record["mask"].any()):
            self.noise = max(self.noise, float((out.record["logp"] - out.record["look_logp"])[out.record["mask"]].abs().max()))

    def update(self, numbers: Mapping[str, float]) -> None:
        """What an optimizer update reported."""
        self.updates.append(dict(numbers))

    def start_ledger(self, sample: Batch, before: Mapping[str, Tensor]) -> None:
        """The seeded rows on which the change of entropy is measured, and their values before the updates."""
        self.sample, self.before = sample, dict(before)

    def reduce(self, batch: Batch, after: Mapping[str, Tensor] | None) -> dict[str, float] | None:
        """The step's metrics on rank 0, None elsewhere. `after` holds the ledger rows' values after the updates."""
        minibatches = [self._whole(parts) for parts in self.records]
        extra = {k for k in batch if k.startswith("reward_") or k.endswith("_selected")}
        whole = self._gather(Batch({k: v for k, v in batch.streams.items() if k in _STEP_STREAMS | extra}, batch.row))
        ledger = self._ledger_rows(after)
        noise = max(self.world.all_gather(self.noise))
        if whole is None:
            return None
        records = [m for m in minibatches if m is not None]
        whole = self._complete(whole, records)
        found = metrics.step_metrics(whole)
        if self.from_sampler and "old_logp" in batch:  # of the step there is nothing else to compare with
            found.update(metrics.mismatch_metrics(records[0]))
        found.update(metrics.update_metrics(records))
        found.update(self._terms(records))
        found.update(self._effects(records))
        found.update(self._updates())
        if "old_logp" in batch:
            found["noise/logp_max"] = noise
        if ledger is not None and self.ledger is not None and bool(ledger["mask"].any()):
            terms = token_terms(ledger)
            found["entropy/after"] = float(ledger["after"].double()[ledger["mask"]].mean())
            found.update(self.ledger.update(**{k: float(terms[k].mean()) for k in ("d1", "d2", "measured")}))
            if "correct" in whole:
                self.account = account(ledger, _accuracy(whole))
        found.update(self.numbers)
        return found

    def _gather(self, batch: Batch) -> Batch | None:
        shares = self.world.gather(batch)
        return None if shares is None else merge(shares)

    def _whole(self, parts: list[Batch]) -> Batch | None:
        shares = self.world.gather(parts)
        if shares is None:
            return None
        flat = [p for share in shares for p in share]
        return merge(flat) if flat else None

    def _complete(self, whole: Batch, records: list[Batch]) -> Batch:
        """Streams that only the updates know: selections, and the old policy's values where no look-back was run."""
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

    def _terms(self, records: list[Batch]) -> dict[str, float]:
        """Each term of the objective, before its coefficient, averaged over the updates."""
        sums: dict[str, list[float]] = {}
        for index, record in enumerate(records):
            here = dict(self.constant_terms[index]) if index < len(self.constant_terms) else {}
            for key, value in record.streams.items():
                if key.startswith("term:") and isinstance(value, Tensor):
                    here[key.removeprefix("term:")] = float(value.double().sum())
            for name, value in here.items():
                sums.setdefault(name, []).append(value)
        return {f"loss/{name}": sum(values) / len(values) for name, values in sums.items()}

    @staticmethod
    def _effects(records: list[Batch]) -> dict[str, float]:
        """Share of trained tokens whose gradient each shape or regularizer changed: what is left of 0 is an inert method."""
        counts: dict[str, int] = {}
        tokens = 0
        for record in records:
            trained = record["mask"] & record["train"][:, None] if "train" in record else record["mask"]
            tokens += int(trained.sum())
            for key, value in record.streams.items():
                if key.startswith("effect:"):
                    name = key.removeprefix("effect:")
                    counts[name] = counts.get(name, 0) + int((value & trained).sum())
        return {f"effect/{name}": count / max(tokens, 1) for name, count in counts.items()}

    def _updates(self) -> dict[str, float]:
        out: dict[str, float] = {}
        if not self.updates:
            return out
        norms = [u["grad_norm"] for u in self.updates if "grad_norm" in u]
        if norms:
            out["update/grad_norm"] = sum(norms) / len(norms)
            out["update/grad_norm_max"] = max(norms)
        clipped = [float(u["clipped"]) for u in self.updates if "clipped" in u]
        if clipped:
            out["update/grad_clipped"] = sum(clipped) / len(clipped)
        out["update/lr"] = self.updates[-1].get("lr", math.nan)
        out["update/count"] = float(len(self.updates))
        return out

    def _ledger_rows(self, after: Mapping[str, Tensor] | None) -> Batch | None:
        """The ledger's rows of all ranks with what `ledger.account` reads, on rank 0."""
        if self.ledger is None or self.sample is None or after is None:
            return None
        rows = self.sample
        gradient = torch.zeros((len(rows), rows.width), dtype=torch.float64)
        place = {int(r): i for i, r in enumerate(rows.row.tolist())}
        for parts in self.records:
            for record in parts:
                for i, r in enumerate(record.row.tolist()):
                    if r in place:
                        width = min(record.width, rows.width)
                        gradient[place[r], :width] += record["gradient"][i, :width].double()
        payload = Batch(
            {
                **{k: rows[k] for k in ("mask", "adv", "tokens", "group")},
                "gradient": gradient,
                **{k: self.before[k] for k in ("logp", "entropy", "second")},
                "after": after["entropy"],
            },
            rows.row,
        )
        return self._gather(payload)


def _accuracy(whole: Batch) -> dict[int, float]:
    """Share of correct responses by group."""
    group = whole["group"]
    return {int(g): float(whole["correct"][group == g].double().mean()) for g in group.unique()}
