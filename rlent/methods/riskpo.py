"""RiskPO: reward the lower tail of what bundles of prompts earn together, instead of the mean.

Paper: RiskPO: Risk-based Policy Optimization via Verifiable Reward for LLM Post-Training, arXiv:2510.00911.
Seat:  advantage (`BundledRisk`, which remembers quantiles).
Checked against: the authors' `compute_grpo_bundle_rvar_outcome_advantage_quantile_tracking`, and the tracking in their `fit`.

A bundle is some consecutive prompts; its j-th paper are the j-th responses to each of them, and a paper's score is the sum of their
rewards. The released trainer stores the tracked quantiles where no advantage ever finds them, so there every bundle is measured
against its own. Here they are tracked; `source: batch` is what was released.
"""

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rlent.options import NonNegative, Positive, PositiveCount, Share

LEVELS = tuple(round(0.05 * i, 2) for i in range(1, 20))
"""The quantile levels that are tracked."""


class Risk(TypedDict):
    """What `bundle_risk` finds: advantages [N], and the papers' scores of each bundle."""

    adv: Tensor
    scores: list[Tensor]


def bundle_risk(
    reward: Float[Tensor, " N"],
    group: Int[Tensor, " N"],
    bundle: Int[Tensor, " N"],
    sample: Int[Tensor, " N"],
    q_down: float | None,
    q_up: float | None,
    *,
    quantile_down: float,
    quantile_up: float,
    source: Literal["track", "batch", "mix"],
    credit: Literal["uniform", "score", "std", "sum-mean"],
    mix: bool,
    w_mix: float,
    risk_seeking: bool = False,
    w_up: float = 1.5,
    natural_baseline: bool,
    norm_by_std: bool,
    guard: bool = False,
    epsilon: float,
) -> Risk:
    """`adv` [N], and `scores`: the papers' scores of each bundle. Responses beyond the smallest prompt's number get 0.

    With l and h the lower and upper quantile of scores S: RV = ((S-l)+ - (S-h)+ [+ l - h if natural_baseline]) / (up - down + epsilon).
    `mix`: P = (w_mix CV + RV) / (w_mix + 1), CV = -(l - S)+ / (down + epsilon); else `risk_seeking`: (w_up (S-h)+ / (1 - up + epsilon) + RV) /
    (w_up + 1); else RV. `norm_by_std` divides by the deviation of the bundle's scores (unbiased; 1 for a single paper). `guard` takes 1
    where that deviation is below 1e-6, which tracked quantiles would turn into credit of 1e5.

    l and h are the bundle's own (`batch`), q_down and q_up (`track`) or the average (`mix`); the bundle's own while those are None.
    Credit of a response in its paper: P (`uniform`), P times 0.5 or 1.5 as its reward is positive or not (`score`), P over the deviation
    of its prompt's rewards, 1 up to 1e-3 (`std`), or P shared by its lead over its prompt's mean (`sum-mean`; evenly if leads cancel).
    """
    reward = reward.double()
    adv, scores = torch.zeros_like(reward), []
    for name in torch.unique(bundle).tolist():
        prompts = [rows[sample[rows].argsort(stable=True)] for rows in _members(group, bundle == name)]
        papers = torch.stack([rows[: min(map(len, prompts))] for rows in prompts])  # [prompts, papers]
        earned = reward[papers]
        s = earned.sum(0)
        scores.append(s)
        low, high = (s.quantile(q) if len(s) > 1 else s[0] for q in (quantile_down, quantile_up))
        if q_down is not None and q_up is not None and source != "batch":
            low, high = (
                torch.as_tensor(q, dtype=s.dtype) if source == "track" else (q + own) / 2 for q, own in ((q_down, low), (q_up, high))
            )
        p = (s - low).clamp(min=0) - (s - high).clamp(min=0) + ((low - high) if natural_baseline else 0.0)
        p = p / (quantile_up - quantile_down + epsilon)
        if mix:
            p = (w_mix * -(low - s).clamp(min=0) / (quantile_down + epsilon) + p) / (w_mix + 1)
        elif risk_seeking:
            p = (w_up * (s - high).clamp(min=0) / (1 - quantile_up + epsilon) + p) / (w_up + 1)
        if norm_by_std:
            spread = s.std() if len(s) > 1 else torch.ones_like(s[0])
            p = p / ((torch.ones_like(spread) if guard and spread < 1e-6 else spread) + epsilon)
        adv[papers] = _credit(p.expand_as(earned), earned, [reward[rows] for rows in prompts], credit, epsilon)
    return {"adv": adv, "scores": scores}


