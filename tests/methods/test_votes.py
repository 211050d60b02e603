"""EMPO, TTRL and the control rewards: what answers say about each other."""

from pathlib import Path

import pytest
import torch
from runs import rows, train
from scipy import stats

from rlent.math import noise
from rlent.math.vote import clusters_of_first, clusters_of_later
from rlent.methods.control_rewards import format_only, majority, random, unless_majority_is_right, wrong_majority
from rlent.methods.empo import common_subsequence, free_form, from_question, meaning
from rlent.methods.ttrl import majority_label

EMPO = {"variant": "trl", "low": None, "high": None, "least": None}


def table(answers: list[str | None], pairs: set[tuple[str, str]] = frozenset()) -> list[list[bool]]:
    def equal(i: int, j: int) -> bool:
        a, b = answers[min(i, j)], answers[max(i, j)]
        return i == j or bool(a and b and (a == b or (a, b) in pairs))

    return [[equal(i, j) for j in range(len(answers))] for i in range(len(answers))]


def one_group(answers: list[str | None], *pairs: tuple[str, str]) -> tuple:
    n = len(answers)
    return answers, table(answers, set(pairs)), torch.zeros(n, dtype=torch.long), torch.arange(n)


def test_a_later_cluster_takes_members_of_an_earlier_one_where_equality_is_not_transitive():
    # a = c and b = c, but a and b differ: trl lets b take c away, verl keeps it with the first that matched
    _, same, _, _ = one_group(["a", "b", "c"], ("a", "c"), ("b", "c"))
    assert clusters_of_later(same) == [0, 1, 1]
    assert clusters_of_first(same) == [0, 1, 0]


def test_the_order_of_a_pair_matters():
    _, same, _, _ = one_group(["b", "a"], ("a", "b"))  # listed as (a, b), but b comes first
    assert clusters_of_later(same) == [0, 1]


def test_an_answer_earns_the_share_that_means_the_same():
    found = meaning(*one_group(["x", "x", "y", None]), **EMPO)
    assert found["value"].tolist() == [0.5, 0.5, 0.25, 0.0]
    assert meaning(*one_group(["x", "x", "y", None]), **{**EMPO, "variant": "verl"})["value"].tolist() == [0.5, 0.5, 0.25, 0.25]


def test_a_group_of_different_answers_earns_nothing_but_in_verls_variant():
    assert not meaning(*one_group(["x", "y", "z", "w"]), **EMPO)["value"].any()
    assert meaning(*one_group(["x", "y", "z", "w"]), **{**EMPO, "variant": "verl"})["value"].tolist() == [0.25] * 4
    alone = meaning(*one_group(["x"]), **EMPO)
    assert alone["value"].tolist() == [0.0] and alone["entropy"].tolist() == [0.0]  # log 1 = 0 is not above the entropy


def test_the_papers_filter_looks_at_the_entropy_over_meanings():
    group = one_group(["x", "x", "x", "y"])  # H = 0.562
    paper = {**EMPO, "variant": "paper"}
    assert meaning(*group, **{**paper, "low": 0.5, "high": 0.6})["value"].tolist() == [0.75, 0.75, 0.75, 0.25]
    assert not meaning(*group, **{**paper, "low": 0.6})["value"].any()
    assert not meaning(*group, **{**paper, "high": 0.5})["value"].any()
    assert meaning(*group, **{**EMPO, "least": 0.8})["filtered"].all()


def test_rows_may_come_in_any_order_and_groups_do_not_mix():
    answers = ["x", "y", "x", "x", "y", None]
    group, sample = torch.tensor([0, 0, 1, 1, 1, 0]), torch.tensor([0, 1, 0, 1, 2, 2])
    same = [
        [True, False, False],
        [False, True, False],
        [True, True, False],
        [True, True, False],
        [False, False, True],
        [False, False, True],
    ]
    order = [3, 5, 0, 4, 1, 2]
    for reward in (lambda *a: meaning(*a, **EMPO)["value"], lambda *a: majority_label(*a, vote_by="equivalence")["value"], majority):
        plain = reward(answers, same, group, sample)
        turned = reward([answers[i] for i in order], [same[i] for i in order], group[order], sample[order])
        assert torch.equal(turned, plain[order])


def test_free_form_answers_pay_for_silence_and_gain_nothing_by_copying():
    answers = ["solar wind", "solar wind", None, "the polar sky", "sky the polar"]
    question = ["What lights up the polar sky?"] * 5
    _, same, group, sample = one_group(answers)
    found = free_form(answers, question, same, group, sample, empty=-0.5, copied=0.8, least=0.2)["value"]
    assert found.tolist() == pytest.approx([0.4, 0.4, -0.5, 0.0, 0.2])
    assert common_subsequence("sky the polar".split(), "what lights up the polar sky?".split()) == 2
    assert from_question("Polar", "the polar sky", 0.8) and not from_question("polar wind", "the polar sky", 0.8)
    scattered = [f"a{i}" for i in range(6)]
    assert not free_form(*one_group(scattered)[:1], ["?"] * 6, *one_group(scattered)[1:], empty=-0.5, copied=0.8, least=0.2)["value"].any()


