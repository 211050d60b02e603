"""ETTRL's rollout tree: full samples are forked at their most uncertain tokens, so that a vote costs fewer tokens.

Paper: ETTRL: Balancing Exploration and Exploitation in LLM Test-Time Reinforcement Learning via Entropy Mechanism, arXiv:2508.11356.
Seat:  decode, around the engine.
Checked against: the paper's formula for the budget; no code was found.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from rlent.math.drawing import Request, Rollouts
from rlent.math.entropy import entropy_from_logits
from rlent.options import PositiveCount


def fork_points(entropy: Sequence[float], count: int) -> list[int]:
    """The `count` positions of the highest entropy, ascending; of equal ones the first."""
    return sorted(sorted(range(len(entropy)), key=lambda t: (-entropy[t], t))[:count])


def entropy_forks(
    requests: Sequence[Request], generate: Callable[..., Rollouts], *, forks: PositiveCount, branches: PositiveCount
) -> Rollouts:
    """Of a group of n, ceil(n / (1 + forks branches)) responses are drawn whole; the others branch off them.

    A branch keeps what comes before one of its parent's `forks` tokens of the highest entropy (exact, nats), and draws that token and the
    rest anew. A parent too short to be forked often enough leaves its place to a response from the prompt. Tree by tree, each whole
    response comes before its branches. `shared` tokens are those a response has from its parent, `branched` is whether it has one.
    """

    def measure(logits: Float[Tensor, "n V"]) -> dict[str, Tensor]:
        return {"level": entropy_from_logits(logits)}

    groups: dict[tuple[int, ...], list[int]] = {}
    for i, request in enumerate(requests):
        groups.setdefault(request.key[:-1], []).append(i)
    size = 1 + forks * branches
    root_of = {row: rows[k - k % size] for rows in groups.values() for k, row in enumerate(rows)}
    roots = sorted(set(root_of.values()))
    whole = generate([requests[r] for r in roots], measure)
    at = {row: k for k, row in enumerate(roots)}
    points = {row: [t for t in fork_points(whole.notes["level"][at[row]], forks) for _ in range(branches)] for row in roots}
    start = {row: 0 for row in roots}
    others = [row for row in range(len(requests)) if row not in start]
    for row in others:
        waiting = points[root_of[row]]
        start[row] = waiting.pop(0) if waiting else 0
    parts = {row: whole.tokens[at[root_of[row]]][: start[row]] for row in others}
    rest = generate(
        [
            replace(r, prefix=[*r.prefix, *parts[i]], max_tokens=r.max_tokens - len(parts[i]))
            for i, r in ((row, requests[row]) for row in others)
        ],
        measure,
    )
    out = whole.take([at[root_of[row]] for row in range(len(requests))])
    for j, row in enumerate(others):
        out.cut(row, start[row])
        out.extend(row, rest, j)
    out.notes = {}
    shared = [0 if row in at else start[row] for row in range(len(requests))]
    out.counts = {"shared": shared, "branched": [int(s > 0) for s in shared]}
    return out
