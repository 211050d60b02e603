"""ETTRL's rollout tree: full samples are forked at their most uncertain tokens, so that a vote costs fewer tokens.

Paper: ETTRL: Balancing Exploration and Exploitation in LLM Test-Time Reinforcement Learning via Entropy Mechanism, arXiv:2508.11356.
Seat:  sampler (`rlent.sampling.tree`).
Checked against: the paper's formula; no code was found.
"""

from collections.abc import Sequence


def budget(trees: Sequence[float], forks: Sequence[float], branches: Sequence[float]) -> dict[str, list[float]]:
    """Responses of M trees with N forks of B branches, M (1 + B N), and the expected cost in tokens against as many independent ones.

    A fork is expected half-way along the response: (1 + B N / 2) / (1 + B N).
    """
    grown = [(float(m), float(n) * float(b)) for m, n, b in zip(trees, forks, branches, strict=True)]
    return {"rollouts": [m * (1 + k) for m, k in grown], "expected_token_ratio": [(1 + 0.5 * k) / (1 + k) for _, k in grown]}


def fork_points(entropy: Sequence[float], count: int) -> list[int]:
    """The `count` positions of the highest entropy, ascending; of equal ones the first."""
    return sorted(sorted(range(len(entropy)), key=lambda t: (-entropy[t], t))[:count])
