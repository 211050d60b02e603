"""Statistics over groups: the rows that share a prompt.

Rows of a group need not be adjacent and groups need not have equal sizes. Each function returns one number per row: the
statistic of the row's own group. Sums run in float64 and the mean of equal values is exactly that value, so a group in
which all rewards are equal has deviations of exactly 0.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from rlent.errors import UsageError
from rlent.math.checks import require_same_shape


def _index(group: Int[Tensor, " N"]) -> tuple[Tensor, Tensor]:
    """The groups numbered from 0 in ascending order of their ids [N], and their sizes [P]."""
    _, index, count = torch.unique(group, return_inverse=True, return_counts=True)
    return index, count


def _total(x: Tensor, index: Tensor, groups: int) -> Tensor:
    return torch.zeros(groups, dtype=torch.float64, device=x.device).index_add_(0, index, x)


def _float(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.to(torch.get_default_dtype())


def group_count(group: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Rows in the row's group."""
    index, count = _index(group)
    return count[index]


def group_mean(x: Shaped[Tensor, " N"], group: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Mean over the row's group."""
    index, count = _index(group)
    x64 = x.double()
    rough = (_total(x64, index, len(count)) / count)[index]
    rest = (_total(x64 - rough, index, len(count)) / count)[index]
    return (rough + rest).to(_float(x).dtype)


def group_sum(x: Shaped[Tensor, "N *more"], group: Int[Tensor, " N"]) -> Float[Tensor, "N *more"]:
    """Sum over the row's group, in float64; of a matrix, column by column."""
    index, count = _index(group)
    total = torch.zeros((len(count), *x.shape[1:]), dtype=torch.float64, device=x.device)
    return total.index_add_(0, index, x.double())[index]


def group_max(x: Float[Tensor, "N *more"], group: Int[Tensor, " N"]) -> Float[Tensor, "N *more"]:
    """Largest value in the row's group; of a matrix, column by column."""
    index, count = _index(group)
    top = x.new_full((len(count), *x.shape[1:]), -torch.inf)
    at = index.view(-1, *[1] * (x.ndim - 1)).expand_as(x)
    return top.scatter_reduce_(0, at, x, "amax")[index]


def group_std(x: Shaped[Tensor, " N"], group: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Unbiased standard deviation over the row's group; 0 in a group of one."""
    index, count = _index(group)
    square = (x.double() - group_mean(x.double(), group)).square()
    variance = _total(square, index, len(count)) / (count - 1).clamp(min=1)
    return variance.sqrt()[index].to(_float(x).dtype)


def group_quantile(x: Float[Tensor, " N"], group: Int[Tensor, " N"], q: float, method: Literal["linear", "lower"]) -> Float[Tensor, " N"]:
    """The q-quantile of the row's group of n.

    `linear` interpolates at position q (n - 1) between the sorted values, as `torch.quantile` does. `lower` is
    inf{v : F(v) >= q}, the ceil(q n)-th smallest value, so it is always one of the values.
    """
    index, count = _index(group)
    order = x.argsort(stable=True)
    order = order[index[order].argsort(stable=True)]  # by group, then by value
    ordered, start = x[order], count.cumsum(0) - count
    if method == "lower":
        rank = (q * count.double() - 1e-9).ceil().long().clamp(min=1) - 1  # 0.07 * 100 is a little more than 7
        return ordered[start + rank][index]
    rank = q * (count - 1).double()
    below, above = rank.floor().long(), rank.ceil().long()
    mixed = torch.lerp(ordered[start + below], ordered[start + above], (rank - below).to(x.dtype))
    return mixed[index]


def group_rank(x: Float[Tensor, " N"], group: Int[Tensor, " N"], tie: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
    """Place of the row in its group by ascending `x`, from 0; equal values in the order of `tie`."""
    index, count = _index(group)
    order = tie.argsort(stable=True)
    order = order[x[order].argsort(stable=True)]
    order = order[index[order].argsort(stable=True)]
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=x.device)
    return place - (count.cumsum(0) - count)[index]


def group_second_largest(x: Float[Tensor, " N"], group: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """The second largest value of the row's group, counting repetitions; in a group of one, its only value."""
    index, count = _index(group)
    order = x.argsort(stable=True)
    ordered = x[order[index[order].argsort(stable=True)]]
    end = count.cumsum(0)
    return ordered[end - count.clamp(max=2)][index]


def centred(reward: Float[Tensor, " N"], group: Int[Tensor, " N"], degenerate: str) -> Float[Tensor, " N"]:
    """Reward minus the group's mean [N].

    A group of one has no baseline: `reference` leaves its reward as it is (as verl does), `zero` gives 0.
    """
    alone = group_count(group) == 1
    own = reward if degenerate == "reference" else torch.zeros_like(reward)
    return torch.where(alone, own, reward - group_mean(reward, group))


def standardised(
    x: Float[Tensor, " N"], group: Int[Tensor, " N"], degenerate: str, *, epsilon: float, scale: str = "group"
) -> Float[Tensor, " N"]:
    """`centred` over the group's unbiased deviation plus `epsilon`, which counts as 1 in a group of one; `scale: none` only centres."""
    credit = centred(x, group, degenerate)
    if scale == "none":
        return credit
    return credit / (group_std(x, group).masked_fill(group_count(group) == 1, 1.0) + epsilon)


def group_advantage(
    reward: Tensor, group: Tensor, *, scale: Literal["group", "none"] = "group", epsilon: float = 1e-6
) -> Float[Tensor, " N"]:
    """GRPO's advantage of each response [N]: its reward minus the mean of its group, over the group's unbiased deviation plus `epsilon`.

    `group` [N] is the index of the prompt that a row answers; rows of a group need not be adjacent. With `scale="none"` the
    deviation does not divide (Dr.GRPO). A group of one keeps its reward. Rewards may be bool or whole numbers.

    Raises:
        UsageError: not two tensors [N], or groups that are not whole numbers.
    """
    if reward.ndim != 1:
        raise UsageError(f"reward has shape {list(reward.shape)}; one number for each response, [N], is needed")
    require_same_shape(reward=reward, group=group)
    if group.is_floating_point() or group.dtype is torch.bool:
        raise UsageError(f"group is {str(group.dtype).removeprefix('torch.')}; whole numbers are needed, one for each prompt")
    if scale not in ("group", "none"):
        raise UsageError(f"scale {scale!r} is not one of group, none")
    return standardised(_float(reward), group, "reference", epsilon=epsilon, scale=scale)
