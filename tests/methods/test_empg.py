import math

import pytest
import torch

from rlent.methods.empg import modulated, paragraphs, step_terms

VECTORS = ("empg",)
SET = {"k": 1.0, "k_f": 1.0, "zeta": 0.1, "epsilon": 1e-8}


def t(*rows):
    return torch.tensor(rows, dtype=torch.float64)


def test_agrees_with_the_reference_on_whole_trajectories(vector, agree):
    mask, base, entropy = vector["mask"], vector["base_advantages"], vector["entropy"]
    trajectory, step = vector["trajectory"].long(), vector["step"].long()
    # the same steps put one after another into one row for each trajectory
    rows = [
        [(s, t) for s in (trajectory == i).nonzero()[:, 0].tolist() for t in mask[s].nonzero()[:, 0].tolist()] for i in trajectory.unique()
    ]
    width = max(map(len, rows))
    joined = {name: torch.zeros(len(rows), width, dtype=torch.float64) for name in ("adv", "entropy", "want")}
    whole, which = torch.zeros(len(rows), width).bool(), torch.zeros(len(rows), width, dtype=torch.long)
    for i, places in enumerate(rows):
        for at, (s, place) in enumerate(places):
            joined["adv"][i, at], joined["entropy"][i, at] = base[s, place], entropy[s, place]
            joined["want"][i, at], whole[i, at], which[i, at] = vector.out("advantages")[s, place], True, step[s]
    if bool(mask.any(1).all()):
        agree(modulated(joined["adv"], joined["entropy"], whole, which, **vector.config)["adv"], joined["want"])


def test_the_formula_by_hand():
    # h = 0 and 1: g = 1 and e^-1 over their mean; the first step's next is at h = 1
    found = modulated(t([2.0, 2.0]), t([0.5, 1.5]), torch.ones(1, 2).bool(), torch.tensor([[0, 1]]), **SET)["adv"]
    mean = (1 + math.exp(-1)) / 2
    raw = [2 / mean + 0.1 * math.exp(-1), 2 * math.exp(-1) / mean]
    assert found[0].tolist() == pytest.approx([r - sum(raw) / 2 for r in raw], abs=1e-6)


def test_the_bonus_comes_from_the_next_step_of_the_same_trajectory_in_any_order():
    trajectory, step = torch.tensor([1, 0, 1, 0]), torch.tensor([1, 0, 0, 1])
    scale, bonus = step_terms(torch.tensor([0.0, 1.0, 1.0, 1.0]), trajectory, step, k=0.0, k_f=1.0, zeta=0.1, epsilon=0.0)
    # h is 0 on the second step of trajectory 1 alone: what leads to it earns 0.1, what leads to h = 1 earns 0.1 / e
    assert bonus.tolist() == pytest.approx([0.0, 0.1 * math.exp(-1), 0.1, 0.0])
    assert scale.tolist() == [1.0] * 4


def test_credit_has_mean_zero_over_steps_and_padding_has_none():
    entropy, adv = t([0.2, 0.8, 9.0], [0.4, 0.4, 0.1]), t([1.0, 1.0, 0.0], [-1.0, -1.0, -1.0])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    step = torch.tensor([[0, 1, 0], [0, 0, 0]])
    found = modulated(adv, entropy, mask, step, **SET)["adv"]
    assert found[0, 2] == 0
    assert (found[0, 0] + found[0, 1] + found[1, 0]).item() == pytest.approx(0.0, abs=1e-12)
    assert found[1, 0] == found[1, 1] == found[1, 2]
    dirty = modulated(adv, entropy.masked_fill(~mask, float("nan")), mask, step, **SET)["adv"]
    assert torch.equal(dirty, found)


def test_a_paragraph_ends_with_its_separator_even_across_tokens():
    pieces = [["a", "b\n", "\n", "c", "\n\n\n\n", "d"], ["x"]]
    mask = torch.tensor([[1] * 6, [1] + [0] * 5]).bool()
    assert paragraphs(pieces, mask, separator="\n\n")["step"].tolist() == [[0, 0, 0, 1, 1, 2], [0] * 6]
    assert not paragraphs(pieces, mask, separator=None)["step"].any()


def test_an_empty_batch_of_tokens_is_left_alone():
    adv = t([0.0, 0.0])
    assert torch.equal(modulated(adv, adv, adv.bool(), adv.long(), **SET)["adv"], adv)
