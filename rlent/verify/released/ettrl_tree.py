"""ETTRL: responses and expected tokens of a rollout tree."""

from torch import Tensor


def budget(trees: Tensor, forks: Tensor, branches: Tensor) -> dict[str, list[float]]:
    """Responses of M trees with N forks of B branches, M (1 + B N), and the expected cost in tokens against as many independent ones.

    A fork is expected half-way along the response: (1 + B N / 2) / (1 + B N).
    """
    grown = [(float(m), float(n) * float(b)) for m, n, b in zip(trees, forks, branches, strict=True)]
    return {"rollouts": [m * (1 + k) for m, k in grown], "expected_token_ratio": [(1 + 0.5 * k) / (1 + k) for _, k in grown]}
