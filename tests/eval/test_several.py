"""Suites and several models by the public command: compared in pairs, resumed after a kill, graded again."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from guesser import make_guesser
from runs import rlent, started, train, wait_for

from rlent.cli.commands import evaluate
from rlent.data.overlap import key
from rlent.engine.native import NativeEngine
from rlent.errors import UsageError
from rlent.eval.report import Report
from rlent.eval.result import Evaluation
from rlent.eval.targets import targets

GOLDS = ["1", "2", r"\frac{1}{3}", "4"]
NAMES = {"aime24": 3, "amc23": 4, "math500": 4}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that guess, one of them better, and three small sets."""
    place = tmp_path_factory.mktemp("several")
    make_guesser(place / "plain", dict.fromkeys(GOLDS, 1.0), stop=0.3)
    make_guesser(place / "better", {g: 6.0 if g == "1" else 1.0 for g in GOLDS}, stop=0.3)
    for name, count in NAMES.items():
        rows = [{"id": f"{name}-{i}", "prompt": f"Problem {i} of {name}?", "answer": "0.5" if i == 3 else GOLDS[i]} for i in range(count)]
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return place


def suite(place: Path, *more: str) -> list[str]:
    files = [f"eval.paths.{name}={place / f'{name}.jsonl'}" for name in NAMES]
    fixed = ["eval.max_tokens=6", "eval.batch_rows=16", "track.mode=disabled", "engine=native"]
    return ["eval=paper", f"eval.sets=[{','.join(NAMES)}]", *files, *fixed, *more]


