"""Effective-rank shaping (VERL): credit by how many directions a response's hidden states span, and how that number grows.

Paper: Beyond the Exploration-Exploitation Trade-off: A Hidden State Approach for LLM Reasoning in RLVR, arXiv:2509.23808. The method is
       called Velocity-Exploiting Rank-Learning, VERL, which is also the name of a framework; hence `erank`.
Seats: probe (`effective_rank`, of whole rows), advantage (`RankShaped`, with a memory).
Checked against: the authors' `compute_single_effective_rank`, `calculate_diffs_for_single_sample_original`, RewardManager and
       `compute_advantage`.

The states are those that predict the response's tokens; the authors take those of the tokens themselves, one position later.
"""

from collections.abc import Mapping
from typing import Literal, TypedDict

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from rlent.math.group import standardised
from rlent.options import AboveOne, NonNegative, Positive, PositiveCount, Share

METRICS = ("er", "erv", "era")


class Credit(TypedDict):
    """What `rank_shaped` finds: advantages [N, T], the bonus of each row [N], and the means moved by the batch's."""

    adv: Tensor
    aux: Tensor
    ema_after: dict[str, float]


class Means(TypedDict):
    """What `RankShaped` remembers: the moving means of the metrics and of the reward; None before the first step."""

    means: dict[str, float] | None
    reward: float | None


def effective_rank(
    hidden: Float[Tensor, "B T D"], mask: Bool[Tensor, "B T"], *, stride: PositiveCount, window: PositiveCount, epsilon: Positive
) -> dict[str, Tensor]:
    """`er`, `erv`, `era` [B]: effective rank of each row's states, mean of its velocity, mean of its acceleration.

    Of the last `window` states the first t + 1, for t = stride, 2 stride, ..., are compared with the mean of the ranks before: a
    velocity. Accelerations are differences of velocities. 0 where there are too few states.
    """
    found = [trajectory(states[seen], stride=stride, window=window, epsilon=epsilon) for states, seen in zip(hidden, mask, strict=True)]
    return {k: torch.stack([f[k] for f in found]).to(hidden.device) if found else hidden.new_zeros(0) for k in METRICS}


def trajectory(hidden: Float[Tensor, "L D"], *, stride: int, window: int, epsilon: float) -> dict[str, Tensor]:
    """The same of one response [L, D], with its velocities under `deltas`."""
    states = hidden[-window:].detach().double()
    ranks = [rank_of(states[: t + 1], epsilon) for t in range(stride, len(states), stride)]
    deltas = [rank - torch.stack(ranks[:j]).mean() for j, rank in enumerate(ranks) if j]
    jerks = [b - a for a, b in zip(deltas, deltas[1:], strict=False)]
    zero = torch.zeros((), dtype=torch.float64, device=states.device)
    return {
        "er": rank_of(states, epsilon),
        "erv": torch.stack(deltas).mean() if deltas else zero,
        "era": torch.stack(jerks).mean() if jerks else zero,
        "deltas": torch.stack(deltas) if deltas else states.new_zeros(0),
    }


def rank_of(states: Float[Tensor, "L D"], epsilon: float) -> Float[Tensor, ""]:
    """exp(-sum p ln(p + epsilon)), p = s / (sum s + epsilon) the singular values of the column-centred states; 0 for less than two."""
    if len(states) < 2:
        return torch.zeros((), dtype=states.dtype, device=states.device)
    centred_states = states - states.mean(0)
    gram = centred_states @ centred_states.T if len(states) <= states.shape[1] else centred_states.T @ centred_states
    values = torch.linalg.eigvalsh(gram)
    noise = values.max().clamp(min=0.0) * len(gram) * torch.finfo(gram.dtype).eps  # eigenvalues of 0, as rounding leaves them
    s = values.masked_fill(values <= noise, 0.0).sqrt()
    p = s / (s.sum() + epsilon)
    return (-(p * (p + epsilon).log()).sum()).exp()


