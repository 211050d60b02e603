"""The policy on small random models: statistics and gradients against plain transformers, padding, state, export, errors."""

from __future__ import annotations

import copy
from dataclasses import asdict

import pytest
import torch
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from rlent.errors import CheckpointError, ModelError, NonFinite
from rlent.math.entropy import logp_and_entropy
from rlent.policy import cpu
from rlent.policy.load import ModelSpec
from rlent.policy.policy import Policy
from rlent.types import Batch

SMALL = {"vocab_size": 24, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}


def qwen2(dtype: torch.dtype = torch.float64, **changes) -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(**{**SMALL, "num_key_value_heads": 2, "tie_word_embeddings": True, "attn_implementation": "sdpa", **changes})
    )
    return spread(model, dtype)


def spread(model, dtype):
    """Larger weights, biases and norms that are not 0 and 1: a mistake shows."""
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return model.to(dtype)


@pytest.fixture
def exact_norm(monkeypatch):
    """transformers takes norms in float32; here in the precision of the input, so that float64 is float64."""

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)

    monkeypatch.setattr(Qwen2RMSNorm, "forward", forward)


PROMPTS = [[3, 4, 5, 6], [3, 4, 5, 6], [7, 8], [9, 10, 11], [7, 8]]
LENGTHS = [3, 1, 5, 0, 2]


def part(prompts=PROMPTS, lengths=LENGTHS) -> Batch:
    """Five rows; two share a prompt of 4 tokens, two of 2; one has no response."""
    generator = torch.Generator().manual_seed(1)
    width = max(lengths)
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    tokens = torch.randint(0, 24, (len(lengths), width), generator=generator) * mask
    return Batch({"prompt_ids": [list(p) for p in prompts], "tokens": tokens, "mask": mask})


