"""RENT, EM-FT and EM-RL, one-shot EM, PEAR: rewards and losses made of the model's own entropy."""

import math
from pathlib import Path

import pytest
import torch
from runs import rows, train

from rlent.methods.em_rl import own_likelihood
from rlent.methods.one_shot_em import tempered_entropy
from rlent.methods.pear import closing_tag, penalised, phase_reward
from rlent.methods.rent import confidence
from rlent.verify.released.one_shot_em import trained_columns

ENTROPY = torch.tensor([[1.0, 3.0, 9.0], [0.5, 9.0, 9.0], [9.0, 9.0, 9.0]], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
RENT = {"base_format": False, "set_entropy_zero": False, "entropy_base": 7.0}


def test_confidence_is_minus_the_mean_over_the_response():
    assert confidence(ENTROPY, MASK, ["1", None, None], **RENT).tolist() == [-2.0, -0.5, 0.0]


def test_the_two_switches_of_rent_are_independent():
    answers = ["1", None, None]
    assert confidence(ENTROPY, MASK, answers, **{**RENT, "base_format": True}).tolist() == [-2.0, -7.0, -7.0]
    assert confidence(ENTROPY, MASK, answers, **{**RENT, "set_entropy_zero": True}).tolist() == [0.0, -0.5, 0.0]
    assert confidence(ENTROPY, MASK, answers, base_format=True, set_entropy_zero=True, entropy_base=2.0).tolist() == [0.0, -2.0, -2.0]


@pytest.mark.parametrize(
    ("level", "reduce", "want"),
    [
        ("token", "sum", [-4.0, -0.5, 0.0]),
        ("token", "mean", [-2.0, -0.5, 0.0]),
        ("sequence", "sum", [-3.0, -1.0, 0.0]),
        ("sequence", "mean", [-1.5, -1.0, 0.0]),
    ],
)
def test_likelihood_is_summed_over_the_response_unless_told_otherwise(level, reduce, want):
    logp = torch.tensor([[-1.0, -2.0, -9.0], [-1.0, -9.0, -9.0], [-9.0, -9.0, float("nan")]], dtype=torch.float64)
    assert own_likelihood(logp, ENTROPY, MASK, level=level, reduce=reduce).tolist() == want


def test_tempered_entropy_is_that_of_the_other_temperature():
    # at temperature 1/2 the odds 1:2 become 1:4
    logits = torch.tensor([[0.0, math.log(2.0)]], dtype=torch.float64)
    want = -(0.2 * math.log(0.2) + 0.8 * math.log(0.8))
    found = tempered_entropy(logits / 0.7, torch.zeros(1, dtype=torch.long), temperature=0.7, heat=0.5, epsilon=1e-12)
    assert found.item() == pytest.approx(want, abs=1e-10)


def test_the_released_mask_trains_the_tail_of_a_short_prompt_and_the_aligned_one_does_not():
    # a prompt of 1 token padded to 3, then 2 generated tokens
    ids = torch.tensor([[0, 0, 5, 6, 7]])
    # column 2 is the prompt itself: it is past the first 1 columns, so released trains it, but it also predicts the first generated token
    assert trained_columns(ids, pad=0, prompt_width=3, mask="released").tolist() == [[False, False, True, True, True]]
    assert trained_columns(ids, pad=0, prompt_width=3, mask="aligned").tolist() == [[False, False, True, True, False]]
    # a full prompt: released starts one column late
    ids = torch.tensor([[3, 4, 5, 6, 0]])
    assert trained_columns(ids, pad=0, prompt_width=3, mask="released").tolist() == [[False, False, False, True, False]]
    assert trained_columns(ids, pad=0, prompt_width=3, mask="aligned").tolist() == [[False, False, True, False, False]]


PEAR = {"alpha": 1.0, "format_score": 0.0}


def test_thinking_is_charged_for_and_the_answer_is_not():
    entropy = torch.tensor([[0.4, 0.6, 7.0, 0.1, 0.3, 9.0]] * 2, dtype=torch.float64)
    at = torch.tensor([2, 2])
    found = penalised(torch.tensor([1, 0]), entropy, torch.tensor([5, 5]), at, at, **PEAR)
    assert found["think"][0].item() == pytest.approx(0.5) and found["answer"][0].item() == pytest.approx(0.2)
    assert found["value"].tolist() == pytest.approx([0.7, 0.0])
    twice = penalised(torch.tensor([1, 0]), entropy, torch.tensor([5, 5]), at, at, alpha=4.0, format_score=0.1)["value"]
    assert twice.tolist() == pytest.approx([1.0, 0.1])  # max(0, 0.5 - 0.8)


def test_without_a_tag_all_is_thinking_and_the_reward_has_no_floor():
    found = penalised(torch.tensor([1]), 2 * ENTROPY[:1], torch.tensor([2]), torch.tensor([-1]), torch.tensor([-1]), **PEAR)
    assert found["value"].item() == pytest.approx(1.0 - 4.0)
    tag_last = penalised(torch.tensor([1]), ENTROPY[:1], torch.tensor([2]), torch.tensor([1]), torch.tensor([1]), **PEAR)
    assert tag_last["answer"].item() == 0.0  # an empty phase


def test_a_tag_of_several_tokens_is_in_neither_phase():
    assert closing_tag(["a", "</", "think", ">b", "c"], "</think>") == (1, 3)
    assert closing_tag(["a</think>"], "</think>") == (0, 0)
    assert closing_tag(["a", "b"], "</think>") == closing_tag([], "</think>") == (-1, -1)
    entropy, mask = torch.tensor([[1.0, 9.0, 9.0, 9.0, 0.5]]), torch.ones(1, 5).bool()
    found = phase_reward(torch.tensor([True]), entropy, mask, [["a", "</", "think", ">b", "c"]], **PEAR, tag="</think>")
    assert found["think"].item() == 1.0 and found["answer"].item() == 0.5


@pytest.mark.parametrize("recipe", ["emft", "oneshotem"])
def test_entropy_falls_without_any_reward(recipe: str, tmp_path: Path) -> None:
    found = rows(train(tmp_path / "run", f"recipe={recipe}", "trainer.steps=4", "optim.lr=1e-3"))
    assert found[-1]["entropy/mean"] < 0.7 * found[0]["entropy/mean"]
    assert found[0]["loss/entropy_min" if recipe == "emft" else "loss/one_shot_em"] > 0
