"""Metrics, each by a case small enough to work out by hand, and what they must not depend on."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlent.errors import UsageError
from rlent.metrics import METRICS, all_metrics, describe, explain, step_metrics, update_metrics
from rlent.types import Batch

NAN = float("nan")


def batch(**streams):
    """Two prompts with two responses each; lengths 3, 2, 1 and 0, and padding that would spoil any number it entered."""
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]]).bool()
    filled = {k: (torch.tensor(v, dtype=torch.float64) if not isinstance(v[0], str) else v) for k, v in streams.items()}
    for value in filled.values():
        if isinstance(value, torch.Tensor) and value.ndim == 2:
            value[~mask] = NAN
    return Batch({"mask": mask, **filled})


def test_entropy_mean_weighs_tokens_and_seq_mean_weighs_responses():
    found = step_metrics(batch(old_entropy=[[3, 2, 1], [6, 6, 0], [0, 0, 0], [0, 0, 0]]))
    assert found["entropy/mean"] == 18 / 6
    assert found["entropy/seq_mean"] == pytest.approx((2 + 6 + 0) / 3)  # the response without tokens does not count


def test_entropy_splits_by_third_sign_and_correctness():
    found = step_metrics(
        batch(
            old_entropy=[[3, 2, 1], [8, 6, 0], [0.5, 0, 0], [0, 0, 0]],
            adv=[[1, 1, 1], [-1, -1, 0], [0, 0, 0], [0, 0, 0]],
            correct=[1, 0, 1, 0],
        )
    )
    # thirds: of 3 tokens 0|1|2; of 2 tokens 3*0//2 = 0 and 3*1//2 = 1; a single token is the first third
    assert found["entropy/first"] == pytest.approx((3 + 8 + 0.5) / 3)
    assert found["entropy/mid"] == pytest.approx((2 + 6) / 2)
    assert found["entropy/last"] == 1
    assert (found["entropy/adv_pos"], found["entropy/adv_neg"]) == (2, 7)
    assert found["entropy/correct"] == pytest.approx(6.5 / 4)
    assert found["entropy/wrong"] == 7
    assert found["entropy/share_high"] == pytest.approx(5 / 6)  # 0.5 < ln 2
    assert found["entropy/top20_share"] == pytest.approx(8 / 20.5)  # 0.2 * 6 = 1.2: one token
    assert found["entropy/q50"] == pytest.approx(2.5)


def test_thirds_are_of_each_response_not_of_the_longest():
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0]]).bool()
    entropy = torch.tensor([[1, 1, 2, 2, 3, 3], [1, 2, NAN, NAN, NAN, NAN], [1, 2, 3, NAN, NAN, NAN]])
    found = step_metrics(Batch({"mask": mask, "old_entropy": entropy}))
    assert [found[f"entropy/{part}"] for part in ("first", "mid", "last")] == [1, 2, 3]


def worked_example():
    """The covariances of the eight tokens in the entropy mechanism dossier, section 11: logp centred at -1.2725, adv at 0."""
    logp = [-0.01, -0.10, -2.00, -3.00, -0.05, -1.00, -0.02, -4.00]
    return Batch(
        {
            "mask": torch.ones(2, 4).bool(),
            "old_logp": torch.tensor(logp).double().reshape(2, 4),
            "adv": torch.tensor([[1.0] * 4, [-1.0] * 4]),
            "group": torch.tensor([0, 0]),
            "correct": torch.tensor([True, False]),
        }
    )


def test_covariance_table_of_the_worked_example():
    found = step_metrics(worked_example())
    assert found["cov/mean"] == pytest.approx(-0.005)
    assert found["cov/top_0.0002"] == pytest.approx(2.7275)  # at least one token
    assert found["cov/top_0.2"] == pytest.approx(2.7275)  # floor(1.6) = 1
    assert found["cov/top_0.5"] == pytest.approx((2.7275 + 1.2625 + 1.1725 - 0.2725) / 4)
    assert found["cov/acc_mid"] == pytest.approx(-0.005)
    assert "cov/acc_low" not in found and "cov/acc_high" not in found


def test_covariance_with_whole_responses_as_actions():
    # l = -1 and -3, A = 1 and -1: exp(l) A = 0.3679 and -0.0498; population covariance = (dl / 2) (dpush / 2)
    found = step_metrics(
        Batch(
            {
                "mask": torch.tensor([[1, 1], [1, 0]]).bool(),
                "old_logp": torch.tensor([[-0.5, -1.5], [-3.0, NAN]]),
                "adv": torch.tensor([[1.0, 1.0], [-1.0, NAN]]),
                "group": torch.tensor([7, 7]),
            }
        )
    )
    assert found["cov/response"] == pytest.approx(1.0 * (math.exp(-1) + math.exp(-3)) / 2)


def test_covariance_of_easy_and_hard_prompts_adds_up_to_the_mean():
    generator = torch.Generator().manual_seed(0)
    rows = Batch(
        {
            "mask": torch.ones(12, 5).bool(),
            "old_logp": -torch.rand(12, 5, generator=generator, dtype=torch.float64),
            "adv": torch.randn(12, 5, generator=generator, dtype=torch.float64),
            "group": torch.arange(12) // 4,
            "correct": torch.tensor([1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 1, 0]).bool(),
        }
    )
    found = step_metrics(rows)
    assert (found["cov/acc_low"] + found["cov/acc_mid"] + found["cov/acc_high"]) / 3 == pytest.approx(found["cov/mean"])
    hard = rows["old_logp"] - rows["old_logp"].mean()
    assert found["cov/acc_low"] == pytest.approx(float((hard * (rows["adv"] - rows["adv"].mean()))[:4].mean()))


def test_rows_without_loss_are_counted_but_not_in_advantage_covariance_and_selection():
    rows = worked_example().with_(
        train=torch.tensor([True, False]), reward=torch.tensor([1.0, 0.0]), spark_selected=torch.ones(2, 4).bool()
    )
    found = step_metrics(rows)
    assert found["adv/mean"] == 1 and found["cov/mean"] == 0  # one advantage only
    assert found["reward/mean"] == 0.5 and found["length/mean"] == 4
    assert found["select/spark/pos"] == 1


def test_rewards_and_groups():
    found = step_metrics(
        batch(
            reward=[1.5, 0.5, 2, 2],
            reward_correct=[1, 0, 1, 1],
            reward_steps=[[0.25, 0.25, 1], [0.5, 0, 0], [1, 0, 0], [0, 0, 0]],
            correct=[1, 0, 1, 1],
            group=[0, 0, 5, 5],
        )
    )
    assert found["reward/mean"] == 1.5 and found["reward/std"] == pytest.approx(math.sqrt((0 + 1 + 0.25 + 0.25) / 4))
    assert found["reward/correct"] == 0.75 and found["reward/steps"] == pytest.approx((1.5 + 0.5 + 1 + 0) / 4)
    assert found["group/zero"] == 0.5 and found["group/all_correct"] == 0.5 and found["group/none_correct"] == 0
    assert found["correct/mean"] == 0.75 and found["correct/any"] == 1 and found["group/count"] == 2
    assert found["group/accuracy_q50"] == 0.75 and found["group/accuracy_q10"] == pytest.approx(0.55)


def test_pass_at_g_differs_from_pass_at_1():
    found = step_metrics(batch(correct=[1, 0, 0, 0], group=[0, 0, 1, 1]))
    assert (found["correct/mean"], found["correct/any"], found["group/none_correct"]) == (0.25, 0.5, 0.5)


def test_votes_of_groups_and_rewards_beside_verdicts():
    correct = [0, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1, 1]
    found = step_metrics(
        Batch(
            {
                "mask": torch.ones(12, 1).bool(),
                "group": torch.tensor([0] * 4 + [1] * 4 + [2] * 4),
                # equals: the first, which is wrong; no answer, which is nobody's vote but its own; a majority that is right
                "answer_id": torch.tensor([5, 7, 7, 5, -1, -1, -1, 3, 1, 2, 2, 2]),
                "correct": torch.tensor(correct),
                "reward": torch.tensor([*correct[:8], 1.0, 0.0, 0.5, 1.0]),
            }
        )
    )
    assert found["vote/ratio"] == pytest.approx((2 / 4 + 1 / 4 + 3 / 4) / 3)
    assert found["vote/correct"] == pytest.approx(1 / 3)
    assert found["reward/agreement"] == pytest.approx(9 / 12)


def test_lengths_ends_and_grader():
    found = step_metrics(
        batch(
            finish=["length", "stop", "stop", "length"],
            status=["ok", "timeout", "no_answer", "odd"],
            correct=[1, 0, 0, 0],
            length=[3, 2, 1, 0],
        )
    )
    assert (found["length/mean"], found["length/max"], found["length/correct"], found["length/wrong"]) == (1.5, 3, 3, 1)
    assert found["finish/cut"] == 0.5
    assert found["finish/empty"] == 0.5  # end-of-text alone, and nothing at all
    assert found["grader/timeout"] == 0.25 and found["grader/crash"] == 0 and found["grader/odd"] == 0.25
    assert found["tokens/step"] == 6


def test_a_single_token_cut_at_a_budget_of_one_is_not_empty():
    found = step_metrics(Batch({"mask": torch.ones(1, 1).bool(), "finish": ["length"]}))
    assert found["finish/empty"] == 0 and found["finish/cut"] == 1


def test_mismatch_of_sampler_and_trainer():
    found = step_metrics(
        batch(
            old_logp=[[-1, -1, -1], [-1, -1, 0], [-1, 0, 0], [0, 0, 0]], sampler_logp=[[-1, -1, -2], [-1, -1, 0], [-0.5, 0, 0], [0, 0, 0]]
        )
    )
    assert found["mismatch/mean"] == pytest.approx(1.5 / 6) and found["mismatch/max"] == 1
    assert found["mismatch/k1"] == pytest.approx((-1 + 0.5) / 6)  # sampler - old
    assert found["mismatch/k3"] == pytest.approx((math.e - 2 + math.exp(-0.5) - 0.5) / 6)
    assert found["mismatch/ratio_max"] == pytest.approx(math.e) and found["mismatch/ratio_min"] == pytest.approx(math.exp(-0.5))


def test_selected_tokens_by_share_sign_probability_and_entropy():
    rows = worked_example().with_(
        clip_cov_selected=torch.tensor([[1, 0, 0, 0], [0, 1, 0, 1]]).bool(),
        old_entropy=torch.arange(8.0).reshape(2, 4),
        quiet_selected=torch.zeros(2, 4).bool(),
    )
    found = step_metrics(rows)
    assert found["select/clip_cov/share"] == 3 / 8 and found["select/clip_cov/pos"] == pytest.approx(1 / 3)
    assert found["select/clip_cov/prob"] == pytest.approx((math.exp(-0.01) + math.exp(-1) + math.exp(-4)) / 3)
    assert found["select/clip_cov/entropy"] == pytest.approx((0 + 5 + 7) / 3)
    assert found["select/quiet/share"] == 0 and "select/quiet/pos" not in found


def update(**changes):
    one = {
        "mask": torch.tensor([[1, 1], [1, 0]]).bool(),
        "adv": torch.tensor([[1.0, 1.0], [-1.0, NAN]]),
        "old_logp": torch.tensor([[-1.0, -1.0], [-1.0, NAN]]),
        "logp": torch.tensor([[-1.0, 0.0], [-3.0, NAN]]),
        "pull": torch.tensor([[1.0, 0.0], [0.0, NAN]]),
    }
    return Batch({**one, **changes})


def test_clip_share_is_the_share_of_tokens_whose_loss_has_no_gradient():
    idle = update(adv=torch.zeros(2, 2), pull=torch.zeros(2, 2))  # nothing to clip where there is no advantage
    raised = update(pull=torch.tensor([[0.0, 0.0], [-1.0, NAN]]))
    found = update_metrics([update(), idle, raised])
    assert (found["clip/share"], found["clip/high"], found["clip/low"]) == (4 / 9, 3 / 9, 1 / 9)


def test_ratio_and_divergence_of_the_updates():
    found = update_metrics([update()])
    assert found["ratio/max"] == pytest.approx(math.e) and found["ratio/min"] == pytest.approx(math.exp(-2))
    assert found["ratio/mean"] == pytest.approx((1 + math.e + math.exp(-2)) / 3)
    assert found["kl/k1"] == pytest.approx((0 - 1 + 2) / 3)
    assert found["kl/k3"] == pytest.approx((0 + math.e - 1 - 1 + math.exp(-2) - 1 + 2) / 3)


def test_k3_estimates_the_divergence_from_old_to_new():
    old, new = torch.tensor([0.5, 0.3, 0.2]).double(), torch.tensor([0.2, 0.3, 0.5]).double()
    counts = (old * 1000).round().long()  # tokens exactly as frequent as the old policy says
    drawn = torch.repeat_interleave(torch.arange(3), counts)
    found = update_metrics(
        [Batch({"mask": torch.ones(1, 1000).bool(), "old_logp": old.log()[drawn][None], "logp": new.log()[drawn][None]})]
    )
    exact = float((old * (old / new).log()).sum())
    assert found["kl/k1"] == pytest.approx(exact) and found["kl/k3"] == pytest.approx(exact)


def test_weights_gates_pulls_and_losses():
    found = update_metrics(
        [
            update(
                weight=torch.tensor([[2.0, 0.0], [1.0, NAN]]),
                gate=torch.tensor([[True, False], [True, True]]),
                loss=torch.tensor([[3.0, 1.0], [2.0, NAN]]),
                entropy=torch.tensor([[0.5, 0.7], [0.3, NAN]]).double(),
                pull=torch.tensor([[1.0, 4.0], [-1.0, NAN]]),
                gradient=torch.tensor([[2.0, 0.0], [-1.0, NAN]]),
            )
        ]
    )
    assert found["weight/mean"] == 1 and found["weight/zero"] == pytest.approx(1 / 3)
    assert found["gate/open"] == pytest.approx(2 / 3)
    assert found["loss/token_mean"] == 2 and found["entropy/update"] == pytest.approx(0.5)
    assert found["pull/abs"] == 1 and found["pull/pos"] == pytest.approx(2 / 3) and found["pull/silenced"] == pytest.approx(1 / 3)


def test_missing_streams_leave_metrics_out():
    assert set(step_metrics(batch())) == {"tokens/step", "length/mean", "length/max"}
    assert update_metrics([Batch({"mask": torch.ones(1, 1).bool()})]) == {}
    assert update_metrics([]) == {}


def test_a_step_without_a_single_token_has_no_undefined_number():
    empty = Batch(
        {
            "mask": torch.zeros(2, 3).bool(),
            **{k: torch.full((2, 3), NAN) for k in ("old_entropy", "old_logp", "sampler_logp", "adv", "weight")},
            "reward": torch.zeros(2),
            "correct": torch.zeros(2).bool(),
            "group": torch.zeros(2).long(),
            "x_selected": torch.zeros(2, 3).bool(),
        }
    )
    found = step_metrics(empty)
    assert found["reward/mean"] == 0 and found["length/max"] == 0
    assert all(math.isfinite(v) for v in found.values())
    assert update_metrics([empty.with_(logp=torch.full((2, 3), NAN), pull=torch.full((2, 3), NAN))]) == {}


def test_infinite_numbers_are_passed_on():
    found = update_metrics([update(logp=torch.tensor([[-1.0, 0.0], [-torch.inf, NAN]]))])
    assert found["ratio/min"] == 0 and found["kl/k3"] == math.inf


def random_step(seed):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    lengths = torch.randint(0, 9, (8,), generator=generator)
    return Batch(
        {
            "mask": torch.arange(8) < lengths[:, None],
            "old_entropy": draw(8, 8).abs(),
            "old_logp": -draw(8, 8).abs(),
            "sampler_logp": -draw(8, 8).abs(),
            "adv": draw(8, 8),
            "reward": draw(8),
            "correct": draw(8) > 0,
            "group": torch.arange(8) // 2,
            "train": draw(8) > -1,
            "weight": draw(8, 8),
            "spark_selected": draw(8, 8) > 1,
            "finish": ["stop", "length"] * 4,
            "status": ["ok", "limit"] * 4,
        }
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), order=st.permutations(range(8)), padding=st.integers(0, 5))
def test_no_metric_depends_on_the_order_of_rows_or_on_padding(seed, order, padding):
    rows = random_step(seed)
    found = step_metrics(rows)
    moved = {}
    for name, value in rows.streams.items():
        if isinstance(value, list):
            moved[name] = [value[i] for i in order]
        else:
            value = value[list(order)]
            filler = 0 if name == "mask" or value.dtype == torch.bool else NAN
            moved[name] = torch.nn.functional.pad(value, (0, padding), value=filler) if value.ndim == 2 else value
    again = step_metrics(Batch(moved, torch.tensor(order)))
    assert again == found  # to the last bit


def test_every_metric_that_is_computed_has_a_definition():
    rows = random_step(1).with_(old_entropy_t1=torch.rand(8, 8), sampler_entropy=torch.rand(8, 8), reward_format=torch.rand(8))
    names = set(step_metrics(rows)) | set(
        update_metrics([update(weight=torch.ones(2, 2), gate=torch.ones(2, 2), loss=torch.ones(2, 2), gradient=torch.ones(2, 2))])
    )
    assert {n for n in names if explain(n) is None} == set()
    assert {
        "cov/top_0.0002",
        "cov/top_0.002",
        "cov/top_0.02",
        "cov/top_0.2",
        "cov/top_0.5",
        "cov/acc_mid",
        "cov/response",
        "select/spark/prob",
    } <= names


@pytest.mark.parametrize(
    ("name", "family", "says"),
    [
        ("cov/top_0.002", "cov/top_<share>", "top 0.002 of"),
        ("cov/top_2e-05", "cov/top_<share>", "top 2e-05"),
        ("select/clip_cov/share", "select/<node>/share", "clip_cov selected"),
        ("knob/regularize.entropy.coef", "knob/<name>", "option regularize.entropy.coef"),
        ("eval/pass@64", "eval/pass@<k>", "64 responses"),
        ("eval/aime24/pass@8_low", "eval/<set>/pass@<k>_low", "on aime24"),
        ("reward/format", "reward/<name>", "reward format"),
        ("reward/mean", "reward/mean", "mean total reward"),
        ("entropy/q99", "entropy/q<percent>", "99th"),
        ("seconds/generate", "seconds/<stage>", "of generate"),
        ("grader/timeout", "grader/<status>", "status timeout"),
    ],
)
def test_explain_finds_families_and_fills_in_the_name(name, family, says):
    metric = explain(name)
    assert metric is not None and metric.name == name and says in metric.meaning
    assert metric.unit == METRICS[family].unit


@pytest.mark.parametrize(
    "name", ["entropy/maen", "cov/top_much", "select/clip_cov/colour", "eval/pass@many", "nothing", "knob/", "reward/a/b"]
)
def test_unknown_names_are_unknown(name):
    assert explain(name) is None


def test_describe_suggests_the_closest_name():
    assert "reading:" in describe("entropy/mean")
    with pytest.raises(UsageError, match="did you mean 'entropy/mean'"):
        describe("entropy/maen")


def test_definitions_are_unique_and_complete():
    metrics = all_metrics()
    assert len({m.name for m in metrics}) == len(metrics)
    assert all(m.unit and m.meaning and m.reading for m in metrics)
    assert all(
        explain(m.name.replace("<share>", "0.5").replace("<percent>", "10").replace("<k>", "2").replace("<", "").replace(">", ""))
        for m in metrics
    )