def responses(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "responses.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def both(place: Path) -> Path:
    """The two models on the suite, by the command."""
    assert evaluate(suite(place, f"model={place / 'plain'}", f"model={place / 'better'}"), out=str(place / "out")) == 0
    return place / "out"


def test_each_set_is_sampled_under_its_protocol_and_both_averages_follow_from_the_responses(both: Path) -> None:
    document = json.loads((both / "plain" / "suite.json").read_text())
    accuracy = {}
    for name, count in NAMES.items():
        rows = responses(both / "plain" / name)
        n = 1 if name == "math500" else 32
        assert len(rows) == count * n == document["sets"][name]["responses"]
        assert document["sets"][name]["decoding"]["temperature"] == (0.0 if n == 1 else 0.6)
        accuracy[name] = np.mean([r["correct"] for r in rows])
        assert document["sets"][name]["avg"]["value"] == pytest.approx(accuracy[name])
    assert 0 < accuracy["aime24"] < 1
    assert document["means"]["mean_of_sets"]["value"] == pytest.approx(np.mean(list(accuracy.values())))
    everything = [r["correct"] for name in NAMES for r in responses(both / "plain" / name)]
    assert document["means"]["mean_of_rows"]["value"] == pytest.approx(np.mean(everything))


def test_results_carry_what_is_needed_to_repeat_them(both: Path, place: Path) -> None:
    document = json.loads((both / "plain" / "suite.json").read_text())
    one = document["sets"]["aime24"]
    assert one["decoding"] == {"temperature": 0.6, "top_p": 1.0, "top_k": 0, "max_tokens": 6}
    assert one["seed"] == 0 and len(one["stop"]) == 1 and one["template"] == "qwen-boxed"
    assert "Problem 0 of aime24?" in one["rendered"] and r"\boxed{}" in one["rendered"]
    assert one["grader"]["name"] == "rlent.grading.math.MathGrader" and one["grader"]["mode"] == "box"
    assert {"code", "math-verify"} <= one["grader"].keys()
    assert document["model"]["model"] == str(place / "plain") and document["model"]["weights"]
    assert {"cut", "unanswered", "timed_out", "problems", "samples"} <= one.keys()
    other = json.loads((both / "better" / "suite.json").read_text())
    assert other["model"]["weights"] != document["model"]["weights"]
    row = responses(both / "plain" / "aime24")[0]
    assert {"response", "answer", "correct", "status", "method", "finish", "gold"} <= row.keys()


def test_models_are_compared_problem_by_problem(both: Path) -> None:
    comparison = json.loads((both / "plain-vs-better" / "comparison.json").read_text())
    each = {}
    for label in ("plain", "better"):
        rows = responses(both / label / "aime24")
        each[label] = np.array([np.mean([r["correct"] for r in rows if r["problem"] == f"aime24-{i}"]) for i in range(3)])
    difference = each["better"] - each["plain"]
    found = comparison["sets"]["aime24"]["differences"]["better"]["avg"]
    assert found["value"] == pytest.approx(difference.mean()) and found["se"] == pytest.approx(difference.std(ddof=1) / np.sqrt(3))
    assert comparison["sets"]["aime24"]["problems"] == 3
    assert comparison["means"]["better"]["mean_of_sets"]["value"] == pytest.approx(
        np.mean([comparison["sets"][name]["differences"]["better"]["avg"]["value"] for name in NAMES])
    )
    assert (both / "plain-vs-better" / "sets.png").is_file() and (both / "plain-vs-better" / "sets-dark.png").is_file()


def test_one_engine_takes_up_the_weights_of_one_target_after_the_other(both: Path, place: Path, tmp_path: Path) -> None:
    """The second model's responses are those it gives when it is evaluated alone."""
    evaluate(suite(place, f"model={place / 'better'}"), out=str(tmp_path / "alone"))
    for name in NAMES:
        assert responses(tmp_path / "alone" / name) == responses(both / "better" / name)


def counted(monkeypatch: pytest.MonkeyPatch, stop_at: int | None = None) -> list[int]:
    """Rows that the engine samples from now on; an interrupt instead of call number `stop_at`."""
    calls: list[int] = []
    real: Callable[..., Any] = NativeEngine.generate

    def generate(self: NativeEngine, rows: Any, **how: Any) -> Any:
        if stop_at is not None and len(calls) == stop_at:
            raise KeyboardInterrupt
        calls.append(len(rows))
        return real(self, rows, **how)

    monkeypatch.setattr(NativeEngine, "generate", generate)
    return calls


def test_a_suite_that_was_stopped_goes_on_and_samples_nothing_twice(
    both: Path, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    total = 32 * (3 + 4) + 4
    arguments = suite(place, f"model={place / 'plain'}")
    with monkeypatch.context() as patch:
        first = counted(patch, stop_at=9)  # in the second set
        with pytest.raises(KeyboardInterrupt):
            evaluate(arguments, out=str(tmp_path))
    assert "the same command goes on" in capsys.readouterr().err
    assert (tmp_path / "aime24" / "eval.json").is_file() and not (tmp_path / "amc23" / "eval.json").is_file()
    with monkeypatch.context() as patch:
        second = counted(patch)
        evaluate(arguments, out=str(tmp_path))
    assert sum(first) + sum(second) == total and sum(first) == 9 * 16 - 2 * 16 + 2 * 16
    with monkeypatch.context() as patch:
        third = counted(patch)
        evaluate(arguments, out=str(tmp_path))
    assert third == []
    whole, resumed = Report.load(both / "plain"), Report.load(tmp_path)
    assert {n: [t.verdicts for t in e.problems] for n, e in resumed.sets.items()} == {
        n: [t.verdicts for t in e.problems] for n, e in whole.sets.items()
    }
    assert resumed.means == whole.means


@pytest.mark.slow
def test_an_evaluation_that_was_killed_goes_on(both: Path, place: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    arguments = ["eval", *suite(place, f"model={place / 'plain'}", "eval.batch_rows=4"), "--out", str(out)]
    process = started(*arguments)
    file = out / "amc23" / "responses.jsonl"
    wait_for(lambda: file.is_file() and file.read_bytes().count(b"\n") >= 8, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = file.read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    assert not (out / "suite.json").exists()
    rlent(*arguments)
    assert file.read_bytes().startswith(before)  # kept as they were, and not drawn again
    for name in NAMES:
        assert sorted(map(json.dumps, responses(out / name))) == sorted(map(json.dumps, responses(both / "plain" / name)))
    assert Report.load(out).means == Report.load(both / "plain").means


def test_other_weights_in_the_same_place_are_not_mixed_in(place: Path, tmp_path: Path) -> None:
    make_guesser(tmp_path / "m", dict.fromkeys(GOLDS, 1.0))
    arguments = ["data=file", f"data.path={place / 'amc23.jsonl'}", f"model={tmp_path / 'm'}", "track.mode=disabled", "eval.max_tokens=4"]
    evaluate(arguments, n=2, out=str(tmp_path / "out"))
    make_guesser(tmp_path / "m", dict.fromkeys(GOLDS, 1.0), seed=1)
    with pytest.raises(UsageError, match=r"made with other settings: about\.weights was"):
        evaluate(arguments, n=2, out=str(tmp_path / "out"))


def test_a_folder_in_use_is_refused(place: Path, tmp_path: Path) -> None:
    from rlent.runs.folder import RunFolder

    held = RunFolder(tmp_path)
    held.lock()
    with pytest.raises(UsageError, match="in use by another evaluation"):
        evaluate(suite(place, f"model={place / 'plain'}"), problems=1, out=str(tmp_path))
    held.release()


def test_data_with_a_protocol_is_evaluated_under_it(place: Path, tmp_path: Path) -> None:
    base = [f"model={place / 'plain'}", "track.mode=disabled", "data=amc23", f"data.path={place / 'amc23.jsonl'}", "eval.max_tokens=4"]
    evaluate(base, out=str(tmp_path / "a"))
    assert Evaluation.load(tmp_path / "a").size() == "4 problems x 32 samples, T 0.6, seed 0"
    evaluate([*base, "eval=fast"], out=str(tmp_path / "b"))
    assert Evaluation.load(tmp_path / "b").size() == "4 problems x 16 samples, T 1, seed 0"


def test_pass_at_k_on_a_suite_samples_the_greedy_sets_too(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(suite(place, f"model={place / 'plain'}"), pass_at_k=4, n=8, problems=2, verl=True, out=str(tmp_path), as_json=True)
    printed = json.loads(capsys.readouterr().out)
    for name in NAMES:
        assert printed["sets"][name]["samples"] == 8 and printed["sets"][name]["decoding"]["temperature"] == 0.6
        assert set(printed["sets"][name]["pass_at_k"]) == set(printed["sets"][name]["pass_hat_k"]) == {"1", "2", "4"}
        pass_ = printed["sets"][name]["pass_at_k"]["4"]["value"]
        assert printed["sets"][name]["pass_hat_k"]["4"]["value"] <= printed["sets"][name]["avg"]["value"] <= pass_
        verl = json.loads((tmp_path / name / "verl.json").read_text())
        assert printed["verl"][name] == verl and {"verl_best@8/mean", "verl_maj@8/mean", "verl_worst@2/std", "verl_mean@8"} <= verl.keys()
        assert "the first 2 of" in " ".join(printed["sets"][name]["notes"])


def test_labels_tell_targets_apart(tmp_path: Path, place: Path) -> None:
    for name in ("x/run", "y/run"):
        (tmp_path / name).mkdir(parents=True)
    found = targets([f"model={tmp_path}/x/run", f"model='{tmp_path}/y/run'", str(place / "plain")])
    assert [t.label for t in found] == ["x/run", "y/run", "plain"]


# --- runs


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """A run that was trained on a file which holds two problems of amc23."""
    rows = [{"prompt": f"Problem {i} OF amc23 ?", "answer": GOLDS[i]} for i in (0, 2)]
    rows += [{"prompt": f"Another problem, number {i}", "answer": GOLDS[i % 3]} for i in range(10)]
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return train(
        place / "run",
        "model=hf",
        f"model.path={place / 'plain'}",
        "model.toy=true",
        "model.dtype=float32",
        "data=file",
        f"data.path={place / 'train.jsonl'}",
        "data.held_out_size=1",
        "engine=native",
        "trainer.steps=2",
        "checkpoint.every=1",
        "sampler.max_tokens=4",
        "eval=paper",
        f"eval.sets=[{','.join(NAMES)}]",
        *(f"eval.paths.{name}={place / f'{name}.jsonl'}" for name in NAMES),
        "eval.every=2",
        "eval.problems=2",
        "eval.n=2",
        "eval.temperature=1",
        "eval.ks=[1,2]",
        "eval.max_tokens=4",
    )


def test_a_suite_is_evaluated_while_training(run: Path) -> None:
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    values = [last[f"eval/{name}/avg"] for name in NAMES]
    assert last["eval/mean_of_sets"] == pytest.approx(np.mean(values)) and all(v * 4 == round(v * 4) for v in values)
    from rlent.metrics import explain

    assert [n for n in last if n.startswith("eval/") and explain(n) is None] == []


def test_problems_of_the_training_data_are_counted_and_left_out_once(run: Path, place: Path, tmp_path: Path) -> None:
    rest = [a for a in suite(place) if not a.startswith("engine")]
    assert evaluate([*rest, f"run={run}"], problems=4, out=str(tmp_path)) == 0
    document = json.loads((tmp_path / "suite.json").read_text())
    clean = document["sets"]["amc23"]["without_training_problems"]
    assert clean["ids"] == ["amc23-0", "amc23-2"] and clean["problems"] == 2
    rows = [r["correct"] for r in responses(tmp_path / "amc23") if r["problem"] in ("amc23-1", "amc23-3")]
    assert clean["avg"] == pytest.approx(np.mean(rows))
    assert any("2 of 4 problems are in the training data" in note for note in document["sets"]["amc23"]["notes"])
    assert document["sets"]["aime24"]["without_training_problems"] is None
    assert key("Problem 0 of amc23?") == key("Problem 0 OF amc23 ?")


def test_checkpoints_of_a_run_are_compared_by_bare_folders(run: Path, place: Path, tmp_path: Path) -> None:
    data = ["data=file", f"data.path={place / 'amc23.jsonl'}", "data.use=evaluate", "eval=fast", "track.mode=disabled"]
    evaluate([str(run), str(run / "checkpoints" / "step_000001"), *data], n=4, out=str(tmp_path))
    comparison = json.loads((tmp_path / "run-vs-run_step_1" / "comparison.json").read_text())
    assert comparison["base"] == "run" and comparison["problems"] == 4
    nll = [Evaluation.load(tmp_path / name).nll for name in ("run", "run_step_1")]
    assert nll[0] != nll[1]
