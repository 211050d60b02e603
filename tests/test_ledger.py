"""The ledger against the theorems' exact numbers, and its statistics by hand."""

import json
import math

import pytest
import torch
from runs import rows, train

from rlent.runs import kept
from rlent.train.ledger import EntropyLedger, entropy_change_terms, sample_rows, second_moment

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0], dtype=torch.float64)
RAW = torch.tensor([1.0, 0.0, -1.0, 0.5], dtype=torch.float64)


def policy():
    logp = LOGITS.log_softmax(-1)
    prob = logp.exp()
    return prob, logp, -(prob * logp).sum(), RAW - (prob * RAW).sum()


def moved(change):
    """The exact change of entropy when the logits move by `change`."""
    logp = (LOGITS + change).log_softmax(-1)
    return float(-(logp.exp() * logp).sum() - policy()[2])


def predictions(adv):
    """Both theorems per unit logit step: the terms of all four actions, weighted by the policy."""
    prob, logp, entropy, _ = policy()
    second = second_moment(LOGITS.expand(4, 4), torch.arange(4))
    first, other = entropy_change_terms(logp, entropy.expand(4), adv, adv, second)
    return float((prob * first).sum()), float((prob * other).sum())


@pytest.mark.parametrize(
    ("eta", "theorem1", "exact_pg", "theorem2", "exact_npg"),
    [
        (0.1, -0.01237151, -0.01249004, -0.04168089, -0.04213000),
        (0.01, -0.00123715, -0.00123836, -0.00416809, -0.00417349),
        (0.001, -0.00012372, -0.00012373, -0.00041681, -0.00041686),
    ],
)
def test_four_actions_weighted_by_the_policy_give_both_theorems(eta, theorem1, exact_pg, theorem2, exact_npg):
    prob, _, _, centred = policy()
    first, second = predictions(centred)
    assert eta * first == pytest.approx(theorem1, abs=1e-8) and eta * second == pytest.approx(theorem2, abs=1e-8)
    assert moved(eta * prob * centred) == pytest.approx(exact_pg, abs=1e-8)
    assert moved(eta * centred) == pytest.approx(exact_npg, abs=1e-8)


def test_a_constant_added_to_the_advantage_changes_no_prediction():
    # the un-centred right-hand side of theorem 1 would give -0.00220414 at eta = 0.01
    first, second = predictions(RAW)
    assert 0.01 * first == pytest.approx(-0.00123715, abs=1e-8)
    assert 0.01 * second == pytest.approx(-0.00416809, abs=1e-8)


def test_sampled_actions_average_to_the_theorems():
    prob, logp, entropy, adv = policy()
    drawn = torch.multinomial(prob, 1000, replacement=True, generator=torch.Generator().manual_seed(3))
    second = second_moment(LOGITS.expand(1000, 4), drawn)
    found = entropy_change_terms(logp[drawn], entropy.expand(1000), adv[drawn], adv[drawn], second)
    for terms, exact in zip(found, predictions(adv), strict=True):
        error = float(terms.std() / math.sqrt(1000))
        assert abs(float(terms.mean()) - exact) < 3 * error
        assert error < 0.6 * abs(exact)  # 1,000 actions are enough to see the sign


@pytest.mark.parametrize("action", range(4))
def test_one_pushed_action_moves_the_entropy_by_its_term(action):
    prob, logp, entropy, _ = policy()
    push = torch.nn.functional.one_hot(torch.tensor(action), 4) - prob
    second = second_moment(LOGITS[None], torch.tensor([action]))
    for pull in (1.0, -2.5):
        pulled = torch.tensor([pull], dtype=torch.float64)
        term, _ = entropy_change_terms(logp[action][None], entropy[None], pulled, pulled, second)
        assert moved(1e-6 * pull * push) / 1e-6 == pytest.approx(float(term), rel=1e-4)


def test_second_moment_of_uniform_certain_and_masked_logits():
    logits = torch.stack([torch.zeros(4), torch.tensor([50.0, 0, 0, 0]), torch.tensor([1.0, 1.0, -torch.inf, -torch.inf])])
    assert second_moment(logits, torch.zeros(3).long()).tolist() == pytest.approx([0, 0, 0], abs=1e-6)
    two = torch.tensor([[math.log(3.0), 0.0]])  # p = 3/4, 1/4
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = 0.75**2 * (math.log(0.75) + entropy) + 0.25**2 * (math.log(0.25) + entropy)
    assert float(second_moment(two, torch.zeros(1).long())) == pytest.approx(expected, rel=1e-6)
    assert second_moment(two.bfloat16(), torch.zeros(1).long()).dtype == torch.float32


