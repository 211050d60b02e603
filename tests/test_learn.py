"""The methods learn, and the interventions keep entropy: a softmax bandit through the composed recipes' own objective.

Sixteen arms, four of which pay. Four equally good arms would allow an entropy of log 4 = 1.39, but the plain clipped policy
gradient ends near one of them. "Keeps more entropy than the baseline and gives up at most a tenth of the reward" is the
trade an intervention makes, and here it is a test.
"""

from __future__ import annotations

import functools
import statistics

import pytest
import torch

from rlent.math import noise
from rlent.recipe.compose import load
from rlent.train.credit import add_advantage, add_reward
from rlent.train.objective import Objective
from rlent.types import Batch

ARMS, PAYING, ROWS, GROUP, STEPS, MINIBATCHES, LR = 16, 4, 64, 16, 150, 2, 0.5
SEEDS = (0, 1, 2)


def bandit(overrides: list[str], seed: int) -> tuple[float, float]:
    """Expected reward and entropy (nats) of the policy after training."""
    recipe = load(overrides)
    objective = Objective(recipe.plan, aggregate="token_mean", length=1.0)
    logits = torch.zeros(ARMS, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(ROWS, 1, dtype=torch.bool)
    rows = torch.arange(ROWS)
    for step in range(1, STEPS + 1):
        prob = logits.detach().softmax(0)
        u = noise.uniform(seed, step, rows)
        arm = torch.searchsorted(prob.cumsum(0), u * prob.sum()).clamp(max=ARMS - 1)
        logp_all = logits.detach().log_softmax(0)
        entropy = -(logp_all.exp() * logp_all).sum()
        batch = Batch(
            {
                "mask": mask, "train": torch.ones(ROWS, dtype=torch.bool), "correct": arm < PAYING, "group": rows // GROUP, "sample": rows % GROUP,
                "problem_key": rows // GROUP, "seed": seed, "step": step, "length": torch.ones(ROWS, dtype=torch.long), "arm": arm,
                "old_logp": logp_all[arm][:, None], "old_entropy": entropy.expand(ROWS, 1).clone(),
            }
        )  # fmt: skip
        batch = add_advantage(add_reward(batch, recipe.plan.nodes["reward"], objective.world), recipe.plan.advantage, objective.world)
        batch = objective.shape(batch, "step")
        for index in range(MINIBATCHES):
            part = batch.select(list(range(index * ROWS // MINIBATCHES, (index + 1) * ROWS // MINIBATCHES)))
            scores = logits.log_softmax(0)
            live = {"logp": scores[part["arm"]][:, None], "entropy": (-(scores.exp() * scores).sum()).expand(len(part), 1)}
            part = part.with_(**{f"now_{k}": v.detach().clone() for k, v in live.items()})
            part, scale = objective.prepare(objective.shape(part, "minibatch", index), index)
            (gradient,) = torch.autograd.grad(objective(part, live, scale, index).loss, logits)
            with torch.no_grad():
                logits -= LR * gradient
    prob = logits.detach().softmax(0)
    return float(prob[:PAYING].sum()), float(-(prob * prob.log()).sum())


RECIPES = {
    "grpo": ["recipe=grpo"],
    "clipcov": ["recipe=clipcov", "shape.clip_cov.fraction=0.2", "shape.clip_cov.low=0.1", "shape.clip_cov.high=10"],
    "klcov": ["recipe=klcov", "regularize.kl_cov.fraction=0.2"],
    "entropybonus": ["recipe=entropybonus", "regularize.entropy.coef=0.1"],
}


@functools.cache
def outcome(name: str) -> tuple[float, float]:
    """Mean reward and mean entropy over the seeds."""
    found = [bandit(RECIPES[name], seed) for seed in SEEDS]
    return statistics.mean(r for r, _ in found), statistics.mean(h for _, h in found)


@pytest.mark.parametrize("name", RECIPES)
def test_every_method_learns(name: str) -> None:
    assert outcome(name)[0] > 0.85  # from 4/16 = 0.25


@pytest.mark.parametrize("name", ["clipcov", "klcov", "entropybonus"])
def test_an_intervention_keeps_more_entropy_and_gives_up_at_most_a_tenth_of_the_reward(name: str) -> None:
    (base_reward, base_entropy), (reward, entropy) = outcome("grpo"), outcome(name)
    assert entropy > base_entropy
    assert reward > 0.9 * base_reward


def test_the_baseline_collapses_below_the_entropy_of_the_paying_arms() -> None:
    assert outcome("grpo")[1] < 1.39
