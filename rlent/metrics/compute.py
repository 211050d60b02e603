"""Metrics from streams: pure functions of whole steps and whole minibatches.

The tokens of a mask are taken in the order of the rows' ids and reduced in float64 on one thread (NumPy), so a number
does not depend on parts, ranks, threads or padding. A metric whose streams are missing, or that has no token to be
averaged over, is left out; what is not finite is passed on as it is. Definitions: `rlent.metrics.definitions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlent.types import Batch

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

TOP_SHARES = (0.0002, 0.002, 0.02, 0.2, 0.5)
"""The groups of table 1 of the entropy mechanism paper (arXiv:2505.22617)."""

STATUSES = ("ok", "no_answer", "unparsed", "limit", "timeout", "crash", "gold_unparsed")
"""What a grader may report; always logged, so that charts have no holes."""

PERCENTILES = (10, 50, 90, 99)
_NAMED_REWARDS = ("reward/mean", "reward/std")


class Rows:
    """A batch read as NumPy arrays, rows in the order of their ids, tokens flat in reading order.

    `token(name)` are the values [n] at the n response tokens, `row(name)` one value per row [N]; None if there is no such stream.
    Demonstrations (`source` demo), which no policy has drawn, are left out; with `demo` there is nothing else.
    """

    def __init__(self, batch: Batch, *, demo: bool = False) -> None:
        self.batch = batch
        self.order = batch.row.argsort(stable=True).cpu()
        if demo or "source" in batch:
            source = batch.get("source") or [""] * len(batch)
            self.order = self.order[[(source[i] == "demo") == demo for i in self.order.tolist()]]
        self.mask: Bools = self._ordered(batch["mask"]).bool().numpy()
        self.tokens: Ints = self.mask.sum(1, dtype=np.int64)
        self.of: Ints = np.repeat(np.arange(len(self.mask)), self.tokens)
        train = self.row("train")
        self.trained: Bools = np.ones(len(self.of), dtype=bool) if train is None else train.astype(bool)[self.of]

    def _ordered(self, value: Tensor) -> Tensor:
        return value.detach().cpu()[self.order]

    def token(self, name: str) -> Floats | None:
        value = self.batch.get(name)
        if not isinstance(value, Tensor) or value.ndim < 2:
            return None
        return self._ordered(value).double().numpy()[self.mask]

    def row(self, name: str) -> Floats | None:
        value = self.batch.get(name)
        if isinstance(value, list):
            value = torch.tensor([float(v) for v in value], dtype=torch.float64)
        if not isinstance(value, Tensor) or value.ndim != 1:
            return None
        return self._ordered(value).double().numpy()

    def words(self, name: str) -> list[str] | None:
        value = self.batch.get(name)
        return [str(value[i]) for i in self.order.tolist()] if isinstance(value, list) else None

    def row_mean(self, values: Floats) -> tuple[Floats, Bools]:
        """Mean over each row's tokens [N] (0 for a row without tokens), and which rows have tokens."""
        total = np.bincount(self.of, weights=values, minlength=len(self.tokens))
        return total / np.maximum(self.tokens, 1), self.tokens > 0


def step_metrics(batch: Batch) -> dict[str, float]:
    """Metrics of a whole step, from its streams; all are optional but `mask`.

    Per token: old_entropy, old_entropy_t1, old_logp, policy_logp, sampler_logp, sampler_entropy, adv, weight, <node>_selected. Per row:
    reward, reward_<name>, correct, answer_id, finish, status, length, group, train, source.
    """
    rows = Rows(batch)
    found: dict[str, float] = {"tokens/step": float(rows.tokens.sum())}
    for part in (_entropy, _covariance, _advantage, _reward, _vote, _length, _grader, _mismatch):
        found.update(part(rows))
    found.update(_selections([rows]))
    found.update(_demonstrations(Rows(batch, demo=True)))
    return found


