from pathlib import Path

import pytest
import torch
from runs import rows, train

from rlent.methods.aepo import BangBang, heat, picked, tempered_credit, tempered_logp, with_tempered

CONTROL = {"knob": "sampler.heat", "portion": "shape.aepo.portion", "level": None, "target": 0.5, "hot": 1.2, "cold": 0.8}


def test_the_second_rollout_is_hot_at_or_below_the_target():
    assert [heat(x, target=0.5, hot=1.2, cold=0.8) for x in (0.3, 0.5, 0.51)] == [1.2, 1.2, 0.8]
    control = BangBang(**CONTROL)
    assert control({"nll/mean": 0.4}) == {"sampler.heat": 1.2, "shape.aepo.portion": 1.0}
    assert control({"nll/mean": 0.6}) == {"sampler.heat": 0.8, "shape.aepo.portion": 0.5}
    other = BangBang(**CONTROL)
    other.load_state_dict(control.state_dict())
    assert other({}) == {"sampler.heat": 0.8, "shape.aepo.portion": 0.5}  # a step without the number keeps the last one


def test_the_first_good_responses_are_picked_up_to_the_limit():
    adv = torch.tensor([0.9, -1.0, 0.05, 0.2, 0.3])
    assert picked(adv, threshold=0.05, most=60, portion=1.0).tolist() == [0, 3, 4]
    assert picked(adv, threshold=0.05, most=2, portion=1.0).tolist() == [0, 3]
    assert picked(adv, threshold=0.05, most=60, portion=0.5).tolist() == [0]  # 3 // 2
    assert picked(adv, threshold=2.0, most=60, portion=1.0).tolist() == []


def test_picked_responses_take_the_place_of_the_first_rows():
    adv = torch.tensor([[0.5, 0.5], [-0.5, -0.5], [0.7, 0.7], [1.1, 0.0], [-1.1, -1.1]])
    mask = torch.tensor([[1, 1], [1, 1], [1, 1], [1, 0], [1, 1]]).bool()
    source = ["policy"] * 3 + ["tempered"] * 2
    found = with_tempered(adv, mask, source, threshold=0.05, most=60, portion=1.0)
    assert found["mask"].tolist() == [[False, False], [True, True], [True, True], [True, False], [False, False]]
    assert found["adv"][3].tolist() == [1.0, 0.0] and torch.equal(found["adv"][:3], adv[:3])
    assert found["selected"].any(1).tolist() == [False, False, False, True, False]


def test_without_a_good_response_only_the_second_rollout_leaves():
    adv = torch.zeros(3, 2)
    found = with_tempered(adv, torch.ones(3, 2).bool(), ["policy", "policy", "tempered"], threshold=0.05, most=60, portion=1.0)
    assert found["mask"].any(1).tolist() == [True, True, False]


def test_the_same_token_at_another_temperature():
    logits = torch.tensor([[2.0, 0.0, -1.0]], dtype=torch.float64)
    want = (logits / 1.2).log_softmax(-1)[0, 1]
    found = tempered_logp(logits / 0.7, torch.tensor([1]), temperature=0.7, heat=1.2)
    torch.testing.assert_close(found[0], want)


def test_credit_of_good_responses_moves_by_the_tempered_ratio():
    # share 1/2, distance 0.05: a0 = 0.1, a = 0.1 / 1.1
    adv, mask = torch.tensor([[1.0, 1.0], [-1.0, -1.0]], dtype=torch.float64), torch.tensor([[1, 1], [1, 0]]).bool()
    old = torch.zeros(2, 2, dtype=torch.float64)
    options = {"target": 0.5, "level": 0.55, "cap": 0.1, "threshold": 0.05}
    found = tempered_credit(adv, torch.tensor([1.0, 0.0]), old, old + torch.log(torch.tensor(2.0)), mask, **options)
    a = 0.1 / 1.1
    assert found["alpha"] == pytest.approx(a)
    torch.testing.assert_close(found["adv"], torch.tensor([[1 - a + 2 * a] * 2, [-(1 - a), 0.0]], dtype=torch.float64))
    nothing = tempered_credit(adv, torch.zeros(2), old, old, mask, **options)["adv"]
    assert torch.equal(nothing, adv)


def test_the_second_rollout_is_drawn_at_the_temperature_the_controller_set(tmp_path: Path) -> None:
    low = train(tmp_path / "low", "recipe=aepo", "control.aepo.target=0.01", "trainer.steps=2")
    high = train(tmp_path / "high", "recipe=aepo", "control.aepo.target=100", "trainer.steps=2")
    assert [r["sampler/heat"] for r in rows(low)] == [1.2, 0.8]
    assert [r["sampler/heat"] for r in rows(high)] == [1.2, 1.2]
    assert rows(low)[0]["group/count"] == 5  # 4 prompts, and a quarter of them again
    assert rows(low)[1]["knob/shape.aepo.portion"] == 0.5
    assert rows(low)[1]["entropy/sampler"] < rows(high)[1]["entropy/sampler"]
