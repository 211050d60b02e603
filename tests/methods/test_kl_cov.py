import torch

from rlent.methods.kl_cov import penalise_high_covariance
from rlent.methods.pg_ratio import ratio_surrogate

VECTORS = ("kl_cov",)

LOGP = torch.tensor([[-0.01, -0.10, -2.00, -3.00], [-0.05, -1.00, -0.02, -4.00]], dtype=torch.float64)
ADV = torch.tensor([[1.0] * 4, [-1.0] * 4], dtype=torch.float64)  # covariance is largest at (1, 3), then (0, 0), then (0, 1)
ALL = torch.ones(2, 4).bool()


def penalty(old, *, logp=LOGP, adv=ADV, mask=ALL, fraction=0.25, tolerance=0.0):
    """Value, selection and gradient of the summed penalty."""
    leaf = logp.clone().requires_grad_(True)
    found = penalise_high_covariance(leaf, old, adv, mask, fraction=fraction, tolerance=tolerance)
    (grad,) = torch.autograd.grad(found["value"].sum(), leaf)
    return found["value"].detach(), found["selected"], grad


def test_agrees_with_the_reference(vector, agree, objective):
    c, logp = vector.config, vector.leaf("logp")
    found = penalise_high_covariance(logp, vector["old_logp"], vector["adv"], vector["mask"], fraction=c["kl_ratio"], tolerance=0.0)
    agree(found["selected"].double(), vector.out("selected"))
    assert found["selected"].sum() == vector.outputs["n_selected"]
    loss = ratio_surrogate(logp, vector["old_logp"], vector["adv"], clamp=None)
    objective(vector, loss + c["kl_coef"] * found["value"], logp)


def test_the_gradient_is_the_sign_of_the_drift_on_the_chosen_tokens():
    drift = torch.tensor([[0.2, 0.1, 0.3, 0.1], [0.1, 0.1, 0.1, -0.4]], dtype=torch.float64)
    value, chosen, grad = penalty(LOGP - drift)
    assert chosen.nonzero().tolist() == [[0, 0], [1, 3]]
    want = torch.zeros(2, 4, dtype=torch.float64)
    want[0, 0], want[1, 3] = 0.2, 0.4
    torch.testing.assert_close(value, want)
    want[0, 0], want[1, 3] = 1.0, -1.0
    torch.testing.assert_close(grad, want)


def test_on_policy_it_does_nothing():
    value, chosen, grad = penalty(LOGP)
    assert chosen.sum() == 2
    assert not value.any()
    assert not grad.any()


def test_drift_within_the_tolerance_is_rounding():
    old = LOGP - torch.tensor([[2e-6, 0, 0, 0], [0, 0, 0, -2e-6]], dtype=torch.float64)
    assert not penalty(old, tolerance=3e-6)[2].any()
    assert penalty(old, tolerance=1e-6)[2].abs().sum() == 2


def test_at_least_one_token_is_held_whatever_the_covariance():
    assert penalty(LOGP - 1, fraction=0.0)[1].nonzero().tolist() == [[1, 3]]
    alone = torch.zeros(2, 4).bool()
    alone[0, 2] = True  # of one token the covariance is 0
    assert penalty(LOGP - 1, mask=alone)[1].nonzero().tolist() == [[0, 2]]


def test_without_tokens_nothing_is_held():
    value, chosen, grad = penalty(LOGP - 1, mask=torch.zeros(2, 4).bool())
    assert not chosen.any()
    assert not value.any()
    assert not grad.any()


def test_equal_covariances_are_resolved_by_row_and_position():
    assert penalty(LOGP - 1, adv=torch.zeros(2, 4, dtype=torch.float64), fraction=0.4)[1].nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]


def test_halves_taken_apart_choose_something_else():
    """Why it runs on the whole minibatch: in each half all advantages are equal, and every covariance is 0."""
    together = penalty(LOGP - 1, fraction=0.125)[1]
    apart = [penalty(LOGP[[i]] - 1, logp=LOGP[[i]], adv=ADV[[i]], mask=ALL[[i]], fraction=0.125)[1] for i in (0, 1)]
    assert together.sum() == 1
    assert torch.cat(apart).sum() == 2


def test_padding_changes_nothing():
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    base = penalty(LOGP - 1, mask=mask)
    dirty = penalty((LOGP - 1).masked_fill(~mask, 0.0), logp=LOGP.masked_fill(~mask, float("nan")), mask=mask)
    for a, b in zip(base, dirty, strict=True):
        assert torch.equal(a, b)


def test_rows_may_come_in_any_order():
    order = torch.tensor([1, 0])
    moved = penalty((LOGP - 1)[order], logp=LOGP[order], adv=ADV[order])
    for a, b in zip(moved, penalty(LOGP - 1), strict=True):
        assert torch.equal(a[order], b)