def update_metrics(records: Sequence[Batch]) -> dict[str, float]:
    """Metrics of a step's updates, from one record per minibatch; all streams are optional but `mask`.

    Per token: adv, old_logp, logp and entropy (as they were in the update), loss (before weights), weight, gate, pull (-d loss / d logp of
    the loss alone) and gradient (-d objective / d logp with everything applied, on the scale of a token mean). Per row: train, source.
    """
    rows = [Rows(r) for r in records]
    found: dict[str, float] = {}
    logp, old = _trained(rows, "logp", "old_logp")
    with np.errstate(over="ignore", invalid="ignore"):
        if len(logp):
            log_ratio = logp - old
            ratio = np.exp(log_ratio)
            found |= {"ratio/mean": _mean(ratio), "ratio/min": float(ratio.min()), "ratio/max": float(ratio.max())}
            found |= {"kl/k1": _mean(-log_ratio), "kl/k3": _mean(np.expm1(log_ratio) - log_ratio)}
    pull, adv = _trained(rows, "pull", "adv")
    if len(pull):
        high, low = (pull == 0) & (adv > 0), (pull == 0) & (adv < 0)
        found |= {"clip/share": _mean(high | low), "clip/high": _mean(high), "clip/low": _mean(low)}
    (gradient,) = _trained(rows, "gradient")
    if len(gradient):
        size = np.abs(gradient)
        found["pull/abs"] = _mean(size)
        if size.sum() > 0:
            found["pull/pos"] = float(size[gradient > 0].sum() / size.sum())
    (imitated,) = _trained([Rows(r, demo=True) for r in records], "gradient")
    if len(imitated) and (total := float(np.abs(imitated).sum() + np.abs(gradient).sum())) > 0:
        found["demo/pull"] = float(np.abs(imitated).sum()) / total
    alone, applied = _trained(rows, "pull", "gradient")
    if len(alone):
        found["pull/silenced"] = _mean((alone != 0) & (applied == 0))
    (weight,) = _trained(rows, "weight")
    if len(weight):
        found |= {"weight/mean": _mean(weight), "weight/zero": _mean(weight == 0)}
    for name, key in (("gate/open", "gate"), ("loss/token_mean", "loss"), ("entropy/update", "entropy")):
        (values,) = _trained(rows, key)
        _put(found, name, values)
    return found


def mismatch_metrics(record: Batch) -> dict[str, float]:
    """Sampler against trainer on the rows of a step's first update, whose `look_logp` is the sampler's and `logp` the trainer's."""
    rows = Rows(record)
    return _apart(rows.token("look_logp"), rows.token("logp"))


def _trained(rows: Sequence[Rows], *names: str) -> list[Floats]:
    """Values [n] of streams over the trained tokens of all records that have every one of them, in order."""
    out: list[list[Floats]] = [[] for _ in names]
    for r in rows:
        values = [r.token(name) for name in names]
        if all(v is not None for v in values):
            for place, v in zip(out, values, strict=True):
                assert v is not None
                place.append(v[r.trained])
    return [np.concatenate(place) if place else np.empty(0) for place in out]


def _mean(values: NDArray[Any]) -> float:
    return float(values.astype(np.float64).mean())


def _put(found: dict[str, float], name: str, values: NDArray[Any] | None) -> None:
    """The mean, if there is anything to average."""
    if values is not None and len(values):
        found[name] = _mean(values)


def _largest(values: Floats, share: float) -> Floats:
    """The top `share` of the values, at least one, ascending."""
    count = max(1, int(share * len(values) + 1e-9))
    return np.sort(np.partition(values, len(values) - count)[len(values) - count :])


def _groups(rows: Rows) -> list[Ints] | None:
    """Positions of the rows of each group, in the order of the groups' ids."""
    group = rows.row("group")
    if group is None or not len(group):
        return None
    order = np.argsort(group, kind="stable")
    return list(np.split(order, np.flatnonzero(np.diff(group[order])) + 1))


