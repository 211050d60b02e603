"""Tool-Light sampling: one chain, and continuations from the starts of its most uncertain steps.

Paper: Toward Effective Tool-Integrated Reasoning via Self-Evolved Preference Learning, arXiv:2509.23285.
Seat:  decode, around the engine.
Checked against: the authors' `calculate_sequence_entropy` and `select_rollout_positions`. A step is a number of tokens here, there
       what lies between two tool calls; the preference pairs and the DPO that follow are not part of this.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from rlent.math.drawing import Request, Rollouts
from rlent.math.entropy import top_entropy
from rlent.options import Count, PositiveCount


def step_entropy(entropies: Sequence[float], prefix_lengths: Sequence[int]) -> tuple[list[float], float, int]:
    """E_n, means of the first n token entropies; the largest of them; and its n, the first on ties."""
    means = [sum(entropies[:n]) / max(len(entropies[:n]), 1) for n in prefix_lengths]
    best = max(range(len(means)), key=lambda j: means[j])
    return means, means[best], prefix_lengths[best]


def largest(values: Sequence[float], count: int) -> list[int]:
    """Places of the largest values, falling; the earlier on ties."""
    return sorted(range(len(values)), key=lambda i: -values[i])[:count]


def branch_main_chain(
    requests: Sequence[Request],
    generate: Callable[..., Rollouts],
    *,
    segment: PositiveCount,
    prefix_lengths: Sequence[int],
    top_k: PositiveCount,
    branch_steps: Count,
    branches: Count,
) -> Rollouts:
    """The first response of a group is the chain; the next ones continue it from the starts of its `branch_steps` steps of largest
    entropy, `branches` from each; the others are drawn from the prompt.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, request in enumerate(requests):
        groups.setdefault(request.key[:-1], []).append(i)

    def measure(logits: Float[Tensor, "n V"]) -> dict[str, Tensor]:
        return {"top": top_entropy(logits, top_k)}

    heads = [rows[0] for rows in groups.values()]
    chains = generate([requests[i] for i in heads], measure)
    starts = [0] * len(requests)
    of = {}
    for chain, rows in enumerate(groups.values()):
        told = chains.notes["top"][chain]
        steps = [told[s : s + segment] for s in range(0, max(len(told), 1), segment)]
        picked = largest([step_entropy(step, prefix_lengths)[1] for step in steps], branch_steps)
        plan = [step * segment for step in picked for _ in range(branches)]
        for place, row in enumerate(rows[1:]):
            starts[row] = plan[place] if place < len(plan) else 0
        of.update(dict.fromkeys(rows, chain))
    out = chains.take([of[i] for i in range(len(requests))])
    rest = [i for i in range(len(requests)) if i not in heads]
    fresh = [
        replace(requests[i], prefix=[*requests[i].prefix, *out.tokens[i][: starts[i]]], max_tokens=requests[i].max_tokens - starts[i])
        for i in rest
    ]
    found = generate(fresh, measure)
    for j, i in enumerate(rest):
        out.cut(i, starts[i])
        out.extend(i, found, j)
    out.counts = {"shared": starts}
    return out
