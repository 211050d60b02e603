"""Overlong filtering: a response that was cut at the limit teaches nothing, neither by its gradient nor by its place in the mean.

Source: TRL `mask_truncated_completions`; DAPO, arXiv:2503.14476, section 3.4.
Seat:   shape. With `drop` in the sampler's `keep` (`keep_finished`), groups in which too few responses ended are not trained on at all.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from rlent.options import Share


def drop_cut(finish: Sequence[str], mask: Bool[Tensor, "N T"]) -> dict[str, Tensor]:
    """Leave the tokens of cut responses out of the loss and of its denominator. Their reward still counts for their group."""
    ended = torch.tensor([why != "length" for why in finish], dtype=torch.bool)
    return {"mask": mask & ended[:, None]}


def keep_finished(finish: Sequence[str], group: Int[Tensor, " N"], *, share: Share) -> Bool[Tensor, " P"]:
    """Keep a group when at least `share` of its responses ended by themselves. One entry per group, in ascending order of the ids."""
    ended = torch.tensor([why != "length" for why in finish], dtype=torch.float64)
    index = torch.unique(group, return_inverse=True)[1]
    count = torch.bincount(index).double()
    return torch.zeros_like(count).index_add_(0, index, ended) / count >= share
