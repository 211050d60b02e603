import math

import pytest
import torch
from streams import random_batch

from rlent.methods.srft import demonstration_nll, own_rollouts, reinforce_or_probability
from rlent.ranks.world import World
from rlent.recipe.compose import load
from rlent.train.credit import add_advantage
from rlent.train.objective import Objective
from rlent.types import Batch

OPTIONS = {"scale": 0.1, "by_entropy": True, "credit": "reinforce", "over": "kind"}
SOURCE = ["demo", "policy", "policy"]
MASK = torch.tensor([[1, 1], [1, 0], [1, 1]]).bool()
ADV = torch.tensor([[2.0, 2.0], [-0.3, 0.0], [0.7, 0.7]], dtype=torch.float64)
REWARD = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
ENTROPY = torch.tensor([[0.5, 0.5], [0.2, 9.0], [0.2, 0.5]], dtype=torch.float64)
LOGP = torch.tensor([[-0.7, -1.2], [-0.4, -9.0], [-1.0, -2.0]], dtype=torch.float64)
W_SFT, W_RL = 0.303265, 0.134986  # 0.5 exp(-0.5), 0.1 exp(0.3)


def shaped(**options):
    return own_rollouts(ADV, REWARD, ENTROPY, MASK, SOURCE, **{**OPTIONS, **options})


def test_right_responses_weigh_by_entropy_and_wrong_ones_one_each_over_its_own_tokens():
    found = shaped()
    # five tokens in the loss: two of the demonstration, one right, two wrong; the mean entropy of (0.2, 0.2, 0.5) is 0.3
    assert found["adv"].tolist() == [[2.0, 2.0], [1.0, 0.0], [-1.0, -1.0]]
    assert found["weight"].tolist() == [[2.5, 2.5], [pytest.approx(5 * W_RL, abs=1e-5), 1.0], [2.5, 2.5]]


def test_over_source_right_and_wrong_share_one_mean():
    weight = shaped(over="source")["weight"]
    assert weight[0, 0] == 5 / 2 and weight[2, 0] == pytest.approx(5 / 3) and weight[1, 0] == pytest.approx(W_RL * 5 / 3, abs=1e-5)


def test_the_size_of_the_advantage_may_stand_for_one_and_the_weight_for_itself():
    found = shaped(credit="grpo", by_entropy=False)
    assert found["adv"].tolist() == [[2.0, 2.0], [0.3, 0.0], [-0.7, -0.7]]
    assert found["weight"][1, 0] == pytest.approx(0.1 * 5)


def test_demonstrations_enter_with_their_probability_and_own_responses_with_their_log_probability():
    old = torch.tensor([[0.0, 0.0], [-0.5, 0.0], [-0.9, -0.9]], dtype=torch.float64)
    found = reinforce_or_probability(LOGP, old, ADV, SOURCE)
    assert found[0].tolist() == pytest.approx([-2 * math.exp(-0.7), -2 * math.exp(-1.2)])
    assert found[1, 0] == pytest.approx(0.3 * -0.4) and found[2].tolist() == pytest.approx([0.7, 1.4])


def test_imitation_is_weighed_by_the_entropy_at_the_demonstrations_alone():
    found = demonstration_nll(LOGP, ENTROPY, MASK, SOURCE, by_entropy=True)
    assert found["mask"].tolist() == [[True, True], [False, False], [False, False]]
    assert (0.5 * found["value"][0]).tolist() == pytest.approx([W_SFT * 0.7, W_SFT * 1.2], abs=1e-5)
    assert torch.equal(demonstration_nll(LOGP, ENTROPY, MASK, SOURCE, by_entropy=False)["value"], -LOGP)


