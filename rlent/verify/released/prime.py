"""PRIME and implicit PRM: scores, loss of the reward model, advantages and accuracies of one batch, as verl and the authors compute them."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from rlent.methods.prime import implicit_reward, process_scores, whitened_returns
from rlent.options import NonNegative
from rlent.types import Stream
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Tree


def outcome_loss(
    logp: Float[Tensor, "N T"],
    ref_logp: Float[Tensor, "N T"],
    correct: Shaped[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    beta: NonNegative,
) -> Float[Tensor, " N"]:
    """Cross-entropy of sigmoid(beta sum_t (log pi_rm - log pi_ref)) with the outcome, per response; all valid tokens, the last too."""
    score = beta * torch.where(mask, logp - ref_logp, logp.new_zeros(())).sum(1)
    return F.binary_cross_entropy_with_logits(score, correct.to(score.dtype), reduction="none")


def accuracies(
    q: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], correct: Shaped[Tensor, " N"], group: Int[Tensor, " N"]
) -> dict[str, float]:
    """How well the sums S of q tell right from wrong: by sign, and in the pairs of a group (1/2 for a group without such a pair)."""
    total, right = (q * mask).sum(1), correct.bool()
    pairs = []
    for g in torch.unique(group):
        s, c = total[group == g], right[group == g]
        order = s[c][:, None] > s[~c][None]
        pairs.append(float(order.double().mean()) if order.numel() else 0.5)
    return {"sign_accuracy": float(((total > 0) == right).double().mean()), "pair_accuracy": sum(pairs) / len(pairs)}


def batch(
    rm_logp: Float[Tensor, "N T"],
    ref_logp: Float[Tensor, "N T"],
    acc: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    *,
    beta: float,
    lam: float,
    use_truth: bool,
    norm: str,
    group_size: int,
    process: float,
    outcome: float,
    epsilon: float,
) -> dict[str, Tree]:
    """Everything the authors compute for one batch, from the same functions; groups are adjacent rows."""
    group = torch.arange(len(acc)) // int(group_size)
    q = torch.where(mask, (rm_logp - ref_logp).detach(), rm_logp.new_zeros(()))
    score, normed = process_scores(q, mask, acc, beta=beta, lam=lam, use_truth=use_truth, normalise=norm == "batch_norm")
    advantages, returns = whitened_returns(normed, acc, mask, group, process=process, outcome=outcome, epsilon=epsilon)
    return {
        "q": q,
        "token_score": score,
        "token_score_normed": normed,
        "ce_loss": outcome_loss(rm_logp, ref_logp, acc, mask, beta=beta).mean(),
        "advantages": advantages,
        "returns": returns,
        **accuracies(q, mask, acc, group),
    }


def implicit(
    logp: Float[Tensor, "N T"],
    ref_logp: Float[Tensor, "N T"],
    label: Float[Tensor, " N"],
    step_ends: Sequence[Sequence[int]],
    *,
    beta: float,
) -> dict[str, Tree]:
    """Token, step and response scores of the implicit model, and its loss. A step's end is the number of tokens before it."""
    token = implicit_reward(logp, ref_logp, beta=beta)
    every = torch.ones_like(token, dtype=torch.bool)
    prefix = token.detach().cumsum(1)
    whole = [[float(prefix[i, int(e) - 1]) if e else 0.0 for e in ends] for i, ends in enumerate(step_ends)]
    single = [[b - a for a, b in zip([0.0, *row[:-1]], row, strict=True)] for row in whole]
    return {
        "token_reward": token,
        "outcome_reward": token.sum(1),
        "ce_loss": outcome_loss(logp, ref_logp, label, every, beta=beta).mean(),
        "step_reward_single": single,
        "step_reward_accumulative": whole,
        "response_min_accumulative": [min(row) for row in whole],
        "response_min_single": [min(row) for row in single],
    }


class Adjacent(Adapter):
    """Groups of `group_size` adjacent rows, and verdicts that are true or false."""

    def streams(self) -> dict[str, Stream]:
        correct = self.inputs["acc"].bool()
        return {"correct": correct, "group": torch.arange(len(correct)) // int(self.config["group_size"])}
