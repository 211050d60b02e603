"""A set of problems, and the order in which training goes through it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import overload

from rlent.errors import DataError
from rlent.math import noise
from rlent.types import Problem


class Problems(Sequence[Problem]):
    """An immutable sequence of problems with a name. A slice is again `Problems`."""

    def __init__(self, problems: Iterable[Problem], *, name: str) -> None:
        self._items = tuple(problems)
        self.name = name

    def __len__(self) -> int:
        return len(self._items)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> Problems: ...
    def __getitem__(self, index: int | slice) -> Problem | Problems:
        if isinstance(index, slice):
            return Problems(self._items[index], name=self.name)
        return self._items[index]

    def __iter__(self) -> Iterator[Problem]:
        return iter(self._items)

    def __repr__(self) -> str:
        return f"Problems({self.name!r}, {len(self)} problems)"

    @cached_property
    def _digest(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for p in self._items:
            row = [p.id, p.prompt, p.gold, dict(p.meta), p.source]
            digest.update(json.dumps(row, sort_keys=True, default=str).encode() + b"\n")
        return digest.hexdigest()

    def fingerprint(self) -> str:
        """A stable hash of contents and order (not of the name); equal fingerprints mean that a data cursor may be resumed."""
        return self._digest


@lru_cache(maxsize=4)
def _order(n: int, seed: int, epoch: int) -> tuple[int, ...]:
    return tuple(noise.permutation(n, seed, "data", epoch))


def draw(problems: Problems, count: int, seed: int, cursor: int) -> tuple[list[Problem], int]:
    """The next `count` problems from `cursor` on, and the cursor after them.

    Epoch e is a permutation of the set that depends on (seed, e) alone, and the cursor counts problems drawn since the start, so
    it is all a resumed run needs. A draw may cross the end of an epoch.

    Raises:
        DataError: there is nothing to draw from.
    """
    if count and not len(problems):
        raise DataError(f"{problems.name}: no problems to draw from")
    n = len(problems)
    drawn = [problems[_order(n, seed, at // n)[at % n]] for at in range(cursor, cursor + count)]
    return drawn, cursor + count
