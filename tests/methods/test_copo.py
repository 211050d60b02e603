import math

import pytest
import torch

from rlent.methods.copo import answer_entropy, blended_clip, local_and_global
from rlent.methods.ppo_clip import clipped_surrogate

SET = {"blend": "soft-with-forced", "k": 5.0, "b": 1.0, "entropy_in_reward": False, "scale": "group", "unparsed": "each", "epsilon": 1e-12}
GROUP = torch.tensor([0, 0, 1, 1])
MASK = torch.ones(4, 2).bool()


def t(*x):
    return torch.tensor(x, dtype=torch.float64)


def found(reward, answers=(0, 1, 2, 2), group=GROUP, mask=MASK, **options):
    return local_and_global(t(*reward), torch.tensor(answers), mask, group, **{**SET, **options})


def test_entropy_of_answers_is_in_bits_and_those_without_one_stand_alone():
    group = torch.tensor([0, 0, 0, 0, 1, 1])
    answers = torch.tensor([3, 3, 7, -1, -1, -1])
    # shares 1/2, 1/4, 1/4; two answers that are none
    assert answer_entropy(answers, group, "each").tolist() == pytest.approx([1.5] * 4 + [1.0] * 2)
    assert answer_entropy(answers, group, "one").tolist() == pytest.approx([1.5] * 4 + [0.0] * 2)


def test_local_compares_within_the_prompt_and_global_among_prompts():
    got = found([1.0, 0.0, 0.0, 0.0])
    assert got["adv"].tolist() == pytest.approx([math.sqrt(0.5), -math.sqrt(0.5), 0.0, 0.0])  # deviation sqrt 0.5, from mean 0.5
    # prompts' means 0.5 and 0: deviation 0.5 / sqrt 2
    assert got["global"].tolist() == pytest.approx([math.sqrt(0.5)] * 2 + [-math.sqrt(0.5)] * 2)


def test_agreement_discounts_nothing_and_disagreement_the_prompts_reward():
    got = found([1.0, 1.0, 1.0, 1.0], entropy_in_reward=True, scale="none")
    # n = 2: c = (1 - 1/2) / 1; H = 1 and 0: R = 0.5 and 1
    assert got["global"].tolist() == pytest.approx([-0.25, -0.25, 0.25, 0.25])


@pytest.mark.parametrize(
    ("blend", "want"),
    [
        ("no-global", [1, 1, 1, 1]),
        ("only-global", [0, 0, 0, 0]),
        ("only-zero", [1, 0, 1, 1]),
        ("only-forced", [1, 1, 0, 0]),
        ("only-soft", [0.5, 0.5, 1 / (1 + math.exp(5)), 1 / (1 + math.exp(5))]),
        ("soft-with-zero", [0.5, 0, 1 / (1 + math.exp(5)), 1 / (1 + math.exp(5))]),
        ("soft-with-forced", [0.5, 0.5, 0, 0]),
    ],
)
def test_the_blends(blend, want):
    # prompt 0: right and wrong, two answers (1 bit = b); prompt 1: both right with one answer (0 bits)
    assert found([1.0, 0.0, 1.0, 1.0], blend=blend)["blend"].tolist() == pytest.approx(want)


def test_one_prompt_and_groups_of_one_stay_finite():
    alone = found([1.0, 0.0], (0, 1), torch.tensor([0, 0]), torch.ones(2, 1).bool())
    assert alone["global"].tolist() == [0.0, 0.0]
    single = found([1.0, 0.0], (0, 1), torch.tensor([0, 1]), torch.ones(2, 1).bool(), entropy_in_reward=True, epsilon=1e-6)
    assert all(torch.isfinite(v).all() for v in single.values())
    assert single["adv"].tolist() == pytest.approx([1.0, 0.0], abs=1e-5)


def test_a_row_without_tokens_counts_as_one_without_variance():
    mask = MASK.clone()
    mask[0] = False
    assert found([1.0, 0.0, 1.0, 0.0], mask=mask, blend="only-forced")["blend"].tolist() == [0.0, 1.0, 1.0, 1.0]


def test_the_loss_is_the_blend_of_two_clipped_ones():
    g = torch.Generator().manual_seed(0)
    logp, old, adv = torch.randn(3, 4, 5, generator=g, dtype=torch.float64)
    across, weight = torch.randn(4, generator=g, dtype=torch.float64), torch.rand(4, generator=g, dtype=torch.float64)
    clip = {"low": 0.2, "high": 0.3, "dual": 3.0, "clamp": None}
    ours = blended_clip(logp, old, adv, across, weight, **clip)
    a, b = (clipped_surrogate(logp, old, x, **clip) for x in (adv, across[:, None].expand(4, 5)))
    torch.testing.assert_close(ours, weight[:, None] * a + (1 - weight[:, None]) * b)


def test_the_order_of_rows_does_not_matter():
    order = torch.tensor([2, 0, 3, 1])
    reward, answers = t(1.0, 0.0, 1.0, 0.5), torch.tensor([0, 1, 2, 2])
    straight = local_and_global(reward, answers, MASK, GROUP, **SET)
    turned = local_and_global(reward[order], answers[order], MASK, GROUP[order], **SET)
    for key, value in straight.items():
        torch.testing.assert_close(turned[key], value[order])
