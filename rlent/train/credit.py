"""Rewards and advantages of a step: from verdicts to credit per token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rlent.errors import RlentError
from rlent.ranks.world import World
from rlent.recipe.mount import Node
from rlent.train.calls import check_finite, whole
from rlent.types import Batch, Stream


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
        check_finite(found, node.path, batch)
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
    check_finite(adv, node.path, batch)
    adv = (adv[:, None] if adv.ndim == 1 else adv) * mask
    return batch.with_(adv=adv.to(batch["reward"].dtype), **{f"{node.name}_{k}": v for k, v in found.items()})


def _back(value: Stream, rows: Tensor, batch: Batch) -> Stream:
    """Values of some rows [n] or [n,t] among all [N] or [N,T], 0 elsewhere; numbers as they are."""
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    out = value.new_zeros((len(batch), batch.width) if value.ndim > 1 else len(batch))
    if value.ndim > 1:
        out[rows[:, None], torch.arange(value.shape[1])] = value
    else:
        out[rows] = value
    return out
