import math

import pytest
import torch

from rlent.methods.espo import entropy_groups, group_ratio_surrogate
from rlent.methods.gspo import sequence_clip
from rlent.recipe.compose import load

LOGP = torch.tensor([[-1.2, -0.3, -0.05, -2.1, -0.4], [-0.7, -0.1, -1.5, -0.02, -0.9]], dtype=torch.float64)
OLD = torch.tensor([[-1.21, -0.301, -0.05, -2.09, -0.3995], [-0.71, -0.1, -1.499, -0.0201, -0.9]], dtype=torch.float64)
ADV = torch.tensor([[1.0] * 5, [-1.0] * 5], dtype=torch.float64)
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]]).bool()
ENTROPY = torch.tensor([[1.5, 0.3, 0.02, 2.4, 0.5], [0.9, 0.1, 1.8, 0.01, 0.4]], dtype=torch.float64)


def whole(form="gspo_token", logp=LOGP, old=OLD, adv=ADV, mask=MASK, **options):
    """Loss and gradient as the recipe reduces them: the weight, then the mean of row means."""
    found = entropy_groups(ENTROPY, mask, 151936, **{"alpha": 0.02, "share": 0.2, **options})
    leaf = logp.clone().requires_grad_(True)
    matrix = group_ratio_surrogate(leaf, old, adv, mask, found["group"], found["width"], ratio_form=form, clamp=None)
    rows = (matrix * found["weight"]).masked_fill(~mask, 0.0).sum(1) / mask.sum(1)
    loss = rows.mean()
    loss.backward()
    return loss.item(), leaf.grad, found


def test_the_worked_example_of_the_equations():
    # high groups: token 3 of row 0, token 2 of row 1; widths 0.02 / ln 151936 times 2.4 and 1.8
    loss, grad, found = whole()
    assert found["group"].tolist() == [[0, 0, 0, 1, 0], [0, 0, 1, 0, 0]]
    assert found["width"][0, [3, 0]].tolist() == pytest.approx([0.00402306, 0.00097224], abs=1e-8)
    assert found["width"][1, [2, 0]].tolist() == pytest.approx([0.0030173, 0.00056435], abs=1e-8)
    assert loss == pytest.approx(0.0028376916713, abs=1e-12)
    want = [[0, 0, 0, -0.247512, 0], [0.083614, 0.083614, 0.249750, 0.083614, 0]]
    torch.testing.assert_close(grad, torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_worked_example_with_the_ratio_as_printed():
    loss, grad, _ = whole("product")
    assert loss == pytest.approx(0.0058995566503, abs=1e-12)
    want = [[0, 0, 0, -0.245050, 0], [0.084455, 0.083614, 0.249500, 0.083623, 0]]
    torch.testing.assert_close(grad, torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-6)


def test_on_policy_the_value_is_minus_the_advantage_and_both_groups_have_the_same_say():
    loss, grad, _ = whole(old=LOGP, adv=ADV.abs())
    assert loss == pytest.approx(-1.0)
    assert grad[0].tolist() == pytest.approx([-1 / 16, -1 / 16, -1 / 16, -1 / 4, -1 / 16])  # 1 / (rows * groups * tokens of the group)


def test_with_one_group_it_is_gspo():
    one = {"espo_group": torch.zeros(2, 5, dtype=torch.long), "espo_width": torch.full((2, 5), 3e-3, dtype=torch.float64)}
    ours = group_ratio_surrogate(LOGP, OLD, ADV, MASK, *one.values(), ratio_form="gspo_token", clamp=None)
    theirs = sequence_clip(LOGP, OLD, ADV, MASK, low=3e-3, high=3e-3, cap=10.0, dual=None, gradient="token")
    torch.testing.assert_close(ours[MASK], theirs[MASK])


def test_rows_of_one_token_and_of_none():
    mask = torch.tensor([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    found = entropy_groups(ENTROPY, mask, 151936, alpha=0.02, share=0.2)
    assert found["group"].tolist() == [[1, 0, 0, 0, 0], [0] * 5]
    assert found["weight"][0, 0].item() == 1.0  # one group of one token
    assert found["width"][0, 0].item() == pytest.approx(0.02 / math.log(151936) * 1.5)
    assert torch.isfinite(found["weight"]).all()


def test_a_fifth_of_fifteen_is_three():
    entropy = torch.rand(1, 15, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = entropy_groups(entropy, torch.ones(1, 15).bool(), 100, alpha=0.02, share=0.2)  # 0.2 * 15 is a little more than 3
    assert int(found["group"].sum()) == 3


def test_the_recipe_counts_rows_and_not_tokens():
    assert load(["recipe=espo"])["objective"]["aggregate"] == "seq_mean"
