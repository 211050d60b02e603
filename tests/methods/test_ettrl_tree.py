from functools import partial
from pathlib import Path

import pytest
import torch
from runs import rows, train

from rlent.engine.native import NativeEngine
from rlent.engine.rules import Measure
from rlent.methods.ettrl_tree import entropy_forks, fork_points
from rlent.policy.policy import Policy
from rlent.types import Request, Rollouts
from rlent.verify.released.ettrl_tree import budget


@pytest.fixture(scope="module")
def engine() -> NativeEngine:
    from rlent.engine.make import make_engine
    from rlent.recipe.compose import load

    config = load(["engine=native"]).config
    policy = Policy.load(path="tiny", dtype="float64", device="cpu")
    made = make_engine(config["engine"], policy)
    made.load(policy, 0)
    return made


def generate(engine: NativeEngine, requests, measure=None) -> Rollouts:
    return engine.generate(requests, entropy=True, rules=[Measure(measure)] if measure else [])


def test_budget_and_forks():
    found = budget([12], [2], [2])
    assert found["rollouts"] == [60] and found["expected_token_ratio"] == pytest.approx([0.6])
    assert fork_points([0.1, 0.9, 0.5, 0.9], 2) == [1, 3] and fork_points([0.5, 0.5], 1) == [0] and fork_points([], 2) == []


def test_branches_keep_what_came_before_the_most_uncertain_tokens(engine):
    requests = [Request(prompt=[5, 6, 7], key=(3, 1, 0, 11, s), max_tokens=9, stop=frozenset()) for s in range(10)]
    found = entropy_forks(requests, partial(generate, engine), forks=2, branches=2)
    plain = generate(engine, requests)
    assert found.counts["branched"].count(1) <= 8 and found.counts["shared"][0] == found.counts["shared"][5] == 0
    for root in (0, 5):  # whole responses are those the engine would have drawn anyway
        assert found.tokens[root] == plain.tokens[root]
        points = fork_points(plain.sampler_entropy[root], 2)
        assert [found.counts["shared"][root + k] for k in range(1, 5)] == [points[0]] * 2 + [points[1]] * 2
        for k in range(1, 5):
            t = found.counts["shared"][root + k]
            assert found.tokens[root + k][:t] == plain.tokens[root][:t]
            assert found.sampler_logp[root + k][:t] == pytest.approx(plain.sampler_logp[root][:t])
            assert len(found.tokens[root + k]) == len(found.sampler_logp[root + k]) == len(found.sampler_entropy[root + k]) <= 9
    assert len({tuple(t) for t in found.tokens}) > 2


def test_the_logps_of_a_branch_are_the_models_own(engine):
    from rlent.types import Batch

    requests = [Request(prompt=[5, 6, 7], key=(3, 1, 0, 11, s), max_tokens=6, stop=frozenset()) for s in range(5)]
    found = entropy_forks(requests, partial(generate, engine), forks=2, branches=2)
    width = max(map(len, found.tokens))
    mask = torch.tensor([[t < len(x) for t in range(width)] for x in found.tokens])
    tokens = torch.tensor([x + [0] * (width - len(x)) for x in found.tokens])
    policy = Policy.load(path="tiny", dtype="float64", device="cpu")
    logp = policy.look(Batch({"prompt_ids": [[5, 6, 7]] * 5, "tokens": tokens, "mask": mask}))["logp"]
    drawn = torch.tensor([x + [0.0] * (width - len(x)) for x in found.sampler_logp], dtype=torch.float64)
    torch.testing.assert_close(logp, drawn, rtol=0, atol=1e-5)


def test_a_group_does_not_depend_on_the_others(engine):
    def group(key: int, count: int) -> list[Request]:
        return [Request(prompt=[5, 6 + key], key=(3, 1, 0, key, s), max_tokens=6, stop=frozenset()) for s in range(count)]

    both = entropy_forks([*group(1, 4), *group(2, 7)], partial(generate, engine), forks=1, branches=2)
    alone = entropy_forks(group(2, 7), partial(generate, engine), forks=1, branches=2)
    assert both.tokens[4:] == alone.tokens


def test_a_run_grows_trees(tmp_path: Path) -> None:
    found = rows(train(tmp_path / "run", "recipe=ettrltree", "sampler.n=5", "sampler.trained=5", "trainer.steps=1"))[0]
    assert 0.4 < found["decode/ettrl_tree_branched"] <= 0.8  # a fork at the first token shares nothing
    assert found["decode/ettrl_tree_shared"] > 0 and found["mismatch/max"] < 1e-3
