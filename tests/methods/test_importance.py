import math

import pytest
import torch

from rlent.methods.importance import mask_importance, truncate_importance

NAN = float("nan")


def ratios(table, mask=None):
    """old_logp and sampler_logp with these ratios."""
    ratio = torch.tensor(table, dtype=torch.float64)
    sampler = torch.full_like(ratio, -1.5)
    return sampler + ratio.log(), sampler, torch.ones_like(ratio).bool() if mask is None else torch.tensor(mask)


def test_weights_above_the_cap_are_cut_to_it():
    found = truncate_importance(*ratios([[0.1, 1.0, 1.9, 2.1]]), level="token", cap=2.0)
    torch.testing.assert_close(found["weight"], torch.tensor([[0.1, 1.0, 1.9, 2.0]], dtype=torch.float64))
    assert found["selected"].tolist() == [[False, False, False, True]]


def test_a_sequence_has_the_product_of_its_own_tokens():
    found = truncate_importance(*ratios([[1.5, 1.2, 7.0], [0.5, 0.5, 0.5]], [[True, True, False], [True] * 3]), level="sequence", cap=1.7)
    torch.testing.assert_close(found["weight"][:, 0], torch.tensor([1.7, 0.125], dtype=torch.float64))
    assert found["selected"].tolist() == [[True, True, False], [False] * 3]


def test_tokens_out_of_bounds_are_left_out():
    found = mask_importance(*ratios([[0.49, 0.51, 4.9, 5.1]]), level="token", low=0.5, high=5.0)
    torch.testing.assert_close(found["weight"], torch.tensor([[0.0, 0.51, 4.9, 0.0]], dtype=torch.float64))
    assert found["selected"].tolist() == [[True, False, False, True]]


def test_the_geometric_mean_decides_about_a_response_whatever_its_length():
    old, sampler, mask = ratios([[0.4] * 4, [4.0, 0.25, 2.0, 1.0]], [[1, 0, 0, 0], [1, 1, 1, 1]])
    found = mask_importance(old, sampler, mask.bool(), level="geometric", low=0.5, high=5.0)
    assert found["selected"].tolist() == [[True, False, False, False], [False] * 4]
    assert found["weight"][1, 0].item() == pytest.approx(2 ** (1 / 4))


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
def test_padding_and_impossible_tokens_give_finite_weights(level):
    old, sampler, mask = ratios([[1.0, 1.0, 1.0]], [[1, 1, 0]])
    sampler[0, 2], old[0, 1] = NAN, -math.inf
    for found in (
        mask_importance(old, sampler, mask.bool(), level=level, low=0.5, high=5.0),
        truncate_importance(old, sampler, mask.bool(), level="token", cap=2.0),
    ):
        assert found["weight"][0, :2].isfinite().all() and not found["selected"][0, 2]


def written_out(old, sampler, mask, level):
    """The ratio of each token as the papers write it, token by token: pi_old / pi_sampler, their product, its root."""
    out = []
    for new, drawn, here in zip(old.tolist(), sampler.tolist(), mask.tolist(), strict=True):
        each = [math.exp(a) / math.exp(b) for a, b, real in zip(new, drawn, here, strict=True) if real]
        whole = {"sequence": math.prod(each), "geometric": math.prod(each) ** (1 / max(len(each), 1))}
        out.append([each[t] if level == "token" else whole[level] for t in range(len(each))])
    return out


@pytest.mark.parametrize("level", ["token", "sequence", "geometric"])
def test_weights_are_those_of_the_formula_written_out(level):
    """min(pi_old / pi_sampler, C) for TIS; pi_old / pi_sampler inside [low, high] and 0 outside for IcePop."""
    draw = torch.Generator().manual_seed(0)
    sampler = -torch.rand(24, 9, dtype=torch.float64, generator=draw) * 3
    old = (
        sampler
        + 0.6 * torch.randn(24, 1, dtype=torch.float64, generator=draw)
        + 0.3 * torch.randn(24, 9, dtype=torch.float64, generator=draw)
    )
    mask = torch.arange(9) < torch.arange(24)[:, None] % 9 + 1
    masked = mask_importance(old, sampler, mask, level=level, low=0.5, high=2.0)
    cut = truncate_importance(old, sampler, mask, level=level, cap=1.6) if level != "geometric" else None
    seen = {"kept": 0, "left out": 0}
    for i, row in enumerate(written_out(old, sampler, mask, level)):
        for t, ratio in enumerate(row):
            inside = 0.5 <= ratio <= 2.0
            seen["kept" if inside else "left out"] += 1
            assert masked["weight"][i, t].item() == pytest.approx(ratio if inside else 0.0, rel=1e-12)
            assert masked["selected"][i, t].item() is not inside
            if cut is not None:
                assert cut["weight"][i, t].item() == pytest.approx(min(ratio, 1.6), rel=1e-12)
                assert cut["selected"][i, t].item() is (ratio > 1.6)
    assert min(seen.values()) > 2
