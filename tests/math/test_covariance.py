import pytest
import torch

from rlent.math.covariance import entropy_change_terms, second_moment, token_covariance, top_covariance

# entropy-mechanism table: logits (2, 1, 0, -1), raw advantages (1, 0, -1, 0.5)
LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0], dtype=torch.float64)
RAW = torch.tensor([1.0, 0.0, -1.0, 0.5], dtype=torch.float64)
LOGP = LOGITS.log_softmax(0)
P = LOGP.exp()
H = -(P * LOGP).sum()
CENTRED = RAW - (P * RAW).sum()


def entropy_of(logits: torch.Tensor) -> torch.Tensor:
    logp = logits.log_softmax(-1)
    return -(logp.exp() * logp).sum(-1)


def terms(adv: torch.Tensor, actions: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """d1 and d2 of each action, its pull being its advantage."""
    actions = torch.arange(4) if actions is None else actions
    n = len(actions)
    return entropy_change_terms(LOGP[actions], H.expand(n), adv[actions], adv[actions], second_moment(LOGP).expand(n))


def test_worked_example_of_the_dossier():
    logp = torch.tensor([[-0.01, -0.10, -2.00, -3.00, -0.05, -1.00, -0.02, -4.00]], dtype=torch.float64)
    adv = torch.tensor([[1.0] * 4 + [-1.0] * 4], dtype=torch.float64)
    found = token_covariance(logp, adv, torch.ones(1, 8).bool())
    want = torch.tensor([[1.2625, 1.1725, -0.7275, -1.7275, -1.2225, -0.2725, -1.2525, 2.7275]], dtype=torch.float64)
    torch.testing.assert_close(found, want)
    assert found.mean().item() == pytest.approx(-0.005)


def test_only_response_tokens_count():
    logp = torch.tensor([[-1.0, -2.0, -9.0]])  # the third is padding
    adv = torch.tensor([[1.0, 0.0, 7.0]])
    mask = torch.tensor([[True, True, False]])
    # means over the mask are -1.5 and 0.5, so (+.5)(+.5), (-.5)(-.5), nothing
    torch.testing.assert_close(token_covariance(logp, adv, mask), torch.tensor([[0.25, 0.25, 0.0]]))


def test_what_stands_in_the_padding_does_not_matter():
    torch.manual_seed(0)
    logp, adv = torch.randn(2, 3, 5)
    mask = torch.arange(5) < torch.tensor([[5], [2], [0]])
    dirty = logp.masked_fill(~mask, float("nan"))
    wide = torch.nn.functional.pad(dirty, (0, 4)), torch.nn.functional.pad(adv, (0, 4)), torch.nn.functional.pad(mask, (0, 4))
    assert torch.equal(token_covariance(*wide)[:, :5], token_covariance(logp, adv, mask))


def test_its_mean_is_the_covariance():
    torch.manual_seed(0)
    logp, adv = torch.randn(2, 4, 6, dtype=torch.float64)
    mask = torch.rand(4, 6) < 0.7
    want = torch.cov(torch.stack([logp[mask], adv[mask]]), correction=0)[0, 1]
    torch.testing.assert_close(token_covariance(logp, adv, mask)[mask].mean(), want)


def test_second_moment_ignores_impossible_actions():
    barred = torch.cat([LOGITS, torch.tensor([-torch.inf])]).log_softmax(0)
    torch.testing.assert_close(second_moment(barred), second_moment(LOGP))
    torch.testing.assert_close(second_moment(LOGP), (P.square() * (LOGP + H)).sum())


@pytest.mark.parametrize(
    ("eta", "first", "second"), [(0.1, -0.01237151, -0.04168089), (0.01, -0.00123715, -0.00416809), (0.001, -0.00012372, -0.00041681)]
)
def test_mean_over_actions_is_the_prediction_of_both_theorems(eta, first, second):
    d1, d2 = terms(CENTRED)
    assert eta * (P * d1).sum().item() == pytest.approx(first, abs=6e-9)
    assert eta * (P * d2).sum().item() == pytest.approx(second, abs=6e-9)


@pytest.mark.parametrize(("eta", "policy_gradient", "natural"), [(0.1, -0.01249004, -0.04213000), (0.01, -0.00123836, -0.00417349)])
def test_predictions_are_the_first_order_of_the_real_change(eta, policy_gradient, natural):
    d1, d2 = terms(CENTRED)
    measured = entropy_of(LOGITS + eta * P * CENTRED) - H, entropy_of(LOGITS + eta * CENTRED) - H
    assert measured[0].item() == pytest.approx(policy_gradient, abs=6e-9)
    assert measured[1].item() == pytest.approx(natural, abs=6e-9)
    assert abs(eta * (P * d1).sum() - measured[0]) < 2 * eta * abs(measured[0])
    assert abs(eta * (P * d2).sum() - measured[1]) < 2 * eta * abs(measured[1])


def test_the_mean_needs_no_centring():
    # the sampled form subtracts E[A] by itself; theorem 1 with the raw advantages would give -0.0022 here
    d1, d2 = terms(RAW)
    assert 0.01 * (P * d1).sum().item() == pytest.approx(-0.00123715, abs=6e-9)
    assert 0.01 * (P * d2).sum().item() == pytest.approx(-0.00416809, abs=6e-9)


@pytest.mark.parametrize(("action", "sign", "want"), [(0, 1, -0.0010176), (0, -1, 0.0010155), (3, 1, 0.00007974), (3, -1, -0.00007974)])
def test_sign_table(action, sign, want):
    adv = torch.zeros(4, dtype=torch.float64)
    adv[action] = sign
    d1, _ = terms(adv)
    assert 0.01 * (P * d1).sum().item() == pytest.approx(want, rel=3e-3)


def test_each_term_is_the_derivative_along_its_own_step():
    # one sampled action a pulled by g moves the logits by g (onehot - p)
    for action in range(4):
        d1, _ = terms(torch.full((4,), 0.7, dtype=torch.float64))
        step = 0.7 * (torch.eye(4, dtype=torch.float64)[action] - P)
        tiny = 1e-6
        slope = (entropy_of(LOGITS + tiny * step) - entropy_of(LOGITS - tiny * step)) / (2 * tiny)
        assert d1[action].item() == pytest.approx(slope.item(), abs=1e-9)


def test_a_thousand_sampled_actions_average_to_the_theorems():
    generator = torch.Generator().manual_seed(0)
    actions = torch.multinomial(P, 1000, replacement=True, generator=generator)
    d1, d2 = terms(CENTRED, actions)
    for found, exact in ((d1, -0.123715), (d2, -0.416809)):
        assert abs(found.mean() - exact) < 3 * found.std() / 1000**0.5
        assert found.mean() * exact > 0
    # and with every action given its probability, exactly
    share = P[actions] / torch.bincount(actions, minlength=4)[actions]
    assert (share * d1).sum().item() == pytest.approx(-0.123715, abs=6e-7)
    assert (share * d2).sum().item() == pytest.approx(-0.416809, abs=6e-7)


def test_positions_of_different_distributions_each_predict_their_own_change():
    torch.manual_seed(0)
    logits = 2 * torch.randn(5, 7, dtype=torch.float64)
    target, pull = torch.randint(0, 7, (5,)), torch.randn(5, dtype=torch.float64)
    logps = logits.log_softmax(-1)
    logp = logps.gather(-1, target[:, None]).squeeze(-1)
    d1, _ = entropy_change_terms(logp, entropy_of(logits), pull, pull, second_moment(logps))
    step = pull[:, None] * (torch.nn.functional.one_hot(target, 7) - logps.exp())
    slope = (entropy_of(logits + 1e-5 * step) - entropy_of(logits - 1e-5 * step)) / 2e-5
    torch.testing.assert_close(d1, slope, rtol=1e-6, atol=1e-9)


def test_the_tokens_that_lead_in_covariance_by_hand():
    # logp -1 -2 -3 -4 with advantages 2 0 0 -2: means -2.5 and 0, shares 3 0 0 3; the padded token is not counted
    logp, adv = torch.tensor([[-1.0, -2.0, -3.0, -4.0, -99.0]]), torch.tensor([[2.0, 0.0, 0.0, -2.0, 9.0]])
    half, whole = top_covariance(logp, adv, torch.tensor([[1, 1, 1, 1, 0]]), (0.5, 1.0))
    assert (half.share, half.tokens, half.mean, half.part) == (0.5, 2, 3.0, 1.0)
    assert (whole.share, whole.tokens, whole.mean, whole.part) == (1.0, 4, 1.5, 1.0)
    (one,) = top_covariance(logp, adv, torch.tensor([[1, 1, 1, 1, 0]]), (0.01,))
    assert (one.tokens, one.mean, one.part) == (1, 3.0, 0.5)  # a share of less than a token is one token
