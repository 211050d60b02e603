"""The script makes the same files twice, and what ships is a model that transformers loads and that does its task now and then."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlent.data.countdown import CountdownData, held_out
from rlent.data.templates import encode_prompt
from rlent.errors import DataError
from rlent.grading.countdown import CountdownGrader, parse
from rlent.system.paths import tiny_path
from rlent.types import Problem

_spec = importlib.util.spec_from_file_location("make_tiny_model", Path(__file__).parents[2] / "scripts" / "make_tiny_model.py")
script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(script)

PROBLEMS = CountdownData().held_out


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(tiny_path())


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(tiny_path()).eval()


@pytest.fixture
def threads():
    """The script sets torch's threads and determinism for its own process; tests get theirs back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)


def hashes(folder: Path) -> dict[str, str]:
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.iterdir()}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_weights(tmp_path, threads, capsys):
    for name, seed in [("one", 0), ("two", 0), ("three", 1)]:
        assert script.main(["--out", str(tmp_path / name), "--steps", "2", "--batch", "8", "--problems", "0", "--seed", str(seed)]) == 0
    one, two, three = (hashes(tmp_path / name) for name in ("one", "two", "three"))
    assert one == two
    assert {name for name in one if one[name] != three[name]} == {"model.safetensors"}


def test_what_ships_was_made_by_this_script(tmp_path, threads, capsys):
    """All but the weights, which take minutes, are compared byte by byte."""
    script.main(["--out", str(tmp_path), "--steps", "1", "--batch", "8", "--problems", "0"])
    made, shipped = hashes(tmp_path), hashes(tiny_path())
    assert set(made) == set(shipped)
    assert [name for name in made if made[name] != shipped[name]] == ["model.safetensors"]


def test_a_model_of_another_size_is_of_the_same_make_and_is_never_written_over_the_one_that_ships(tmp_path, threads, capsys):
    made = ["--steps", "1", "--batch", "8", "--problems", "0"]
    script.main(["--out", str(tmp_path), "--width", "64", "--layers", "2", *made])
    small, shipped = (json.loads((folder / "config.json").read_text()) for folder in (tmp_path, tiny_path()))
    differs = {k: (shipped[k], small[k]) for k in shipped if shipped[k] != small[k]}
    assert differs.pop("layer_types") == (["full_attention"] * 4, ["full_attention"] * 2)
    assert differs == {
        "hidden_size": (128, 64),
        "intermediate_size": (384, 192),
        "num_hidden_layers": (4, 2),
        "num_attention_heads": (4, 2),
        "num_key_value_heads": (2, 1),
    }
    assert {n: h for n, h in hashes(tmp_path).items() if "token" in n} == {n: h for n, h in hashes(tiny_path()).items() if "token" in n}
    before = hashes(tiny_path())
    refused = {"name a folder for it": ["--layers", "2"], "a multiple of 64 is wanted": ["--width", "96"], "one or more": ["--layers", "0"]}
    for said, options in refused.items():
        with pytest.raises(SystemExit, match="2"):
            script.main([*options, *made])
        assert said in capsys.readouterr().err
    assert hashes(tiny_path()) == before


def test_the_package_stays_small():
    assert sum(f.stat().st_size for f in tiny_path().iterdir()) < 4e6


def test_prompts_survive_the_tokenizer(tokenizer):
    for problem in PROBLEMS:
        ids = encode_prompt(tokenizer, problem)
        assert len(ids) == len(problem.prompt)
        assert tokenizer.decode(ids) == problem.prompt
    assert tokenizer.decode([*tokenizer("(3*5)+(2*7)").input_ids, tokenizer.eos_token_id], skip_special_tokens=True) == "(3*5)+(2*7)"


def test_a_text_problem_is_refused_for_the_tiny_tokenizer(tokenizer):
    with pytest.raises(DataError, match="no tokens for most of the prompt"):
        encode_prompt(tokenizer, Problem("g", "How many eggs are 3 + 4 eggs?", "7"))


def test_end_of_text_and_padding_agree_everywhere(tokenizer, model):
    assert tokenizer.eos_token_id == model.config.eos_token_id == model.generation_config.eos_token_id
    assert tokenizer.pad_token_id == model.config.pad_token_id == model.generation_config.pad_token_id
    assert tokenizer.eos_token_id != tokenizer.pad_token_id
    assert model.config.vocab_size == len(tokenizer)
    assert model.dtype == torch.float32
    assert model.config.tie_word_embeddings


def test_the_model_writes_expressions_with_the_right_numbers_and_leaves_room_to_learn(tokenizer, model):
    found = script.measure(model, tokenizer, list(PROBLEMS[:16]), 16, seed=1)
    assert found["well formed"] > 0.9  # measured 0.99: an expression that uses each number once
    assert 0.4 < found["entropy"] < 0.8
    assert 0.02 < found["pass@1"] < 0.2
    assert found["pass@16"] > 2.5 * found["pass@1"]


@pytest.mark.parametrize("wanted", [script.RIGHT_SHARE, 0.2])
def test_examples_are_well_formed_and_the_wanted_share_of_them_right(wanted):
    pairs = script.examples(2000, random.Random(0), wanted)
    numbers = [[int(x) for x in prompt.partition(":")[0].split(",")] for prompt, _ in pairs]
    targets = [int(prompt.partition(":")[2].rstrip("?")) for prompt, _ in pairs]
    parsed = [parse(response) for _, response in pairs]
    assert all(p.numbers == tuple(sorted(n)) for p, n in zip(parsed, numbers, strict=True))
    right = sum(p.value == t for p, t in zip(parsed, targets, strict=True)) / len(pairs)
    assert wanted - 0.03 < right < wanted + 0.06  # so many on purpose, and some by chance
    padded = torch.tensor([n + [0] * (4 - len(n)) for n in numbers])
    assert not held_out(padded, torch.tensor(targets)).any()


def test_sampling_follows_the_models_distribution(tokenizer, model):
    """First tokens of many samples against the exact probabilities."""
    prompt = encode_prompt(tokenizer, PROBLEMS[0])
    tokens, _, _ = script.sample(model, prompt, 1000, seed=0, eos=tokenizer.eos_token_id, limit=1)
    share = torch.bincount(tokens[:, 0], minlength=len(tokenizer)) / 1000
    with torch.no_grad():
        exact = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    assert (share - exact).abs().max() < 0.06  # four standard errors of a half


def test_a_measured_sample_is_graded_on_its_text(tokenizer, model):
    tokens, _, _ = script.sample(model, encode_prompt(tokenizer, PROBLEMS[0]), 4, seed=0, eos=tokenizer.eos_token_id)
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    assert all(v.status in ("ok", "unparsed") for v in CountdownGrader()(texts, [PROBLEMS[0]] * 4))
    assert not any("<" in text for text in texts)
