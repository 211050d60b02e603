"""What is found in the data before a run: bad golds, repeats, overlap with test sets, prompts that are too long."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from runs import SMALL

from rlent.cli import commands
from rlent.data.files import FileData, HubData, load_file
from rlent.data.overlap import benchmarks, drop_duplicates, key, same_text
from rlent.data.problems import Problems
from rlent.errors import DataError
from rlent.grading.math import MathGrader
from rlent.types import Problem


class Letters:
    """A tokenizer with a token for each character."""

    chat_template = None

    def __call__(self, text, *, add_special_tokens):
        return type("Encoding", (), {"input_ids": [ord(c) for c in text]})

    def decode(self, ids):
        return "".join(map(chr, ids))


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


ROWS = [
    {"id": "a", "prompt": "What is $1+1$?", "answer": "2"},
    {"id": "b", "prompt": "What is $1 + 1$ ?", "answer": "2"},
    {"id": "c", "prompt": r"What is \(1+1\)?", "answer": "3"},
    {"id": "d", "prompt": "What is $1-1$?", "answer": "0"},
    {"id": "e", "prompt": "Solve " + "x" * 50, "answer": r"\frac{1}{2"},
    {"id": "f", "prompt": "How many?", "answer": "7"},
    {"id": "g", "prompt": "HOW, many?!", "answer": "7"},
]
TEST = [{"id": "t", "prompt": "how  many ?", "answer": "7"}]


@pytest.fixture
def data(tmp_path):
    with MathGrader(workers=1) as grader:
        yield lambda **options: FileData(
            **{
                "path": write(tmp_path / "train.jsonl", ROWS),
                "against": [write(tmp_path / "mine.jsonl", TEST)],
                "held_out_size": 0,
                "grader": grader,
                **options,
            }
        )


def test_everything_is_found_at_once_and_nothing_is_changed(data):
    source = data()
    found = source.examine(Letters(), 40)
    assert found.bad_golds == {"e": r"\frac{1}{2"}
    assert (found.repeats, found.conflicts) == (2, [["a", "b", "c"]])
    assert found.shared == {"mine.jsonl": ["f", "g"]}
    assert found.too_long == ["e"]
    lines = "\n".join(found.lines())
    assert "does not accept as an answer to itself: e" in lines
    assert "data.duplicates=drop" in lines
    assert "2 training problems also in the test set mine.jsonl: f, g; data.decontaminate=true leaves them out" in lines
    assert "1 prompt of more than 40 tokens: e; data.long_prompts=drop" in lines
    source.settle(found)
    assert [p.id for p in source.train] == list("abcdefg")


def test_settings_leave_out_what_was_found_and_the_lines_say_so(data):
    source = data(duplicates="drop", decontaminate=True, long_prompts="drop")
    assert [p.id for p in source.train] == ["d", "e"]  # as long as nobody has counted tokens
    found = source.examine(Letters(), 40)
    source.settle(found)
    assert [p.id for p in source.train] == ["d"]
    assert sum("(left out)" in line for line in found.lines()) == 3


def test_max_prompt_comes_before_the_room_of_the_model(data):
    assert data(max_prompt=12).examine(Letters(), 40).too_long == ["a", "b", "c", "d", "e"]
    assert data().examine(Letters(), None).too_long == []


def test_a_bad_gold_can_stop_the_run(data):
    source = data(bad_golds="stop")
    with pytest.raises(DataError, match=r"(?s)bad_golds=stop.*1 accepted answer .*: e"):
        source.settle(source.examine())


def test_problems_of_the_test_set_of_a_set_are_never_trained_on_and_counted(data, tmp_path):
    source = data(held_out_path=write(tmp_path / "test.jsonl", TEST), against=[])
    found = source.examine()
    assert found.also_held_out == ["f", "g"]
    assert [p.id for p in source.train] == list("abcde")
    assert any("2 problems also held out: f, g (left out)" in line for line in found.lines())


def test_an_evaluation_set_is_held_out_whole_and_refuses_to_be_trained_on(data):
    source = data(use="evaluate")
    assert len(source.held_out) == len(ROWS)
    source.check()
    with pytest.raises(DataError, match=r"train is an evaluation set .*data.use=train"):
        _ = source.train
    assert source.examine().shared == {}


def test_duplicates_are_the_same_mathematics_and_contamination_is_the_same_letters():
    assert same_text(r"Find  $x$ if \(x = 1\).") == same_text("Find $x$ if $x=1$")
    assert same_text("1+1") != same_text("1-1")
    assert same_text(r"\frac{1}{23}") != same_text(r"\frac{12}{3}")
    assert key("How many $x$?") == key("how MANY x") != key("how many y")
    assert key("\udcff x") == key("x")  # a lone surrogate from a broken file
    kept = drop_duplicates(Problems([Problem("1", "p", r"\frac12"), Problem("2", "p ", r"$\frac{1}{2}$")], name="x"))
    assert [p.id for p in kept] == ["1"], "answers that are spelt differently do not conflict"


def test_the_keys_of_the_benchmarks_are_those_of_their_files_and_find_what_is_known_to_overlap(shared_data):
    files = {"olympiadbench": "olympiadbench_maths_en", "gsm8k": "gsm8k_test"}
    for name, keys in benchmarks().items():
        assert keys == {key(p.prompt) for p in load_file(shared_data / f"{files.get(name, name)}.jsonl")}
    known = json.loads((shared_data / "overlaps.json").read_text())
    for train, sets in known.items():
        if train == "gsm8k_train":
            continue  # no exact overlap
        problems = load_file(shared_data / f"{train}.jsonl.gz")
        found = HubData(path=str(shared_data / f"{train}.jsonl.gz"), held_out_size=0).examine().shared
        by_file = {files.get(name, name): {key(p.prompt) for p in problems if p.id in set(ids)} for name, ids in found.items()}
        exact = {test: sum(one["match"] == "exact" for one in pairs) for test, pairs in sets.items()}
        assert {test: len(keys) for test, keys in by_file.items()} == {test: n for test, n in exact.items() if n}


def test_decontaminated_training_problems_share_no_letters_with_a_benchmark(shared_data):
    source = HubData(path=str(shared_data / "dapo_math_17k.jsonl.gz"), decontaminate=True, duplicates="drop")
    keys = Counter(key(p.prompt) for p in source.train)
    assert not any(known & set(keys) for known in benchmarks().values())
    assert len(source.train) > 16_000


def test_a_run_says_what_is_in_its_data_and_keeps_it(tmp_path, capsys):
    rows = [{"id": str(i), "prompt": f"{i},2,3:{i + 5}?", "answer": f"{i + 5} from {i},2,3"} for i in range(1, 9)]
    path = write(tmp_path / "mine.jsonl", [*rows, {**rows[0], "id": "again"}])
    folder = tmp_path / "run"
    commands.train([*SMALL, "track.console=plain", "trainer.steps=1", "data=file", f"data.path={path}", f"run.dir={folder}"])
    shown = capsys.readouterr()
    assert "data: 1 repeated problem; data.duplicates=drop" in shown.out + shown.err
    assert json.loads((folder / "data.json").read_text())["repeats"] == 1


def test_check_prints_the_findings(tmp_path, capsys):
    path = write(tmp_path / "train.jsonl", ROWS)
    assert commands.check(["data=file", f"data.path={path}", "data.held_out_size=0"]) == 0
    out = capsys.readouterr().out
    assert "data: train: 7 problems, 7 to train on, 0 held out" in out
    assert "data: 1 accepted answer the grader does not accept as an answer to itself: e" in out
    assert "lengths of prompts were not counted" in out  # the embedded model has no letters
    assert commands.check(["data=file", f"data.path={path}"], as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["data"]["repeats"] == 2