def through_the_objective(batch: Batch, parts: list[list[int]], *overrides: str) -> tuple[float, torch.Tensor, torch.Tensor | None]:
    """The composed recipe's objective on a minibatch: its value, and its gradients by logp and by entropy."""
    recipe = load(["recipe=srft", *overrides])
    objective = Objective(recipe.plan, aggregate="token_mean", length=1.0)
    live = {k: batch[f"live_{k}"].clone().requires_grad_(True) for k in ("logp", "entropy")}
    rows = batch.with_(**{f"now_{k}": v.detach() for k, v in live.items()})
    rows, scale = objective.prepare(objective.shape(objective.shape(rows, "step"), "minibatch", 0), 0)
    value = 0.0
    for positions in parts:
        part = rows.select(positions)
        out = objective(part, {k: v[positions][:, : part.width] for k, v in live.items()}, scale, 0)
        value += sum(float(out.record.terms[k].sum()) for k in ("policy",) if k in out.record.terms)
        out.loss.backward(retain_graph=True)
    value += sum(node.coef * scale.terms[node.name] for node in recipe.plan.nodes["regularize"])
    return value, live["logp"].grad, live["entropy"].grad


def by_the_formula(batch: Batch) -> tuple[float, torch.Tensor]:
    """The paper's loss, token by token and without any of the package: value, and its derivative by logp worked out by hand.

    0.5 e^-H(demo) mean_demo(-l) - mean_demo(A e^l) + 0.1 e^H(own) mean_right(-l) + mean_wrong(l)
    """
    kinds: dict[str, list[tuple[int, int]]] = {"demo": [], "right": [], "wrong": []}
    for i, source in enumerate(batch["source"]):
        kind = "demo" if source == "demo" else "right" if float(batch["reward"][i]) > 0 else "wrong"
        kinds[kind] += [(i, t) for t in range(batch.width) if batch["mask"][i, t]]
    logp, entropy, adv = (batch[k].tolist() for k in ("live_logp", "live_entropy", "adv"))
    own = kinds["right"] + kinds["wrong"]
    w_sft = 0.5 * math.exp(-math.fsum(entropy[i][t] for i, t in kinds["demo"]) / max(len(kinds["demo"]), 1))
    w_rl = 0.1 * math.exp(math.fsum(entropy[i][t] for i, t in own) / max(len(own), 1))
    value, slope = 0.0, torch.zeros_like(batch["live_logp"])
    for i, t in kinds["demo"]:
        likely = math.exp(logp[i][t])
        value += (-w_sft * logp[i][t] - adv[i][t] * likely) / len(kinds["demo"])
        slope[i, t] = (-w_sft - adv[i][t] * likely) / len(kinds["demo"])
    for kind, sign in (("right", -w_rl), ("wrong", 1.0)):
        for i, t in kinds[kind]:
            value += sign * logp[i][t] / len(kinds[kind])
            slope[i, t] = sign / len(kinds[kind])
    return value, slope


def minibatch(seed: int) -> Batch:
    """Six groups of four with a demonstration each, whose author's probability is 1."""
    batch = random_batch(seed)
    demo = torch.tensor([s == "demo" for s in batch["source"]])
    return batch.with_(old_logp=batch["old_logp"].masked_fill(demo[:, None], 0.0))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("parts", [[list(range(24))], [[i] for i in range(24)], [[23, 3, 7], list(range(8, 23)), [0, 1, 2, 4, 5, 6]]])
def test_the_composed_recipe_is_the_formula_in_value_and_gradient_however_it_is_cut(seed, parts):
    batch = minibatch(seed)
    want, slope = by_the_formula(batch)
    value, gradient, of_entropy = through_the_objective(batch, parts)
    assert value == pytest.approx(want, rel=1e-9)
    torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-12)
    assert of_entropy is None or not of_entropy.any()  # both weights are constants


