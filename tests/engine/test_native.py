"""The native engine against one-row-at-a-time sampling, and against transformers."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch
import transformers

from rlent.engine import auto
from rlent.engine.base import Engine, Weights
from rlent.engine.native import NativeEngine
from rlent.errors import EngineError, ModelError, NonFinite
from rlent.math import noise
from rlent.policy.cpu import LeanDecoder
from rlent.policy.decode import Decoder
from rlent.types import Request

V, STOP = 24, 2
SMALL = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
CONFIGS = {
    "qwen2": lambda: transformers.Qwen2Config(**SMALL, tie_word_embeddings=True),
    "qwen3": lambda: transformers.Qwen3Config(**SMALL, head_dim=16),
    "llama": lambda: transformers.LlamaConfig(
        **SMALL, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}, attention_bias=True
    ),
    "mistral_window": lambda: transformers.MistralConfig(**SMALL, sliding_window=4),
    "gemma3_window": lambda: transformers.Gemma3TextConfig(
        **SMALL,
        head_dim=8,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=8,
        tie_word_embeddings=False,
    ),
    "gpt2": lambda: transformers.GPT2Config(vocab_size=V, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=1),
}
LEAN = ("qwen2", "qwen3", "llama")


def tiny(name="qwen2", dtype=torch.float64, seed=0):
    """A random model whose next-token distributions are far from uniform, in train mode."""
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(CONFIGS[name]()).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.35)
    return model.train()


def mixed_requests(n=24, seed=0):
    """Prompts of 1 to 9 tokens, several samples of each, and every setting mixed."""
    rng = random.Random(seed)
    prompts = [[rng.randrange(3, V) for _ in range(rng.randint(1, 9))] for _ in range(n // 3)]
    return [
        Request(
            prompt=prompts[i % len(prompts)],
            key=(7, i % len(prompts), i // len(prompts)) if i % 5 else (i,),
            max_tokens=rng.choice([1, 5, 9, 12]),
            prefix=rng.choice([(), (), (5,), (6, 7, 8)]),
            temperature=rng.choice([1.0, 0.6, 1.4, 0.0]),
            top_p=rng.choice([1.0, 1.0, 0.8]),
            top_k=rng.choice([0, 0, 5]),
            stop=rng.choice([frozenset(), frozenset({STOP}), frozenset({STOP, 9, 11, 14, 18, 20})]),
        )
        for i in range(n)
    ]


@torch.no_grad()
def one_by_one(model, request):
    """The definition of a response, with a whole forward for every token and plain Python for the draw."""
    model = copy.deepcopy(model).eval()
    tokens, logps, entropies, finish = [], [], [], "length"
    for t in range(request.max_tokens):
        ids = torch.tensor([[*request.prompt, *request.prefix, *tokens]])
        logits = model(ids).logits[0, -1]
        if request.temperature == 0:
            prob = torch.zeros(V, dtype=logits.dtype)
            prob[logits.argmax()] = 1
        else:
            prob = (logits / request.temperature).softmax(0)
            if request.top_k:
                prob[prob < prob.sort().values[-request.top_k]] = 0
                prob = prob / prob.sum()
            ranked = sorted(range(V), key=lambda v: -prob[v].item())
            mass = 0.0
            for v in ranked:
                if mass >= request.top_p:
                    prob[v] = 0
                mass += prob[v].item()
            prob = prob / prob.sum()
        u = noise.uniform(*request.key, len(request.prefix) + t).item()
        token, reached = -1, 0.0
        while reached <= u:
            token += 1
            reached += prob[token].item()
        tokens.append(token)
        logps.append(prob[token].log().item())
        entropies.append(-sum(p * torch.tensor(p).log().item() for p in prob.double().tolist() if p > 0))
        if token in request.stop:
            finish = "stop"
            break
    return tokens, logps, entropies, finish


class Script:
    """A decode rule from a function of logits, positions and memory."""

    name = "script"

    def __init__(self, fn):
        self.fn = fn

    def __call__(self, streams):
        return self.fn(streams["logits"], streams["position"], streams["memory"])


def flat(lists):
    return torch.tensor([x for row in lists for x in row], dtype=torch.float64)


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_batch_is_what_each_request_gives_alone(name, lean):
    if lean and name not in LEAN:
        with pytest.raises(EngineError, match="lean"):
            NativeEngine(tiny(name), pad_id=0, lean=True).generate(mixed_requests(3))
        return
    model, requests = tiny(name), mixed_requests(24)
    got = NativeEngine(model, pad_id=0, lean=lean).generate(requests, entropy=True)
    want = [one_by_one(model, r) for r in requests]
    assert got.tokens == [w[0] for w in want]
    assert got.finish == [w[3] for w in want]
    assert {"stop", "length"} == set(got.finish)
    # rotary angles and some norms are float32 inside transformers, whatever the model's dtype
    torch.testing.assert_close(flat(got.sampler_logp), flat([w[1] for w in want]), rtol=0, atol=1e-5)
    torch.testing.assert_close(flat(got.sampler_entropy), flat([w[2] for w in want]), rtol=0, atol=1e-5)


def test_requests_are_told_once_as_they_end_with_the_tokens_they_get():
    requests, told = mixed_requests(48), []
    engine = NativeEngine(tiny(), pad_id=0, max_batch_tokens=400)  # several waves
    got = engine.generate(requests, done=lambda places, tokens: told.append((list(places), [list(t) for t in tokens])))
    assert got.tokens == engine.generate(requests).tokens
    rows = [row for places, tokens in told for row in zip(places, tokens, strict=True)]
    assert len(told) > 10 and len({place for place, _ in rows}) == len(rows)
    assert dict(rows) == {i: tokens for i, tokens in enumerate(got.tokens) if requests[i].max_tokens}
    assert [len(tokens) for _, tokens in rows] != sorted(len(tokens) for _, tokens in rows)  # wave after wave
    alone = []
    NativeEngine(tiny(), pad_id=0).generate(requests, done=lambda places, tokens: alone.extend(map(len, tokens)))
    assert alone == sorted(alone)  # in one wave, the shorter the earlier


@pytest.mark.parametrize("lean", [True, False])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_results_do_not_depend_on_order_company_or_waves(dtype, lean):
    model, requests = tiny(dtype=dtype), mixed_requests(48)
    whole = NativeEngine(model, pad_id=0, lean=lean).generate(requests)
    order = random.Random(1).sample(range(48), 48)
    shuffled = NativeEngine(model, pad_id=0, lean=lean).generate([requests[i] for i in order])
    assert [shuffled.tokens[order.index(i)] for i in range(48)] == whole.tokens
    waves = NativeEngine(model, pad_id=3, max_batch_tokens=40, lean=lean).generate(requests)
    assert waves.tokens == whole.tokens and waves.finish == whole.finish
    split = [NativeEngine(model, pad_id=0, lean=lean).generate(requests[a : a + 11]) for a in range(0, 48, 11)]
    assert [t for part in split for t in part.tokens] == whole.tokens
    atol = 1e-6 if dtype == torch.float64 else 1e-4
    torch.testing.assert_close(flat(waves.sampler_logp), flat(whole.sampler_logp), rtol=0, atol=atol)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logp_and_entropy_are_those_of_a_teacher_forced_forward(temperature):
    model = tiny(dtype=torch.float32)
    requests = [replace(r, temperature=temperature, top_p=1.0, top_k=0) for r in mixed_requests(16)]
    got = NativeEngine(model, pad_id=0).generate(requests, entropy=True)
    for r, tokens, logps, entropies in zip(requests, got.tokens, got.sampler_logp, got.sampler_entropy, strict=True):
        ids = torch.tensor([[*r.prompt, *r.prefix, *tokens]])
        with torch.no_grad():
            logp = (model.eval()(ids).logits[0, -len(tokens) - 1 : -1] / temperature).log_softmax(1)
        torch.testing.assert_close(torch.tensor(logps), logp.gather(1, torch.tensor(tokens)[:, None])[:, 0], rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.tensor(entropies), -(logp.exp() * logp).sum(1), rtol=0, atol=1e-5)


def test_a_response_continues_from_any_of_its_own_prefixes():
    engine = NativeEngine(tiny(), pad_id=0)
    request = Request(prompt=[4, 5, 6], key=(3, 1), max_tokens=10)
    [whole] = engine.generate([request]).tokens
    parts = engine.generate([replace(request, prefix=whole[:k], max_tokens=10 - k) for k in range(10)])
    assert parts.tokens == [whole[k:] for k in range(10)]


def test_greedy_is_what_transformers_generates():
    model = tiny().eval()
    prompts = [[5, 6, 7, 8], [9, 10, 11, 12]]
    requests = [Request(prompt=p, key=(0,), max_tokens=8, temperature=0.0) for p in prompts]
    got = NativeEngine(model, pad_id=0).generate(requests, entropy=True)
    want = model.generate(torch.tensor(prompts), do_sample=False, max_new_tokens=8, eos_token_id=None, pad_token_id=0)[:, 4:]
    assert got.tokens == want.tolist()
    assert got.sampler_logp == got.sampler_entropy == [[0.0] * 8] * 2


def test_frequencies_follow_the_probabilities():
    model, n = tiny().eval(), 20_000
    with torch.no_grad():
        prob = (model(torch.tensor([[5, 6, 7]])).logits[0, -1] / 1.5).softmax(0)
    got = NativeEngine(model, pad_id=0).generate([Request(prompt=[5, 6, 7], key=(11, i), max_tokens=1, temperature=1.5) for i in range(n)])
    count = torch.bincount(torch.tensor(got.tokens)[:, 0], minlength=V).double()
    big = prob * n >= 5
    expected, seen = prob[big] * n, count[big]
    rest = n - expected.sum(), n - seen.sum()
    chi2 = ((seen - expected) ** 2 / expected).sum() + ((rest[1] - rest[0]) ** 2 / rest[0].clamp(min=1e-9) if rest[0] > 5 else 0)
    free = int(big.sum())  # at least the degrees of freedom
    assert free > 8
    assert chi2 < free + 3.1 * (2 * free) ** 0.5 + 5  # about the 0.999 quantile; the keys are fixed


def test_stopping_is_by_row_and_the_stop_token_is_included():
    def script(logits, position, memory):  # every row says 10, 11, 12, ... by position
        return torch.full_like(logits, -1e9).scatter_(1, 10 + position[:, None], 0.0)

    rows = [
        Request(prompt=[5], key=(0,), max_tokens=6, stop=frozenset({12})),
        Request(prompt=[5], key=(0,), max_tokens=6, stop=frozenset({13, 11})),
        Request(prompt=[5], key=(0,), max_tokens=2, stop=frozenset({11})),
        Request(prompt=[5], key=(0,), max_tokens=1, stop=frozenset({11})),
        Request(prompt=[5], key=(0,), max_tokens=0),
        Request(prompt=[5], key=(0,), max_tokens=3, prefix=[11], stop=frozenset({11})),
    ]
    got = NativeEngine(tiny(), 0).generate(rows, entropy=True, rules=[Script(script)])
    assert got.tokens == [[10, 11, 12], [10, 11], [10, 11], [10], [], [11]]
    assert got.finish == ["stop", "stop", "stop", "length", "length", "stop"]
    assert got.sampler_logp == got.sampler_entropy == [[0.0] * len(t) for t in got.tokens]


def test_a_rule_sees_each_row_its_position_and_what_it_said_of_that_row_before():
    seen = []

    def script(logits, position, memory):  # memory is the row's first position and how often it was asked
        memory = torch.stack([position, torch.zeros_like(position)], 1) if memory is None else memory + torch.tensor([0, 1])
        seen.append((position.tolist(), memory.tolist()))
        said = torch.full_like(logits, -1e9).scatter_(1, 10 + memory[:, :1], 0.0)
        return {"logits": said, "memory": memory, "asked": memory[:, 1]}

    rows = [Request(prompt=[5] * (4 - i), key=(10 + i,), max_tokens=1 + i, prefix=[6] * i) for i in range(4)]
    got = NativeEngine(tiny(), 0).generate(rows, rules=[Script(script)])
    assert got.tokens == [[10], [11, 11], [12, 12, 12], [13, 13, 13, 13]]
    assert got.notes == {"script_asked": [[0], [0, 1], [0, 1, 2], [0, 1, 2, 3]]}
    for positions, memory in seen:
        assert positions == [first + asked for first, asked in memory]


def test_a_rule_of_the_wrong_shape_is_named():
    with pytest.raises(EngineError, match=r"decode.script returned logits of shape \(1,\); \(1, 24\) is expected"):
        NativeEngine(tiny(), 0).generate([Request([5], key=(0,), max_tokens=1)], rules=[Script(lambda logits, *_: logits[:, 0])])


@pytest.mark.parametrize("kind", [Decoder, LeanDecoder])
def test_finished_rows_leave_the_batch_and_equal_prompts_are_read_once(kind, monkeypatch):
    sizes, reads = [], []
    step, start = kind.step, Decoder.start
    monkeypatch.setattr(kind, "step", lambda self, tokens, positions: (sizes.append(len(tokens)), step(self, tokens, positions))[1])
    monkeypatch.setattr(Decoder, "start", lambda self, contexts, *rest: (reads.append(contexts), start(self, contexts, *rest))[1])
    rows = [Request(prompt=[5 + i // 4, 6], key=(i,), max_tokens=1 + i) for i in range(8)]
    NativeEngine(tiny(), 0, lean=kind is LeanDecoder).generate(rows)
    assert reads == [[[5, 6], [6, 6]]]
    assert sizes == [8, 6, 6, 4, 3, 2, 1]  # left by the time a quarter has finished


def test_a_wave_holds_at_most_max_batch_tokens(monkeypatch):
    waves, start = [], Decoder.start

    def counting(self, contexts, index, steps):
        waves.append(len(index) * (max(map(len, contexts)) + steps))
        return start(self, contexts, index, steps)

    monkeypatch.setattr(Decoder, "start", counting)
    requests = mixed_requests(48)
    NativeEngine(tiny(), 0, max_batch_tokens=60).generate(requests)
    assert len(waves) > 8 and max(waves) <= 60
    waves.clear()
    NativeEngine(tiny(), 0, max_batch_tokens=1).generate(requests)
    assert len(waves) == 48  # a row alone may be more than the bound


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"prompt": []}, EngineError, r"row 1 .*0 tokens"),
        ({"prompt": [5] * 64}, ModelError, r"row 1 .*64 tokens.*64 positions"),
        ({"prompt": [5] * 60, "prefix": [6] * 4}, ModelError, r"row 1 .*64 tokens.*64 positions"),
        ({"prompt": [5, V]}, EngineError, r"row 1 .*5 to 24.*0 to 23"),
        ({"prefix": [-1]}, EngineError, r"row 1 .*-1"),
        ({"temperature": -0.5}, EngineError, r"row 1 .*temperature is -0.5"),
        ({"temperature": float("nan")}, EngineError, r"row 1 .*temperature is nan"),
        ({"top_p": 0.0}, EngineError, r"row 1 .*top_p is 0.0"),
        ({"top_k": -1}, EngineError, r"row 1 .*top_k is -1"),
        ({"max_tokens": -1}, EngineError, r"row 1 .*max_tokens is -1"),
    ],
)
def test_a_request_that_cannot_be_served_is_named(change, error, message):
    good = Request(prompt=[5, 6], key=(0,), max_tokens=2)
    with pytest.raises(error, match=message):
        NativeEngine(tiny("gpt2"), 0).generate([good, replace(good, **change)])


def test_a_response_ends_at_the_last_position_of_the_model():
    # positions 0 to 63: 60 prompt tokens, then tokens at 60, 61, 62, 63
    lengths = (60, 63, 3, 4, 5, 6, 7, 8)  # the first two finish while too few have for anyone to leave
    got = NativeEngine(tiny("gpt2"), 0).generate([Request(prompt=[5] * n, key=(0,), max_tokens=9) for n in lengths])
    assert [len(t) for t in got.tokens] == [4, 1, 9, 9, 9, 9, 9, 9]
    assert got.finish == ["length"] * 8


def test_a_stop_token_after_the_end_changes_nothing():
    def script(logits, position, memory):  # every row says 10, 11, 12, ... by position
        return torch.full_like(logits, -1e9).scatter_(1, 10 + position[:, None], 0.0)

    rows = [Request(prompt=[5], key=(i,), max_tokens=2 if i == 0 else 5, stop=frozenset({13})) for i in range(8)]
    got = NativeEngine(tiny(), 0).generate(rows, rules=[Script(script)])  # row 0 is finished, still in the batch, and made to say 13
    assert got.tokens == [[10, 11]] + [[10, 11, 12, 13]] * 7
    assert got.finish == ["length"] + ["stop"] * 7


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_logits_that_are_not_finite_name_rows_and_positions(temperature):
    def poison(logits, position, memory):
        first = position if memory is None else memory  # the length of the prefix, which is the row here
        bad = (first == 2) & (position == 4) | (first == 0) & (position == 7)
        return {"logits": logits.masked_fill(bad[:, None], float("nan")), "memory": first}

    rows = [Request(prompt=[5] * (i + 1), key=(i,), max_tokens=9, prefix=[7] * i, temperature=temperature) for i in range(4)]
    with pytest.raises(NonFinite, match=r"1 of 4 rows.*row 2 at response position 4$"):
        NativeEngine(tiny(), 0).generate(rows, rules=[Script(poison)])
    rows[2] = replace(rows[2], max_tokens=2)  # ends before the bad position
    with pytest.raises(NonFinite, match=r"row 0 at response position 7$"):
        NativeEngine(tiny(), 0).generate(rows, rules=[Script(poison)])


def test_weights_that_are_not_finite_are_refused():
    model = tiny()
    with torch.no_grad():
        model.model.norm.weight[3] = float("nan")
    engine = NativeEngine(model, 0)
    with pytest.raises(NonFinite, match=r"2 of 2 rows.*row 0 at response position 0, row 1 at response position 1$"):
        engine.generate([Request(prompt=[5], key=(0,), max_tokens=3), Request(prompt=[5], key=(0,), max_tokens=3, prefix=[6])])


def test_modes_are_put_back_even_after_an_interrupt():
    def interrupt(logits, position, memory):
        assert not any(m.training for m in model.modules())
        raise KeyboardInterrupt

    model = tiny()
    model.model.layers[0].eval()
    before = {name: m.training for name, m in model.named_modules()}
    with pytest.raises(KeyboardInterrupt):
        NativeEngine(model, 0).generate([Request(prompt=[5], key=(0,), max_tokens=3)], rules=[Script(interrupt)])
    assert {name: m.training for name, m in model.named_modules()} == before
    assert len(set(before.values())) == 2


@pytest.mark.parametrize("name", CONFIGS)
def test_the_module_trains_as_before_after_sampling(name):
    model = tiny(name)
    fresh = copy.deepcopy(model)
    NativeEngine(model, 0).generate(mixed_requests(6))
    grads = []
    for m in (model.eval(), fresh.eval()):
        m(torch.tensor([[5, 6, 7]])).logits.logsumexp(-1).sum().backward()
        grads.append([p.grad for p in m.parameters() if p.grad is not None])
    assert grads[0] and all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_it_samples_the_weights_of_the_moment():
    model, requests = tiny(), mixed_requests(12)
    engine = NativeEngine(model, 0)
    before = engine.generate(requests)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(-1)
    after = engine.generate(requests)
    assert after.tokens != before.tokens
    assert after.tokens == [one_by_one(model, r)[0] for r in requests]


def test_hooks_and_replaced_forwards_of_layers_are_honoured():
    model = tiny().eval()
    handle = model.model.layers[0].register_forward_hook(lambda module, args, out: out + 1.0)
    requests = mixed_requests(9)
    assert NativeEngine(model, 0).generate(requests).tokens == [one_by_one(model, r)[0] for r in requests]
    with pytest.raises(EngineError, match="hooks"):
        NativeEngine(model, 0, lean=True).generate(requests)
    handle.remove()
    forward = model.model.layers[0].forward
    model.model.layers[0].forward = lambda *args, **more: forward(*args, **more) + 1.0
    assert NativeEngine(model, 0).generate(requests).tokens == [one_by_one(model, r)[0] for r in requests]
    del model.model.layers[0].forward
    assert NativeEngine(model, 0, lean=True).generate(requests).tokens == [one_by_one(model, r)[0] for r in requests]


def test_long_responses_grow_the_cache_and_the_noise():
    model = tiny()
    rows = [Request(prompt=[5] * n, key=(n,), max_tokens=150) for n in (1, 4)]
    lean, general = (NativeEngine(model, 0, lean=x).generate(rows) for x in (True, False))
    assert lean.tokens == general.tokens
    assert lean.tokens[1][140:] == NativeEngine(model, 0).generate([replace(rows[1], prefix=lean.tokens[1][:140], max_tokens=10)]).tokens[0]


def test_load_records_the_version_and_refuses_another_module():
    class Policy(Weights):
        def __init__(self, model):
            self.model = model

        def named_weights(self):
            return self.model.named_parameters()

    model = tiny()
    engine = NativeEngine(model, 0)
    assert isinstance(engine, Engine) and engine.version == -1
    engine.load(Policy(model), version=5)
    assert engine.version == 5
    assert engine.generate([Request(prompt=[5], key=(0,), max_tokens=1)]).version == 5
    with pytest.raises(EngineError, match="policy.model"):
        engine.load(Policy(tiny()), version=6)
    assert engine.version == 5
    with engine.idle():
        pass


def test_no_requests_give_no_responses():
    got = NativeEngine(tiny(), 0).generate([], entropy=True)
    assert (got.tokens, got.sampler_logp, got.sampler_entropy, got.finish) == ([], [], [], [])


@pytest.mark.parametrize(
    ("gpu", "installed", "want"), [(False, True, "native"), (True, False, "native"), (False, False, "native"), (True, True, "vllm")]
)
def test_auto_takes_vllm_only_with_a_gpu_and_vllm(gpu, installed, want, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(auto.importlib.util, "find_spec", lambda name: object() if installed else None)
    assert auto.choice()[0] == want


def test_auto_passes_everything_on(monkeypatch):
    monkeypatch.setattr(auto, "choice", lambda: ("native", "for the test"))
    model, requests = tiny(), mixed_requests(6)
    engine = auto.AutoEngine(model, 0, max_batch_tokens=50)
    assert isinstance(engine, Engine) and engine.engine.max_batch_tokens == 50
    engine.engine.version = 4
    assert engine.version == engine.generate(requests).version == 4
    assert engine.generate(requests, entropy=True).sampler_entropy is not None
    with pytest.raises(EngineError, match="policy.model"):
        engine.load(type("Policy", (), {"model": tiny()})(), 5)