def rank_shaped(
    reward: Float[Tensor, " N"],
    mask: Bool[Tensor, "N T"],
    group: Int[Tensor, " N"],
    er: Float[Tensor, " N"],
    erv: Float[Tensor, " N"],
    era: Float[Tensor, " N"],
    ema_before: Mapping[str, float] | None,
    batch_mean: Mapping[str, float],
    *,
    gain: float,
    aux_weight: float,
    kappa: float,
    ema_alpha: float,
    placement: Literal["last_token", "all_tokens"],
    epsilon: float,
    degenerate: Literal["reference", "zero"] = "reference",
) -> Credit:
    """A + min(relu(aux), |A| / kappa), with A the GRPO advantage and aux the bonus of each row, against moving means of the metrics.

    dev_X = clip((X - e_X) / (|e_X| + 1e-8), -5, 5); w = sigmoid(gain dev_era); aux = aux_weight (w tanh(dev_er) + (1 - w) tanh(dev_erv)).
    A row whose rank accelerates is asked to explore (rank), another one to exploit (velocity). `last_token` puts the bonus on the
    last response token alone. Without means (`ema_before` None) there is no bonus. `ema_after` are the means moved by `ema_alpha`.
    """
    a = standardised(reward.double(), group, degenerate, epsilon=epsilon)
    metrics = {"er": er, "erv": erv, "era": era}
    aux = torch.zeros_like(a)
    if ema_before is not None:
        dev = {k: ((x.double() - ema_before[k]) / (abs(ema_before[k]) + 1e-8)).clamp(-5.0, 5.0) for k, x in metrics.items()}
        w = torch.sigmoid(gain * dev["era"])
        aux = aux_weight * (w * dev["er"].tanh() + (1 - w) * dev["erv"].tanh())
    bonus = torch.minimum(aux.clamp(min=0.0), a.abs() / kappa)
    place = mask.double()
    if placement == "last_token":
        place = (place.cumsum(1) == place.sum(1, keepdim=True)) * place
    before = ema_before or dict.fromkeys(METRICS, 0.0)
    after = {k: (1 - ema_alpha) * before[k] + ema_alpha * batch_mean[k] for k in METRICS}
    return {"adv": (a[:, None] * mask + bonus[:, None] * place).to(reward.dtype), "aux": aux.to(reward.dtype), "ema_after": after}


class RankShaped:
    """`rank_shaped` with the moving means of all rollouts so far. The first step has none, and no bonus.

    `first` says what the means are after it: 0 as released, so that the second step sees every deviation at its bound, or measured.
    """

    def __init__(
        self,
        *,
        gain: NonNegative,
        aux_weight: NonNegative,
        kappa: AboveOne,
        ema_alpha: Share,
        placement: Literal["last_token", "all_tokens"],
        dynamic: bool,
        first: Literal["zero", "measured"],
        epsilon: NonNegative,
        degenerate: Literal["reference", "zero"],
    ) -> None:
        self.gain, self.aux_weight, self.kappa, self.ema_alpha = gain, aux_weight, kappa, ema_alpha
        self.placement, self.dynamic, self.first, self.epsilon, self.degenerate = placement, dynamic, first, epsilon, degenerate
        self.means: dict[str, float] | None = None
        self.reward: float | None = None

    def __call__(
        self,
        reward: Float[Tensor, " N"],
        mask: Bool[Tensor, "N T"],
        group: Int[Tensor, " N"],
        old_erank_er: Float[Tensor, " N"],
        old_erank_erv: Float[Tensor, " N"],
        old_erank_era: Float[Tensor, " N"],
    ) -> dict[str, Tensor]:
        """`adv` [N,T] and `aux` [N].

        With `dynamic`, aux_weight is multiplied by 1 - (mean reward so far + 1) / 2: much while rewards are near -1, nothing at 1.
        """
        measured = {k: float(x.double().mean()) for k, x in zip(METRICS, (old_erank_er, old_erank_erv, old_erank_era), strict=True)}
        weight = self.aux_weight * (1 - ((self.reward or 0.0) + 1) / 2) if self.dynamic else self.aux_weight
        found = rank_shaped(
            reward,
            mask,
            group,
            old_erank_er,
            old_erank_erv,
            old_erank_era,
            self.means,
            measured,
            gain=self.gain,
            aux_weight=weight,
            kappa=self.kappa,
            ema_alpha=self.ema_alpha,
            placement=self.placement,
            epsilon=self.epsilon,
            degenerate=self.degenerate,
        )
        if self.means is None:
            self.means = measured if self.first == "measured" else dict.fromkeys(METRICS, 0.0)
        else:
            self.means = found["ema_after"]
        now = float(reward.double().mean())
        self.reward = now if self.reward is None else (1 - self.ema_alpha) * self.reward + self.ema_alpha * now
        return {"adv": found["adv"], "aux": found["aux"]}

    def state_dict(self) -> Means:
        return {"means": self.means, "reward": self.reward}

    def load_state_dict(self, state: Means) -> None:
        self.means, self.reward = state["means"], state["reward"]
