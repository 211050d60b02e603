"""Going back by hand on a model that is a table, and the two forms of the upper bound against each other."""

import json
import math

import pytest
import torch
from conftest import GOLDEN

from rlent.engine.native import NativeEngine
from rlent.methods.stable_entropy import sample_above, step_back, zone
from rlent.policy.policy import Policy
from rlent.recipe.compose import load
from rlent.recipe.mount import Node
from rlent.sampling.drive import rollouts
from rlent.types import Request, Rollouts

OPTIONS = {"mean": [1.0], "std": [0.1], "band": 1.0, "patience": 1, "greedy_until": -1, "upper": False, "lower": True, "backoffs": 10}


def told(*steps):
    """A model that says the same at a position whatever came before: logits of three tokens for each position."""
    tables = [torch.tensor(s, dtype=torch.float64) for s in steps]

    def generate(requests, measure=None):
        logits = torch.stack([tables[len(r.prefix)] for r in requests])
        wanted = [r.max_tokens > 0 for r in requests]
        tokens = [[2] if w else [] for w in wanted]  # the draw is always token 2
        notes = {k: [[v] for v in x.tolist()] for k, x in (measure(logits) if measure else {}).items()}
        return Rollouts(tokens, [[-0.5] if w else [] for w in wanted], ["length"] * len(requests), notes=notes)

    return generate


FLAT, SURE = [0.3, 0.2, 0.1], [9.0, 4.0, 0.0]  # 1.09 nats; 0.04 nats


def back(*steps, **options):
    request = Request([0], key=(0,), max_tokens=len(steps))
    return step_back([request], told(*steps), **{**OPTIONS, **options})


def test_the_zone_is_a_polynomial_of_the_position_highest_power_first():
    assert zone(2, mean=[1.0, 0.0, 3.0], std=[0.5, 1.0], band=2.0) == (7 - 4, 7 + 4)


def test_it_goes_back_to_the_oldest_kept_position_and_takes_the_next_best_token():
    # positions 0 to 3: flat, sure, sure, sure; patience 1, so two are kept.
    # i = 0: in the zone (0.9 to 1.1), token 0. i = 1: below, c = 1, token 0. i = 2: c = 2 > 1: back to position 0, rank 1, token 1.
    # then i = 1: c = 1, token 0; the queue is [1 (old path), 0 (rank 1)], now [0 (rank 1), 1]; i = 2: c = 2: back to 0, rank 2 ...
    out = back(FLAT, SURE, SURE, SURE, backoffs=1)
    assert out.tokens == [[1, 0, 0, 0]]
    assert out.counts["backoff_indexes"] == [[2]] and out.counts["backoffs"] == [1]
    assert out.counts["model_calls"] == [3 + 3]  # 0, 1, 2 and, after the token of the kept distribution, 1, 2, 3
    assert out.sampler_logp == [[0.0] * 4]


def test_without_backoffs_left_it_goes_on_greedily():
    assert back(FLAT, SURE, SURE, SURE, backoffs=0).tokens == [[0, 0, 0, 0]]


def test_patience_is_how_many_tokens_below_are_borne():
    assert back(FLAT, SURE, SURE, patience=2).counts["backoffs"] == [0]
    assert back(FLAT, SURE, SURE, SURE, patience=2, backoffs=1).counts["backoff_indexes"] == [[3]]


def test_the_first_positions_are_greedy_and_not_gone_back_to():
    out = back(FLAT, SURE, SURE, SURE, SURE, greedy_until=1, backoffs=1)
    # i = 2: c = 1; i = 3: c = 2: back to position 2, the oldest kept
    assert out.counts["backoff_indexes"] == [[3]] and out.tokens == [[0, 0, 1, 0, 0]]


def test_above_the_zone_the_draw_is_taken_with_its_log_probability():
    out = back(FLAT, SURE, mean=[0.5], upper=True, lower=False)
    assert out.tokens == [[2, 0]] and out.sampler_logp == [[-0.5, 0.0]] and out.counts["above"] == [[1, 0]]


@pytest.mark.parametrize("file", sorted(GOLDEN.glob("stable_entropy_[0-9]*.json")), ids=lambda f: f.stem)
def test_bounds_and_upper_actions_are_the_references(file):
    vector = json.loads(file.read_text())
    c, out = vector["config"], vector["outputs"]
    found = [zone(i, c["mean_coeffs"], c["std_coeffs"], c["band"]) for i in range(c["max_length"])]
    assert [low for low, _ in found] == pytest.approx(out["lower_bounds"])
    assert [high for _, high in found] == pytest.approx(out["upper_bounds"])
    if not out["backoff_indexes"]:
        above = [int(h > found[i][1]) for i, h in enumerate(out["entropies"]) if i > c["only_greedy_till"]]
        assert above == out["upper_actions"]


def test_rows_above_the_zone_are_drawn_and_the_others_greedy():
    logits = torch.tensor([FLAT, SURE, FLAT], dtype=torch.float64)
    options = {"mean": [0.5], "std": [0.1], "band": 1.0, "greedy_until": 3}
    found = sample_above(logits, torch.full((3,), 0.7, dtype=torch.float64), torch.tensor([4, 4, 3]), **options)
    assert found["temperature"].tolist() == [0.7, 0.0, 0.0]


def test_the_upper_bound_alone_gives_the_same_response_inside_and_around_the_engine():
    policy = Policy.load("tiny")
    engine = NativeEngine(policy.model, 0)
    rows = [Request([6, 19, 8, 19, 5, 20, 4, 10, 21], key=(3, i), max_tokens=8, stop=frozenset({1})) for i in range(6)]
    inside = load(["decode=[stable_entropy]"]).nodes["decode"]
    around = load(["decode=[stable_entropy_backoff]", "decode.stable_entropy_backoff.lower=false"]).nodes["decode"]
    a, b = (rollouts(engine, policy.tokenizer, rows, nodes, entropy=True) for nodes in (inside, around))
    assert a.tokens == b.tokens and a.finish == b.finish and len({tuple(t) for t in a.tokens}) > 1
    for x, y in zip(a.sampler_logp + a.sampler_entropy, b.sampler_logp + b.sampler_entropy, strict=True):
        assert x == pytest.approx(y, abs=1e-5)


def test_going_back_depends_on_the_request_alone():
    policy = Policy.load("tiny")
    engine = NativeEngine(policy.model, 0)
    nodes: list[Node] = load(["decode=[stable_entropy_backoff]", "decode.stable_entropy_backoff.mean=[1.2]"]).nodes["decode"]
    rows = [Request([6, 19, 8, 19, 5, 20, 4, 10, 21], key=(3, i), max_tokens=8, stop=frozenset({1})) for i in range(5)]
    together = rollouts(engine, policy.tokenizer, rows, nodes)
    assert sum(together.counts["stable_entropy_backoff_backoffs"]) > 0
    assert together.tokens == [rollouts(engine, policy.tokenizer, [r], nodes).tokens[0] for r in rows]
    assert all(math.isfinite(x) for row in together.sampler_logp for x in row)