def _entropy(rows: Rows) -> dict[str, float]:
    found: dict[str, float] = {}
    _put(found, "entropy/sampler", rows.token("sampler_entropy"))
    logp = rows.token("old_logp")
    _put(found, "nll/mean", None if logp is None else -logp)
    for stream, prefix in (("old_entropy", "entropy"), ("old_entropy_t1", "entropy_t1")):
        values = rows.token(stream)
        if values is None or not len(values):
            continue
        found[f"{prefix}/mean"] = _mean(values)
        per_row, there = rows.row_mean(values)
        found[f"{prefix}/seq_mean"] = _mean(per_row[there])
    entropy = rows.token("old_entropy")
    if entropy is None or not len(entropy):
        return found
    for percent, value in zip(PERCENTILES, np.quantile(entropy, np.array(PERCENTILES) / 100), strict=True):
        found[f"entropy/q{percent}"] = float(value)
    found["entropy/share_high"] = _mean(entropy > np.log(2))
    if entropy.sum() > 0:
        found["entropy/top20_share"] = float(_largest(entropy, 0.2).sum() / entropy.sum())
    adv, correct = rows.token("adv"), rows.row("correct")
    if adv is not None:
        _put(found, "entropy/adv_pos", entropy[rows.trained & (adv > 0)])
        _put(found, "entropy/adv_neg", entropy[rows.trained & (adv < 0)])
    if correct is not None:
        right = correct.astype(bool)[rows.of]
        _put(found, "entropy/correct", entropy[right])
        _put(found, "entropy/wrong", entropy[~right])
    third = 3 * _position(rows) // rows.tokens[rows.of]
    for index, name in enumerate(("first", "mid", "last")):
        _put(found, f"entropy/{name}", entropy[third == index])
    return found


def _position(rows: Rows) -> Ints:
    """The place of each token within its response, from 0."""
    start = np.cumsum(rows.tokens) - rows.tokens
    return np.arange(len(rows.of)) - start[rows.of]


def _covariance(rows: Rows) -> dict[str, float]:
    logp, adv = rows.token("old_logp"), rows.token("adv")
    if logp is None or adv is None or not rows.trained.any():
        return {}
    use = rows.trained
    x, y = logp[use] - logp[use].mean(), adv[use] - adv[use].mean()
    product = x * y
    found = {"cov/mean": _mean(product)}
    for share in TOP_SHARES:
        found[f"cov/top_{share:g}"] = _mean(_largest(product, share))
    scale = float(np.sqrt(np.square(x).mean() * np.square(y).mean()))
    if scale > 0:
        found["cov/corr"] = found["cov/mean"] / scale
    groups, correct = _groups(rows), rows.row("correct")
    if groups is None:
        return found
    if correct is not None:
        bucket = np.empty(len(correct), dtype=np.int64)
        for members in groups:
            right = int(correct[members].sum())
            bucket[members] = 0 if 3 * right < len(members) else 1 if 3 * right <= 2 * len(members) else 2
        of_token = bucket[rows.of[use]]
        for index, name in enumerate(("low", "mid", "high")):
            _put(found, f"cov/acc_{name}", product[of_token == index])
    mean_logp, there = rows.row_mean(logp)
    mean_adv, _ = rows.row_mean(adv)
    trains = np.zeros(len(there), dtype=bool)
    trains[rows.of[use]] = True
    inside: list[float] = []
    for members in groups:
        members = members[trains[members]]
        if len(members) > 1:
            level = mean_logp[members]
            push = np.exp(level) * mean_adv[members]
            inside.append(_mean((level - level.mean()) * (push - push.mean())))
    _put(found, "cov/response", np.array(inside))
    return found


def _advantage(rows: Rows) -> dict[str, float]:
    found: dict[str, float] = {}
    adv, weight = rows.token("adv"), rows.token("weight")
    if adv is not None and rows.trained.any():
        adv = adv[rows.trained]
        found |= {"adv/mean": _mean(adv), "adv/std": float(adv.std()), "adv/max": float(np.abs(adv).max()), "adv/zero": _mean(adv == 0)}
    if weight is not None:
        _put(found, "weight/step", weight[rows.trained])
    return found


def _reward(rows: Rows) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in sorted(n for n in rows.batch if n.startswith("reward_")):
        key = f"reward/{name.removeprefix('reward_')}"
        per_row, per_token = rows.row(name), rows.token(name)
        if per_token is not None:
            per_row = np.bincount(rows.of, weights=per_token, minlength=len(rows.tokens)).astype(np.float64)
        if key not in _NAMED_REWARDS:
            _put(found, key, per_row)
    reward, correct, groups = rows.row("reward"), rows.row("correct"), _groups(rows)
    if reward is not None and len(reward):
        found |= {"reward/mean": _mean(reward), "reward/std": float(reward.std())}
        if correct is not None and rows.row("answer_id") is not None:
            found["reward/agreement"] = _mean(reward == correct)
    _put(found, "correct/mean", correct)
    if groups is None:
        return found
    found["group/count"] = float(len(groups))
    if reward is not None:
        found["group/zero"] = _mean(np.array([bool((reward[g] == reward[g[0]]).all()) for g in groups]))
    if correct is not None:
        accuracy = np.array([correct[g].mean() for g in groups])
        found["correct/any"] = _mean(accuracy > 0)
        found |= {"group/all_correct": _mean(accuracy == 1), "group/none_correct": _mean(accuracy == 0)}
        for percent, value in zip(PERCENTILES[:3], np.quantile(accuracy, np.array(PERCENTILES[:3]) / 100), strict=True):
            found[f"group/accuracy_q{percent}"] = float(value)
    return found


