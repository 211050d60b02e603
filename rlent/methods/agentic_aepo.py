"""Agentic AEPO: a clip that keeps the gradient of tokens that have grown, credit by entropy, and branches where they are worth it.

Paper: Agentic Entropy-Balanced Policy Optimization, arXiv:2510.14545.
Seats: advantage (`entropy_credit`) and loss (`balanced_clip`), as the paper has them; shape (`reweigh`) and loss
       (`balanced_clip_port`), as a port has them; decode (`branch`, around the engine).
Checked against: the paper's formulas, and the port in WillDreamer/ARLArena (`compute_policy_loss_aepo`, `_should_branch_aepo`).
       The authors' own code was not found.

The paper speaks of high-entropy tokens, its formula has no condition on entropy, and the port preserves low-entropy ones.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.drawing import Request, Rollouts, Turn
from rlent.math.entropy import entropy_from_logits
from rlent.math.group import group_mean, group_std, standardised
from rlent.math.masked import row_mean
from rlent.options import AboveOne, NonNegative, PositiveCount, Share


def entropy_credit(
    reward: Float[Tensor, " N"],
    old_entropy: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    group: Int[Tensor, " N"],
    *,
    alpha: float,
    epsilon: NonNegative,
    floor: float | None,
) -> dict[str, Tensor]:
    """A (1 + alpha A_H): A from rewards, A_H from the mean entropies of the group's responses, each less its mean over its deviation."""
    accuracy = standardised(reward, group, "reference", epsilon=epsilon)
    level = row_mean(old_entropy, mask)
    certainty = (level - group_mean(level, group)) / (group_std(level, group) + epsilon)
    factor = 1 + alpha * certainty
    return {"adv": accuracy * (factor if floor is None else factor.clamp(min=floor)), "entropy": certainty, "accuracy": accuracy}


def balanced_clip(
    logp: Float[Tensor, "B T"], old_logp: Float[Tensor, "B T"], adv: Float[Tensor, "B T"], *, low: Share, high: NonNegative
) -> Float[Tensor, "B T"]:
    """max(-A r, -A c) with c = r clipped to [1 - low, (1 + high) r / sg(r)]: above the range the value is cut and the gradient stays."""
    ratio = (logp - old_logp).exp()
    return torch.maximum(-adv * ratio, -adv * _balanced(ratio, low, high, torch.ones_like(ratio, dtype=torch.bool)))


def reweigh(adv: Float[Tensor, "N T"], now_entropy: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], *, weight: float) -> dict[str, Tensor]:
    """A (1 + weight z) by token, z the entropy less its mean over its deviation, of all tokens of the minibatch."""
    z = torch.zeros_like(now_entropy)
    if mask.any():
        chosen = now_entropy[mask]
        std = chosen.std() if len(chosen) > 1 else chosen.new_zeros(())
        z = (now_entropy - chosen.mean()) / (std if std > 0 else 1.0)
    return {"adv": adv * (1 + weight * z), "z": z}


def balanced_clip_port(
    logp: Float[Tensor, "B T"],
    old_logp: Float[Tensor, "B T"],
    adv: Float[Tensor, "B T"],
    agentic_aepo_z: Float[Tensor, "B T"],
    *,
    low: Share,
    high: NonNegative,
    dual: AboveOne | None,
    preserve: Literal["all", "low", "high"],
) -> Float[Tensor, "B T"]:
    """`balanced_clip` with the dual clip, whose gradient stays above the range on tokens of `low` (z <= 0) or `high` entropy only."""
    ratio = (logp - old_logp).exp()
    kept = {"all": agentic_aepo_z == agentic_aepo_z, "low": agentic_aepo_z <= 0, "high": agentic_aepo_z > 0}[preserve]
    loss = torch.maximum(-adv * ratio, -adv * _balanced(ratio, low, high, kept))
    return loss if dual is None else torch.where(adv < 0, torch.minimum(loss, -adv * dual), loss)


