"""Suites: which sets, under which protocol, and what is refused before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlent.errors import RecipeError, UsageError
from rlent.eval.suite import Ask, benches, sampling
from rlent.recipe import compose as recipes
from rlent.sampling.draw import Decoding

PAPER = ["aime24", "aime25", "amc23", "math500", "omni_math", "olympiadbench", "minerva_math"]
OPEN: dict[str, Any] = {"n": None, "ks": [1, 4, 16], "temperature": None, "top_p": None, "top_k": 0, "max_tokens": None}
SAMPLED = {"n": 32, "temperature": 0.6, "top_p": 1.0, "max_tokens": 8192}
GREEDY = {"n": 1, "temperature": 0.0, "top_p": 1.0, "max_tokens": 8192}


def write(path: Path, answers: list[str]) -> Path:
    rows = [{"id": f"{path.stem}-{i}", "prompt": f"What is {answer}? ({path.stem})", "answer": answer} for i, answer in enumerate(answers)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    return {name: write(tmp_path / f"{name}.jsonl", ["1", "2", "3"]) for name in PAPER}


def paths(files: dict[str, Path]) -> list[str]:
    return [f"eval.paths.{name}={path}" for name, path in files.items()]


@pytest.mark.parametrize(
    ("settings", "protocol", "ask", "expected"),
    [
        ({}, SAMPLED, Ask(), (32, [1, 4, 16], Decoding(0.6, 1.0, 0, 8192))),
        ({}, GREEDY, Ask(), (1, [1], Decoding(0.0, 1.0, 0, 8192))),
        ({}, {}, Ask(), (1, [1], Decoding(0.0, 1.0, 0, 77))),  # no protocol: greedy, the recipe's budget
        ({"n": 8, "temperature": 1.0, "max_tokens": 9}, SAMPLED, Ask(), (8, [1, 4], Decoding(1.0, 1.0, 0, 9))),
        ({"n": 8, "temperature": 1.0}, SAMPLED, Ask(n=4, temperature=0.2), (4, [1, 4], Decoding(0.2, 1.0, 0, 8192))),
        ({}, SAMPLED, Ask(greedy=True), (1, [1], Decoding(0.0, 1.0, 0, 8192))),
        ({}, SAMPLED, Ask(pass_at_k=8), (32, [1, 2, 4, 8], Decoding(0.6, 1.0, 0, 8192))),  # the card's 32 samples stay
        ({}, SAMPLED, Ask(pass_at_k=64), (64, [1, 2, 4, 8, 16, 32, 64], Decoding(0.6, 1.0, 0, 8192))),
        ({"n": 16}, SAMPLED, Ask(pass_at_k=4), (4, [1, 2, 4], Decoding(0.6, 1.0, 0, 8192))),
        ({}, GREEDY, Ask(pass_at_k=4), (4, [1, 2, 4], Decoding(0.6, 1.0, 0, 8192))),  # pass@k is never estimated from greedy output
        ({}, GREEDY, Ask(n=4), (4, [1, 4], Decoding(0.6, 1.0, 0, 8192))),
        ({}, {**SAMPLED, "top_p": 0.7}, Ask(), (32, [1, 4, 16], Decoding(0.6, 0.7, 0, 8192))),
    ],
)
def test_command_line_then_settings_then_protocol(settings: dict, protocol: dict, ask: Ask, expected: tuple) -> None:
    assert sampling({**OPEN, **settings}, protocol, ask, budget=77) == expected


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (Ask(pass_at_k=8, n=4), "--pass-at-k 8 needs at least as many samples, and --n is 4"),
        (Ask(pass_at_k=8, greedy=True), "--greedy gives one response"),
        (Ask(n=8, greedy=True), "--n is 8"),
    ],
)
def test_what_cannot_be_sampled_is_refused(ask: Ask, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        sampling(OPEN, SAMPLED, ask, 8)


@pytest.mark.parametrize(
    ("overrides", "ask", "expected"),
    [
        ([], Ask(), Ask()),
        (["eval.problems=16", "+eval.n=3", "seed=1"], Ask(), Ask(problems=16, n=3)),
        (["eval.problems=16", "eval.n=3"], Ask(problems=5, n=2), Ask(problems=5, n=2)),
        (["eval.problems=null"], Ask(), Ask(all_problems=True)),
        (["eval.problems=null"], Ask(problems=5), Ask(problems=5)),
    ],
)
def test_what_an_override_asks_for_fills_what_the_command_leaves_open(overrides: list[str], ask: Ask, expected: Ask) -> None:
    assert ask.with_overrides(overrides) == expected


def test_all_held_out_problems_are_taken_only_if_it_is_written_out() -> None:
    recipe = recipes.load([])
    (some,) = benches(recipe, Ask(), 10)
    (every,) = benches(recipe, Ask().with_overrides(["eval.problems=null"]), 10)
    assert len(some.problems) == 10 < len(every.problems) == every.whole


def test_the_papers_suite_is_its_seven_benchmarks_under_its_protocol(files: dict[str, Path]) -> None:
    found = benches(recipes.load(["eval=paper", *paths(files)]), Ask())
    assert [b.name for b in found] == PAPER
    assert {b.name: b.n for b in found} == {name: 32 if name in ("aime24", "aime25", "amc23") else 1 for name in PAPER}
    for b in found:
        heat = 0.6 if b.n == 32 else 0.0
        assert b.decoding == Decoding(heat, 1.0, 0, 8192)
        assert [p.gold for p in b.problems] == ["1", "2", "3"] and b.whole == 3
        assert b.template != "none" and b.grader.mode == "box"
    assert "83" in next(b for b in found if b.name == "amc23").note  # the paper's AMC is another set, and the card says so
    assert [len(b.problems) for b in benches(recipes.load(["eval=paper", *paths(files)]), Ask(problems=2))] == [2] * 7


def test_a_model_is_asked_in_the_template_it_was_trained_with(files: dict[str, Path]) -> None:
    base = ["eval=paper", "eval.sets=[math500]", f"eval.paths.math500={files['math500']}"]
    assert benches(recipes.load(base), Ask())[0].template == "qwen-boxed"  # the card's: countdown has none
    trained = [*base, "data=file", f"data.path={files['aime24']}", "data.template=dapo-boxed"]
    assert benches(recipes.load(trained), Ask())[0].template == "dapo-boxed"
    assert benches(recipes.load([*trained, "eval.template=r1"]), Ask())[0].template == "r1"


def test_the_grader_of_a_set_reads_what_its_template_makes_of_a_response(files: dict[str, Path]) -> None:
    base = ["eval=paper", "eval.sets=[math500]", f"eval.paths.math500={files['math500']}"]
    response = r"perhaps \boxed{3}, no </think> <answer> \boxed{1} </answer>", r"\boxed{1} or"
    for template, verdicts in (("r1", [True, False]), ("qwen-boxed", [True, True])):  # r1 opens <think>; the second never ends it
        (found,) = benches(recipes.load([*base, f"eval.template={template}"]), Ask())
        with found.grader as grader:
            assert [v.correct for v in grader(response, [found.problems[0]] * 2)] == verdicts


def test_a_set_may_be_only_a_file_and_a_card_of_ones_own(tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.jsonl", ["4", "5"])
    (found,) = benches(recipes.load(["eval=protocol", "eval.sets=[mine]", f"eval.paths.mine={mine}"]), Ask())
    assert found.name == "mine" and [p.gold for p in found.problems] == ["4", "5"] and found.n == 1
    (tmp_path / "my" / "data").mkdir(parents=True)
    card = f"defaults: [hub, _self_]\npath: {mine}\nuse: evaluate\nprotocol: {{n: 3, temperature: 0.5}}\n"
    (tmp_path / "my" / "data" / "mine.yaml").write_text(card)
    (found,) = benches(recipes.load(["eval=protocol", "eval.sets=[mine]"], [tmp_path / "my"]), Ask())
    assert (found.n, found.decoding.temperature, len(found.problems)) == (3, 0.5, 2)


def test_everything_wrong_with_a_suite_is_said_at_once(files: dict[str, Path], tmp_path: Path) -> None:
    wrong = ["eval=paper", "eval.sets=[math501,aime24,aime25]", "eval.paths.amc23=x", f"eval.paths.aime24={tmp_path}/nowhere.jsonl"]
    (tmp_path / "broken.jsonl").write_text('{"prompt": "?"}\n')
    with pytest.raises(RecipeError) as error:
        benches(recipes.load([*wrong, f"eval.paths.aime25={tmp_path}/broken.jsonl"]), Ask())
    text = str(error.value)
    assert "math501" in text and "did you mean 'math500'" in text
    assert "eval.paths.amc23: there is no such set" in text
    assert "nowhere.jsonl: there is no such file" in text
    assert "aime25" in text and "row 1" in text
    assert error.value.exit_code == 2


def test_the_sets_of_a_training_run_are_checked_before_it(files: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    from rlent.cli import commands

    assert commands.check(["eval=paper", "eval.every=5", *paths(files)]) == 0
    capsys.readouterr()
    files["omni_math"].unlink()
    with pytest.raises(RecipeError, match=r"eval\.sets: omni_math: .*no such file"):
        commands.check(["eval=paper", "eval.every=5", *paths(files)])
    assert commands.check(["eval=paper", *paths(files)]) == 0  # every: 0, so training never asks for it


def test_without_sets_the_held_out_problems_of_the_recipe_are_the_one_set() -> None:
    (found,) = benches(recipes.load(["data.held_out_size=20"]), Ask(), default_problems=12)
    assert len(found.problems) == 12 and found.whole == 20 and found.n == 16 and found.template == "none"
