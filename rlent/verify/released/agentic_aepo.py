"""Agentic AEPO: rollout budgets and branches from lists of entropies, by the paper and by a port."""

from collections.abc import Sequence

import torch
from torch import Tensor

from rlent.methods.agentic_aepo import branch_probability, budget, port_budget, port_value
from rlent.verify.compare import Tree
from rlent.verify.inputs import Ragged


def rollout_plan(
    root_entropy: float,
    tool_entropies: Tensor | Sequence[float],
    delta_entropy: Tensor,
    consecutive_high: Tensor,
    *,
    k: int,
    beta: float,
    alpha: float,
    gamma: float,
    penalty: float,
    tau: float,
) -> dict[str, Tree]:
    """Budget and branches of one prompt, as the paper has them."""
    m = budget(float(root_entropy), [float(h) for h in tool_entropies], k=k, beta=beta)
    p = branch_probability(delta_entropy, consecutive_high, alpha=alpha, gamma=gamma, penalty=penalty)
    return {"budget": m, "rounded": round(m), "probability": p, "branch": p > tau}


def port_plan(
    initial_entropy: Tensor,
    entropy: Tensor,
    uniform: Tensor,
    root_entropy: Tensor,
    step_entropies: Ragged,
    *,
    weight: float,
    probability: float,
    penalty: float,
    n: int,
    beta: float,
) -> dict[str, Tree]:
    """Budgets, and branches round by round [round, prompt], as the port has them."""
    count = torch.zeros_like(initial_entropy)
    branches, counts = [], []
    for h, u in zip(entropy, uniform, strict=True):
        branched = port_value(u, h - initial_entropy, count, weight=weight, penalty=penalty) >= probability
        count = torch.where(branched, count + 1, 0.0)
        branches.append(branched)
        counts.append(count)
    first = [
        port_budget(float(r), [float(h) for h in steps], n=n, beta=beta) for r, steps in zip(root_entropy, step_entropies, strict=True)
    ]
    return {"branch": torch.stack(branches), "consecutive": torch.stack(counts), "initial": torch.tensor(first)}