@pytest.mark.parametrize(("lacks", "reward", "source"), [("right", -1.0, "policy"), ("wrong", 1.0, "policy"), ("own", 1.0, "demo")])
def test_a_minibatch_without_one_kind_has_the_other_terms_alone(lacks, reward, source):
    batch = minibatch(2)
    batch = batch.with_(reward=torch.full_like(batch["reward"], reward))
    if source == "demo":
        batch = batch.with_(source=["demo"] * len(batch), old_logp=torch.zeros_like(batch["old_logp"]))
    want, slope = by_the_formula(batch)
    value, gradient, _ = through_the_objective(batch, [list(range(24))])
    assert value == pytest.approx(want, rel=1e-9)
    torch.testing.assert_close(gradient, slope, rtol=1e-9, atol=1e-12)


def test_the_denominators_are_of_the_tokens_that_earlier_shapes_left_in_the_loss():
    batch = minibatch(1)
    cut = [i % 5 == 1 for i in range(24)]
    batch = batch.with_(finish=["length" if c else "stop" for c in cut])
    _, gradient, _ = through_the_objective(batch, [list(range(24))], "shape=[overlong_filter,srft]", "regularize=[]")
    kept = batch.with_(mask=batch["mask"] & ~torch.tensor(cut)[:, None])
    _, slope = by_the_formula(kept)
    demo = torch.tensor([s == "demo" for s in batch["source"]])
    torch.testing.assert_close(gradient[~demo], slope[~demo], rtol=1e-9, atol=1e-12)


def test_without_demonstrations_and_weights_it_is_the_policy_gradient_of_grpo():
    batch = random_batch(5).with_(source=["policy"] * 24)
    batch = batch.with_(reward=torch.where(batch["adv"].sum(1) > 0, 1.0, 0.0))  # right is what has a positive advantage
    plain = ["shape.srft.scale=1", "shape.srft.by_entropy=false", "shape.srft.credit=grpo", "shape.srft.over=source"]
    _, ours, _ = through_the_objective(batch, [list(range(24))], "sampler=group", *plain)
    _, theirs, _ = through_the_objective(batch, [list(range(24))], "sampler=group", "shape=[]", "regularize=[]", "loss=policy_gradient")
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-15)


def test_a_clipped_loss_bounds_the_own_responses_and_leaves_good_demonstrations_as_they_are():
    batch = minibatch(3)
    plain, clipped = (
        through_the_objective(batch, [list(range(24))], "regularize=[]", f"loss={loss}")[1] for loss in ("srft", "clip_higher")
    )
    demo = torch.tensor([s == "demo" for s in batch["source"]])[:, None] & batch["mask"]
    good = demo & (batch["adv"] > 0)
    assert good.any()
    torch.testing.assert_close(clipped[good], plain[good])
    ratio = (batch["live_logp"] - batch["old_logp"]).exp()
    fallen = batch["mask"] & ~demo & (batch["reward"] <= 0)[:, None] & (ratio < 0.8)
    assert fallen.any() and not clipped[fallen].any() and bool((plain[fallen] > 0).all())


def test_the_advantage_is_that_of_the_group_with_its_demonstration():
    # rewards 0 0 0 and 1: mean 1/4, deviation 1/2
    batch = Batch({"mask": torch.ones(4, 1).bool(), "reward": torch.tensor([0.0, 0.0, 0.0, 1.0]).double(), "group": torch.zeros(4).long()})
    recipe = load(["recipe=srft", "advantage.epsilon=0"])
    assert add_advantage(batch, recipe.plan.advantage, World())["adv"][:, 0].tolist() == [-0.5, -0.5, -0.5, 1.5]


def test_a_recipe_without_rows_of_the_kind_it_needs_says_which_sampler_brings_them():
    said = load(["recipe=srft", "sampler=group"]).warnings
    assert [w for w in said if "demo rows" in w] == [
        f"{place} finds no demo rows here: sampler=demonstrations brings them"
        for place in ("shape.srft", "loss", "regularize.demonstration_nll")
    ]
    assert "shape.spear finds no replay rows here: sampler=replay brings them" in load(["recipe=spear", "sampler=group"]).warnings
    for recipe in ("srft", "spear", "aepo"):
        assert not [w for w in load([f"recipe={recipe}"]).warnings if "rows here" in w]
