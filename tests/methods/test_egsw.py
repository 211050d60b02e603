import math

import pytest
import torch
from streams import padded, permuted, random_batch

from rlent.methods.egsw import softmax_weight

OPTIONS = {"alpha": 0.3, "temperature": 1.0, "level": "sequence", "renormalise": True}
TWO = torch.zeros(2).long()


def weights(batch, **options):
    return softmax_weight(batch["adv"], batch["live_entropy"], batch["mask"], batch["group"], **{**OPTIONS, **options})


def test_by_hand():
    adv = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64)
    entropy = torch.tensor([[0.2, 0.8], [1.5, 1.5]], dtype=torch.float64)  # means 0.5 and 1.5
    found = softmax_weight(adv, entropy, torch.ones(2, 2).bool(), TWO, **{**OPTIONS, "renormalise": False})
    assert found[:, 0].tolist() == pytest.approx([0.845535, 0.154465], abs=1e-6)
    assert torch.equal(found[:, 0], found[:, 1])


def test_steps_are_compared_among_the_rows_that_reach_them():
    adv = torch.zeros(2, 2, dtype=torch.float64)
    entropy = torch.tensor([[1.0, 5.0], [0.0, 99.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True], [True, False]])
    found = softmax_weight(adv, entropy, mask, TWO, alpha=1.0, temperature=2.0, level="step", renormalise=True)
    first = 2 / (1 + math.exp(-0.5))
    assert found.tolist() == [pytest.approx([first, 1.0]), pytest.approx([2 - first, 0.0])]


@pytest.mark.parametrize("level", ["sequence", "step"])
def test_weights_of_a_group_keep_the_scale_of_the_loss(level):
    batch = random_batch(4)
    found = weights(batch, level=level)
    first = batch["mask"][:, 0]
    for g in batch["group"].unique():
        rows = (batch["group"] == g) & first
        assert found[rows, 0].sum().item() == pytest.approx(int(rows.sum()))


@pytest.mark.parametrize("level", ["sequence", "step"])
def test_order_and_padding_do_not_matter(level):
    batch = random_batch(5)
    found = weights(batch, level=level)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0)).tolist()
    torch.testing.assert_close(weights(permuted(batch, order), level=level), found[order])
    wide = weights(padded(batch, 2, junk=50.0), level=level)
    torch.testing.assert_close(wide[:, : batch.width], found)
    assert not wide[:, batch.width :].any()


@pytest.mark.parametrize("level", ["sequence", "step"])
def test_alike_rows_and_a_group_of_one_weigh_1_and_empty_rows_0(level):
    mask = torch.tensor([[True], [True], [False], [True], [False]])
    group = torch.tensor([0, 0, 0, 1, 2])
    value = torch.full((5, 1), 0.4, dtype=torch.float64)
    found = softmax_weight(value, value, mask, group, **{**OPTIONS, "level": level})
    assert found[:, 0].tolist() == pytest.approx([1.0, 1.0, 0.0, 1.0, 0.0])


def test_large_advantages_do_not_overflow():
    adv = torch.tensor([[5000.0], [-5000.0]], dtype=torch.float64)
    found = softmax_weight(adv, torch.zeros(2, 1, dtype=torch.float64), torch.ones(2, 1).bool(), TWO, **OPTIONS)
    assert found[:, 0].tolist() == [2.0, 0.0]
