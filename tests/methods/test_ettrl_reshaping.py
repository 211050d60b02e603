import pytest
import torch
from streams import padded, permuted, random_batch

from rlent.methods.ettrl_reshaping import clipped, entropy_reshaped

VECTORS = ("ettrl_ear",)


def reshaped(batch, floor=0.0):
    return entropy_reshaped(batch["adv"], batch["live_entropy"], batch["mask"], batch["group"], floor=floor)


def test_agrees_with_the_formula(vector, agree):
    mask = vector["mask"]
    adv = vector.out("advantage")[:, None] * mask
    found = entropy_reshaped(adv, vector["entropy"], mask, torch.zeros(len(mask)).long(), floor=vector.config["floor"])
    agree(found["factor"], vector.out("weight"))
    agree(found["adv"], vector.out("advantage_res")[:, None] * mask)
    agree(clipped(adv, bound=vector.config["clip_beta"])["adv"], vector.out("advantage_clip")[:, None] * mask)


def test_by_hand():
    entropy = torch.tensor([[0.2], [0.4], [0.6]], dtype=torch.float64)
    adv = torch.tensor([[1.0], [-0.5], [-0.5]], dtype=torch.float64)
    found = entropy_reshaped(adv, entropy, torch.ones(3, 1).bool(), torch.zeros(3).long(), floor=0.0)
    assert found["factor"].tolist() == pytest.approx([1.5, 1.0, 0.5])
    assert found["adv"][:, 0].tolist() == pytest.approx([1.5, -0.5, -0.25])


def test_a_floor_keeps_the_sign_of_the_most_uncertain():
    entropy = torch.tensor([[0.0], [0.0], [3.0]], dtype=torch.float64)
    adv, mask, group = torch.ones(3, 1, dtype=torch.float64), torch.ones(3, 1).bool(), torch.zeros(3).long()
    assert entropy_reshaped(adv, entropy, mask, group, floor=0.0)["adv"][2].item() == 0.0
    assert entropy_reshaped(adv, entropy, mask, group, floor=None)["adv"][2].item() == pytest.approx(-1.0)


def test_a_group_without_entropy_and_a_group_of_one_keep_their_credit():
    entropy = torch.tensor([[0.0], [0.0], [0.7]], dtype=torch.float64)
    adv = torch.tensor([[1.0], [-1.0], [0.5]], dtype=torch.float64)
    found = entropy_reshaped(adv, entropy, torch.ones(3, 1).bool(), torch.tensor([0, 0, 1]), floor=0.0)
    assert torch.equal(found["adv"], adv)


def test_order_and_padding_do_not_matter():
    batch = random_batch(3)
    found = reshaped(batch)["adv"]
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0)).tolist()
    torch.testing.assert_close(reshaped(permuted(batch, order))["adv"], found[order])
    wide = padded(batch, 3, junk=9.0)
    torch.testing.assert_close(reshaped(wide)["adv"][:, : batch.width], found)


def test_the_bound_cuts_both_sides():
    assert clipped(torch.tensor([[-3.0, 0.5, 3.0]]), bound=2.0)["adv"].tolist() == [[-2.0, 0.5, 2.0]]