def test_the_label_is_the_majority_and_of_equals_the_first_seen():
    found = majority_label(*one_group(["2", "1", "1", "2", None]), vote_by="string")
    assert found["value"].tolist() == [1, 0, 0, 1, 0]
    assert found["label"] == ["2"] * 5 and found["count"].tolist() == [2] * 5


def test_votes_count_by_text_or_by_what_is_equal():
    group = one_group(["3", "1/2", "3", "0.5", "2/4"], ("1/2", "0.5"), ("1/2", "2/4"), ("0.5", "2/4"))
    assert majority_label(*group, vote_by="string")["value"].tolist() == [1, 0, 1, 0, 0]
    assert majority_label(*group, vote_by="equivalence")["value"].tolist() == [0, 1, 0, 1, 1]


def test_a_group_without_answers_has_no_label():
    found = majority_label(*one_group([None, None]), vote_by="string")
    assert found["value"].tolist() == [0, 0] and found["label"] == [None, None] and found["count"].tolist() == [0, 0]


def test_controls():
    answers, same, group, sample = one_group(["1", "2", "2", None, "3", "2"])
    correct = torch.tensor([True, False, False, False, False, False])
    assert format_only(answers).tolist() == [1, 1, 1, 0, 1, 1]
    assert majority(answers, same, group, sample).tolist() == [0, 1, 1, 0, 0, 1]
    assert wrong_majority(answers, correct, same, group, sample).tolist() == [0, 1, 1, 0, 0, 1]
    assert unless_majority_is_right(correct, same, group, sample).tolist() == [1, 0, 0, 0, 0, 0]
    right = torch.tensor([False, True, True, False, False, True])
    assert not unless_majority_is_right(right, same, group, sample).any()
    assert wrong_majority(answers, right, same, group, sample).tolist() == [1, 0, 0, 0, 0, 0]  # 1 and 3 tie: the first seen
    tied = majority(*one_group(["1", None, "2"]))
    assert tied.tolist() == [1, 1, 1]  # all frequencies are 1/3


def test_a_random_reward_belongs_to_the_row():
    noise = torch.tensor([0.1, 0.6, 0.4], dtype=torch.float64)
    answers = ["1", "2", None]
    assert random(noise, answers, law="coin", chance=0.5, parsed=False).tolist() == [1, 0, 1]
    assert random(noise, answers, law="coin", chance=0.5, parsed=True).tolist() == [1, 0, 0]
    assert random(noise, answers, law="uniform", chance=0.5, parsed=False).tolist() == pytest.approx([0.1, 0.6, 0.4])


def test_a_random_reward_has_the_law_it_names_whatever_the_answer() -> None:
    """Against the published control: Bernoulli(chance), or U(0, 1), independent of being right."""
    draws = noise.uniform("reward/random", 0, torch.arange(20_000))
    right = torch.arange(20_000) % 3 == 0
    answers = ["1" if r else None for r in right.tolist()]
    for chance in (0.5, 0.2):
        found = random(draws, answers, law="coin", chance=chance, parsed=False)
        assert set(found.tolist()) == {0.0, 1.0}
        for part in (found[right], found[~right]):
            assert abs(float(part.mean()) - chance) < 4 * (chance * (1 - chance) / len(part)) ** 0.5
    even = random(draws, answers, law="uniform", chance=0.5, parsed=False)
    assert stats.kstest(even.double().numpy(), "uniform").pvalue > 1e-3
    assert not random(draws, answers, law="uniform", chance=0.5, parsed=True)[~right].any()


def test_all_vote_and_only_the_first_are_trained_on(tmp_path: Path) -> None:
    common = ["model.dtype=float64", "trainer.steps=2", "recipe=grpo"]
    vote = rows(train(tmp_path / "vote", *common, "sampler=vote", "sampler.n=6", "sampler.trained=4"))
    plain = rows(train(tmp_path / "plain", *common, "sampler.n=4"))  # the same first four responses, and no others
    for ours, theirs in zip(vote, plain, strict=True):
        assert ours["tokens/step"] > theirs["tokens/step"]
        for key in ("update/grad_norm", "loss/policy", "adv/std"):
            assert ours[key] == pytest.approx(theirs[key], rel=1e-6), key


def test_credit_is_compared_among_the_trained_rows_only():
    from rlent.methods.grpo import group_relative
    from rlent.ranks.world import World
    from rlent.recipe.mount import mount
    from rlent.train.credit import add_advantage
    from rlent.types import Batch

    spec = {"_target_": f"{group_relative.__module__}.{group_relative.__name__}", "epsilon": 1e-6, "scale": "none", "degenerate": "zero"}
    node = mount("advantage", "advantage", spec, [])
    batch = Batch(
        {
            "mask": torch.ones(4, 2).bool(),
            "reward": torch.tensor([1.0, 0.0, 5.0, 1.0]),
            "group": torch.zeros(4, dtype=torch.long),
            "train": torch.tensor([True, True, False, True]),
        }
    )
    # the mean of the trained is 2/3, whatever the third earned
    assert add_advantage(batch, node, World())["adv"][:, 0].tolist() == pytest.approx([1 / 3, -2 / 3, 0.0, 1 / 3])
