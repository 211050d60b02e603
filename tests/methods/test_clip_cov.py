import pytest
import torch
from torch import Tensor

from rlent.math.covariance import token_covariance
from rlent.methods.clip_cov import drop_high_covariance
from rlent.methods.ppo_clip import clipped_surrogate

VECTORS = ("clip_cov",)

# logp, advantages and their covariances: 1.2625, 1.1725, -0.7275, -1.7275, -1.2225, -0.2725, -1.2525, 2.7275
LOGP = torch.tensor([[-0.01, -0.10, -2.00, -3.00], [-0.05, -1.00, -0.02, -4.00]], dtype=torch.float64)
ADV = torch.tensor([[1.0] * 4, [-1.0] * 4], dtype=torch.float64)
ALL = torch.ones(2, 4).bool()
NOISE = torch.tensor([[0.5, 0.1, 0.0, 0.0], [0.0, 0.0, 0.0, 0.3]], dtype=torch.float64)
WINDOW = {"low": 1.0, "high": 5.0}


def selected(
    *, fraction: float, pull: Tensor = ADV, mask: Tensor = ALL, noise: Tensor = NOISE, logp: Tensor = LOGP, adv: Tensor = ADV, **window
) -> list:
    found = drop_high_covariance(logp, adv, pull, mask, noise, fraction=fraction, **{**WINDOW, **window})
    assert torch.equal(found["weight"], (~found["selected"]).double())
    return found["selected"].nonzero().tolist()


def test_agrees_with_the_reference(vector, agree, objective):
    c, logp = vector.config, vector.leaf("logp")
    loss = clipped_surrogate(logp, vector["old_logp"], vector["adv"], low=c["clip_low"], high=c["clip_high"], dual=None, clamp=None)
    (pull,) = torch.autograd.grad(-loss.sum(), logp, retain_graph=True)
    torch.manual_seed(0)
    found = drop_high_covariance(
        logp.detach(),
        vector["adv"],
        pull,
        vector["mask"],
        torch.rand(pull.shape, dtype=torch.float64),
        fraction=c["cov_ratio"],
        low=c["cov_lb"],
        high=c["cov_ub"],
    )
    if vector.kind == "selection_property":
        assert found["selected"].sum() == vector.outputs["quota"]
        assert not (found["selected"] & ~vector.out("candidates").bool()).any()
        agree(token_covariance(logp.detach(), vector["adv"], vector["mask"]), vector.out("covariance"))
    else:
        agree(found["selected"].double(), vector.out("selected"))
        objective(vector, loss * found["weight"], logp)


def test_every_candidate_is_drawn_by_some_noise_and_nothing_else():
    """The draw is uniform: over many draws of one token, each of the three candidates gets its third."""
    generator = torch.Generator().manual_seed(0)
    count = torch.zeros(2, 4)
    for _ in range(600):
        noise = torch.rand(2, 4, generator=generator, dtype=torch.float64)
        count += drop_high_covariance(LOGP, ADV, ADV, ALL, noise, fraction=0.125, **WINDOW)["selected"]
    assert count.nonzero().tolist() == [[0, 0], [0, 1], [1, 3]]
    assert ((count[count > 0] - 200).abs() < 50).all()  # 200 expected, standard deviation 11.5


def test_the_least_noise_wins():
    assert selected(fraction=0.125) == [[0, 1]]
    assert selected(fraction=0.25) == [[0, 1], [1, 3]]


def test_the_quota_is_a_share_of_the_response_tokens_and_at_least_one():
    assert selected(fraction=0.0) == [[0, 1]]
    assert selected(fraction=0.24) == [[0, 1]]  # int(1.92)
    assert selected(fraction=1.0) == [[0, 0], [0, 1], [1, 3]]  # only candidates


@pytest.mark.parametrize(
    ("low", "high", "want"), [(1.1724, 1.2626, [[0, 0], [0, 1]]), (1.1726, 1.2626, [[0, 0]]), (1.1724, 1.2624, [[0, 1]]), (3.0, 5.0, [])]
)
def test_candidates_lie_in_the_window(low, high, want):
    assert selected(fraction=1.0, low=low, high=high) == want


def test_the_bounds_are_strict():
    # covariances (0.25, 0.25): logp -1 and -2, advantages 1 and 0
    logp, adv = torch.tensor([[-1.0, -2.0]], dtype=torch.float64), torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    given = {"logp": logp, "adv": adv, "pull": adv, "mask": torch.ones(1, 2).bool(), "noise": logp, "fraction": 1.0}
    assert selected(**given, low=0.25, high=1.0) == []
    assert selected(**given, low=0.0, high=0.25) == []
    assert selected(**given, low=0.249, high=0.251) == [[0, 0], [0, 1]]


def test_a_token_the_loss_has_clipped_is_no_candidate():
    pull = ADV.clone()
    pull[0, 1] = 0.0
    assert selected(fraction=1.0, pull=pull) == [[0, 0], [1, 3]]


def test_a_token_without_advantage_has_no_pull_and_is_not_clipped():
    # advantages 0 and -2: mean -1, so the token of advantage 0 has the covariance 0.5 * 1
    logp, adv = torch.tensor([[-1.0, -2.0]], dtype=torch.float64), torch.tensor([[0.0, -2.0]], dtype=torch.float64)
    given = {"logp": logp, "adv": adv, "mask": torch.ones(1, 2).bool(), "noise": logp, "fraction": 1.0, "low": 0.4, "high": 0.6}
    assert selected(**given, pull=torch.tensor([[0.0, -2.0]], dtype=torch.float64)) == [[0, 0], [0, 1]]


def test_equal_noise_is_resolved_by_row_and_position():
    assert selected(fraction=0.25, noise=torch.zeros(2, 4)) == [[0, 0], [0, 1]]


def test_padding_changes_nothing():
    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    short = selected(fraction=1.0, mask=mask, low=0.1)

    def wide(x: Tensor, fill: float | bool) -> Tensor:
        return torch.nn.functional.pad(x.masked_fill(~mask, fill), (0, 3), value=fill)

    nan = float("nan")
    padded = selected(
        fraction=1.0, mask=wide(mask, False), low=0.1, logp=wide(LOGP, nan), adv=wide(ADV, 0.0), pull=wide(ADV, 0.0), noise=wide(NOISE, 0.0)
    )
    assert short == padded
    assert short != selected(fraction=1.0, low=0.1)


def test_padding_is_no_candidate_in_a_window_around_zero():
    mask = torch.tensor([[True] * 4, [True] * 3 + [False]])
    assert [1, 3] not in selected(fraction=1.0, mask=mask, low=-10.0)


def test_rows_may_come_in_any_order():
    order = torch.tensor([1, 0])
    moved = drop_high_covariance(LOGP[order], ADV[order], ADV[order], ALL, NOISE[order], fraction=0.25, **WINDOW)["selected"]
    assert moved[order].nonzero().tolist() == selected(fraction=0.25)


def test_a_minibatch_without_tokens_or_with_equal_advantages_drops_nothing():
    assert selected(fraction=1.0, mask=torch.zeros(2, 4).bool()) == []
    assert selected(fraction=1.0, adv=torch.ones(2, 4, dtype=torch.float64)) == []
