import pytest
import torch

from rlent.methods.gtpo import mean_ratio_surrogate, sequence_shaped, token_shaped

VECTORS = ("gtpo",)
TOKEN = {"alpha_1": 1.0, "alpha_2": 0.1, "normalize": "separate", "success_threshold": 0.5, "entropy_floor": 0.0, "epsilon": 1e-8}
ROW = {"beta_1": 1.0, "beta_2": 0.1, "normalize": "separate", "success_threshold": 0.5, "entropy_floor": 0.0, "epsilon": 1e-8}
RIGHT = torch.tensor([1.0, 1.0, 0.0, 0.0], dtype=torch.float64)
ENTROPY = torch.tensor([[3.0, 1.0], [1.0, 3.0], [2.0, 0.5], [0.5, 2.0]], dtype=torch.float64)
ONE = torch.zeros(4, dtype=torch.long)
FULL = torch.ones(4, 2).bool()


def random_rows(seed=0):
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(5) < torch.randint(0, 6, (12, 1), generator=g)
    reward = (torch.rand(12, generator=g) < 0.5).double()
    return reward, torch.rand(12, 5, generator=g, dtype=torch.float64), mask, torch.arange(12) % 3


def test_agrees_with_the_transcription(vector, agree):
    found = token_shaped(vector["reward"], vector["entropy"], vector["mask"], vector["group"], **{**vector.config, "entropy_floor": 0.0})
    agree(found["shaped"], vector.out("shaped_rewards"))
    agree(found["adv"], vector.out("advantages"))


def test_shaped_rewards_by_hand():
    shaped = token_shaped(RIGHT, ENTROPY, FULL, ONE, **TOKEN)["shaped"]
    # right at t = 0: 1 + 0.1 * 2 * 3/4; wrong at t = 0: -1 - 0.1 * 2 * (1/2) / (1/2 + 2)
    assert shaped[:, 0].tolist() == pytest.approx([1.15, 1.05, -1.04, -1.16])


def test_separate_normalisation_cannot_tell_right_from_wrong_and_joint_can():
    separate = token_shaped(RIGHT, ENTROPY, FULL, ONE, **TOKEN)["adv"]
    torch.testing.assert_close(separate[:2], separate[2:], rtol=1e-4, atol=0)
    assert separate[0].tolist() == pytest.approx([1.0, -1.0], rel=1e-4)
    joint = token_shaped(RIGHT, ENTROPY, FULL, ONE, **{**TOKEN, "normalize": "joint"})["adv"]
    assert (joint[:2] > 0).all() and (joint[2:] < 0).all()


def test_an_entropy_floor_stops_a_sure_token_from_taking_the_whole_punishment():
    entropy = torch.tensor([[1e-6], [0.5]], dtype=torch.float64)
    reward, group, mask = torch.zeros(2), torch.zeros(2, dtype=torch.long), torch.ones(2, 1).bool()
    free = token_shaped(reward, entropy, mask, group, **TOKEN)["shaped"][:, 0]
    assert free[0].item() == pytest.approx(-1.2, rel=1e-4)
    kept = token_shaped(reward, entropy, mask, group, **{**TOKEN, "entropy_floor": 0.5})["shaped"][:, 0]
    assert kept.tolist() == pytest.approx([-1.1, -1.1])


def test_responses_by_hand():
    entropy = torch.tensor([[0.4], [0.8], [0.5], [1.0]], dtype=torch.float64)
    found = sequence_shaped(RIGHT, entropy, FULL[:, :1], ONE, **ROW)
    assert found["shaped"].tolist() == pytest.approx([1.066667, 1.133333, -1.133333, -1.066667], abs=1e-6)
    assert found["adv"].tolist() == pytest.approx([-1.0, 1.0, -1.0, 1.0], rel=1e-4)


@pytest.mark.parametrize(("fn", "options"), [(token_shaped, TOKEN), (sequence_shaped, ROW)])
@pytest.mark.parametrize("normalize", ["separate", "joint"])
def test_order_padding_and_other_groups_do_not_matter(fn, options, normalize):
    options = {**options, "normalize": normalize}
    reward, entropy, mask, group = random_rows()
    found = fn(reward, entropy, mask, group, **options)["adv"]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(fn(reward[order], entropy[order], mask[order], group[order], **options)["adv"], found[order])
    pad = torch.nn.functional.pad
    wide = fn(reward, pad(entropy, (0, 2), value=9.0), pad(mask, (0, 2)), group, **options)["adv"]
    torch.testing.assert_close(wide if wide.ndim == 1 else wide[:, :5], found)
    mine = group == 1
    torch.testing.assert_close(fn(reward[mine], entropy[mine], mask[mine], group[mine], **options)["adv"], found[mine])


@pytest.mark.parametrize(("fn", "options"), [(token_shaped, TOKEN), (sequence_shaped, ROW)])
@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_equal_rows_groups_of_one_and_empty_rows_earn_nothing(fn, options, reward):
    mask = torch.tensor([[True], [True], [False], [True]])
    group = torch.tensor([0, 0, 0, 1])
    found = fn(torch.full((4,), reward), torch.full((4, 1), 0.7, dtype=torch.float64), mask, group, **options)["adv"]
    assert not found.any()


def test_one_ratio_per_response_is_the_mean_of_its_tokens():
    old = torch.zeros(2, 3, dtype=torch.float64)
    logp = torch.tensor([[1.2, 1.6, 9.0], [1.1, 0.9, 1.3]], dtype=torch.float64).log()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    adv = torch.tensor([[2.0], [-1.0]], dtype=torch.float64).expand(2, 3)
    found = mean_ratio_surrogate(logp, old, adv, mask, low=0.2, high=0.28, clamp=20.0)
    assert found[0].tolist() == pytest.approx([-2.56] * 3)  # mean 1.4, cut at 1.28
    assert found[1].tolist() == pytest.approx([1.1] * 3)
    assert mean_ratio_surrogate(logp, old, adv, mask & False, low=0.2, high=0.28, clamp=None).isfinite().all()