def _balanced(ratio: Float[Tensor, "B T"], low: float, high: float, kept: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    top = torch.where(kept, (1 + high) * ratio / ratio.detach(), 1 + high)
    return torch.where(ratio > 1 + high, top, ratio.clamp(min=1 - low))


# ---- where to branch -----------------------------------------------------------------------------------------------------------


def budget(root_entropy: float, tool_entropies: Sequence[float], *, k: int, beta: float) -> float:
    """m = k sigmoid(beta (H_root - mean H_tool)): how many of k responses begin at the prompt; the others branch."""
    mean = sum(tool_entropies) / max(len(tool_entropies), 1)
    return k / (1 + math.exp(-beta * (root_entropy - mean)))


def branch_probability(
    delta: float | int | Tensor, consecutive: float | int | Tensor, *, alpha: float, gamma: float, penalty: float
) -> Tensor:
    """P = (alpha + gamma dH) (1 - min(1, penalty l)), l the branches in a row so far; a number that is compared with tau, not clipped."""
    return (alpha + gamma * delta) * (1 - torch.as_tensor(penalty * consecutive, dtype=torch.float64).clamp(max=1.0))


def port_value(
    uniform: float | int | Tensor, delta: float | int | Tensor, consecutive: float | int | Tensor, *, weight: float, penalty: float
) -> Tensor:
    """clip((u + w dH) max(0, 1 - penalty l), 0, 1): the port branches where it is at least its `probability`."""
    return (
        torch.as_tensor(uniform + weight * delta, dtype=torch.float64)
        * (1 - torch.as_tensor(penalty * consecutive, dtype=torch.float64)).clamp(min=0.0)
    ).clamp(0.0, 1.0)


def port_budget(root_entropy: float, step_entropies: Sequence[float], *, n: int, beta: float) -> int:
    """clamp(floor(n sigmoid(beta (H_root - mean H))) + 1, 1, n)."""
    return min(max(math.floor(budget(root_entropy, step_entropies, k=n, beta=beta)) + 1, 1), n)


def branch(
    requests: Sequence[Request],
    generate: Callable[..., Rollouts],
    grow: Callable[..., Rollouts],
    vocab: int,
    *,
    segment: PositiveCount,
    first_tokens: PositiveCount,
    root_tokens: PositiveCount,
    beta: float,
    alpha: float,
    gamma: float,
    tau: float,
    weight: float,
    probability: Share,
    penalty: NonNegative,
    faithful: Literal["paper", "released"],
) -> Rollouts:
    """Some responses of a group from the prompt, as many as the entropy of a first one asks for, and the others as its branches.

    A turn is `segment` tokens. Entropies are means of a turn's first tokens over ln V. The first response is drawn to its end
    before the tree, and again in it, with the same draws.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, request in enumerate(requests):
        groups.setdefault(request.key[:-1], []).append(i)
    heads = [rows[0] for rows in groups.values()]
    scale = max(math.log(vocab), 1e-9)
    pilot = generate([requests[i] for i in heads], _entropy).notes["entropy"]
    initial = {}
    for (key, rows), told in zip(groups.items(), pilot, strict=True):
        root = _mean(told[:root_tokens]) / scale
        turns = [_mean(told[s : s + segment][:first_tokens]) / scale for s in range(0, max(len(told), 1), segment)]
        if faithful == "released":
            initial[key] = port_budget(root, turns, n=len(rows), beta=beta)
        else:
            initial[key] = min(max(round(budget(root, turns, k=len(rows), beta=beta)), 1), len(rows))

    def decide(turn: Turn) -> bool:
        level = _mean(turn.notes["entropy"][:first_tokens]) / scale
        delta = level - turn.path.setdefault("initial", level)
        count = turn.path.get("consecutive", 0)
        if faithful == "released":
            branches = bool(port_value(turn.u, delta, count, weight=weight, penalty=penalty) >= probability)
        else:
            branches = bool(branch_probability(delta, count, alpha=alpha, gamma=gamma, penalty=penalty) > tau)
        turn.path["consecutive"] = count + 1 if branches else 0
        return branches

    return grow(requests, initial=initial, segment=segment, measure=_entropy, decide=decide)


def _entropy(logits: Float[Tensor, "n V"]) -> dict[str, Tensor]:
    return {"entropy": entropy_from_logits(logits)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
