"""Packed rows with shared prompts: the numbers and gradients of padded ones, no token computed twice, no row that sees another."""

from __future__ import annotations

import copy

import pytest
import torch
from test_policy import gradients, part, qwen2, spread
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from rlent.errors import ModelError
from rlent.policy import packing
from rlent.policy.cpu import lean as lean_family
from rlent.policy.cpu import short as packing_short
from rlent.policy.cpu.short import fits
from rlent.policy.decode import Decoder
from rlent.policy.forward import Layout
from rlent.policy.packing import Packed, buckets
from rlent.policy.policy import Policy

PROMPTS = [[3, 4, 5, 6], [7, 8], [3, 4, 5, 6], [9], [7, 8], [3, 4, 5, 6], [11, 12]]
LENGTHS = [3, 1, 21, 0, 2, 4, 0]
"""Three rows share a prompt of 4 tokens, two of 2; two rows are empty; the long one has a bucket of its own."""

SIZES = {"vocab_size": 24, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}


def model_of(kind: str):
    torch.manual_seed(0)
    if kind == "qwen2":
        return qwen2(torch.float32)
    shared = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "attn_implementation": "sdpa"}
    made = Qwen3ForCausalLM(Qwen3Config(**shared)) if kind == "qwen3" else LlamaForCausalLM(LlamaConfig(**shared))
    return spread(made, torch.float32)


def flash(q, k, v, ends_q, ends_k, longest_q, longest_k, scale):
    """What flash attention with variable lengths computes: segment by segment, causal from the end of the keys."""
    out = torch.empty_like(q)
    for a, b, lo, hi in zip(ends_q[:-1], ends_q[1:], ends_k[:-1], ends_k[1:], strict=True):
        mine, keys, values = (t.transpose(0, 1)[None] for t in (q[a:b], k[lo:hi], v[lo:hi]))
        seen = torch.arange(hi - lo) <= torch.arange(b - a)[:, None] + (hi - lo) - (b - a)
        out[a:b] = scaled_dot_product_attention(mine, keys, values, seen, scale=scale, enable_gqa=True)[0].transpose(0, 1)
        assert b - a <= longest_q and hi - lo <= longest_k
    return out


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(packing, "_varlen", lambda: flash)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("way", ["rows", "varlen"])
def test_values_and_gradients_are_those_of_padded_rows(on_cpu, kind, way):
    model, batch = model_of(kind), part(PROMPTS, LENGTHS)
    padded = Policy(copy.deepcopy(model), lean=False, packing="off")
    packed = Policy(model, lean=False, packing=way)
    assert packed.packs and not padded.packs
    probes = {"first": lambda hidden_0: hidden_0.sum(-1), "middle": lambda hidden_2: hidden_2.square().sum(-1)}
    found, want = (policy(batch, temperature=0.8, probes=probes) for policy in (packed, padded))
    for name in want:
        torch.testing.assert_close(found[name], want[name], rtol=1e-5, atol=1e-5)
    g = torch.randn(2, *batch["mask"].shape, generator=torch.Generator().manual_seed(5))
    mine, exact = (gradients(p.model, (f["logp"], g[0]), (f["entropy"], g[1])) for p, f in ((packed, found), (padded, want)))
    for name in exact:
        scale = float(exact[name].abs().max())
        assert float((mine[name] - exact[name]).abs().max()) <= 1e-5 * scale, name


