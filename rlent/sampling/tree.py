"""Growing the responses of a group as a tree: some begin at the prompt, the others branch off where a method says.

The methods that branch (at tool calls, at uncertain steps) differ in when they do it; turns, budgets and draws are here. A branch
copies what was drawn before it and goes on with draws of its own, so a group depends on its prompt and on nothing else of the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from rlent.types import Request, Rollouts


@dataclass(slots=True)
class Turn:
    """What a method decides on: the turn that a rollout has just drawn.

    `notes` are what `measure` said of the turn's tokens. `u` is uniform in [0, 1). `path` are numbers that the rollout remembers, copied into
    its branches.
    """

    notes: Mapping[str, list[Any]]
    u: float
    path: dict[str, float]


@dataclass(slots=True)
class _Rollout:
    row: int
    path: dict[str, float] = field(default_factory=dict)


def grow(
    requests: Sequence[Request],
    generate: Callable[..., Rollouts],
    noise: Callable[..., float],
    *,
    initial: int | Mapping[tuple[int, ...], int],
    segment: int,
    measure: Callable[[Tensor], Mapping[str, Tensor]],
    decide: Callable[[Turn], bool],
    beam: int = 2,
) -> Rollouts:
    """One response for each request. Requests whose keys differ in the last number only are a group.

    `initial` rollouts of each group (by its key, if a mapping) begin at the prompt. After each turn of at most `segment` tokens every
    rollout that goes on may branch, up to `beam - 1` times, while the group has room; a group with room and nothing going on begins
    one more. `counts["shared"]` is how many tokens a response has from its parent, `counts["branched"]` whether it has one.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, request in enumerate(requests):
        groups.setdefault(request.key[:-1], []).append(i)
    out = generate([replace(r, max_tokens=0) for r in requests], measure)
    out.notes = {}
    shared, branched = [0] * len(requests), [0] * len(requests)
    free, going = {}, {}
    for key, rows in groups.items():
        count = initial if isinstance(initial, int) else initial[key]
        going[key] = [_Rollout(row) for row in rows[:count]]
        free[key] = list(rows[count:])
    turn = 0
    while any(going.values()) or any(free.values()):
        for key, live in going.items():
            if not live and free[key]:
                live.append(_Rollout(free[key].pop(0)))
        active = [rollout for live in going.values() for rollout in live]
        asked = []
        for rollout in active:
            request, have = requests[rollout.row], out.tokens[rollout.row]
            left = request.max_tokens - len(have)
            asked.append(replace(request, prefix=[*request.prefix, *have], max_tokens=min(segment, left)))
        found = generate(asked, measure)
        told = {}
        for j, rollout in enumerate(active):
            out.extend(rollout.row, found, j)
            told[rollout.row] = {name: values[j] for name, values in found.notes.items()}
        for key, live in going.items():
            open_ = [r for r in live if _goes_on(requests[r.row], out, r.row, told[r.row], segment)]
            fresh = []
            for rollout in open_:
                for b in range(beam - 1):
                    u = noise(requests[rollout.row], turn, b)
                    if decide(Turn(told[rollout.row], u, rollout.path)) and free[key]:
                        row = free[key].pop(0)
                        _copy(out, rollout.row, row)
                        shared[row], branched[row] = len(out.tokens[row]), 1
                        fresh.append(_Rollout(row, copy.deepcopy(rollout.path)))
            going[key] = open_ + fresh
        turn += 1
    out.counts = {"shared": shared, "branched": branched}
    return out


def _goes_on(request: Request, out: Rollouts, row: int, told: Mapping[str, Sequence[object]], segment: int) -> bool:
    """Whether a rollout has more turns: it has not stopped, has tokens left, and the model has positions left."""
    drew = len(next(iter(told.values()), []))
    left = request.max_tokens - len(out.tokens[row])
    return out.finish[row] != "stop" and left > 0 and drew == segment


def _copy(out: Rollouts, source: int, row: int) -> None:
    out.tokens[row], out.sampler_logp[row] = list(out.tokens[source]), list(out.sampler_logp[source])
    if out.sampler_entropy is not None:
        out.sampler_entropy[row] = list(out.sampler_entropy[source])