def test_statistics_of_three_steps_by_hand():
    ledger = EntropyLedger()
    first = ledger.update(d1=1.0, d2=-1.0, measured=2.0)
    assert first["ledger/slope1"] == 2 and first["ledger/slope2"] == -2
    assert first["ledger/sign1"] == 1 and first["ledger/sign2"] == 0
    assert "ledger/predicted1" not in first and "ledger/corr1" not in first
    second = ledger.update(d1=2.0, d2=0.0, measured=1.0)
    assert second["ledger/predicted1"] == 4  # slope 2 of the first step alone
    assert second["ledger/predicted2"] == 0
    third = ledger.update(d1=-1.0, d2=3.0, measured=-3.0)
    assert third["ledger/predicted1"] == pytest.approx(-(1 * 2 + 2 * 1) / (1 + 4))
    assert third["ledger/slope1"] == pytest.approx((2 + 2 + 3) / 6)
    assert third["ledger/slope2"] == pytest.approx((-2 + 0 - 9) / 10)
    # centred d1: 1/3, 4/3, -5/3; measured: 2, 1, -3; products 2/3 + 4/3 + 5 = 7; squares 42/9 and 14
    assert third["ledger/corr1"] == pytest.approx(7 / math.sqrt(42 / 9 * 14))
    assert third["ledger/sign1"] == 1 and third["ledger/sign2"] == 0


def test_the_forecast_does_not_see_the_change_it_predicts():
    one, other = EntropyLedger(), EntropyLedger()
    for ledger in (one, other):
        ledger.update(0.5, 0.5, 0.1)
    assert one.update(1.0, 1.0, 5.0)["ledger/predicted1"] == other.update(1.0, 1.0, -5.0)["ledger/predicted1"] == pytest.approx(0.2)


def test_a_window_forgets():
    ledger = EntropyLedger(window=2)
    for d, measured in ((1.0, -10.0), (1.0, 3.0), (1.0, 5.0)):
        found = ledger.update(d, d, measured)
    assert found["ledger/slope1"] == 4 and found["ledger/sign1"] == 1
    assert found["ledger/predicted1"] == pytest.approx(-3.5)  # the window before: -10 and 3


def test_a_ledger_saved_and_loaded_goes_on_as_if_never_stopped():
    steps = [(0.1 * i - 0.3, 0.2 - 0.07 * i, 0.013 * i * (-1) ** i) for i in range(9)]
    whole, before, after = EntropyLedger(window=5), EntropyLedger(window=5), EntropyLedger()
    for step in steps[:6]:
        whole.update(*step)
        before.update(*step)
    after.load_state_dict(json.loads(json.dumps(before.state_dict())))
    assert [whole.update(*s) for s in steps[6:]] == [after.update(*s) for s in steps[6:]]


def test_a_step_that_is_not_finite_spoils_no_statistics():
    ledger = EntropyLedger()
    ledger.update(1.0, 1.0, 2.0)
    found = ledger.update(float("nan"), 1.0, 7.0)
    assert math.isnan(found["ledger/d1"]) and found["ledger/slope1"] == 2
    assert ledger.update(1.0, 1.0, 2.0)["ledger/slope2"] == 2


def test_no_direction_gives_no_slope():
    assert set(EntropyLedger().update(0.0, 0.0, 0.1)) == {"ledger/d1", "ledger/d2", "ledger/measured", "ledger/sign1", "ledger/sign2"}


def test_ledger_rows_are_a_fixed_draw_of_the_seed_and_the_step():
    rows = sample_rows(100, 8, seed=1, step=5)
    assert rows == sample_rows(100, 8, seed=1, step=5) == sorted(set(rows)) and len(rows) == 8
    assert rows != sample_rows(100, 8, seed=1, step=6) and rows != sample_rows(100, 8, seed=2, step=5)
    assert sample_rows(3, 8, 0, 0) == [0, 1, 2] and sample_rows(3, 0, 0, 0) == [] and sample_rows(0, 4, 0, 0) == []
    counts = [0] * 10
    for step in range(300):
        for row in sample_rows(10, 3, 0, step):
            counts[row] += 1
    assert min(counts) > 60  # 90 expected of each


@pytest.mark.parametrize("epochs", [1, 3])
def test_the_account_of_a_step_is_of_the_gradients_of_all_its_updates(epochs, run_dir):
    """ledger/d1 against the theorem's terms of the saved batch, each token's gradient summed over the epochs."""
    small = ["sampler.n=8", "sampler.max_tokens=16", "seed=14", "data.train_size=200", "optim.lr=1e-3", "model.dtype=float64"]
    train(run_dir, *small, "track.ledger.rows=64", "track.save_batches=1", "trainer.steps=1", f"trainer.epochs={epochs}")
    batch = kept.load(run_dir / "batches" / kept.file_name(1))
    gradient = sum(batch[f"update{e}:gradient"] for e in range(epochs)).double()
    d1, d2 = entropy_change_terms(batch["old_logp"], batch["old_entropy"], batch["adv"], gradient, batch["old_second"])
    found, mask = rows(run_dir)[0], batch["mask"]
    assert found["ledger/d1"] == pytest.approx(float(d1[mask].mean()), rel=1e-6)
    assert found["ledger/d2"] == pytest.approx(float(d2[mask].mean()), rel=1e-6)
    if epochs > 1:
        assert float((batch["update0:gradient"] - gradient)[mask].abs().max()) > 0.1, "one epoch alone is another number"
