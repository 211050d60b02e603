import pytest
import torch
from streams import padded, permuted, random_batch

from rlent.methods.entropy_advantage import entropy_bonus

VECTORS = ("entropy_adv",)
OPTIONS = {"alpha": 0.4, "kappa": 2.0}


def test_agrees_with_the_third_party(vector, agree):
    base = vector.out("base_advantages")
    found = entropy_bonus(base, vector["entropy"], alpha=vector.config["alpha"], kappa=vector.config["kappa"])["adv"]
    agree(found * vector["mask"], vector.out("advantages"))


def test_by_hand():
    adv = torch.tensor([[1.0, -1.0, 0.0]], dtype=torch.float64)
    capped = entropy_bonus(adv, torch.full_like(adv, 5.0), **OPTIONS)["adv"]
    assert capped.tolist() == [[1.5, -0.5, 0.0]]
    small = entropy_bonus(adv, torch.full_like(adv, 0.1), **OPTIONS)["adv"]
    assert small[0].tolist() == pytest.approx([1.04, -0.96, 0.0])


def test_the_bonus_never_turns_a_sign_with_kappa_above_one():
    batch = random_batch(1)
    found = entropy_bonus(batch["adv"], batch["live_entropy"] * 100, alpha=10.0, kappa=1.01)["adv"]
    assert torch.equal(found.sign(), batch["adv"].sign())
    assert (found >= batch["adv"]).all()


def test_no_gradient_goes_through_the_entropy():
    entropy = torch.tensor([[0.3]], requires_grad=True)
    assert not entropy_bonus(torch.ones(1, 1), entropy, **OPTIONS)["adv"].requires_grad


def test_order_and_padding_of_rows_do_not_matter():
    batch = random_batch(2)
    found = entropy_bonus(batch["adv"], batch["live_entropy"], **OPTIONS)["adv"]
    order = torch.randperm(len(batch)).tolist()
    turned = permuted(batch, order)
    assert torch.equal(entropy_bonus(turned["adv"], turned["live_entropy"], **OPTIONS)["adv"], found[order])
    wide = padded(batch, 3, junk=7.0)
    again = entropy_bonus(wide["adv"], wide["live_entropy"], **OPTIONS)["adv"]
    assert torch.equal(again[:, : batch.width], found)
    assert not again[:, batch.width :].any()
