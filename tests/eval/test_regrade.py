"""`rlent eval --regrade`: recorded responses graded again, what changed, and nothing overwritten."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import environment, rlent

from rlent.cli.commands import evaluate
from rlent.errors import DataError, RecipeError, UsageError
from rlent.eval.regrade import read_responses
from rlent.eval.result import Evaluation
from rlent.recipe.compose import build, load

ROWS = [  # response, gold, correct as recorded
    (r"so $\boxed{\frac12}$", "0.5", True),
    (r"so $\boxed{0.33}$", r"\frac13", True),  # recorded by a grader that rounds: wrong
    ("the answer is 7", "7", False),  # right in the mode `any`, no answer in `box`
    (r"\boxed{8}", "7", False),
    (r"\boxed{7}", "7", False),  # recorded as wrong
    ("no idea", "7", False),
]
GOLDS = ["0.5", r"\frac13", "7"]


def record(folder: Path, rows: list[dict[str, Any]], settings: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if settings is not None:
        (folder / "settings.json").write_text(json.dumps(settings))
    return folder


def recorded(**more: Any) -> list[dict[str, Any]]:
    """p0 and p1 have one sample, p2 has four."""
    number = [0, 0, 0, 1, 2, 3]
    return [
        {"problem": f"p{GOLDS.index(g)}", "source": "s", "sample": n, "prompt": "?", "response": r, "gold": g, "correct": c, **more}
        for n, (r, g, c) in zip(number, ROWS, strict=True)
    ]


def changes(folder: Path) -> dict[str, tuple[bool, bool]]:
    rows = [json.loads(line) for line in (folder / "changes.jsonl").read_text().splitlines()]
    return {f"{r['problem']}/{r['sample']}": (r["was"]["correct"], r["now"]["correct"]) for r in rows}


def test_what_changed_is_counted_and_the_recorded_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = record(tmp_path / "old", recorded())
    before = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}
    assert evaluate([], regrade=str(folder), as_json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    found = printed["sets"]["old"]
    assert found["moves"]["right to wrong"] == 1 and found["moves"]["wrong to right"] == 1
    assert found["before"]["value"] == pytest.approx(2 / 3) and found["after"]["value"] == pytest.approx((1 + 0 + 1 / 4) / 3)
    assert found["difference"]["value"] == pytest.approx((-1 + 1 / 4) / 3) and found["difference"]["se"] > 0  # paired, by problem
    verdicts = changes(folder / "regraded")
    assert verdicts["p1/0"] == (True, False) and verdicts["p2/2"] == (False, True)
    assert {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.is_file()} == before
    evaluation = Evaluation.load(folder / "regraded")
    assert [t.verdicts for t in evaluation.problems] == ["1", "0", "0010"] and evaluation.unanswered == pytest.approx(2 / 6)
    evaluate([], regrade=str(folder), as_json=True)
    assert (folder / "regraded-2" / "eval.json").is_file()  # and the first is still there


def test_another_grader_is_a_matter_of_an_override(tmp_path: Path) -> None:
    folder = record(tmp_path / "old", recorded(status="ok", answer=None))
    evaluate(["grader.mode=any"], regrade=str(folder), out=str(tmp_path / "new"))
    assert changes(tmp_path / "new")["p2/0"] == (False, True)
    moves = json.loads((tmp_path / "new" / "regraded.json").read_text())["sets"]["old"]["moves"]
    assert moves["another answer, same verdict"] >= 2  # the recorded rows say that there was none
    with pytest.raises(RecipeError, match="'mode'|mode: 'loud' is not one of box, marker, any"):
        evaluate(["grader.mode=loud"], regrade=str(folder))
    with pytest.raises(RecipeError, match="only grader.KEY=VALUE"):
        evaluate(["seed=1"], regrade=str(folder))
    with pytest.raises(UsageError, match="--regrade samples nothing"):
        evaluate([], regrade=str(folder), n=4)
    with pytest.raises(UsageError, match="not empty, and nothing is overwritten"):
        evaluate([], regrade=str(folder), out=str(tmp_path / "new"))


def test_an_evaluation_is_graded_again_with_its_own_grader_and_nothing_changes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "eval"
    evaluate(["model=tiny", "track.mode=disabled"], n=8, problems=6, out=str(out))
    _, problems, _ = read_responses(out)
    assert list(problems.values()) == list(build(load()["data"]).held_out[:6])  # with what the grader may read beside the text
    capsys.readouterr()
    evaluate([], regrade=str(out), as_json=True)
    found = json.loads(capsys.readouterr().out)["sets"]["eval"]
    assert found["changed"] == 0 and found["grader"] == [] and found["before"] == found["after"] and found["after"]["value"] > 0
    settings = json.loads((out / "settings.json").read_text())
    assert settings["extra"]["grader_block"]["_target_"].endswith("CountdownGrader")
    settings["grader"]["code"] = "000000000000"  # as if it had been graded by an older version
    (out / "settings.json").write_text(json.dumps(settings))
    evaluate([], regrade=str(out), as_json=True)
    again = json.loads(capsys.readouterr().out)["sets"]["eval"]
    assert len(again["grader"]) == 1 and again["grader"][0].startswith("grader.code was '000000000000'")


def test_responses_from_elsewhere_need_only_a_response_and_a_gold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"response": r, "gold": g, "prompt": f"q{GOLDS.index(g)}"} for r, g, _ in ROWS]
    record(
        tmp_path / "root" / "theirs",
        [*rows, *({"response": r, "gold": ["2", "1"], "prompt": "q3"} for r in (r"\boxed{1}", r"\boxed{2}", r"\boxed{3}", ""))],
    )
    record(tmp_path / "root" / "others", rows[:1])
    done = rlent("eval", "--regrade", str(tmp_path / "root"))
    assert "theirs" in done.stdout and "not graded" in done.stdout and "theirs: 10 responses" in done.stderr
    evaluation = Evaluation.load(tmp_path / "root" / "regraded" / "theirs")
    assert [t.verdicts for t in evaluation.problems] == ["1", "0", "0010", "1100"]  # unequal numbers of samples
    assert evaluation.average.value == pytest.approx((1 + 0 + 1 / 4 + 1 / 2) / 4) and evaluation.ladder == [1]
    assert evaluation.counts() == "4 problems x 1 to 4 samples"


def test_a_cut_response_stays_wrong(tmp_path: Path) -> None:
    folder = record(tmp_path / "old", recorded(finish="length"))
    evaluate([], regrade=str(folder))
    assert Evaluation.load(folder / "regraded").average.value == 0
    loose = record(tmp_path / "loose", recorded(finish="length"), {"cut_is_wrong": False})
    evaluate([], regrade=str(loose))
    assert Evaluation.load(loose / "regraded").average.value > 0


def test_a_grader_of_ones_own_is_found_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "my").mkdir()
    (tmp_path / "my" / "lenient_grader.py").write_text(
        "from rlent.types import Verdict\n\nclass Lenient:\n    def __call__(self, responses, problems):\n"
        "        return [Verdict(True, None, 'string', 'ok', 0.0) for _ in responses]\n"
    )
    folder = record(tmp_path / "old", recorded())
    done = rlent(
        "eval", "--regrade", str(folder), "grader._target_=lenient_grader.Lenient", "--config-dir", str(tmp_path / "my"), check=False
    )
    assert done.returncode == 0, done.stderr
    assert Evaluation.load(folder / "regraded").average.value == 1.0


def test_responses_to_a_template_that_opens_thinking_are_graded_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"problem": "p", "sample": i, "gold": "7", "correct": i > 0} for i in range(2)]
    said = [r"\boxed{7}, or", r"it is 8, no </think> \boxed{7}"]
    folder = record(tmp_path / "old", [{**r, "response": s} for r, s in zip(rows, said, strict=True)], {"template": "r1"})
    evaluate([], regrade=str(folder), as_json=True)
    assert json.loads(capsys.readouterr().out)["sets"]["old"]["changed"] == 0
    evaluate(["grader.policy={_target_: rlent.grading.base.GradePolicy, strip_think: false}"], regrade=str(folder), as_json=True)
    assert json.loads(capsys.readouterr().out)["sets"]["old"]["moves"] == {"wrong to right": 1}


def test_what_cannot_be_graded_again_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such folder"):
        evaluate([], regrade=str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"there is no responses\.jsonl in it"):
        evaluate([], regrade=str(tmp_path / "empty"))
    folder = record(tmp_path / "bad", [*recorded(), {"response": "x"}])
    with pytest.raises(DataError, match=r"responses\.jsonl, line 7: a row needs response and gold; it has response"):
        evaluate([], regrade=str(folder))
    unlike = record(tmp_path / "unlike", [*recorded(), {**recorded()[0], "sample": 5, "gold": "9"}])
    with pytest.raises(DataError, match="problem 'p0' has the gold '9' here and '0.5' before"):
        evaluate([], regrade=str(unlike))
    twice = record(tmp_path / "twice", [*recorded(), recorded()[0]])
    with pytest.raises(DataError, match="sample 0 of problem 'p0' is there twice"):
        evaluate([], regrade=str(twice))


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    folder = record(tmp_path / "live", recorded())
    with (folder / "responses.jsonl").open("a") as file:
        file.write('{"problem": "p9", "resp')
    samples, problems, stated = read_responses(folder)
    assert len(samples) == 6 and len(problems) == 3 and "correct" in stated and "answer" not in stated
    (folder / "responses.jsonl").rename(folder / "responses.0.jsonl")  # one file for each rank: a torn line ends its own file only
    (folder / "responses.1.jsonl").write_text(json.dumps({**recorded()[0], "problem": "p8"}) + "\n")
    assert [s.problem for s in read_responses(folder)[0]] == [s.problem for s in samples] + ["p8"]


BENCHMARKS = ["aime24", "aime25", "amc23", "gsm8k_test", "math500", "minerva_math", "olympiadbench_maths_en"]


def test_every_gold_of_the_benchmarks_is_accepted_as_it_is_and_dressed_and_refused_damaged_or_without_a_box(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first problems of each; `scripts/record_golds.py` without --limit takes all."""
    files = [str(shared_data / f"{name}.jsonl") for name in BENCHMARKS]
    script = Path(__file__).parents[2] / "scripts" / "record_golds.py"
    command = [sys.executable, str(script), *files, "--limit", "20", "--out", str(tmp_path / "recorded")]
    subprocess.run(command, env=environment(), check=True, capture_output=True)
    evaluate([], regrade=str(tmp_path / "recorded"), as_json=True)
    found = json.loads(capsys.readouterr().out)["sets"]
    assert set(found) == set(BENCHMARKS)
    for name, one in found.items():
        assert one["responses"] == 80 and one["changed"] == 0, (name, one["moves"])
        assert one["after"]["value"] == 0.5 and one["status"]["no_answer"] == 20
