"""`rlent eval`: a run, a checkpoint of it, and a model, by the public command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import SMALL, rlent, train

from rlent.cli.commands import evaluate
from rlent.errors import RecipeError, UsageError

FEW = {"pass_at_k": 4, "problems": 6}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(
        tmp_path_factory.mktemp("run") / "run",
        *SMALL,
        "recipe=entropybonus",
        "regularize.entropy.coef=1",
        "trainer.steps=2",
        "checkpoint.every=1",
        small=[],
    )


def result(folder: Path) -> dict:
    return json.loads((folder / "eval.json").read_text())


def test_a_run_is_evaluated_with_intervals_responses_plot_and_wandb(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "eval"
    assert evaluate([f"run={run}", "track.mode=offline"], out=str(out), **FEW) == 0
    found = result(out)
    assert set(found["pass_at_k"]) == {"1", "2", "4"}
    for k in found["pass_at_k"].values():
        assert k["low"] <= k["value"] <= k["high"]
    rows = [json.loads(line) for line in (out / "responses.jsonl").read_text().splitlines()]
    assert len(rows) == 24 and {"prompt", "response", "correct", "status"} <= rows[0].keys()
    correct = sum(r["correct"] for r in rows)
    assert found["pass_at_k"]["1"]["value"] == pytest.approx(correct / 24)
    assert (out / "pass_at_k.png").stat().st_size > 1000 and (out / "pass_at_k.csv").is_file()
    assert list((out / "wandb").glob("offline-run-*"))
    assert "pass@k" in capsys.readouterr().out


def test_an_evaluation_that_was_made_is_not_sampled_again(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "eval"
    evaluate([f"run={run}"], out=str(out), **FEW)
    lines = (out / "responses.jsonl").read_text().splitlines(keepends=True)
    (out / "responses.jsonl").write_text("".join(lines[:9]) + lines[9][:20])  # killed in the middle of a line
    before = result(out)["pass_at_k"]
    evaluate([f"run={run}"], out=str(out), **FEW)
    assert result(out)["pass_at_k"] == before
    assert len((out / "responses.jsonl").read_text().splitlines()) == 24


def test_a_checkpoint_and_a_step_are_the_same_weights_and_another_step_is_not(run: Path, tmp_path: Path) -> None:
    for name, what in {
        "a": f"checkpoint={run}/checkpoints/step_000002",
        "b": f"run={run}",
        "c": f"checkpoint={run}/checkpoints/step_000001",
    }.items():
        evaluate([what, "track.mode=disabled"], out=str(tmp_path / name), **FEW)
    nll = {name: result(tmp_path / name)["nll"] for name in "abc"}
    assert nll["a"] == nll["b"] != nll["c"]


def test_any_model_folder_is_evaluated(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate([f"model={run / 'model'}", "model.toy=true", "track.mode=disabled"], out=str(tmp_path / "m"), as_json=True, **FEW)
    printed = json.loads(capsys.readouterr().out)
    assert printed["folder"] == str(tmp_path / "m")
    evaluate([f"run={run}", "track.mode=disabled"], out=str(tmp_path / "r"), **FEW)
    assert result(tmp_path / "m")["pass_at_k"] == result(tmp_path / "r")["pass_at_k"]


@pytest.mark.parametrize(
    ("arguments", "options", "expected"),
    [
        (["run=RUN"], {"pass_at_k": 8, "n": 4}, "needs at least as many samples"),
        (["run=RUN"], {"pass_at_k": 8, "greedy": True}, "needs samples"),
        ([], {}, "what is to be evaluated"),
        (["run=RUN", "checkpoint=RUN/checkpoints/step_000002", "run=RUN"], {}, "named more than once: .*run"),
        (["model=tiny", "step=2"], {}, "a model has no steps"),
        (["run=RUN", "recipe=klcov"], {}, "recipe: cannot be chosen anew for a run that was made"),
        (["run=RUN", "eval=papr"], {}, "there is no 'papr'; did you mean 'paper'"),
        (["run=nowhere"], {}, "not a run folder"),
        (["run=RUN/checkpoints/step_000001"], {}, r"that is a checkpoint of a run; evaluate it with checkpoint=\S*/step_000001"),
        (["run=RUN", "eval.n=3"], {"pass_at_k": 16}, "needs at least as many samples, and eval.n=3"),
        (["run=RUN", "eval.n=3"], {"greedy": True}, "one response to each problem, and eval.n=3"),
        (["run=RUN", "eval.ks=[1,2]"], {"pass_at_k": 16}, "eval.ks; give one of them"),
        (["checkpoint=RUN/checkpoints/step_000009"], {}, "has checkpoints of steps 1, 2"),
    ],
)
def test_what_cannot_be_evaluated_is_refused(run: Path, arguments: list[str], options: dict, expected: str) -> None:
    with pytest.raises((UsageError, RecipeError), match=expected):
        evaluate([a.replace("RUN", str(run)) for a in arguments], **options)


def test_overrides_of_an_evaluation_count_as_its_options_do(run: Path, tmp_path: Path) -> None:
    evaluate([f"run={run}", "eval.problems=3", "eval.n=5", "track.mode=disabled"], pass_at_k=2, out=str(tmp_path / "a"))
    rows = [json.loads(line) for line in (tmp_path / "a" / "responses.jsonl").read_text().splitlines()]
    assert len(rows) == 15 and set(result(tmp_path / "a")["pass_at_k"]) == {"1", "2"}
    evaluate([f"run={run}", "eval.problems=9", "track.mode=disabled"], pass_at_k=2, problems=2, out=str(tmp_path / "b"))
    assert len((tmp_path / "b" / "responses.jsonl").read_text().splitlines()) == 4  # an option of the command comes first


def test_greedy_is_one_response_and_the_same_twice(run: Path, tmp_path: Path) -> None:
    for name in "ab":
        evaluate([f"run={run}", "track.mode=disabled"], greedy=True, problems=6, seed=ord(name), out=str(tmp_path / name))
    one, two = ((tmp_path / name / "responses.jsonl").read_text() for name in "ab")
    assert [json.loads(r)["response"] for r in one.splitlines()] == [json.loads(r)["response"] for r in two.splitlines()]


def test_the_command_line_evaluates_and_names_what_comes_next(run: Path, tmp_path: Path) -> None:
    done = rlent("eval", "--pass-at-k", "4", "--problems", "4", "--out", str(tmp_path / "e"), f"run={run}")
    assert "eval.json" in done.stdout
