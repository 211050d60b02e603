import pytest
import torch
from runs import rows, train

from rlent.engine.native import NativeEngine
from rlent.errors import RecipeError
from rlent.methods.aapo import augmented, policy_gradient
from rlent.policy.policy import Policy
from rlent.recipe.compose import load
from rlent.types import Request

VECTORS = ("aapo",)
SET = {"low": -0.2, "high": 0.28, "scale": "none", "pairing": "index", "epsilon": 1e-4, "degenerate": "zero"}


def t(*x):
    return torch.tensor(x, dtype=torch.float64)


def test_agrees_with_the_reference(vector, agree):
    c = vector.config
    options = {
        **SET,
        "low": c["clip_low"],
        "high": c["clip_high"],
        "scale": "group" if c["scale_rewards"] else "none",
        "epsilon": c["epsilon"],
    }
    found = augmented(vector["reward"], vector["ref_rewards"], vector["group"], **options)["adv"]
    agree(found[:, None] * vector["mask"], vector.out("advantages"))


def test_credit_is_the_lead_over_the_group_and_the_clipped_lead_over_the_reference():
    group = torch.tensor([0, 0, 1, 1])
    # leads over the group 0.5, -0.5, 0, 0; gaps 0, -1, 1, 0.1
    got = augmented(t(1.0, 0.0, 1.0, 1.0), t(1.0, 1.0, 0.0, 0.9), group, **SET)
    assert got["adv"].tolist() == pytest.approx([0.5, -0.7, 0.28, 0.1])
    assert got["gap"].tolist() == pytest.approx([0.0, -1.0, 1.0, 0.1])


def test_pairing_with_the_mean_compares_all_with_one_number():
    got = augmented(t(1.0, 1.0), t(1.0, 0.0), torch.tensor([0, 0]), **{**SET, "pairing": "mean", "high": 9.0})
    assert got["adv"].tolist() == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(("degenerate", "want"), [("zero", 0.28), ("reference", 1.28)])
def test_alone_in_a_group(degenerate, want):
    for scale in ("none", "group"):
        got = augmented(t(1.0), t(0.0), torch.tensor([0]), **{**SET, "scale": scale, "epsilon": 0.0, "degenerate": degenerate})
        assert got["adv"].tolist() == pytest.approx([want])


def test_the_loss_is_the_plain_policy_gradient():
    logp = t(-1.0, -2.0)[None].requires_grad_(True)
    policy_gradient(logp, t(2.0, -1.0)[None]).sum().backward()
    assert logp.grad[0].tolist() == [-2.0, 1.0]


def test_ref_reward_comes_from_the_sampler_and_from_nowhere_else():
    with pytest.raises(RecipeError, match="asks for 'ref_reward', which no part of the run provides"):
        load(["recipe=aapo", "sampler=group"])


def test_the_engine_samples_another_model_only_while_it_serves_it():
    one, other = Policy.load("tiny"), Policy.load("tiny")
    with torch.no_grad():
        for weight in other.model.parameters():
            weight.mul_(-1.0)
    engine = NativeEngine(one.model, 0)
    ask = [Request(prompt=[3, 4, 5], key=(1, i), max_tokens=6) for i in range(4)]
    before = engine.generate(ask).tokens
    with engine.serving(other):
        meanwhile = engine.generate(ask).tokens
    assert meanwhile == NativeEngine(other.model, 0).generate(ask).tokens != before
    assert engine.generate(ask).tokens == before


def test_the_reference_stays_behind_while_the_policy_learns(run_dir):
    # the policy is pushed hard in the first step; the reference answers the same prompts with the weights of the start
    common = ["recipe=aapo", "trainer.steps=2"]
    train(run_dir / "learning", *common, "optim.lr=0.01")
    train(run_dir / "still", *common, "optim.lr=1e-12")
    fast, still = rows(run_dir / "learning"), rows(run_dir / "still")
    assert [r["sampler/ref_reward"] for r in fast] == [r["sampler/ref_reward"] for r in still]
    assert fast[1]["nll/mean"] != still[1]["nll/mean"]
