"""Random streams for tests: what a minibatch looks like, in float64, without a model."""

from __future__ import annotations

import torch

from rlent.types import Batch


def random_batch(seed: int = 0, groups: int = 6, n: int = 4, width: int = 9, *, drift: float = 0.3, ties: bool = False) -> Batch:
    """A minibatch with every stream a shape, loss or regularizer of the first methods may read."""
    g = torch.Generator().manual_seed(seed)
    rows = groups * n
    lengths = torch.randint(0, width + 1, (rows,), generator=g)
    lengths[0] = width
    mask = torch.arange(width) < lengths[:, None]
    logp = -torch.rand(rows, width, generator=g, dtype=torch.float64) * 3
    adv = torch.randn(rows, 1, generator=g, dtype=torch.float64).expand(rows, width) * mask
    if ties:
        logp, adv = logp.round(), adv.round()
    old = logp - drift * torch.randn(rows, width, generator=g, dtype=torch.float64)
    entropy = torch.rand(rows, width, generator=g, dtype=torch.float64) * 2
    return Batch(
        {
            "mask": mask,
            "train": torch.ones(rows, dtype=torch.bool),
            "group": torch.arange(rows) // n,
            "sample": torch.arange(rows) % n,
            "problem_key": (torch.arange(rows) // n) * 7919 + 13,
            "seed": 3,
            "step": 5,
            "vocab": 30,
            "adv": adv,
            "old_logp": old * mask,
            "old_entropy": entropy * (1 + 0.2 * torch.randn(rows, width, generator=g, dtype=torch.float64)).abs() * mask,
            "ref_logp": (old - 0.1) * mask,
            "live_logp": logp * mask,
            "live_entropy": entropy * mask,
            "live_nucleus_entropy": (entropy * 0.7) * mask,
            "live_clamped_entropy": (entropy * 0.9) * mask,
            **{f"live_era_{k}": logp * scale * mask for k, scale in (("plain", 1.0), ("sharp", 1.5), ("flat", 0.7))},
            **{f"old_era_{k}": old * scale * mask for k, scale in (("plain", 1.0), ("sharp", 1.5), ("flat", 0.7))},
            "old_lp_proxy": (old + 0.2) * mask,
            "correct": torch.rand(rows, generator=g) < 0.4,
            "length": lengths,
            "reward": torch.randn(rows, generator=g, dtype=torch.float64),
            "source": ["demo" if i % n == n - 1 else "policy" for i in range(rows)],
        }
    )


def permuted(batch: Batch, order: list[int]) -> Batch:
    """The same rows in another order."""
    index = torch.tensor(order)
    moved = {k: v[index] if isinstance(v, torch.Tensor) and v.ndim and len(v) == len(batch) else v for k, v in batch.streams.items()}
    moved |= {k: [v[i] for i in order] for k, v in batch.streams.items() if isinstance(v, list)}
    return Batch(moved, batch.row[index])


def padded(batch: Batch, extra: int, junk: float = 0.0) -> Batch:
    """The same rows with more padding on the right, filled with `junk` where numbers are read."""
    width = batch.width
    out = {}
    for key, value in batch.streams.items():
        if isinstance(value, torch.Tensor) and value.ndim == 2 and value.shape[1] == width:
            fill = junk if value.is_floating_point() and key not in ("adv",) else 0
            value = torch.nn.functional.pad(value, (0, extra), value=fill)
        out[key] = value
    return Batch(out, batch.row)
