"""EPO: an entropy bonus, and a charge for tokens whose entropy leaves a band around its mean so far.

Paper: EPO: Entropy-regularized Policy Optimization for LLM Agents Reinforcement Learning, arXiv:2509.22576.
Seats: shape (`EntropyHistory`, numbers for each response and no weight), regularize (`smoothed_entropy`).
Checked against: the authors' `generate_entropy_penalty`, `_calculate_epoch_based_entropy_weight`, `update_policy` and `fit`.

The charge as released is piecewise constant: it has no gradient, and what trains is the plain bonus. `penalty: hinge` has one.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.masked import masked_mean
from rlent.options import Count, NonNegative, PositiveCount


class EntropyHistory:
    """Mean entropy (nats) of each environment step, averaged over the training steps so far, this one included.

    A step with fewer environment steps than `env_steps` is padded with zeros on the left, as released, and one with more keeps
    its last. `level` [N] is the mean for the response's own environment step; `open` [N] is False for all unless some response
    of the step comes from environment step gate // 2 or later; `phase` is `phase_weight`, or 1.
    """

    def __init__(self, *, env_steps: PositiveCount, gate: Count, phases: bool, epochs: Count) -> None:
        self.env_steps = env_steps
        self.gate = gate
        self.phases = phases
        self.epochs = epochs
        self.history: list[list[float]] = []

    def __call__(
        self, old_entropy: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], turn: Int[Tensor, " N"], step: int
    ) -> dict[str, Tensor]:
        """Streams of the rows; the weights stay as they are."""
        turns = range(int(turn.max()) + 1 if len(turn) else 0)
        self.history.append(padded([float(masked_mean(old_entropy, mask & (turn == k)[:, None])) for k in turns], self.env_steps))
        rows = torch.ones(len(turn), dtype=old_entropy.dtype)
        return {
            "level": history_mean(self.history).to(old_entropy.dtype)[turn.clamp(max=self.env_steps - 1)],
            "open": rows.bool() & bool((turn >= self.gate // 2).any()),
            "phase": rows * (phase_weight(step - 1, self.epochs) if self.phases else 1.0),
        }

    def state_dict(self) -> dict[str, list[list[float]]]:
        return {"history": [list(s) for s in self.history]}

    def load_state_dict(self, state: dict[str, list[list[float]]]) -> None:
        self.history = [list(s) for s in state["history"]]


def padded(means: Sequence[float], size: int) -> list[float]:
    """Exactly `size` numbers: zeros on the left, or the last ones."""
    return [0.0] * (size - len(means)) + list(means)[-size:]


def history_mean(history: Sequence[Sequence[float]]) -> Float[Tensor, " K"]:
    """Mean over training steps, zeros of the padding included."""
    return torch.tensor(history, dtype=torch.float64).mean(0)


def phase_weight(epoch: float | int, epochs: int) -> float:
    """1 - 0.2 (1 - exp(-2 e / h)) in the first half of the run, then 0.8 exp(-3 (e - h) / (E - h)); h = E // 2, and e is kept in [0, E]."""
    if epochs <= 0:
        return 1.0
    e, half = min(max(epoch, 0), epochs), epochs // 2
    if e <= half:
        return 1.0 - 0.2 * (1.0 - math.exp(-2.0 * e / half)) if half else 1.0
    return 0.8 * math.exp(-3.0 * (e - half) / (epochs - half))


def inside(
    entropy: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], level: Float[Tensor, " B"], *, low: float, high: float, mode: str, over: str
) -> Bool[Tensor, "B T"]:
    """Strictly inside the band low level < H < high level, by token or by the response's mean.

    The mean is over the response's tokens, or over all columns, padding too (`over: columns`, as released).
    """
    measured = entropy.detach()
    if mode == "seq":
        rows = mask if over == "tokens" else torch.ones_like(mask)
        measured = ((measured * rows).sum(1) / rows.sum(1).clamp(min=1))[:, None].expand(entropy.shape)
    return (measured > low * level[:, None]) & (measured < high * level[:, None])


def smoothed_entropy(
    entropy: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    epo_level: Float[Tensor, " B"],
    epo_open: Bool[Tensor, " B"],
    epo_phase: Float[Tensor, " B"],
    *,
    low: NonNegative,
    high: NonNegative,
    cost: NonNegative,
    smooth: NonNegative,
    mode: Literal["token", "seq"],
    over: Literal["tokens", "columns"],
    penalty: Literal["count", "hinge"],
) -> Float[Tensor, "B T"]:
    """-(H - smooth P) per token, to be minimised. P is phase times `cost` outside the band (`count`).

    With `hinge` P is phase times relu(low level - H) + relu(H - high level), which has a gradient; it is ours.
    """
    level = epo_level.to(entropy.dtype)
    if penalty == "hinge":
        charge = (low * level[:, None] - entropy).relu() + (entropy - high * level[:, None]).relu()
    else:
        charge = cost * (~inside(entropy, mask, level, low=low, high=high, mode=mode, over=over)).to(entropy.dtype)
    charge = charge * (epo_phase * epo_open).to(entropy.dtype)[:, None]
    return smooth * charge - entropy
