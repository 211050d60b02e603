import pytest
import torch

from rlent.math.group import group_rank
from rlent.methods.canon import conditional, intra_weight
from rlent.methods.grpo import group_relative

VECTORS = ("canon",)
OPTIONS = {
    "metric": "entropy",
    "mu": 0.5,
    "alpha": 1.0,
    "beta": 0.0,
    "length": 1.0,
    "schedule": "constant",
    "warmup": 30,
    "total": 150,
    "cycles": 3,
}
REWARD = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
ENTROPY = torch.tensor([[0.1], [0.2], [0.3], [0.4]], dtype=torch.float64)  # low half: 1, 0; high half: 0, 1
ONE, FULL, ORDER = torch.zeros(4).long(), torch.ones(4, 1).bool(), torch.arange(4)


def credit(reward, entropy, mask, group, sample, step=1, **options):
    return conditional(reward, entropy, mask, group, sample, step, **{**OPTIONS, **options})["adv"]


def place(group):
    return torch.tril((group[:, None] == group).long(), -1).sum(1)


def test_agrees_with_the_authors_code(vector, agree):
    c = dict(vector.config)
    c["length"] = c.pop("max_length")
    mask, group = vector["mask"], vector["group"]
    entropy = vector["entropy"] if "entropy" in vector.streams else torch.zeros(mask.shape, dtype=torch.float64)
    agree(credit(vector["reward"], entropy, mask, group, place(group), **c)[:, None] * mask, vector.out("advantages"))


def test_halves_by_hand():
    reward = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)  # low half 1/2, high half 1
    inter = credit(reward, ENTROPY, FULL, ONE, ORDER, mu=1.0)
    assert inter.tolist() == [0.0, -1.0, 0.5, 0.5]
    intra = credit(reward, ENTROPY, FULL, ONE, ORDER, mu=0.0)
    assert intra.tolist() == [0.5, -0.5, 0.0, 0.0]


def test_alpha_favours_the_uncertain_and_the_short():
    ones = torch.ones(4, dtype=torch.float64)
    by_entropy = credit(ones, ENTROPY, FULL, ONE, ORDER, mu=1.0, alpha=0.9)
    assert by_entropy.tolist() == pytest.approx([-0.1, -0.1, 0.1, 0.1])
    mask = torch.arange(4) < torch.tensor([[1], [2], [3], [4]])
    by_length = credit(ones, torch.zeros(4, 4, dtype=torch.float64), mask, ONE, ORDER, mu=1.0, alpha=0.9, metric="length")
    assert by_length.tolist() == pytest.approx([0.1, 0.1, -0.1, -0.1])


def test_beta_lifts_the_high_half_between_halves_only():
    assert credit(REWARD, ENTROPY, FULL, ONE, ORDER, mu=1.0, beta=0.25).tolist() == pytest.approx([0.25, -0.75, -0.25, 0.75])
    assert credit(REWARD, ENTROPY, FULL, ONE, ORDER, mu=0.0, beta=0.25).tolist() == pytest.approx([0.5, -0.5, -0.5, 0.5])


def test_half_and_half_is_dr_grpo_for_even_groups_only():
    even = credit(REWARD, ENTROPY, FULL, ONE, ORDER)
    torch.testing.assert_close(even, group_relative(REWARD, ONE, scale="none", epsilon=0.0, degenerate="zero"))
    reward = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    entropy = torch.arange(5, dtype=torch.float64)[:, None]
    odd = credit(reward, entropy, torch.ones(5, 1).bool(), torch.zeros(5).long(), torch.arange(5))
    assert sorted(set(odd.tolist())) == pytest.approx([-0.5833, 0.4167], abs=1e-4)


def test_equal_metrics_are_split_in_the_order_of_the_samples():
    same = torch.full((4, 1), 0.3, dtype=torch.float64)
    assert credit(REWARD, same, FULL, ONE, ORDER, mu=0.0).tolist() == [0.5, -0.5, -0.5, 0.5]
    assert credit(REWARD, same, FULL, ONE, torch.tensor([0, 2, 3, 1]), mu=0.0).tolist() == [0.0, 0.0, 0.0, 0.0]
    assert group_rank(same[:, 0], ONE, torch.tensor([3, 2, 1, 0])).tolist() == [3, 2, 1, 0]


def test_order_and_padding_do_not_matter():
    g = torch.Generator().manual_seed(0)
    reward, entropy = (torch.rand(12, generator=g) < 0.5).double(), torch.rand(12, 4, generator=g, dtype=torch.float64)
    mask, group = torch.arange(4) < torch.randint(0, 5, (12, 1), generator=g), torch.arange(12) % 3
    sample = torch.arange(12) // 3
    found = credit(reward, entropy, mask, group, sample, mu=0.3)
    order = torch.randperm(12, generator=g)
    torch.testing.assert_close(credit(reward[order], entropy[order], mask[order], group[order], sample[order], mu=0.3), found[order])
    pad = torch.nn.functional.pad
    torch.testing.assert_close(credit(reward, pad(entropy, (0, 2), value=9.0), pad(mask, (0, 2)), group, sample, mu=0.3), found)


def test_equal_rewards_earn_nothing_and_a_response_alone_its_reward():
    assert not credit(torch.ones(4), ENTROPY, FULL, ONE, ORDER).any()
    alone = credit(torch.tensor([0.7]), ENTROPY[:1], FULL[:1], ONE[:1], ORDER[:1], mu=0.3)
    assert alone.item() == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("step", "first_intra", "first_inter"), [(0, 0.02, 1 - 1 / 30), (29, 0.6, 0.0), (30, 0.6, 0.0), (50, 0.3, 0.3), (70, 0.6, 0.0)]
)
def test_the_schedules_warm_up_and_restart(step, first_intra, first_inter):
    found = intra_weight(step, warmup=30, total=150, cycles=3)
    assert found["first_intra"] == pytest.approx(first_intra, abs=1e-12)
    assert found["first_inter"] == pytest.approx(first_inter, abs=1e-12)


def test_a_schedule_takes_the_place_of_mu():
    kept = {"mu": 1.0, "warmup": 30}
    scheduled = credit(REWARD, ENTROPY, FULL, ONE, ORDER, step=50, schedule="first_intra", **kept)
    torch.testing.assert_close(scheduled, credit(REWARD, ENTROPY, FULL, ONE, ORDER, mu=0.7))
    accuracy = credit(REWARD, ENTROPY, FULL, ONE, ORDER, schedule="accuracy", **kept)
    torch.testing.assert_close(accuracy, credit(REWARD, ENTROPY, FULL, ONE, ORDER, mu=0.5))