def plain(model, batch: Batch, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability, entropy [B,T] and logits [B,T,V] row by row from the model's own logits."""
    mask = batch["mask"]
    logp, entropy = torch.zeros(mask.shape, dtype=model.dtype), torch.zeros(mask.shape, dtype=model.dtype)
    logits = torch.zeros(*mask.shape, 24, dtype=model.dtype)
    for i, prompt in enumerate(batch["prompt_ids"]):
        count = int(mask[i].sum())
        if count:
            answer = batch["tokens"][i, :count]
            out = model(torch.cat((torch.tensor(prompt), answer))[None]).logits[0, len(prompt) - 1 : -1]
            logp[i, :count], entropy[i, :count] = logp_and_entropy(out, answer, temperature)
            logits[i, :count] = out / temperature
    return logp, entropy, logits


def gradients(model, *pairs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    model.zero_grad()
    sum((value * g).sum() for value, g in pairs).backward()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def upstream(batch: Batch) -> list[Tensor]:
    return list(torch.randn(3, *batch["mask"].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64))


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_statistics_and_gradients_equal_those_of_plain_transformers(exact_norm, lean, tied):
    model, batch = qwen2(tie_word_embeddings=tied), part()
    collision = {"collision": lambda logits: logits.softmax(-1).square().sum(-1)}
    found = Policy(model, lean=lean)(batch, temperature=0.8, probes=collision)
    logp, entropy, logits = plain(model, batch, 0.8)
    want = {"logp": logp, "entropy": entropy, "collision": logits.softmax(-1).square().sum(-1) * batch["mask"]}
    for name, value in want.items():
        torch.testing.assert_close(found[name], value, rtol=1e-11, atol=1e-12)
    g = upstream(batch)
    mine, exact = gradients(model, *zip(found.values(), g, strict=True)), gradients(model, *zip(want.values(), g, strict=True))
    for name in exact:
        torch.testing.assert_close(mine[name], exact[name], rtol=1e-9, atol=1e-11, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("bias", [False, True])
def test_the_lean_forward_knows_llama_and_its_attention_bias(bias):
    torch.manual_seed(0)
    config = LlamaConfig(**SMALL, num_key_value_heads=4, attention_bias=bias, tie_word_embeddings=False, attn_implementation="sdpa")
    model = spread(LlamaForCausalLM(config), torch.float32)
    batch = part()
    lean, general = Policy(model, lean=True), Policy(model, lean=False)
    a, b = lean(batch), general(batch)
    g = [x.float() for x in upstream(batch)]
    for name in b:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)
    mine, exact = gradients(model, *zip(a.values(), g, strict=False)), gradients(model, *zip(b.values(), g, strict=False))
    for name in exact:
        torch.testing.assert_close(mine[name], exact[name], rtol=1e-3, atol=1e-4)


def test_models_the_lean_forward_does_not_fit_take_the_general_one():
    assert Policy(qwen2()).lean
    assert not Policy(qwen2(attn_implementation="eager")).lean
    assert not Policy(qwen2(torch.bfloat16)).lean
    hooked = qwen2()
    hooked.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert not Policy(hooked).lean and cpu.LeanForward.obstacle(hooked) == "there are hooks on its modules"
    assert not Policy(qwen2(), recompute=True).lean


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("lean", [False, True])
def test_a_row_alone_and_a_row_in_a_batch_are_the_same(exact_norm, dtype, tolerance, lean):
    policy, batch = Policy(qwen2(dtype, initializer_range=0.01), lean=lean), part()
    whole = policy.look(batch)
    for i, count in enumerate(LENGTHS):
        alone = policy.look(batch.select([i]))
        for name in whole:
            assert float((whole[name][i, :count] - alone[name][0, :count]).abs().max() if count else 0.0) <= tolerance


def test_padding_tokens_and_masked_positions_change_nothing():
    policy, batch = Policy(qwen2()), part()
    want = policy.look(batch)
    noisy = batch.with_(tokens=torch.where(batch["mask"], batch["tokens"], 17))
    assert all(torch.equal(policy.look(noisy)[k], want[k]) for k in want)
    assert all(float(v[~batch["mask"]].abs().max()) == 0.0 for v in want.values())


def test_a_hole_in_the_mask_is_read_but_not_counted():
    """A token without mask in the middle of a response (a tool's output) is context."""
    policy, batch = Policy(qwen2()), part()
    want = policy.look(batch)
    mask = batch["mask"].clone()
    mask[2, 1] = False
    found = policy.look(batch.with_(mask=mask))
    for name in want:
        torch.testing.assert_close(found[name], want[name] * mask, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("lean", [False, True])
def test_look_gives_the_same_bits_as_the_pass_with_gradient(lean):
    policy, batch = Policy(qwen2(torch.float32), lean=lean), part()
    live, look = policy(batch, temperature=0.7), policy.look(batch, temperature=0.7)
    assert all(torch.equal(live[k], look[k]) for k in live)
    assert live["logp"].requires_grad and not look["logp"].requires_grad


def test_a_row_without_response_gets_zeros_and_gives_no_gradient(exact_norm):
    model, batch = qwen2(), part()
    policy, g = Policy(model), upstream(batch)
    kept = [0, 1, 2, 4]
    whole = gradients(model, (policy(batch)["logp"], g[0]))
    without = gradients(model, (policy(batch.select(kept))["logp"], g[0][kept]))
    for name in whole:
        torch.testing.assert_close(whole[name], without[name], rtol=1e-10, atol=1e-12)


def test_a_part_without_any_response_gives_zeros_and_a_zero_gradient():
    model = qwen2()
    batch = part([[1, 2], [3]], [0, 0]).with_(mask=torch.zeros(2, 3, dtype=torch.bool), tokens=torch.zeros(2, 3, dtype=torch.long))
    found = Policy(model)(batch, probes={"top": lambda logits: logits.amax(-1)})
    assert {k: (tuple(v.shape), float(v.detach().abs().sum())) for k, v in found.items()} == {
        k: ((2, 3), 0.0) for k in ("logp", "entropy", "top")
    }
    sum(v.sum() for v in found.values()).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_final_softcapping_passes_through_with_its_gradient():
    torch.manual_seed(0)
    config = Gemma2Config(
        **SMALL, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.7, attn_implementation="eager", query_pre_attn_scalar=8
    )
    model = spread(Gemma2ForCausalLM(config), torch.float64).eval()
    batch = part()
    found = Policy(model)(batch, temperature=1.3)
    logp, entropy, logits = plain(model, batch, 1.3)
    assert float(logits.detach().abs().max()) <= 0.7 / 1.3  # the cap is at work
    torch.testing.assert_close(found["logp"], logp, rtol=1e-5, atol=1e-6)
    g = upstream(batch)
    mine, exact = gradients(model, (found["logp"], g[0]), (found["entropy"], g[1])), gradients(model, (logp, g[0]), (entropy, g[1]))
    for name in exact:
        torch.testing.assert_close(mine[name], exact[name], rtol=1e-4, atol=1e-5)


def test_a_model_whose_logits_the_head_cannot_make_is_refused():
    torch.manual_seed(0)
    model = GraniteForCausalLM(GraniteConfig(**SMALL, num_key_value_heads=2, logits_scaling=4.0, attn_implementation="sdpa"))
    with pytest.raises(ModelError, match="GraniteForCausalLM does not compute its logits as softcap"):
        Policy(model)


@pytest.mark.parametrize("lean", [False, True])
def test_probes_read_hidden_states_of_any_layer(exact_norm, lean):
    model, batch = qwen2(), part()
    ids = torch.tensor([[3, 4, 5, 6, *batch["tokens"][0, :3].tolist()]])
    other = copy.deepcopy(model)  # transformers leaves hooks on a model that was asked for hidden states
    states = other(ids, output_hidden_states=True).hidden_states
    probes = {
        "first": lambda hidden_0: hidden_0.sum(-1),
        "middle": lambda hidden_2: hidden_2.sum(-1),
        "last": lambda hidden_3, hidden: {"sum": hidden_3.sum(-1), "gap": (hidden_3 - hidden).abs().sum(-1)},
        "row": lambda hidden, mask: (hidden.sum(-1) * mask).sum(1),
    }
    found = Policy(model, lean=lean)(batch, probes=probes)
    for name, k in (("first", 0), ("middle", 2), ("last_sum", 3)):
        torch.testing.assert_close(found[name][0, :3], states[k][0, 3:6].sum(-1), rtol=1e-10, atol=1e-11)
    assert float(found["last_gap"].detach().abs().max()) == 0.0
    torch.testing.assert_close(found["row"], found["last_sum"].sum(1))
    one = torch.ones(1, dtype=torch.float64)
    mine, exact = gradients(model, (found["middle"][:1], one)), gradients(other, (states[2][0, 3:6].sum(-1), one))
    for name in exact:
        torch.testing.assert_close(mine[name], exact[name], rtol=1e-9, atol=1e-11)
    assert not mine["model.layers.2.mlp.up_proj.weight"].any() and mine["model.layers.1.mlp.up_proj.weight"].any()
    with pytest.raises(ModelError, match="asks for 'hidden_4'; the model has hidden_0"):
        Policy(model, lean=lean)(batch, probes={"far": lambda hidden_4: hidden_4.sum(-1)})


def test_dropout_is_off_in_every_pass():
    model = qwen2(attention_dropout=0.9)
    policy = Policy(model)
    model.train()
    a, b = policy(part())["logp"], policy(part())["logp"]
    assert torch.equal(a, b) and torch.equal(a, policy.look(part())["logp"])


def test_prompts_that_cannot_be_read_name_the_row():
    policy = Policy(qwen2(max_position_embeddings=6))
    with pytest.raises(ModelError, match="row 1 has a prompt of 0 tokens"):
        policy.look(part([[1], []], [1, 1]))
    with pytest.raises(ModelError, match=r"row 1 has 7 positions \(4 of the prompt\); the model has 6. Lower sampler.max_tokens"):
        policy.look(part([[1], [1, 2, 3, 4]], [2, 4]))


def test_training_raises_the_log_probability_and_stop_and_resume_equals_never_stopped():
    options = {"lr": 3e-3, "schedule": "linear", "max_norm": 1.0}
    batch = part()

    def train(policy, upto):
        values = []
        while policy.update.count < upto:
            logp = policy(batch)["logp"]
            (-logp.sum()).backward()
            values.append(float(logp.detach().sum()))
            policy.step()
        return values

    whole, first, second = (Policy(qwen2(torch.float32), optim=options, steps=8) for _ in range(3))
    curve = train(whole, 8)
    assert curve[-1] > curve[0] + 1
    train(first, 4)
    second.load_state_dict(*copy.deepcopy(first.state_dict()))
    train(second, 8)
    for (name, a), (_, b) in zip(whole.named_weights(), second.named_weights(), strict=True):
        assert torch.equal(a, b), name


def test_weights_are_named_as_transformers_names_them_and_a_tied_one_comes_once():
    model = qwen2()
    names = [name for name, _ in Policy(model).named_weights()]
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    assert len(names) == len(set(names)) == len(list(model.parameters()))


def test_a_state_of_another_model_is_refused():
    small, wide = Policy(qwen2()), Policy(qwen2(intermediate_size=64))
    with pytest.raises(CheckpointError, match=r"differs in model.layers.0.mlp.gate_proj.weight"):
        small.load_model_state(wide.model_state())
    with pytest.raises(CheckpointError, match="model.layers.2"):
        small.load_model_state(Policy(qwen2(num_hidden_layers=2)).model_state())


def test_export_is_read_back_with_the_same_numbers_and_never_overwrites(tmp_path):
    policy, batch = Policy.load("tiny"), part()
    batch = batch.with_(tokens=batch["tokens"] % 20, prompt_ids=[[t % 20 for t in p] for p in batch["prompt_ids"]])
    with torch.no_grad():
        policy.model.model.norm.weight.mul_(1.1)
    folder = policy.export(tmp_path / "out" / "model")
    again = Policy.load(folder)
    assert torch.equal(again.look(batch)["logp"], policy.look(batch)["logp"])
    assert again.tokenizer.get_vocab() == policy.tokenizer.get_vocab()
    assert [p.name for p in folder.parent.iterdir()] == ["model"] and not list(folder.glob("*.bin"))
    with pytest.raises(CheckpointError, match="exists, and nothing is overwritten"):
        policy.export(folder)


def test_a_spec_and_a_path_with_options_load_the_same_model(tmp_path):
    spec = ModelSpec("tiny", dtype="float64", recompute=True)
    policies = [Policy.load(spec), Policy.load("tiny", dtype="float64", recompute=True), Policy.load(**asdict(spec))]
    values = [p.look(part([[3, 4]], [3]))["logp"] for p in policies]
    assert {p.compute for p in policies} == {torch.float64} and not any(p.lean for p in policies)
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    policy = Policy(qwen2())

    def full(folder):
        folder.mkdir()
        (folder / "half").write_text("x")
        raise OSError("no space left on device")

    monkeypatch.setattr(policy.model, "save_pretrained", full)
    with pytest.raises(CheckpointError, match="no space left"):
        policy.export(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_loaded_says_why(tmp_path):
    with pytest.raises(ModelError, match="is no folder; a folder, a name on the hub"):
        Policy.load(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="hub cannot be reached"):
        Policy.load("nobody/nothing-here")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="has no weights"):
        Policy.load(tmp_path)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only pickled weights \(pytorch_model.bin\), which can run code"):
        Policy.load(tmp_path)
    with pytest.raises(TypeError, match="unexpected keyword argument 'lean'"):
        Policy.load("tiny", lean=True)
    with pytest.raises(ModelError, match="dtype is 'int8'; one of float32"):
        Policy.load("tiny", dtype="int8")


def test_a_non_finite_gradient_stops_the_update_and_names_the_weight():
    policy = Policy(qwen2(torch.float32), optim={"lr": 1e-3})
    (policy(part())["logp"].sum() * float("nan")).backward()
    with pytest.raises(NonFinite, match="model.embed_tokens.weight"):
        policy.step()


def test_a_policy_without_optimizer_refuses_to_step():
    with pytest.raises(ModelError, match="without an optimizer"):
        Policy(qwen2()).step()
