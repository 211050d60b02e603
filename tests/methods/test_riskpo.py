import pytest
import torch

from rlent.methods.riskpo import LEVELS, BundledRisk, bundle_risk, moved

VECTORS = ("riskpo", "riskpo_tracker")
SET = {
    "quantile_down": 0.2,
    "quantile_up": 0.8,
    "source": "track",
    "credit": "uniform",
    "mix": False,
    "w_mix": 1.5,
    "risk_seeking": False,
    "w_up": 1.5,
    "natural_baseline": False,
    "norm_by_std": False,
    "guard": True,
    "epsilon": 0.0,
}
BUNDLED = {**SET, "bundle_size": 2, "rate": 0.1, "epsilon": 1e-6}


def t(*x):
    return torch.tensor(x, dtype=torch.float64)


def risk(reward, group, bundle=None, q=(None, None), **options):
    group = torch.tensor(group)
    sample = torch.tensor([int((group[:i] == g).sum()) for i, g in enumerate(group)])
    bundle = torch.zeros_like(group) if bundle is None else torch.tensor(bundle)
    return bundle_risk(t(*reward), group, bundle, sample, *q, **{**SET, **options})


def test_agrees_with_the_reference(vector, agree):
    c = dict(vector.config)
    if vector.method == "riskpo_tracker":
        q = None
        for scores, theirs in zip(vector["bundle_scores"], vector.out("q"), strict=True):
            q = moved(q, scores, c["lr_q"], c["levels"])
            agree(q, theirs)
        return
    q = [None if vector[k].isnan() else vector[k].item() for k in ("q_down", "q_up")]
    group = vector["group"]
    sample = torch.tensor([int((group[:i] == g).sum()) for i, g in enumerate(group)])
    options = {**SET, **c, "source": c.pop("quantile_source"), "guard": False}
    options.pop("quantile_source")
    found = bundle_risk(vector["reward"], group, vector["bundle"].long(), sample, *q, **options)
    agree(found["adv"][:, None] * vector["mask"], vector.out("advantages"))


def test_papers_take_one_response_of_each_prompt_and_surplus_gets_nothing():
    # prompts with 2 and 3 responses: papers (1, 0) and (0, 1) score 1 and 1, the third response of prompt 1 is in none
    found = risk([1.0, 0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1, 1], q=(0.0, 2.0))
    assert found["scores"][0].tolist() == [1.0, 1.0]
    assert found["adv"].tolist() == pytest.approx([1 / 0.6] * 4 + [0.0])


def test_only_the_range_between_the_quantiles_counts():
    # scores 0, 1, 2, 3 with l = 0.5 and h = 2: RV = 0, 0.5, 1.5, 1.5 over 0.6
    found = risk([0.0, 1.0, 2.0, 3.0], [0] * 4, q=(0.5, 2.0))["adv"]
    assert found.tolist() == pytest.approx([0.0, 0.5 / 0.6, 2.5, 2.5])
    lowered = risk([0.0, 1.0, 2.0, 3.0], [0] * 4, q=(0.5, 2.0), natural_baseline=True)["adv"]
    assert lowered.tolist() == pytest.approx([-2.5, -1 / 0.6, 0.0, 0.0])  # never above 0


def test_the_tails():
    found = risk([0.0, 1.0, 2.0, 3.0], [0] * 4, q=(0.5, 2.0), mix=True)["adv"]
    assert found[0].item() == pytest.approx(1.5 * -0.5 / 0.2 / 2.5)  # the lower tail alone
    upper = risk([0.0, 1.0, 2.0, 3.0], [0] * 4, q=(0.5, 2.0), risk_seeking=True)["adv"]
    assert upper[3].item() == pytest.approx((1.5 * 1.0 / 0.2 + 2.5) / 2.5)
    both = risk([0.0, 1.0, 2.0, 3.0], [0] * 4, q=(0.5, 2.0), risk_seeking=True, mix=True)["adv"]
    assert torch.equal(both, found)  # the mixture goes before


def test_sources_of_quantiles():
    scores, own = [0.0, 1.0, 2.0, 3.0], (0.6, 2.4)  # linear quantiles at 0.2 and 0.8
    batch = risk(scores, [0] * 4, q=(9.0, 9.0), source="batch")["adv"]
    torch.testing.assert_close(batch, risk(scores, [0] * 4, q=own)["adv"])
    torch.testing.assert_close(risk(scores, [0] * 4)["adv"], batch)  # nothing tracked yet
    torch.testing.assert_close(risk(scores, [0] * 4, q=(0.0, 3.0), source="mix")["adv"], risk(scores, [0] * 4, q=(0.3, 2.7))["adv"])


