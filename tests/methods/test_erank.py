import json
import math
from pathlib import Path

import pytest
import torch
from runs import rows, train

from rlent.methods.erank import RankShaped, effective_rank, rank_of, rank_shaped, trajectory
from rlent.methods.grpo import group_relative

SET = {
    "gain": 2.0,
    "aux_weight": 1.0,
    "kappa": 2.0,
    "ema_alpha": 0.3,
    "placement": "all_tokens",
    "epsilon": 1e-6,
    "degenerate": "reference",
}
GROUP = torch.tensor([0, 0, 1, 1])
MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()


def t(*x):
    return torch.tensor(x, dtype=torch.float64)


@pytest.mark.parametrize("file", ["erank_1", "erank_2", "erank_3"])
def test_ranks_agree_with_the_reference_by_singular_values_too(file):
    raw = json.loads((Path(__file__).parents[1] / "golden" / f"{file}.json").read_text())
    hidden, c = torch.tensor(raw["inputs"]["hidden"], dtype=torch.float64), raw["config"]
    found = trajectory(hidden, stride=c["stride"], window=c["max_seq_len"], epsilon=c["epsilon"])
    for name in ("er", "erv", "era"):
        assert found[name].item() == pytest.approx(raw["outputs"][name], rel=1e-9)
    s = torch.linalg.svdvals(hidden - hidden.mean(0))
    p = s / s.sum()
    assert found["er"].item() == pytest.approx(math.exp(-(p * p.log()).sum().item()), rel=1e-6)


def test_states_along_one_line_have_rank_one_and_a_square_rank_two():
    line = torch.arange(5.0, dtype=torch.float64)[:, None] * t(1.0, 2.0, 3.0)
    assert rank_of(line, 1e-8).item() == pytest.approx(1.0, abs=1e-6)
    square = t(1.0, 1.0, -1.0, -1.0)[:, None] * t(1.0, 0.0) + t(1.0, -1.0, 1.0, -1.0)[:, None] * t(0.0, 1.0)
    assert rank_of(square, 1e-8).item() == pytest.approx(2.0, abs=1e-6)
    assert rank_of(line[:1], 1e-8).item() == 0.0


def test_velocity_and_acceleration_by_hand():
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(8, 3, generator=g, dtype=torch.float64)
    m = [rank_of(hidden[: k + 1], 1e-8) for k in (2, 4, 6)]  # strides below 8
    found = trajectory(hidden, stride=2, window=512, epsilon=1e-8)
    first, second = m[1] - m[0], m[2] - (m[0] + m[1]) / 2
    assert found["erv"].item() == pytest.approx(((first + second) / 2).item())
    assert found["era"].item() == pytest.approx((second - first).item())
    assert trajectory(hidden, stride=7, window=512, epsilon=1e-8)["erv"].item() == 0.0  # one prefix: no velocity
    assert trajectory(hidden, stride=2, window=4, epsilon=1e-8)["er"].item() == pytest.approx(rank_of(hidden[-4:], 1e-8).item())


def test_padding_does_not_count():
    g = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 6, 4, generator=g)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2]).bool()
    found = effective_rank(hidden, mask, stride=2, window=512, epsilon=1e-8)
    assert found["er"][1].item() == pytest.approx(rank_of(hidden[1, :4].double(), 1e-8).item())
    dirty = hidden.masked_fill(~mask[..., None], float("nan"))
    assert torch.equal(effective_rank(dirty, mask, stride=2, window=512, epsilon=1e-8)["erv"], found["erv"])


def shaped(reward, means, er=(2.0, 2.0, 2.0, 2.0), erv=(0.0,) * 4, era=(0.0,) * 4, **options):
    return rank_shaped(t(*reward), MASK, GROUP, t(*er), t(*erv), t(*era), means, {"er": 1.0, "erv": 1.0, "era": 1.0}, **{**SET, **options})


def test_the_bonus_by_hand_and_its_bound():
    # dev_era = -1 (w = sigmoid(-2)), dev_er = 1, dev_erv = -1: aux = (2 w - 1) tanh 1 is negative, so no bonus
    means = {"er": 1.0, "erv": 1.0, "era": 1.0}
    assert not (shaped([1.0, 0.0, 0.0, 0.0], means)["aux"] > 0).any()
    rising = shaped([1.0, 0.0, 0.0, 0.0], means, era=(2.0,) * 4)
    w = 1 / (1 + math.exp(-2))
    assert rising["aux"][0].item() == pytest.approx(w * math.tanh(1) - (1 - w) * math.tanh(1))
    a = group_relative(t(1.0, 0.0, 0.0, 0.0), GROUP, scale="group", epsilon=1e-6, degenerate="reference")
    assert rising["adv"][0, 0].item() == pytest.approx(a[0].item() + a[0].item() / 2)  # the bound |A| / kappa
    assert rising["adv"][2, 0].item() == 0.0  # no variance, no bonus
    assert rising["ema_after"]["er"] == pytest.approx(0.7 * 1.0 + 0.3 * 1.0)


def test_the_last_token_alone_gets_the_released_bonus():
    means = {"er": 1.0, "erv": 1.0, "era": 1.0}
    found = shaped([1.0, 0.0, 1.0, 0.0], means, era=(2.0,) * 4, placement="last_token")["adv"]
    plain = shaped([1.0, 0.0, 1.0, 0.0], None)["adv"]
    assert (found != plain).tolist() == [[False, True, False], [False, False, True], [True, False, False], [False, False, False]]


def test_means_are_remembered_across_a_resume_and_the_first_step_has_no_bonus():
    options = {**SET, "dynamic": True, "first": "measured"}
    one = RankShaped(**options)
    streams = (t(1.0, 0.0, 1.0, 0.0), MASK, GROUP, t(2.0, 1.0, 3.0, 1.0), t(0.1, 0.2, 0.3, 0.1), t(0.1, -0.1, 0.2, 0.0))
    assert not one(*streams)["aux"].any()
    resumed = RankShaped(**options)
    resumed.load_state_dict(one.state_dict())
    later = one(*streams)
    assert later["aux"].any()
    assert torch.equal(resumed(*streams)["adv"], later["adv"])


def test_ranks_reach_the_advantage_from_the_models_own_states(run_dir):
    common = ["recipe=erank", "sampler.n=8", "sampler.max_tokens=16", "trainer.steps=4", "optim.lr=1e-9"]
    train(run_dir / "off", *common, "advantage.aux_weight=0")
    train(run_dir / "on", *common)
    off, on = ([r["adv/mean"] for r in rows(run_dir / name)] for name in ("off", "on"))
    assert on[0] == off[0]  # no means yet, no bonus
    assert max(b - a for a, b in zip(off, on, strict=True)) > 1e-3  # the bonus is never negative
    assert min(b - a for a, b in zip(off, on, strict=True)) > -1e-9
