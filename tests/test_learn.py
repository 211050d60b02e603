"""The methods learn, and the interventions keep entropy: a softmax bandit through the composed recipes' own objective.

Sixteen arms, four of which pay. Four equally good arms would allow an entropy of log 4 = 1.39, but the plain clipped policy
gradient ends near one of them. "Keeps more entropy than the baseline and gives up at most a tenth of the reward" is the
trade an intervention makes, and here it is a test.
"""

from __future__ import annotations

import functools
import statistics
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from rlent.math import noise
from rlent.recipe.compose import groups, load
from rlent.recipe.plan import Plan
from rlent.train.credit import add_advantage, add_reward
from rlent.train.objective import Objective
from rlent.types import Batch

ARMS, PAYING, ROWS, GROUP, STEPS, MINIBATCHES, LR = 16, 4, 64, 16, 150, 2, 0.5
SEEDS = (0, 1, 2)


def bandit(overrides: list[str], seed: int, steps: int = STEPS) -> tuple[float, float]:
    """Expected reward and entropy (nats) of the policy after training. A response is one token, the arm, and its own answer."""
    recipe = load(overrides)
    objective = Objective(recipe.plan, aggregate="token_mean", length=1.0)
    logits = torch.zeros(ARMS, dtype=torch.float64, requires_grad=True)
    mask = torch.ones(ROWS, 1, dtype=torch.bool)
    rows = torch.arange(ROWS)
    for step in range(1, steps + 1):
        prob = logits.detach().softmax(0)
        u = noise.uniform(seed, step, rows)
        arm = torch.searchsorted(prob.cumsum(0), u * prob.sum()).clamp(max=ARMS - 1)
        group = rows // GROUP
        old = _live(recipe.plan, logits.detach(), arm)
        before = {k: v for k, v in _live(recipe.plan, torch.zeros_like(logits), arm).items() if k in ("logp", "entropy")}
        batch = Batch(
            {
                "mask": mask, "train": torch.ones(ROWS, dtype=torch.bool), "correct": arm < PAYING, "group": group, "sample": rows % GROUP,
                "problem_key": group, "seed": seed, "step": step, "steps": steps, "length": torch.ones(ROWS, dtype=torch.long), "arm": arm,
                "turn": torch.zeros(ROWS, dtype=torch.long), "tokens": arm[:, None], "vocab": ARMS, "max_tokens": 16, "temperature": 1.0,
                "source": ["policy"] * ROWS, "finish": ["stop"] * ROWS, "status": ["ok"] * ROWS, "pieces": [[str(a)] for a in arm.tolist()],
                "answer": [str(a) for a in arm.tolist()], "answer_id": arm,
                "same": [(arm[group == group[i]] == arm[i]).tolist() for i in range(ROWS)],
                "sampler_logp": old["logp"], **{f"old_{k}": v for k, v in old.items()}, **{f"ref_{k}": v for k, v in before.items()},
                "rm_logp": before["logp"], "ref_reward": torch.zeros(ROWS, dtype=torch.float64),
            }
        )  # fmt: skip
        batch = add_advantage(add_reward(batch, recipe.plan.nodes["reward"], objective.world), recipe.plan.advantage, objective.world)
        batch = objective.shape(batch, "step")
        for index in range(MINIBATCHES):
            part = batch.select(list(range(index * ROWS // MINIBATCHES, (index + 1) * ROWS // MINIBATCHES)))
            live = _live(recipe.plan, logits, part["arm"])
            part = part.with_(**{f"now_{k}": v.detach().clone() for k, v in live.items()})
            part, scale = objective.prepare(objective.shape(part, "minibatch", index), index)
            (gradient,) = torch.autograd.grad(objective(part, live, scale, index).loss, logits)
            with torch.no_grad():
                logits -= LR * gradient
    prob = logits.detach().softmax(0)
    return float(prob[:PAYING].sum()), float(-(prob * prob.log()).sum())


def _live(plan: Plan, logits: Tensor, arm: Tensor) -> dict[str, Tensor]:
    """`logp`, `entropy` and the recipe's probes of some arms [n,1]."""
    scores = logits.log_softmax(0)
    out = {"logp": scores[arm][:, None], "entropy": (-(scores.exp() * scores).sum()).expand(len(arm), 1)}
    for probe in plan.nodes["probe"]:
        found = probe({"logits": logits.expand(len(arm), ARMS), "target": arm})
        named = found if isinstance(found, Mapping) else {"": found}
        out |= {f"{probe.name}_{key}".removesuffix("_"): value[:, None] for key, value in named.items()}
    return out


ALL = sorted(groups()["recipe"])
ABSENT = {"bupo", "erank", "spear"}
"""Their functions read hidden states or replayed responses, which a bandit does not have."""
UNPAID = {"emft", "emrl", "oneshotem", "rent", "formatreward", "randomreward"}
"""Not paid for being right; at a uniform policy their pull is nothing, or noise."""
VOTES = {"majorityreward", "empo", "ttrl", "ettrl", "ettrltree"}
"""Paid for agreeing: they end at one arm, right or wrong."""
LEAST = {"passk": 0.26, "pear": 0.4}
"""Where most is not soon to be had: a lone right response among sixteen is rare, and a right one earns little while entropy is high."""
GIVEN = {
    "grpos": ["advantage.normalize=joint"],  # by themselves, right and wrong responses get the same credit (the cards say so)
    "gtpo": ["advantage.normalize=joint"],
    "pear": ["reward.pear.alpha=0", "reward.pear.format_score=-3"],  # at 2.8 nats a right response earns less than 0
}


@pytest.mark.parametrize("name", [n for n in ALL if n not in ABSENT])
def test_a_recipe_learns_what_it_pays_for(name: str) -> None:
    reward, entropy = bandit([f"recipe={name}", *GIVEN.get(name, [])], seed=0, steps=60)
    if name == "wrongreward":
        assert reward < 0.05
    elif name in VOTES:
        assert entropy < 0.2 and not 0.05 < reward < 0.95
    elif name in UNPAID:
        assert reward == pytest.approx(PAYING / ARMS, abs=0.05)
    else:
        assert reward > LEAST.get(name, 0.7)  # from 4/16 = 0.25


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