def test_the_lean_forward_pads_rows_of_very_different_length_in_buckets():
    model, batch = qwen2(), part(PROMPTS, LENGTHS)
    assert len(Packed(Layout.of(batch["prompt_ids"], batch["tokens"], batch["mask"])).padded.buckets) > 1
    found = Policy(copy.deepcopy(model), lean=True)(batch)
    want = Policy(model, lean=False, packing="off")(batch)
    for name in want:  # transformers takes norms in float32
        torch.testing.assert_close(found[name], want[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rounded", [1, 64])
def test_short_rows_attend_as_those_that_go_through_sdpa(monkeypatch, rounded):
    """In the lean forward: values, and gradients of every weight, in float64; the fillers of `rounded` tokens get no gradient."""
    monkeypatch.setattr(lean_family, "ROWS", rounded)
    model, batch = qwen2(torch.float64), part(PROMPTS, LENGTHS)
    g = torch.randn(2, *batch["mask"].shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    found, grads = [], []
    for longest in (packing_short.LONGEST, 24, 23):  # 24 is the longest row
        monkeypatch.setattr(packing_short, "LONGEST", longest)
        assert fits(Packed(Layout.of(batch["prompt_ids"], batch["tokens"], batch["mask"]))) == (longest > 23)
        policy = Policy(copy.deepcopy(model), lean=True)
        found.append(policy(batch, temperature=0.8))
        grads.append(gradients(policy.model, (found[-1]["logp"], g[0]), (found[-1]["entropy"], g[1])))
    for values, gradient in zip(found[:2], grads[:2], strict=True):
        for name in values:
            torch.testing.assert_close(values[name], found[2][name], rtol=1e-11, atol=1e-11)
        for name in gradient:
            torch.testing.assert_close(gradient[name], grads[2][name], rtol=1e-9, atol=1e-11 * float(grads[2][name].abs().max()))


@pytest.mark.parametrize("lean", [True, False])
def test_a_prompt_is_computed_once_for_its_rows_and_padding_never(lean, monkeypatch):
    seen = []
    model = qwen2(torch.float32)
    policy = Policy(model, lean=lean)
    layer = model.model.layers[0].self_attn.q_proj
    if lean:
        monkeypatch.setattr(lean_family, "ROWS", 1)  # no rounding up
        monkeypatch.setattr(lean_family, "linear", watched(lean_family.linear, layer.weight, seen))
    else:
        layer.register_forward_hook(lambda module, args, out: seen.append(args[0].shape[:-1].numel()))
    policy.look(part(PROMPTS, LENGTHS))
    prompts = 4 + 2 + 1 + 2
    assert seen == [prompts + 2 + 0 + 20 + 0 + 1 + 3 + 0]  # the last response token predicts nothing


def watched(linear, weight, seen):
    def spy(x, w, bias=None):
        if w is weight:
            seen.append(len(x))
        return linear(x, w, bias)

    return spy


@pytest.mark.parametrize("way", ["rows", "varlen"])
def test_a_row_sees_nothing_of_its_neighbours(on_cpu, way):
    policy, batch = Policy(qwen2(torch.float32), lean=False, packing=way), part(PROMPTS, LENGTHS)
    before = policy.look(batch)["logp"]
    tokens = batch["tokens"].clone()
    tokens[2, 0] = (tokens[2, 0] + 1) % 24
    after = policy.look(batch.with_(tokens=tokens))["logp"]
    others = [i for i in range(len(LENGTHS)) if i != 2]
    assert torch.equal(before[others], after[others]) and not torch.equal(before[2, 1:], after[2, 1:])


def test_recomputed_layers_know_the_packing_in_the_backward_pass():
    batch = part(PROMPTS, LENGTHS)
    model = qwen2(torch.float32)
    plain, again = Policy(copy.deepcopy(model), lean=False), Policy(model, lean=False, recompute=True)
    assert plain.packs and again.packs
    one, two = (gradients(p.model, (p(batch)["logp"], torch.ones(batch["mask"].shape))) for p in (plain, again))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_packed_model_still_decodes_padded_prompts_as_sdpa_does():
    model = qwen2(torch.float32)
    plain = copy.deepcopy(model)
    Policy(model, lean=False)
    assert model.config._attn_implementation == packing.NAME and plain.config._attn_implementation == "sdpa"
    for one, other in zip(decoded(model), decoded(plain), strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def decoded(model):
    decoder = Decoder(model, 0)
    yield decoder.start([[5, 6, 7, 8, 9], [3, 4]], torch.tensor([0, 1, 1]), 4)
    yield decoder.step(torch.tensor([1, 2, 3]), torch.tensor([5, 2, 2]))


def test_the_name_of_our_attention_is_not_exported(tmp_path):
    policy = Policy(qwen2(torch.float32), lean=False)
    folder = policy.export(tmp_path / "model")
    assert packing.NAME not in (folder / "config.json").read_text()


def test_a_model_that_cannot_be_packed_is_padded_or_refused_by_name(monkeypatch):
    sliding = qwen2(torch.float32, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    assert not Policy(sliding).packs
    with pytest.raises(ModelError, match=r"scale.packing is rows.*layers without full attention; auto or off"):
        Policy(sliding, packing="rows")
    with pytest.raises(ModelError, match="varlen.*cannot be packed that way"):  # no CUDA here
        Policy(qwen2(torch.float32), lean=False, packing="varlen")
    with pytest.raises(ModelError, match="scale.packing is 'sideways'"):
        Policy(qwen2(torch.float32), lean=False, packing="sideways")


def test_a_packed_forward_that_gives_other_numbers_is_noticed_and_not_used(monkeypatch):
    def leaks(q, k, v, packed, scale):  # every token sees every earlier one, whatever the row
        mixed = scaled_dot_product_attention(*(t.transpose(0, 1)[None] for t in (q, k, v)), is_causal=True, scale=scale, enable_gqa=True)
        return mixed[0].transpose(0, 1).flatten(1)[packed.slot]

    monkeypatch.setattr(packing, "attend_rows", leaks)
    model = qwen2(torch.float32)
    assert not Policy(model, lean=False).packs and model.config._attn_implementation == "sdpa"


def test_rows_are_parted_by_length_only_where_padding_would_double_them():
    assert buckets([4, 5, 3, 4]) == [[0, 1, 2, 3]]
    assert buckets([10, 1, 1, 6, 1, 2, 0]) == [[0, 3], [5, 1, 2, 4]]
    assert buckets([]) == [] and buckets([0, 0]) == [[0, 1]]
