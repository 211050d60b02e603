import json
import math
from pathlib import Path

import pytest
import torch
from runs import rows, train

from rlent.methods.spear import replay_weight, replayed
from rlent.sampling.buffer import TrajectoryBuffer
from rlent.train.actor import Actor
from rlent.types import Batch
from rlent.verify.released.spear import tool_reward

BUFFER = {"group_size": 2, "tolerance": 2, "size": 2, "by_std": False, "decay": -1.0, "epsilon": 1e-6}


def test_the_replay_rises_and_the_reward_for_tools_falls_along_half_a_cosine():
    assert [replay_weight(s, coef=2.0, rise=10.0) for s in (0, 5, 10, 11)] == pytest.approx([0.0, 1.0, 2.0, 2.0])
    assert [tool_reward(5, s, fall=10.0) for s in (0, 5, 10, 11)] == pytest.approx([0.5, 0.25, 0.0, 0.0])
    assert tool_reward(30, 0, fall=10.0) == 1.0


def test_what_beats_its_group_is_stored_and_what_is_old_is_dropped():
    buffer = TrajectoryBuffer(**BUFFER)
    assert buffer.add(1, [1.0, 0.0, 0.5, 0.5], [True] * 4)["stored_steps"] == [1]
    assert buffer.stored_rows == [1000] and buffer.old_advantage == [0.5]
    assert not buffer.add(2, [0.0, 1.0], [True, False])["full"] and buffer.stored_rows == [1000]  # without a tool call
    buffer.add(3, [0.0, 1.0], [True, True])
    assert buffer.stored_rows == [1000, 3001]
    assert buffer.add(4, [0.0, 1.0], [True, True])["stored_steps"] == [3, 4]  # 1 is more than 2 steps older
    assert buffer.baseline == 0.5 and buffer.means == [0.5, 0.5, 0.5, 0.5, 0.5]


def test_advantages_are_taken_again_and_a_power_of_two_is_replayed():
    buffer = TrajectoryBuffer(**{**BUFFER, "size": 3, "group_size": 4})
    buffer.add(1, [1.0, 1.0, 0.9, 0.0, 0.2, 0.1, 0.0, 0.0], [True] * 8)
    # group means 0.725 and 0.075: median 0.4; stored 1, 1, 0.9, 0.2, 0.1
    assert buffer.kept_rows == [1000, 1001, 1002] and buffer.new_advantage == pytest.approx([0.6, 0.6, 0.5])
    assert buffer.n_replayed == 2 and not buffer.full
    taken = buffer.take(torch.tensor([0.9, 0.1, 0.5]))
    assert [item.row for item, _ in taken] == [1001, 1002] and buffer.items == []
    assert TrajectoryBuffer(**BUFFER).n_replayed == 0


def test_with_a_decay_all_keep_a_share_of_their_old_advantage():
    buffer = TrajectoryBuffer(**{**BUFFER, "decay": 0.5})
    buffer.add(1, [1.0, 0.0, 0.2, 0.0], [True] * 4)
    assert buffer.new_advantage == pytest.approx([0.25, 0.05]) and buffer.count == 2


def test_a_buffer_goes_through_json_and_goes_on():
    one, other = TrajectoryBuffer(**BUFFER), TrajectoryBuffer(**BUFFER)
    one.add(1, [1.0, 0.0], [True, True], [{"tokens": [1, 2]}, {}])
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert other.add(2, [1.0, 0.0], [True, True]) == one.add(2, [1.0, 0.0], [True, True])
    assert other.items == one.items and other.items[0].data == {"tokens": [1, 2]}


def test_a_replayed_row_has_its_own_advantage_and_the_weight_of_the_step():
    adv, mask = torch.ones(2, 2), torch.tensor([[1, 1], [1, 0]]).bool()
    found = replayed(adv, mask, ["policy", "replay"], torch.tensor([0.0, 0.3]), 5, most=1.0, rise=10.0)
    assert found["weight"].tolist() == pytest.approx([1.0, 0.5])
    assert found["adv"][0].tolist() == [1.0, 1.0] and found["adv"][1, 0].item() == pytest.approx(0.3)
    assert found["selected"].tolist() == [[False, False], [True, False]]


def test_a_row_that_brings_its_log_probabilities_keeps_them_in_the_first_update():
    part = Batch(
        {
            "mask": torch.ones(2, 1).bool(),
            "own": torch.tensor([False, True]),
            "own_logp": torch.tensor([[0.0], [-3.0]]),
            "old_logp": torch.tensor([[-1.0], [-3.0]]),
        }
    )
    found = Actor.on_policy(part, {"logp": torch.tensor([[-1.01], [-2.0]])})
    assert torch.equal(found["old_logp"], torch.tensor([[-1.01], [-3.0]]))
    assert torch.equal(found["look_logp"], torch.tensor([[-1.0], [-2.0]]))  # no distance for the second


def test_a_full_buffer_is_replayed_with_the_ratio_to_the_policy_that_drew_it(tmp_path: Path) -> None:
    options = ["sampler.buffer=2", "shape.spear.rise=1", "trainer.steps=5", "sampler.n=8", "sampler.max_tokens=16"]
    found = rows(train(tmp_path / "run", "recipe=spear", *options, "optim.lr=1e-3"))
    assert found[0]["sampler/replayed"] == 0 and max(r["sampler/replayed"] for r in found) == 2
    first = next(r for r in found if r["sampler/replayed"])
    assert first["group/count"] == 4 + 2 and first["select/spear/share"] > 0
    assert first["mismatch/max"] < 1e-3  # own log-probabilities are those it was sampled with
    assert abs(first["ratio/max"] - 1) > 1e-2 or abs(first["ratio/min"] - 1) > 1e-2
    assert math.isfinite(found[-1]["update/grad_norm"])