def _vote(rows: Rows) -> dict[str, float]:
    """The most frequent answer of each group, the first of equals; a response without an answer counts as one of its own."""
    ids, correct, groups = rows.row("answer_id"), rows.row("correct"), _groups(rows)
    if ids is None or groups is None:
        return {}
    ratio, right = [], []
    for members in groups:
        mine = np.where(ids[members] < 0, -1.0 - np.arange(len(members)), ids[members])
        _, first, count = np.unique(mine, return_index=True, return_counts=True)
        leader = first[count == count.max()].min()
        ratio.append(count.max() / len(members))
        right.append(0.0 if correct is None else correct[members[leader]])
    return {"vote/ratio": _mean(np.array(ratio)), **({} if correct is None else {"vote/correct": _mean(np.array(right))})}


def _length(rows: Rows) -> dict[str, float]:
    found: dict[str, float] = {}
    length = rows.row("length")
    if length is None:
        length = rows.tokens.astype(np.float64)
    if not len(length):
        return found
    found |= {"length/mean": _mean(length), "length/max": float(length.max())}
    correct, finish = rows.row("correct"), rows.words("finish")
    if correct is not None:
        _put(found, "length/correct", length[correct > 0])
        _put(found, "length/wrong", length[correct == 0])
    if finish is not None:
        cut = np.array([f == "length" for f in finish])
        found |= {"finish/cut": _mean(cut), "finish/empty": _mean((length == 0) | ((length == 1) & ~cut))}
    return found


def _grader(rows: Rows) -> dict[str, float]:
    status = rows.words("status")
    if not status:
        return {}
    names: Iterable[str] = dict.fromkeys([*STATUSES, *sorted(set(status))])
    return {f"grader/{name}": status.count(name) / len(status) for name in names}


def _mismatch(rows: Rows) -> dict[str, float]:
    return _apart(rows.token("sampler_logp"), rows.token("old_logp"))


def _apart(sampled: Floats | None, old: Floats | None) -> dict[str, float]:
    if sampled is None or old is None or not len(old):
        return {}
    with np.errstate(over="ignore", invalid="ignore"):
        d = old - sampled
        ratio = np.exp(d)
        return {
            "mismatch/mean": _mean(np.abs(d)),
            "mismatch/max": float(np.abs(d).max()),
            "mismatch/k1": _mean(-d),
            "mismatch/k3": _mean(np.expm1(d) - d),
            "mismatch/ratio_min": float(ratio.min()),
            "mismatch/ratio_max": float(ratio.max()),
        }


def _demonstrations(rows: Rows) -> dict[str, float]:
    """What the policy makes of demonstrations; `old_logp` of such a row is its author's, `policy_logp` the policy's."""
    found: dict[str, float] = {}
    logp = rows.token("policy_logp" if "policy_logp" in rows.batch else "old_logp")
    _put(found, "demo/nll", None if logp is None else -logp)
    for name, values in (("entropy", rows.token("old_entropy")), ("adv", rows.token("adv")), ("reward", rows.row("reward"))):
        _put(found, f"demo/{name}", values)
    _put(found, "demo/length", rows.tokens)
    return found


def _selections(rows: Sequence[Rows]) -> dict[str, float]:
    found: dict[str, float] = {}
    ending = "_selected"
    for stream in sorted({n for r in rows for n in r.batch if n.endswith(ending)}):
        prefix = f"select/{stream.removesuffix(ending)}"
        (selected,) = _trained(rows, stream)
        _put(found, f"{prefix}/share", selected > 0)
        for name, key in (("pos", "adv"), ("prob", "old_logp"), ("entropy", "old_entropy")):
            selected, values = _trained(rows, stream, key)
            values = values[selected > 0]
            _put(found, f"{prefix}/{name}", values > 0 if key == "adv" else np.exp(values) if key == "old_logp" else values)
    return found
