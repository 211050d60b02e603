import pytest
import torch

from rlent.math.group import group_advantage, group_count, group_mean, group_quantile, group_second_largest, group_std, standardised

X = torch.tensor([1.0, 10.0, 3.0, 10.0, 5.0, 7.0], dtype=torch.float64)
GROUP = torch.tensor([4, 9, 4, 9, 4, 0])  # groups (1, 3, 5), (10, 10) and (7), their rows apart


def test_statistics_are_of_the_own_group():
    assert group_count(GROUP).tolist() == [3, 2, 3, 2, 3, 1]
    assert group_mean(X, GROUP).tolist() == [3, 10, 3, 10, 3, 7]
    assert group_std(X, GROUP).tolist() == [2, 0, 2, 0, 2, 0]  # (4 + 0 + 4) / 2 under the root; a group of one has none
    assert group_second_largest(X, GROUP).tolist() == [3, 10, 3, 10, 3, 7]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, 1 / 3, -7.3, 1e-9])
@pytest.mark.parametrize("size", [2, 3, 7, 16])
def test_equal_values_deviate_by_exactly_nothing(dtype, value, size):
    x = torch.full((size,), value, dtype=dtype)
    group = torch.zeros(size, dtype=torch.long)
    assert not (x - group_mean(x, group)).any()
    assert not group_std(x, group).any()


def test_verdicts_can_be_averaged():
    assert group_mean(torch.tensor([True, False, True]), torch.tensor([0, 0, 1])).tolist() == [0.5, 0.5, 1.0]


@pytest.mark.parametrize("statistic", [group_mean, group_std, group_second_largest, lambda x, g: group_quantile(x, g, 0.4, "linear")])
def test_statistics_follow_a_permutation_of_the_rows(statistic):
    torch.manual_seed(0)
    x, group = torch.randn(20, dtype=torch.float64), torch.randint(0, 5, (20,))
    order = torch.randperm(20)
    torch.testing.assert_close(statistic(x[order], group[order]), statistic(x, group)[order], rtol=0, atol=1e-15)


@pytest.mark.parametrize("q", [0.0, 0.1, 0.4, 0.5, 0.9, 1.0])
def test_linear_quantile_is_torch_quantile(q):
    torch.manual_seed(0)
    x, group = torch.randn(30, dtype=torch.float64), torch.randint(0, 5, (30,))
    want = torch.stack([x[group == g].quantile(q) for g in group])
    torch.testing.assert_close(group_quantile(x, group, q, "linear"), want, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("size", "right", "linear", "lower"),
    [(8, 5, 0.8, 1.0), (12, 7, 0.4, 0.0), (16, 9, 0.0, 0.0), (16, 10, 1.0, 1.0), (5, 3, 0.6, 0.0), (1, 1, 1.0, 1.0)],
)
def test_the_two_quantiles_differ_at_the_boundary(size, right, linear, lower):
    # `right` ones among `size` rewards, K = 0.4; 8 and 5: position 2.8 is between the third (0) and the fourth (1) value,
    # and ceil(3.2) = 4th value is 1
    x = (torch.arange(size) < right).double()
    group = torch.zeros(size, dtype=torch.long)
    assert group_quantile(x, group, 0.4, "linear")[0].item() == pytest.approx(linear)
    assert group_quantile(x, group, 0.4, "lower")[0].item() == lower


def test_lower_quantile_takes_an_integral_rank_as_it_is():
    # 0.07 * 100 is 7.000000000000001 in floating point; the seventh smallest value is meant
    x = torch.arange(100, dtype=torch.float64)
    assert group_quantile(x, torch.zeros(100, dtype=torch.long), 0.07, "lower")[0].item() == 6.0


def test_standardised_credit_counts_in_deviations_and_a_lone_row_in_whole_ones():
    x, group = torch.tensor([1.0, 3.0, 7.0], dtype=torch.float64), torch.tensor([4, 4, 9])
    spread = 2**0.5  # unbiased
    for degenerate, lone in (("reference", 7.0), ("zero", 0.0)):
        found = standardised(x, group, degenerate, epsilon=0.5)
        assert found.tolist() == pytest.approx([-1 / (spread + 0.5), 1 / (spread + 0.5), lone / 1.5])
        assert standardised(x, group, degenerate, epsilon=0.5, scale="none").tolist() == [-1.0, 1.0, lone]


def test_group_advantage_by_hand():
    # group 7: rewards 1, 0, 0 in rows 0, 2, 3: mean 1/3, unbiased deviation sqrt(1/3). Row 1 is alone and keeps its reward
    reward, group = torch.tensor([1, 1, 0, 0]), torch.tensor([7, 2, 7, 7])
    plain = group_advantage(reward, group, scale="none")
    torch.testing.assert_close(plain, torch.tensor([2 / 3, 1.0, -1 / 3, -1 / 3]))
    scaled = group_advantage(reward.double(), group, epsilon=0.0)
    deviation = 3**-0.5
    torch.testing.assert_close(scaled, torch.tensor([2 / 3 / deviation, 1.0, -1 / 3 / deviation, -1 / 3 / deviation], dtype=torch.float64))
