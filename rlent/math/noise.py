"""Random numbers that depend on what they are for, not on when or where they are drawn.

A draw is a hash of its counters (seed, step, minibatch, prompt, sample, position, node, ...), so the same token gets
the same number whatever the batch was cut into, on however many ranks, before or after a resume. There is no
generator and no state. The hash folds each counter through the finaliser of SplitMix64 (Steele, Lea, Flood 2014).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

_GAMMA = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_M1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_M2 = -7723592293110705685  # 0x94D049BB133111EB


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _M1
    x = (x ^ _shift(x, 27)) * _M2
    return x ^ _shift(x, 31)


def name_counter(name: str) -> int:
    """A string (a node's name, a purpose) as a counter."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def fold(*counters: int | str | Tensor) -> Tensor:
    """The 64-bit hash of the counters; tensors broadcast. Returns int64 of the broadcast shape."""
    state = torch.zeros((), dtype=torch.int64)
    for counter in counters:
        if isinstance(counter, str):
            counter = name_counter(counter)
        if not isinstance(counter, Tensor):
            counter = torch.tensor(counter, dtype=torch.int64)
        if counter.device != state.device and state.ndim == 0:
            state = state.to(counter.device)
        state = _mix((state ^ _mix(counter.to(torch.int64) + _GAMMA)) + _GAMMA)
    return state


def uniform(*counters: int | str | Tensor) -> Tensor:
    """Uniform float64 in [0, 1), one for each element of the broadcast counters."""
    return _shift(fold(*counters), 11).to(torch.float64) * 2.0**-53


def permutation(n: int, *counters: int | str | Tensor) -> list[int]:
    """A permutation of range(n) drawn from the counters."""
    if n == 0:
        return []
    return torch.argsort(uniform(*counters, torch.arange(n)), stable=True).tolist()
