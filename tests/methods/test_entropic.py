import math

import pytest
import torch

from rlent.methods.entropic import EntropyPI, confident_push

OPTIONS = {
    "knob": "regularize.entropic.coef",
    "target": 0.5,
    "kp": 1.0,
    "ki": 0.1,
    "low": -1.0,
    "high": 1.0,
    "start": 0.0,
    "anti_windup": False,
}
MASK = torch.tensor([[True, True, False]])


def entropy(mean: float) -> torch.Tensor:
    return torch.tensor([[mean - 0.1, mean + 0.1, 99.0]], dtype=torch.float64)  # the last is padding


def test_only_tokens_above_the_threshold_are_pushed_and_whatever_the_sign_of_their_credit():
    logp = torch.tensor([[0.96, 0.94, 0.99], [0.5, 0.999, 0.2]], dtype=torch.float64).log().requires_grad_(True)
    adv = torch.tensor([[2.0, 2.0, 9.0], [-3.0, -3.0, -3.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    found = confident_push(logp, logp.detach(), adv, mask, threshold=0.95, clamp=20.0)
    assert found["mask"].nonzero().tolist() == [[0, 0], [1, 1]]
    (found["value"] * found["mask"]).sum().backward()
    assert logp.grad.tolist() == [[-2.0, 0, 0], [0, -3.0, 0]]  # -|A| r with r = 1


def test_a_sequence_mean_counts_responses_without_a_confident_token():
    from rlent.recipe.mount import mount
    from rlent.recipe.planning import make_plan
    from rlent.seats import SEATS
    from rlent.train.objective import Objective
    from rlent.types import Batch

    node = mount(
        "regularize", "entropic", {"_target_": "rlent.methods.entropic.confident_push", "threshold": 0.95, "clamp": None, "coef": 1.0}, []
    )
    plan, _ = make_plan({**{seat: [] for seat in SEATS}, "regularize": [node]}, {})
    logp = torch.tensor([[0.99, 0.99], [0.5, 0.5], [0.5, 0.5]], dtype=torch.float64).log()
    rows, mask = torch.ones(3).bool(), torch.tensor([[1, 1], [1, 1], [0, 0]]).bool()
    batch = Batch(
        {"mask": mask, "train": rows, "adv": torch.ones(3, 2).double(), "now_logp": logp, "old_logp": logp, "group": torch.arange(3)}
        | {"problem_key": torch.arange(3), "sample": torch.arange(3), "seed": 0, "step": 1}
    )
    for empty, want in ((False, -1 / 2), (True, -1 / 3)):  # one of two responses with tokens, or of three rows
        objective = Objective(plan, aggregate="seq_mean", length=2, empty_rows=empty)
        _, scale = objective.prepare(objective.shape(batch, "step"), 0)
        assert scale.terms["entropic"] == pytest.approx(want)


def test_the_ratio_is_not_clipped_here():
    logp = torch.tensor([[math.log(0.99)]], dtype=torch.float64)
    value = confident_push(logp, logp - 2.0, torch.ones(1, 1), torch.ones(1, 1).bool(), threshold=0.95, clamp=20.0)["value"]
    assert value.item() == pytest.approx(-math.exp(2.0))


def test_the_sum_of_errors_acts_from_the_next_update_on():
    control = EntropyPI(**OPTIONS)
    assert control(entropy(0.7), MASK) == pytest.approx(0.2)  # kp 0.2, nothing summed yet
    assert control(entropy(0.7), MASK) == pytest.approx(0.2 + 0.1 * 0.2)
    assert control(entropy(0.4), MASK) == pytest.approx(-0.1 + 0.1 * 0.4)
    assert control.integral == pytest.approx(0.3)


def test_the_sum_grows_past_the_clip_unless_told_not_to():
    plain, guarded = EntropyPI(**OPTIONS), EntropyPI(**{**OPTIONS, "anti_windup": True})
    for _ in range(10):
        assert plain(entropy(3.0), MASK) == guarded(entropy(3.0), MASK) == 1.0
    assert plain.integral == pytest.approx(25.0) and guarded.integral == 0.0
    assert guarded(entropy(0.4), MASK) == pytest.approx(-0.1)  # and it comes back at once
    assert plain(entropy(0.4), MASK) == 1.0


def test_a_negative_target_switches_it_off():
    control = EntropyPI(**{**OPTIONS, "target": -1.0, "start": 0.3})
    assert control(entropy(3.0), MASK) == 0.0
    assert control.integral == 0.3


def test_a_resumed_controller_goes_on_where_it_was():
    one, other = EntropyPI(**OPTIONS), EntropyPI(**OPTIONS)
    one(entropy(0.9), MASK)
    other.load_state_dict(one.state_dict())
    assert other(entropy(0.6), MASK) == one(entropy(0.6), MASK) == pytest.approx(0.1 + 0.04)