def _members(group: Tensor, among: Tensor) -> list[Tensor]:
    """The rows of each group among some rows, in the order of the groups' ids."""
    return [((group == g) & among).nonzero()[:, 0] for g in torch.unique(group[among])]


def _credit(p: Tensor, earned: Tensor, rewards: Sequence[Tensor], how: str, epsilon: float) -> Tensor:
    """What each response of a bundle's papers gets of their P [prompts, papers]."""
    if how == "score":
        return p * torch.where(earned > 0, 0.5, 1.5)
    if how == "std":
        spread = torch.stack([r.std() if len(r) > 1 else r.new_zeros(()) for r in rewards])
        return p / (torch.where(spread > 1e-3, spread, 1.0)[:, None] + epsilon)
    if how == "sum-mean":
        lead = earned - torch.stack([r.mean() for r in rewards])[:, None]
        total = lead.sum(0)
        shared = lead / torch.where(total.abs() > 1e-6, total, 1.0)
        return p * torch.where(total.abs() > 1e-6, shared, 1 / len(rewards))
    return p


def moved(
    q: Float[Tensor, " levels"] | None, scores: Float[Tensor, " S"], rate: float, levels: Sequence[float] = LEVELS
) -> Float[Tensor, " levels"]:
    """Tracked quantiles after a step's scores: at first their linear quantiles, then q + rate (level - share of scores below q)."""
    level = torch.tensor(levels, dtype=torch.float64)
    if q is None:
        return scores.double().quantile(level)
    return q + rate * (level - (scores.double()[:, None] < q).double().mean(0))


class BundledRisk:
    """`bundle_risk` of bundles of `bundle_size` consecutive prompts (the last one may be short), against the quantiles of earlier steps."""

    def __init__(
        self,
        *,
        bundle_size: PositiveCount,
        quantile_down: Share,
        quantile_up: Share,
        source: Literal["track", "batch", "mix"],
        rate: NonNegative,
        credit: Literal["uniform", "score", "std", "sum-mean"],
        mix: bool,
        w_mix: NonNegative,
        risk_seeking: bool,
        w_up: NonNegative,
        natural_baseline: bool,
        norm_by_std: bool,
        guard: bool,
        epsilon: Positive,
    ) -> None:
        if quantile_down >= quantile_up:
            raise ValueError(f"quantile_down={quantile_down} is not below quantile_up={quantile_up}")
        self.bundle_size, self.rate = bundle_size, rate
        self.options: dict[str, Any] = {
            "quantile_down": quantile_down,
            "quantile_up": quantile_up,
            "source": source,
            "credit": credit,
            "mix": mix,
            "w_mix": w_mix,
            "risk_seeking": risk_seeking,
            "w_up": w_up,
            "natural_baseline": natural_baseline,
            "norm_by_std": norm_by_std,
            "guard": guard,
            "epsilon": epsilon,
        }
        self.q: Tensor | None = None

    def __call__(self, reward: Float[Tensor, " N"], group: Int[Tensor, " N"], sample: Int[Tensor, " N"]) -> dict[str, Tensor]:
        """`adv` [N] and `bundle` [N]. The quantiles of this step serve the next one."""
        bundle = torch.unique(group, return_inverse=True)[1] // self.bundle_size
        at = [min(range(len(LEVELS)), key=lambda i: abs(LEVELS[i] - self.options[k])) for k in ("quantile_down", "quantile_up")]
        down, up = (None, None) if self.q is None else (float(self.q[i]) for i in at)
        found = bundle_risk(reward, group, bundle, sample, down, up, **self.options)
        self.q = moved(self.q, torch.cat(found["scores"]), self.rate)
        return {"adv": found["adv"].to(reward.dtype), "bundle": bundle}

    def state_dict(self) -> dict[str, list[float] | None]:
        return {"q": None if self.q is None else self.q.tolist()}

    def load_state_dict(self, state: dict[str, list[float] | None]) -> None:
        self.q = None if state["q"] is None else torch.tensor(state["q"], dtype=torch.float64)
