import math

import pytest
import torch

from rlent.methods.ucas import certainty_shaped, self_certainty, token_logit

VECTORS = ("ucas",)
OPTIONS = {
    "beta_pos": 0.25,
    "beta_neg": 0.35,
    "token_coef": 0.05,
    "scale": "group",
    "certainty": "sum",
    "epsilon": 1e-6,
    "degenerate": "reference",
}


def rows(seed=0):
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < torch.randint(0, 6, (12, 1), generator=g)
    reward = (torch.rand(12, generator=g) < 0.5).double()
    c, logit = torch.rand(2, 12, 5, generator=g, dtype=torch.float64) * 8
    return reward, c, logit, mask, torch.arange(12) % 3


def test_agrees_with_the_authors_code(vector, agree):
    c = vector.config
    given = {k: c[k] for k in ("beta_pos", "beta_neg", "token_coef", "epsilon")} | {"scale": "group" if c["norm_by_std"] else "none"}
    found = certainty_shaped(
        vector["reward"], vector["self_certainty"], vector["token_logit"], vector["mask"], vector["group"], **{**OPTIONS, **given}
    )
    agree(found, vector.out("advantages"))


def test_by_hand():
    # a = z = +-1/sqrt 2; the sure response is the wrong one; both logits are the step's extremes
    reward = torch.tensor([1.0, 0.0], dtype=torch.float64)
    certainty, logit = torch.tensor([[1.0], [3.0]], dtype=torch.float64), torch.tensor([[5.0], [2.0]], dtype=torch.float64)
    found = certainty_shaped(reward, certainty, logit, torch.ones(2, 1).bool(), torch.zeros(2).long(), **{**OPTIONS, "epsilon": 0.0})
    a = math.sqrt(0.5)
    assert found[:, 0].tolist() == pytest.approx([a * math.exp(0.25 * a) - 0.05, -a * math.exp(0.35 * a)], rel=1e-6)


def test_the_penalty_stops_at_zero_on_good_responses_only():
    reward = torch.tensor([1.0, 0.0], dtype=torch.float64)
    same = torch.ones(2, 1, dtype=torch.float64)
    found = certainty_shaped(reward, same, same, same.bool(), torch.zeros(2).long(), **{**OPTIONS, "token_coef": 10.0})
    assert found[0].item() == 0.0
    assert found[1].item() == pytest.approx(-math.sqrt(0.5) - 5.0, rel=1e-5)


def test_where_all_rewards_are_equal_only_the_penalty_is_left():
    _, c, logit, mask, group = rows()
    found = certainty_shaped(torch.ones(12, dtype=torch.float64), c, logit, mask, group, **OPTIONS)
    assert (found <= 0).all() and found.min() == pytest.approx(-0.05, rel=1e-5)


@pytest.mark.parametrize(("degenerate", "credit"), [("reference", math.exp(-0.25 * 4)), ("zero", 0.0)])
def test_a_group_of_one_keeps_its_reward_and_certainty_or_earns_nothing(degenerate, credit):
    options = {**OPTIONS, "token_coef": 0.0, "epsilon": 0.0, "degenerate": degenerate}
    found = certainty_shaped(
        torch.ones(1), torch.tensor([[4.0]]), torch.zeros(1, 1), torch.ones(1, 1).bool(), torch.zeros(1).long(), **options
    )
    assert found.item() == pytest.approx(credit)


def test_order_and_padding_do_not_matter():
    reward, c, logit, mask, group = rows()
    found = certainty_shaped(reward, c, logit, mask, group, **OPTIONS)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(certainty_shaped(reward[order], c[order], logit[order], mask[order], group[order], **OPTIONS), found[order])
    wide = [torch.nn.functional.pad(x, (0, 2), value=99) for x in (c, logit)]
    again = certainty_shaped(reward, *wide, torch.nn.functional.pad(mask, (0, 2)), group, **OPTIONS)
    torch.testing.assert_close(again, torch.nn.functional.pad(found, (0, 2)))
    assert not certainty_shaped(reward, c, logit, mask & False, group, **OPTIONS).any()


def test_the_mean_takes_length_out_of_the_certainty():
    reward = torch.tensor([1.0, 0.0], dtype=torch.float64)
    ones, mask = torch.ones(2, 4, dtype=torch.float64), torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0]]).bool()
    options = {**OPTIONS, "token_coef": 0.0}
    mean = certainty_shaped(reward, ones, ones, mask, torch.zeros(2).long(), **{**options, "certainty": "mean"})
    assert mean[0, 0].item() == pytest.approx(-mean[1, 0].item())
    assert certainty_shaped(reward, ones, ones, mask, torch.zeros(2).long(), **options)[0, 0] < mean[0, 0]


def test_probes_by_hand():
    logits = torch.tensor([[2.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    assert self_certainty(logits).item() == pytest.approx(math.log(math.exp(2) + 3) - 0.5)
    assert token_logit(logits, torch.tensor([0]), temperature=0.5).item() == pytest.approx(1.0)
