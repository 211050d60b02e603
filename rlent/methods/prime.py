"""Implicit process rewards: a model trained on outcomes alone scores every token by how far it has moved from its reference.

Papers: Free Process Rewards without Process Labels, arXiv:2412.01981; Process Reinforcement through Implicit Rewards (PRIME),
        arXiv:2502.01456.
Seats:  reward (`implicit_reward`), advantage (`prime_advantage`); both need models.rm and models.ref.
Checked against: the authors' `loss_fn` and `prm_eval_utils`, and verl's `prime_dp_rm.py` and `prime_core_algos.py`.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from rlent.math.group import group_count, group_sum
from rlent.math.masked import discounted_sum, row_mean
from rlent.options import NonNegative, Share


def implicit_reward(rm_logp: Float[Tensor, "N T"], ref_logp: Float[Tensor, "N T"], *, beta: NonNegative) -> Float[Tensor, "N T"]:
    """beta (log pi_rm - log pi_ref) of each token."""
    return beta * (rm_logp - ref_logp)


def process_scores(
    q: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    correct: Shaped[Tensor, " N"],
    *,
    beta: float,
    lam: float,
    use_truth: bool,
    normalise: bool,
) -> tuple[Float[Tensor, "N T"], Float[Tensor, "N T"]]:
    """Scores of each token but the response's last, before and after normalisation.

    x = beta q; with `lam` the score is sum_{s >= t} lam^(s-t) x_s, and with `use_truth` too the last x is the outcome less the x before it.
    `normalise` divides by the largest absolute reverse cumulative sum of the batch.
    """
    last = _last(mask)
    x = beta * torch.where(mask, q, q.new_zeros(()))
    if lam > 0:
        if use_truth:
            before = x.masked_fill(last, 0.0).sum(1)
            x = torch.where(last, (correct.to(x.dtype) - before)[:, None].expand_as(x), x)
        x = discounted_sum(x, lam)
    scores = torch.where(mask & ~last, x, x.new_zeros(()))
    return scores, scores / (reverse_sum(scores).abs().max() + 1e-6) if normalise and scores.numel() else scores


def _last(mask: Tensor) -> Tensor:
    """The last valid token of each row."""
    place = torch.arange(mask.shape[1]).expand(mask.shape)
    return mask & (place == torch.where(mask, place, -1).amax(1, keepdim=True))


def reverse_sum(x: Float[Tensor, "N T"]) -> Float[Tensor, "N T"]:
    """Sum from each column to the end."""
    return x.flip(1).cumsum(1).flip(1)


def leave_one_out(x: Float[Tensor, "N T"], valid: Bool[Tensor, "N T"], group: Int[Tensor, " N"]) -> Float[Tensor, "N T"]:
    """x n / (n-1) - (sum over the group of each response's mean over its valid tokens) / (n-1) on valid tokens; 0 in a group of one."""
    n = group_count(group).to(x.dtype)
    means = group_sum(row_mean(x, valid), group).to(x.dtype)
    other = (n - 1).clamp(min=1)
    found = x * (n / other)[:, None] - (means / other)[:, None]
    return torch.where(valid & (n > 1)[:, None], found, x.new_zeros(()))


def whitened_returns(
    scores: Float[Tensor, "N T"],
    correct: Shaped[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    group: Int[Tensor, " N"],
    *,
    process: float,
    outcome: float,
    epsilon: float,
) -> tuple[Float[Tensor, "N T"], Float[Tensor, "N T"]]:
    """(advantages, returns): both sources against the others of the group, summed from each token on, whitened over valid tokens."""
    last = _last(mask)
    total = process * leave_one_out(scores, mask, group)
    total = total + outcome * leave_one_out(last * correct.to(scores.dtype)[:, None], last, group)
    returns = reverse_sum(total * mask)
    chosen = returns[mask].double()
    if chosen.numel() < 2:
        return torch.zeros_like(returns), returns
    mean, variance = chosen.mean(), chosen.var()
    return ((returns - mean) * torch.rsqrt(variance + epsilon)).to(returns.dtype), returns


def prime_advantage(
    correct: Shaped[Tensor, " N"],
    rm_logp: Float[Tensor, "N T"],
    ref_logp: Float[Tensor, "N T"],
    mask: Bool[Tensor, "N T"],
    group: Int[Tensor, " N"],
    *,
    beta: NonNegative,
    lam: Share,
    use_truth: bool,
    norm: Literal["batch_norm", "none"],
    process: float,
    outcome: float,
    epsilon: NonNegative,
) -> Float[Tensor, "N T"]:
    """PRIME's advantage: `process` times the implicit token scores and `outcome` times the verdict; see `whitened_returns`."""
    q = torch.where(mask, rm_logp - ref_logp, rm_logp.new_zeros(()))
    _, scores = process_scores(q, mask, correct, beta=beta, lam=lam, use_truth=use_truth, normalise=norm == "batch_norm")
    found, _ = whitened_returns(scores, correct, mask, group, process=process, outcome=outcome, epsilon=epsilon)
    return found * mask
