"""rlent as a Python library: its public names, the methods as functions, checks of arguments, and the document's examples."""

from __future__ import annotations

import ast
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rlent
from rlent.errors import UsageError
from rlent.library.method import pull_of
from rlent.recipe.compose import load

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "library.md").read_text()
EXAMPLES = {
    section.splitlines()[0]: re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    for section in re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)[1:]
}


def example(title: str, number: int = 0) -> dict[str, Any]:
    """The names that an example of the document leaves behind."""
    names: dict[str, Any] = {}
    exec(compile(EXAMPLES[title][number], f"docs/library.md, {title}", "exec"), names)
    return names


# --- the document


def test_every_example_of_the_document_is_run_by_a_test() -> None:
    run = re.findall(r"example\(\"([^\"]+)\"(?:, (\d))?\)", Path(__file__).read_text())
    assert sorted((title, int(number or 0)) for title, number in run) == sorted(
        (t, i) for t, blocks in EXAMPLES.items() for i in range(len(blocks))
    )


def test_a_method_says_where_it_lives_and_what_it_reads(capsys: pytest.CaptureFixture[str]) -> None:
    example("Clip-Cov in a plain PyTorch loop")
    printed = capsys.readouterr().out
    assert "rlent.methods.clip_cov.drop_high_covariance(fraction=0.0002, low=1.0, high=5.0)" in printed
    assert "arXiv:2505.22617" in printed and "now_logp       [N,T]: log-probability under the current policy" in printed


def test_the_policy_of_the_plain_loop_learns_and_clip_cov_leaves_tokens_out() -> None:
    found = example("Clip-Cov in a plain PyTorch loop", 1)
    (first, first_entropy), (last, last_entropy) = found["history"][0], found["history"][-1]
    assert first < 0.2 and last > 0.9 and first_entropy == pytest.approx(math.log(8), abs=1e-5) and last_entropy < 1.0
    quota = int(0.02 * 64 * 3)
    assert 0 < found["dropped"] <= 120 * quota  # 60 steps of two updates


def test_measurements_of_another_trainers_tensors_are_those_of_their_formulas(capsys: pytest.CaptureFixture[str]) -> None:
    found = example("Measuring another trainer's tensors")
    logits = found["model_logits"][:, :-1].double().numpy()
    chosen = found["response_mask"].numpy() == 1
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    logp = np.log(np.take_along_axis(p, found["input_ids"][:, 1:, None].numpy(), -1))[..., 0][chosen]
    adv = found["adv"].double().numpy()[chosen]
    share = np.sort((logp - logp.mean()) * (adv - adv.mean()))[::-1]
    printed = capsys.readouterr().out
    assert f"entropy {-(p * np.log(p)).sum(-1)[chosen].mean():.3f} nats" in printed
    assert f"covariance {share.mean():.4f}" in printed
    for part, tokens in ((0.02, 2), (0.2, 24), (1.0, 120)):
        assert f"top {part:6.2%}: {tokens:4d} tokens, mean covariance {share[:tokens].mean():.3f}" in printed


def test_a_list_is_graded(capsys: pytest.CaptureFixture[str]) -> None:
    example("Grading a list")
    assert capsys.readouterr().out.splitlines() == [
        "[(True, '\\\\frac{1}{2}', 'ok'), (False, '0.25', 'ok'), (False, None, 'no_answer')]",
        "True",
    ]


def test_pass_at_k_of_a_matrix_is_printed_with_its_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    found = example("pass@k with intervals")
    lines = capsys.readouterr().out.splitlines()
    right = found["correct"].sum(1)
    for line, k in zip(lines, (1, 2, 4, 8, 16), strict=False):
        by_hand = np.mean([1 - math.comb(16 - int(c), k) / math.comb(16, k) for c in right])
        label, value, low, high = re.fullmatch(r"pass@(\d+) +([\d.]+) \(([\d.]+) to ([\d.]+)\)", line).groups()  # type: ignore[union-attr]
        assert int(label) == k and float(value) == pytest.approx(by_hand, abs=5e-4) and float(low) < by_hand < float(high)


