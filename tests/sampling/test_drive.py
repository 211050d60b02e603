"""Decode functions around the engine, with the embedded model: trees, rounds, thinking that ends early, and two models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import rows, train

from rlent.cli import commands
from rlent.engine.native import NativeEngine
from rlent.errors import EngineError
from rlent.policy.policy import Policy
from rlent.recipe.compose import load
from rlent.recipe.mount import Node
from rlent.sampling.drive import evaluated, rollouts
from rlent.types import Request, Rollouts

PROMPTS = ([6, 19, 8, 19, 5, 20, 4, 10, 21], [5, 19, 4, 19, 9, 20, 4, 6, 21])
TREES = ("arpo", "agentic_aepo", "tool_light")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.load("tiny")


def decode(name: str, *overrides: str) -> list[Node]:
    return load([f"decode=[{name}]", *overrides]).nodes["decode"]


def asked(groups: int = 2, n: int = 6, **changes: Any) -> list[Request]:
    rows = [Request(PROMPTS[g], key=(5, g, s), max_tokens=14, stop=frozenset({1})) for g in range(groups) for s in range(n)]
    return [replace(r, **changes) for r in rows]


def drawn(policy: Policy, requests: Sequence[Request], nodes: list[Node], others: Any = None) -> Rollouts:
    return rollouts(NativeEngine(policy.model, 0, True, others), policy.tokenizer, requests, nodes, entropy=True)


def logp_of(policy: Policy, context: Sequence[int], tokens: Sequence[int]) -> torch.Tensor:
    with torch.no_grad():
        logits = policy.model(torch.tensor([[*context, *tokens]])).logits[0, len(context) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(list(tokens))[:, None])[:, 0]


@pytest.mark.parametrize("name", TREES)
def test_a_branch_has_its_parents_beginning_and_draws_of_its_own(name: str, policy: Policy) -> None:
    requests = asked()
    out = drawn(policy, requests, decode(name))
    shared = out.counts[f"{name}_shared"]
    assert sum(s > 0 for s in shared) >= 2
    for i, (request, tokens) in enumerate(zip(requests, out.tokens, strict=True)):
        torch.testing.assert_close(torch.tensor(out.sampler_logp[i]), logp_of(policy, request.prompt, tokens), atol=1e-4, rtol=0)
        assert len(out.sampler_entropy[i]) == len(tokens) <= 14
        assert out.finish[i] == ("stop" if tokens[-1] == 1 else "length")
        if shared[i]:
            siblings = [out.tokens[j] for j in range(len(requests)) if j // 6 == i // 6 and j != i]
            assert any(s[: shared[i]] == tokens[: shared[i]] for s in siblings)
            own = drawn(policy, [replace(request, prefix=tokens[: shared[i]], max_tokens=14 - shared[i])], [])
            assert own.tokens[0] == tokens[shared[i] :], "from there on it draws with its own key"
        elif name != "tool_light":
            assert tokens == drawn(policy, [request], []).tokens[0]


@pytest.mark.parametrize("name", TREES)
def test_a_group_depends_on_its_prompt_and_on_no_other_group(name: str, policy: Policy) -> None:
    requests = asked()
    together = drawn(policy, requests, decode(name)).tokens
    assert together[:6] == drawn(policy, requests[:6], decode(name)).tokens
    assert together[6:] == drawn(policy, requests[6:], decode(name)).tokens


def test_a_tree_that_begins_with_every_response_at_the_prompt_is_plain_sampling(policy: Policy) -> None:
    out = drawn(policy, asked(), decode("arpo", "decode.arpo.initial=6"))
    assert out.tokens == drawn(policy, asked(), []).tokens and sum(out.counts["arpo_branched"]) == 0


def test_where_nothing_may_branch_the_group_is_filled_with_new_responses(policy: Policy) -> None:
    out = drawn(policy, asked(), decode("arpo", "decode.arpo.probability=0", "decode.arpo.weight=0"))
    assert out.tokens == drawn(policy, asked(), []).tokens


def test_responses_of_no_tokens_end_a_tree(policy: Policy) -> None:
    assert drawn(policy, asked(1, 3, max_tokens=0), decode("arpo")).tokens == [[], [], []]


def test_branches_are_for_training_only() -> None:
    nodes = load(["decode=[edt,arpo]"]).nodes["decode"]
    assert [n.name for n in evaluated(nodes)] == ["edt"]


def test_a_certain_response_is_accepted_and_an_uncertain_one_drawn_again(policy: Policy) -> None:
    plain = drawn(policy, asked(), [])
    accepted = drawn(policy, asked(), decode("think_just_enough", "decode.think_just_enough.tau=9"))
    assert accepted.tokens == plain.tokens and set(accepted.counts["think_just_enough_rounds"]) == {1}
    again = drawn(policy, asked(), decode("think_just_enough", "decode.think_just_enough.tau=0"))
    assert set(again.counts["think_just_enough_rounds"]) == {4}
    first, last = again.counts["think_just_enough_first"], again.counts["think_just_enough_entropy"]
    assert all(b <= a for a, b in zip(first, last, strict=True)) and sum(last) < sum(first) - 0.1
    for request, tokens, logp in zip(asked(), again.tokens, again.sampler_logp, strict=True):
        torch.testing.assert_close(torch.tensor(logp), logp_of(policy, request.prompt, tokens), atol=1e-4, rtol=0)


def test_a_later_round_reads_the_earlier_ones(policy: Policy) -> None:
    nodes = decode(
        "think_just_enough", "decode.think_just_enough.tau=0", "decode.think_just_enough.rounds=2", "decode.think_just_enough.again='+'"
    )
    plain, out = drawn(policy, asked(1, 3), []), drawn(policy, asked(1, 3), nodes)
    plus = policy.tokenizer.encode("+", add_special_tokens=False)
    for before, context, tokens, logp in zip(plain.tokens, out.contexts or [], out.tokens, out.sampler_logp, strict=True):
        assert context == [*PROMPTS[0], *(t for t in before if t != 1), *plus]
        torch.testing.assert_close(torch.tensor(logp), logp_of(policy, context, tokens), atol=1e-4, rtol=0)


def test_training_on_a_later_round_looks_back_at_what_it_read(run_dir: Path) -> None:
    more = ["decode.think_just_enough.again='+'", "decode.think_just_enough.tau=0", "control=[]", "decode.think_just_enough.rounds=2"]
    train(run_dir, "recipe=thinkjustenough", "trainer.steps=2", *more)
    assert all(row["mismatch/max"] < 1e-4 for row in rows(run_dir))


def test_thinking_goes_on_as_it_would_where_answers_never_agree(policy: Policy) -> None:
    out = drawn(policy, asked(), decode("adaptive_think", "decode.adaptive_think.alpha=0", "decode.adaptive_think.samples=16"))
    plain = drawn(policy, asked(), [])
    on = [i for i, stopped in enumerate(out.counts["adaptive_think_stopped"]) if not stopped]
    assert len(on) > 6 and all(out.tokens[i] == plain.tokens[i] for i in on)
    assert sum(out.counts["adaptive_think_probe_tokens"]) > 0


def test_thinking_is_closed_and_answered_where_answers_agree(policy: Policy) -> None:
    nodes = decode("adaptive_think", "decode.adaptive_think.alpha=9", "decode.adaptive_think.close='+'")
    out = drawn(policy, asked(), nodes)
    plain = drawn(policy, asked(), [])
    plus = policy.tokenizer.encode("+", add_special_tokens=False)
    ended = [i for i, stopped in enumerate(out.counts["adaptive_think_stopped"]) if stopped]
    assert len(ended) > 6
    for i in ended:
        assert out.tokens[i][:4] == plain.tokens[i][:4] and out.tokens[i][4:5] == plus and out.sampler_logp[i][4] == 0.0
        text = out.tokens[i]
        assert text[5:] == drawn(policy, [replace(asked()[i], prefix=text[:5], max_tokens=9, temperature=0.0)], []).tokens[0]
        assert len(out.sampler_entropy[i]) == len(out.sampler_logp[i]) == len(text) <= 14


def test_two_models_write_by_turns(policy: Policy) -> None:
    torch.manual_seed(1)
    other = Policy.load("tiny")
    with torch.no_grad():
        for p in other.model.parameters():
            p.add_(torch.randn_like(p) * 0.05)
    nodes = load(["decode=[ead]", "models.large.path=tiny", "decode.ead.tau=0.9", "decode.ead.stay=2"]).nodes["decode"]
    out = drawn(policy, asked(), nodes, {"large": other.model})
    writers = [w for row in out.notes["ead_large"] for w in row]
    assert {0.0, 1.0} == set(writers)
    for request, tokens, logp, large in zip(asked(), out.tokens, out.sampler_logp, out.notes["ead_large"], strict=True):
        mine, theirs = logp_of(policy, request.prompt, tokens), logp_of(other, request.prompt, tokens)
        torch.testing.assert_close(torch.tensor(logp), torch.where(torch.tensor(large) > 0, theirs, mine), atol=1e-4, rtol=0)
    assert [drawn(policy, [r], nodes, {"large": other.model}).tokens[0] for r in asked()] == out.tokens


def test_a_function_that_returns_too_much_is_named(policy: Policy) -> None:
    nodes = decode("arpo")
    nodes[0].fn = lambda requests, grow, vocab, **options: Rollouts([[1] * 99], [[0.0] * 99], ["length"])
    with pytest.raises(EngineError, match=r"decode.arpo returned 99 tokens for row 0; at most 14"):
        drawn(policy, asked(1, 1), nodes)
    with pytest.raises(EngineError, match=r"decode.arpo returned 1 responses to 2 requests"):
        drawn(policy, asked(1, 2), nodes)


def test_evaluation_decodes_as_the_run_did_or_plainly_or_otherwise(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(run_dir, "recipe=hapotemperature", "trainer.steps=2", "decode.hapo_temperature.tau=0.5")

    def evaluation(*overrides: str) -> dict[str, Any]:
        capsys.readouterr()
        assert (
            commands.evaluate(
                [f"run={run_dir}", *overrides],
                n=2,
                problems=6,
                as_json=True,
                out=str(tmp_path / str(len(overrides)) / "".join(overrides)[:12]),
            )
            == 0
        )
        return dict(json.loads(capsys.readouterr().out))

    same = evaluation()
    turned = rows(run_dir)[-1]["knob/decode.hapo_temperature.median"]
    assert same["settings"]["about"]["decode"]["hapo_temperature"]["median"] == turned, "as the run's controllers left it"
    assert 0 < abs(same["decode"]["hapo_temperature_temperature"] - 1) < 0.5
    plain = evaluation("eval.decode=false")
    assert "decode" not in plain and plain["nll"] != same["nll"]
    assert not [w for w in (run_dir / "eval").glob("*")], "each went where it was told"


def test_evaluation_takes_a_decode_function_that_the_run_did_not_have(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(run_dir, "recipe=grpo", "trainer.steps=1")
    capsys.readouterr()
    found = {}
    for name in ("edt", "em_temperature", "think_just_enough"):
        how = {"n": 2, "problems": 4, "as_json": True, "out": str(tmp_path / name)}
        assert commands.evaluate([f"run={run_dir}", f"decode=[{name}]"], **how) == 0
        found[name] = json.loads(capsys.readouterr().out)
    assert found["edt"]["decode"]["edt_temperature"] < 1
    assert found["em_temperature"]["nll"] < found["edt"]["nll"]
    assert found["think_just_enough"]["decode"]["think_just_enough_drawn"] >= found["think_just_enough"]["length"]
    line = json.loads((tmp_path / "edt" / "responses.jsonl").read_text().splitlines()[0])
    assert set(line["decode"]) == {"edt_temperature", "edt_entropy"}
