"""PEAR: a right answer earns less the more uncertain the thinking before it was, and more the more uncertain the answer itself.

Paper: PEAR: Phase Entropy Aware Reward for Efficient Reasoning, arXiv:2510.08026.
Seat:  reward.
Checked against: the paper's formula; no code could be read.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from rlent.math.masked import row_mean


def phase_reward(
    correct: Shaped[Tensor, " N"],
    old_entropy: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    pieces: Sequence[Sequence[str]],
    *,
    alpha: float,
    format_score: float,
    tag: str,
) -> dict[str, Tensor]:
    """min(1, 1 - P) for a right response, else `format_score`; see `penalised`. The thinking ends at the first `tag` in the text."""
    spans = [closing_tag(p, tag) for p in pieces]
    first, last = (torch.tensor([s[i] for s in spans], dtype=torch.long) for i in (0, 1))
    return penalised(correct, old_entropy, mask.sum(1), first, last, alpha=alpha, format_score=format_score)


def closing_tag(pieces: Sequence[str], tag: str) -> tuple[int, int]:
    """Positions of the first and the last token that hold a part of the first `tag`; (-1, -1) without one."""
    start = "".join(pieces).find(tag)
    if start < 0 or not tag:
        return -1, -1
    ends, total = [], 0
    for piece in pieces:
        total += len(piece)
        ends.append(total)
    first = next(i for i, e in enumerate(ends) if e > start)
    return first, next(i for i, e in enumerate(ends) if e >= start + len(tag))


def penalised(
    correct: Shaped[Tensor, " N"],
    entropy: Float[Tensor, "N T"],
    length: Shaped[Tensor, " N"],
    first: Int[Tensor, " N"],
    last: Int[Tensor, " N"],
    *,
    alpha: float,
    format_score: float,
) -> dict[str, Tensor]:
    """P = max(0, Hth - alpha Han), Hth and Han being the mean entropies (nats) before and after the closing tag, which is in neither.

    Without a tag (-1) all is thinking and Han is 0; an empty phase has mean 0. There is no floor: with P above 1 a right response
    earns less than nothing.
    """
    place = torch.arange(entropy.shape[1])
    there = place < length[:, None]
    none = (first < 0)[:, None]
    think = row_mean(entropy, there & (none | (place < first[:, None])))
    after = row_mean(entropy, there & ~none & (place > last[:, None]))
    penalty = (think - alpha * after).clamp(min=0.0)
    right = (1.0 - penalty).clamp(max=1.0)
    reward = torch.where(correct.bool(), right, torch.full_like(right, format_score))
    return {"value": reward, "think": think, "answer": after, "penalty": penalty}