@pytest.mark.parametrize(
    ("credit", "want"),
    [
        ("uniform", [1.0, 1.0]),
        ("score", [0.5, 1.5]),  # of the first paper; the second prompt's response earned nothing
        ("std", [1 / 0.5**0.5, 1 / 0.5**0.5]),
    ],
)
def test_credit_within_a_paper(credit, want):
    # rewards (1, 2) and (0, 1): papers score 1 and 3, and P = (1 - 0.4) / 0.6 = 1 for the first
    found = risk([1.0, 2.0, 0.0, 1.0], [0, 0, 1, 1], q=(0.4, 9.0), credit=credit)["adv"]
    assert found[[0, 2]].tolist() == pytest.approx(want)


def test_leads_that_cancel_share_evenly():
    found = risk([1.0, 0.0, 0.0, 1.0], [0, 0, 1, 1], q=(0.4, 9.0), credit="sum-mean")["adv"]  # both papers score 1
    assert found.tolist() == pytest.approx([0.5] * 4)


def test_leads_share_out_a_papers_credit():
    # prompt means 0.5 and 0.25 (its rewards 0, 0.5): leads of paper 0: 0.5 and -0.25, of paper 1: -0.5 and 0.25
    found = risk([1.0, 0.0, 0.0, 0.5], [0, 0, 1, 1], q=(0.0, 9.0), credit="sum-mean")["adv"]
    assert found.tolist() == pytest.approx([2 / 0.6, 0.5 * 2 / 0.6, -1 / 0.6, 0.5 * -1 / 0.6])


def test_papers_that_all_score_alike_do_not_explode():
    same = {"q": (0.5, 2.0), "norm_by_std": True, "epsilon": 1e-6}
    assert risk([1.0, 1.0], [0, 0], **same)["adv"].abs().max() < 1
    assert risk([1.0, 1.0], [0, 0], **same, guard=False)["adv"].abs().max() > 1e5


def test_quantiles_follow_the_scores():
    q = moved(None, t(0.0, 1.0, 2.0), 0.1)
    assert q[LEVELS.index(0.5)].item() == pytest.approx(1.0)
    later = moved(q, t(5.0, 5.0), 0.1)  # no score is below: every level rises by a tenth of itself
    assert later.tolist() == pytest.approx([a + 0.1 * level for a, level in zip(q.tolist(), LEVELS, strict=True)])


def test_a_step_is_measured_against_the_quantiles_of_the_one_before_also_after_a_resume():
    group, sample = torch.tensor([0, 0, 1, 1, 4, 4]), torch.tensor([0, 1] * 3)
    first, second = t(1.0, 0.0, 1.0, 0.0, 0.0, 0.0), t(1.0, 1.0, 0.0, 1.0, 1.0, 0.0)
    one = BundledRisk(**BUNDLED)
    start = one(first, group, sample)
    assert start["bundle"].tolist() == [0, 0, 0, 0, 1, 1]  # the third prompt is a short bundle
    fresh = BundledRisk(**BUNDLED)(second, group, sample)["adv"]
    resumed = BundledRisk(**BUNDLED)
    resumed.load_state_dict(one.state_dict())
    assert torch.equal(resumed(second, group, sample)["adv"], one(second, group, sample)["adv"])
    assert not torch.equal(fresh, resumed(second, group, sample)["adv"])


def test_the_tracked_quantiles_are_those_of_the_recipe_s_levels():
    group, sample = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1] * 2)
    first, second = t(1.0, 0.0, 1.0, 0.5), t(1.0, 1.0, 0.0, 1.0)
    method = BundledRisk(**BUNDLED)
    method(first, group, sample)
    low, high = (float(method.q[LEVELS.index(level)]) for level in (0.2, 0.8))
    assert low == pytest.approx(0.5 + 0.2 * 1.5) and high == pytest.approx(0.5 + 0.8 * 1.5)  # scores 2 and 0.5
    want = bundle_risk(second, group, torch.zeros(4, dtype=torch.long), sample, low, high, **{**SET, "epsilon": 1e-6})["adv"]
    assert torch.equal(method(second, group, sample)["adv"], want)


def test_the_order_of_rows_does_not_matter():
    group, sample = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    reward, order = t(1.0, 0.0, 0.3, 0.7), torch.tensor([3, 1, 0, 2])
    straight = BundledRisk(**BUNDLED)(reward, group, sample)["adv"]
    turned = BundledRisk(**BUNDLED)(reward[order], group[order], sample[order])["adv"]
    torch.testing.assert_close(turned, straight[order])