def test_a_wrong_mask_is_refused_with_the_sentence_that_the_document_shows(capsys: pytest.CaptureFixture[str]) -> None:
    example("Errors")
    (shown,) = re.findall(r"print\(error\)  # (.*)", EXAMPLES["Errors"][0])
    assert capsys.readouterr().out.strip() == shown


def test_the_document_has_at_most_900_words_beside_its_code() -> None:
    assert len(re.sub(r"```python\n.*?```", "", DOCUMENT, flags=re.DOTALL).split()) <= 900


# --- the public names


def test_every_public_name_is_there_and_typed() -> None:
    tree = ast.parse((ROOT / "rlent" / "__init__.py").read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert typed == {name: f"rlent.{home}" for name, home in rlent._HOME.items()}
    assert set(rlent.__all__) == {*typed, "__version__"} <= set(dir(rlent))
    for name in rlent.__all__:
        assert getattr(rlent, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'masked_men'"):
        rlent.masked_men  # noqa: B018


def test_using_the_library_imports_no_framework_and_importing_it_not_even_torch() -> None:
    code = """
import sys, rlent
assert not {"torch", "numpy", "yaml"} & set(sys.modules)
import torch
mask = torch.ones(2, 3)
rlent.masked_mean(torch.ones(2, 3), mask)
rlent.top_covariance(*rlent.logp_and_entropy(torch.randn(2, 3, 5), torch.zeros(2, 3).long()), mask)
for name in rlent.method_names():
    rlent.method(name)
rlent.method("clipcov")(logp=-mask, old_logp=-mask, adv=rlent.group_advantage(torch.tensor([1, 0]), torch.tensor([0, 0])), mask=mask, seed=0)
rlent.estimate_pass_at_k([[1, 0]])
rlent.grade("1", "1")
heavy = {"hydra", "omegaconf", "transformers", "vllm", "datasets", "wandb", "typer", "rich", "matplotlib", "pyarrow"}
print(sorted(heavy & {name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


# --- methods as functions


@pytest.mark.parametrize("name", ["clipcov", "klcov", "era", "hapo", "lpreg", "riskpo", "hicra", "drgrpo"])
def test_options_are_those_that_the_recipe_has_for_a_real_model(name: str) -> None:
    """Read without Hydra, and equal to what Hydra composes: second values, references to other options, single and named functions."""
    found = rlent.method(name).functions
    recipe = load([f"recipe={name}", "model=hf", "model.path=none"])
    for place, function in found.items():
        composed = recipe
        for key in place.split("."):
            composed = composed[key]
        assert composed["_target_"] == function.target
        assert dict(function.options) == {key: composed[key] for key in function.options}, place
        assert function.coef == composed.get("coef", 1.0)


def batch(width: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    old = -2 * torch.rand(4, width, generator=generator, dtype=torch.float64)
    logp = (old + 0.3 * torch.randn(4, width, generator=generator, dtype=torch.float64)).requires_grad_()
    mask = torch.arange(width) < torch.tensor([width, 3, width, 1])[:, None]
    adv = torch.randn(4, width, generator=generator, dtype=torch.float64) * mask
    return {"logp": logp, "old_logp": old, "adv": adv, "mask": mask}


def test_clip_cov_selects_as_the_authors_function_does() -> None:
    vector = json.loads((ROOT / "tests" / "golden" / "clip_cov_4.json").read_text())
    config, given = vector["config"], {k: torch.tensor(v, dtype=torch.float64) for k, v in vector["inputs"].items()}
    clip_cov = rlent.method("clipcov", fraction=config["cov_ratio"], low=config["cov_lb"], high=config["cov_ub"])
    streams = {"logp": given["log_prob"], "old_logp": given["old_log_prob"], "adv": given["advantages"], "mask": given["mask"]}
    found = [clip_cov(**streams, seed=seed)["selected"] for seed in range(400)]
    candidates = torch.tensor(vector["outputs"]["candidates"]).bool()
    assert {int(selected.sum()) for selected in found} == {vector["outputs"]["quota"]}
    assert torch.equal(torch.stack(found).any(0), candidates)  # each candidate is drawn by some seed, and nothing else ever is


def test_the_draw_is_that_of_the_seed() -> None:
    clip_cov, streams = rlent.method("clipcov", fraction=0.2, low=-9.0, high=9.0), batch()
    first, again, other = (clip_cov(**streams, seed=seed)["selected"] for seed in (3, 3, 4))
    assert torch.equal(first, again) and not torch.equal(first, other)
    with pytest.raises(UsageError, match="draws at random: give seed="):
        clip_cov(**streams)


def test_the_pull_is_ratio_times_advantage_and_zero_where_the_recipes_loss_clips() -> None:
    streams, clip_cov = batch(), rlent.method("clipcov", fraction=1.0, low=-99.0, high=99.0)
    streams["logp"] = (streams["old_logp"] + torch.tensor([0.0, 2.0, 0.1, 0.0, 2.0, 0.0])).requires_grad_()
    streams["adv"] = torch.tensor([1.0, 1.0, 1.0, 1.0, -1.0, -1.0], dtype=torch.float64).expand(4, 6)
    clipped = torch.tensor([False, True, False, False, False, False]).expand(4, 6)  # a ratio of e^2, above 1 + 1, with adv > 0
    by_hand = torch.where(clipped | ~streams["mask"], 0.0, (streams["logp"] - streams["old_logp"]).exp() * streams["adv"]).detach()
    torch.testing.assert_close(pull_of(clip_cov.functions["loss"], streams), by_hand)
    assert torch.equal(clip_cov(**streams, seed=0)["selected"], streams["mask"] & ~clipped)
    given = clip_cov(**streams, now_pull=torch.zeros_like(by_hand), seed=0)["selected"]
    assert not given.any()  # one that is given is taken


def test_only_losses_carry_a_gradient() -> None:
    streams, kl_cov = batch(), rlent.method("klcov", fraction=0.3)
    penalty = kl_cov(**streams)
    penalty["value"].sum().backward()
    assert torch.equal(streams["logp"].grad != 0, penalty["selected"])
    steer = rlent.method("steer")(
        now_logp=streams["logp"], **{k: streams[k] for k in ("old_logp", "adv", "mask")}, old_entropy=-streams["old_logp"]
    )
    assert not steer["weight"].requires_grad  # a weight is a constant of the loss, whatever it was made from
    assert kl_cov.functions["loss"](**streams).requires_grad


def test_an_advantage_of_one_number_for_each_response_is_that_of_all_its_tokens() -> None:
    streams = batch()
    row = torch.tensor([1.0, -1.0, 0.5, 2.0], dtype=torch.float64)
    wide = row[:, None] * streams["mask"]
    loss = rlent.method("grpo").functions["loss"]
    assert torch.equal(loss(**{**streams, "adv": row}), loss(**{**streams, "adv": wide}))


@pytest.mark.parametrize("kind", [torch.int64, torch.float32, torch.uint8])
def test_a_mask_of_zeros_and_ones_is_a_mask(kind: torch.dtype) -> None:
    streams = batch()
    numbers = {**streams, "mask": streams["mask"].to(kind)}
    for name in ("clipcov", "klcov"):
        one, two = (rlent.method(name, fraction=0.3)(**s, **({"seed": 1} if name == "clipcov" else {})) for s in (streams, numbers))
        assert torch.equal(one["selected"], two["selected"])
    logp, adv = streams["logp"].detach(), streams["adv"]
    assert rlent.masked_mean(logp, numbers["mask"]) == rlent.masked_mean(logp, streams["mask"])
    assert torch.equal(rlent.token_covariance(logp, adv, numbers["mask"]), rlent.token_covariance(logp, adv, streams["mask"]))
    assert rlent.top_covariance(logp, adv, numbers["mask"]) == rlent.top_covariance(logp, adv, streams["mask"])


X, MASK = torch.zeros(2, 3), torch.ones(2, 3).bool()
CLIP = {"logp": X, "old_logp": X, "adv": X, "mask": MASK, "seed": 0}
WRONG: dict[str, Callable[[], object]] = {
    "there is no method 'clipcv'; did you mean 'clipcov'": lambda: rlent.method("clipcv"),
    "shape.clip_cov has no option 'fractoin'; did you mean 'fraction'": lambda: rlent.method("clipcov", fractoin=0.1),
    "shape.clip_cov.fraction: 2 is outside [0, 1]": lambda: rlent.method("clipcov", fraction=2),
    "'eminf' has no single function of its own. Call one of .functions": lambda: rlent.method("eminf")(logp=X),
    "It acts through decode.em_inf: use `rlent train recipe=eminf`": lambda: rlent.method("eminf")(logp=X),
    "use .functions[...].with_options(...): advantage, shape.hapo, loss": lambda: rlent.method("hapo", low=0.1),
    "does not read 'advantage'; did you mean 'adv'": lambda: rlent.method("clipcov")(advantage=X),
    "reads 'now_logp' ([N,T]: log-probability under the current policy, before this update), which was not given; give it, or logp": (
        lambda: rlent.method("clipcov")(adv=X, old_logp=X, mask=MASK, seed=0)
    ),
    "which reads logp, old_logp, adv; 'old_logp' was not given. Give it, or now_pull itself": lambda: rlent.method("clipcov").functions[
        "shape.clip_cov"
    ](adv=X, now_logp=X, mask=MASK, seed=0),
    "old_logp has shape [2, 2]; logp has [2, 3]": lambda: rlent.method("clipcov")(**{**CLIP, "old_logp": X[:, :2]}),
    "adv has shape [3]; logp has [2, 3]": lambda: rlent.method("clipcov")(**{**CLIP, "adv": torch.zeros(3)}),
    "adv is int64; a floating-point tensor is needed": lambda: rlent.method("clipcov")(**{**CLIP, "adv": X.long()}),
    "mask is int64 and has 3 in it": lambda: rlent.method("clipcov")(**{**CLIP, "mask": 3 * MASK}),
    "mask is float32 and has 0.5 in it": lambda: rlent.masked_mean(X, MASK / 2),
    "mask is float32 and has nan in it": lambda: rlent.masked_mean(X, X / 0),
    "mask has shape [2] and the values [2, 3]": lambda: rlent.masked_mean(X, MASK[:, 0]),
    "x is int64; a floating-point tensor is needed": lambda: rlent.masked_mean(X.long(), MASK),
    "adv has shape [2] and logp [2, 3]": lambda: rlent.token_covariance(X, X[:, 0], MASK),
    "adv is int64": lambda: rlent.token_covariance(X, X.long(), MASK),
    "shares: 20.0 is outside (0, 1]": lambda: rlent.top_covariance(X, X, MASK, [20.0]),
    "the mask has no token": lambda: rlent.top_covariance(X, X, ~MASK),
    "target has shape [2] and logits [2, 3, 4]; one token for each distribution is needed, which is [2, 3]": (
        lambda: rlent.logp_and_entropy(torch.zeros(2, 3, 4), torch.zeros(2).long())
    ),
    "target is float32; token ids are whole numbers": lambda: rlent.logp_and_entropy(torch.zeros(2, 3, 4), X),
    "target has -100 in it; token ids are 0 to 3": lambda: rlent.logp_and_entropy(torch.zeros(2, 3, 4), X.long() - 100),
    "logits is int64": lambda: rlent.entropy_from_logits(torch.zeros(2, 4).long()),
    "temperature 0.0: a number above 0": lambda: rlent.entropy_from_logits(torch.zeros(2, 4), 0.0),
    "reward has shape [2, 3]; one number for each response": lambda: rlent.group_advantage(X, X.long()),
    "group has shape [3] and reward [2]": lambda: rlent.group_advantage(X[:, 0], torch.zeros(3).long()),
    "group is float32; whole numbers are needed": lambda: rlent.group_advantage(X[:, 0], X[:, 0]),
    "verdicts of shape [2]: a matrix is needed": lambda: rlent.estimate_pass_at_k([1, 0]),
    "a verdict is 0.5; right is 1": lambda: rlent.estimate_pass_at_k([[1, 0.5]]),
    "k = 3 is more than the 2 samples": lambda: rlent.estimate_pass_at_k([[1, 0]], [3]),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_would_give_a_wrong_number_is_refused_with_a_sentence(message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        WRONG[message]()
