from dataclasses import replace

import pytest

from rlent.engine.native import NativeEngine
from rlent.methods.diffadapt import kind
from rlent.policy.policy import Policy
from rlent.recipe.compose import load
from rlent.sampling.drive import rollouts
from rlent.types import Request

THRESHOLDS = {"agree_normal": 0.75, "agree_hard": 0.5, "entropy_normal": 0.5}


@pytest.mark.parametrize(
    ("agreement", "entropy", "found"), [(0.75, 0.5, "normal"), (0.9, 0.6, "easy"), (0.5, 0.1, "easy"), (0.4, 0.1, "hard")]
)
def test_agreed_and_certain_is_normal_disagreed_is_hard_and_the_rest_easy(agreement, entropy, found):
    assert kind(agreement, entropy, **THRESHOLDS) == found


def test_a_problem_is_drawn_at_the_temperature_and_budget_of_its_kind():
    policy = Policy.load("tiny")
    engine = NativeEngine(policy.model, 0)
    rows = [Request([6, 19, 8, 19, 5, 20, 4, 10, 21], key=(3, 7, i), max_tokens=10, stop=frozenset({1})) for i in range(4)]
    hard = load(
        ["decode=[diffadapt]", "decode.diffadapt.agree_normal=1", "decode.diffadapt.entropy_normal=0", "decode.diffadapt.agree_hard=1"]
    )
    found = rollouts(engine, policy.tokenizer, rows, hard.nodes["decode"])
    assert found.counts["diffadapt_hard"] == [1] * 4 and max(map(len, found.tokens)) == 5
    assert found.tokens == engine.generate([replace(r, temperature=0.4, max_tokens=5) for r in rows]).tokens
    greedy = rollouts(engine, policy.tokenizer, [replace(r, temperature=0.0) for r in rows], hard.nodes["decode"])
    assert len({tuple(t) for t in greedy.tokens}) == 1
