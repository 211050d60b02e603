"""Reading files: the usual shapes as they are, and every broken row named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from rlent.data.files import FileData, HubData, load_file, load_hub
from rlent.data.overlap import drop_duplicates
from rlent.data.problems import Problems
from rlent.errors import DataError
from rlent.recipe.mount import check_options, options_of
from rlent.types import Problem

BENCHMARKS = Path(__file__).parents[2].parent / "shared" / "data"
needs_benchmarks = pytest.mark.skipif(not BENCHMARKS.is_dir(), reason="no folder of benchmark files beside the repository")

GOOD = {"id": "a", "prompt": "1+1?", "answer": "2", "level": 3}


def write(path: Path, rows: list) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode(), mtime=0) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".json", ".parquet"])
def test_every_kind_of_file_gives_the_same_problems(tmp_path, suffix):
    rows = [GOOD, {"id": "b", "prompt": "2+2?", "answer": "4", "level": 4}]
    path = tmp_path / f"set{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(rows))
    elif suffix == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    else:
        write(path, rows)
    problems = load_file(path)
    assert list(problems) == [Problem("a", "1+1?", "2", {"level": 3}, "set"), Problem("b", "2+2?", "4", {"level": 4}, "set")]
    assert problems.name == "set"
    assert [p.id for p in load_file(path, limit=1)] == ["a"]


def test_verl_rows_are_read_as_they_are(tmp_path):
    row = {
        "data_source": "math_dapo",
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 6*7?"}],
        "ability": "MATH",
        "reward_model": {"ground_truth": "42", "style": "rule"},
        "extra_info": {"index": "x1"},
    }
    problem = load_file(write(tmp_path / "dapo.jsonl", [row]))[0]
    assert (problem.id, problem.prompt, problem.gold, problem.source) == ("dapo-1", "What is 6*7?", "42", "math_dapo")
    assert problem.meta["messages"] == row["prompt"]
    assert problem.meta["extra_info"] == {"index": "x1"}
    assert problem.meta["ability"] == "MATH"


def test_trl_rows_are_read_as_they_are(tmp_path):
    rows = [
        {"prompt": "What is 6*7?", "solution": r"It is $\boxed{42}$."},
        {"prompt": [{"role": "user", "content": "What is 1/2?"}], "answer": "0.5", "solution": "long"},
    ]
    problems = load_file(write(tmp_path / "trl.jsonl", rows))
    assert [(p.prompt, p.gold) for p in problems] == [("What is 6*7?", r"It is $\boxed{42}$."), ("What is 1/2?", "0.5")]
    assert problems[1].meta["solution"] == "long"  # what is not the answer is kept


def test_fields_can_be_named_by_dotted_path(tmp_path):
    path = write(tmp_path / "x.jsonl", [{"q": {"text": "1+1?"}, "a": [{"v": 1}], "gt": {"v": 2}, "n.b": "k"}])
    problem = load_file(path, prompt_field="q.text", answer_field="gt.v", id_field="n.b", name="mine")[0]
    assert (problem.id, problem.prompt, problem.gold, problem.source) == ("k", "1+1?", "2", "mine")


def test_a_list_of_accepted_answers_stays_a_list_and_a_worked_answer_is_cut_to_its_end(tmp_path):
    rows = [
        {"prompt": "?", "answer": ["1/2", "0.5"]},
        {"question": "??", "answer": "16 - 3 = 13\nso 13 * 2\n#### 26"},
        {"prompt": "???", "answer": 0},
    ]
    assert [p.gold for p in load_file(write(tmp_path / "x.jsonl", rows))] == [["1/2", "0.5"], "26", "0"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"prompt": "1+1?", "answ', r"row 2: not JSON \("),
        ('["1+1?", "2"]', "row 2: a list, and an object with fields is wanted"),
        (
            {"id": "b", "text": "1+1?", "answer": "2"},
            r"row 2: no prompt: none of prompt, .* \(fields: id, text, answer\); name it with data.prompt_field",
        ),
        ({"id": "b", "prompt": "1+1?"}, "row 2: no answer: none of .*data.answer_field"),
        ({"id": "b", "prompt": "  ", "answer": "2"}, "row 2: the prompt is empty"),
        ({"id": "b", "prompt": 7, "answer": "2"}, "row 2: the prompt is a int"),
        ({"id": "b", "prompt": [], "answer": "2"}, "row 2: the prompt is empty"),
        ({"id": "b", "prompt": [{"role": "system", "content": "x"}], "answer": "2"}, "row 2: the prompt is empty"),
        (
            {"id": "b", "prompt": [{"role": "user", "content": [{"type": "image"}]}], "answer": "2"},
            "row 2: the prompt is a list, but not of messages",
        ),
        ({"id": "b", "prompt": "1+1?", "answer": ""}, "row 2: the answer is empty"),
        ({"id": "b", "prompt": "1+1?", "answer": []}, "row 2: the list of answers is empty"),
        ({"id": "b", "prompt": "1+1?", "answer": ["2", ""]}, "row 2: the answer is empty"),
        ({"id": "b", "prompt": "1+1?", "answer": {"x": 1}}, "row 2: the answer is a dict"),
        ({"id": "a", "prompt": "1+1?", "answer": "2"}, "row 2: the id 'a' is already that of row 1"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_with_the_reason(tmp_path, row, reason):
    path = write(tmp_path / "bad.jsonl", [GOOD, row])
    with pytest.raises(DataError, match=rf"(?s)bad\.jsonl: 1 of 2 rows cannot be used\n  {reason}"):
        load_file(path)


def test_a_field_named_wrongly_is_answered_with_the_close_one(tmp_path):
    path = write(tmp_path / "x.jsonl", [GOOD])
    with pytest.raises(DataError, match=r"row 1: no field 'promt'; did you mean 'prompt'\? \(fields: id, prompt, answer, level\)"):
        load_file(path, prompt_field="promt")


def test_only_the_first_rows_are_shown_and_all_are_counted(tmp_path):
    path = write(tmp_path / "bad.jsonl", [GOOD, *["{"] * 8])
    with pytest.raises(DataError) as caught:
        load_file(path)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("8 of 9 rows cannot be used")
    assert len(lines) == 7
    assert lines[1].startswith("  row 2:")
    assert lines[-1] == "  and 3 more"


def test_rows_are_counted_as_lines_of_the_file_and_a_blank_line_is_no_row(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\n\n  \n\xff\n")
    with pytest.raises(DataError, match="1 of 2 rows cannot be used\n  row 4: not UTF-8"):
        load_file(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("set.json", b"{}", "holds one dict, and a list of problems is wanted"),
        ("set.json", b'{"a": 1}\n{"a": 2}', r"not JSON .* name such a file \.jsonl"),
        ("set.jsonl", b"", "there are no rows"),
        ("set.jsonl.gz", b"not gzip", "cannot be read"),
        ("set.jsonl.gz", gzip.compress(b'{"prompt": "1", "answer": "1"}\n' * 400, mtime=0)[:-12], "cannot be read"),
        ("set.parquet", b"PAR1 no", "not a Parquet file"),
        ("set.csv", b"a,b", r"not a kind of file that can be read \(kinds: \.jsonl"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=rf"(?s){name}.*{message}"):
        load_file(tmp_path / name)


def test_a_missing_file_is_answered_with_the_close_one(tmp_path):
    write(tmp_path / "train.jsonl", [GOOD])
    with pytest.raises(DataError, match=r"trian\.jsonl: there is no such file; did you mean 'train\.jsonl'"):
        load_file(tmp_path / "trian.jsonl")


def test_dropping_duplicates_keeps_one_of_each_prompt_and_none_that_disagree():
    rows = [Problem("1", "p", "2"), Problem("2", "p ", "2"), Problem("3", "q", "5"), Problem("4", "q", "6"), Problem("5", "r", "7")]
    assert [p.id for p in drop_duplicates(Problems(rows, name="x"))] == ["1", "5"]


def test_held_out_problems_are_taken_from_training_and_depend_on_the_seed(tmp_path):
    path = str(write(tmp_path / "x.jsonl", [{"id": i, "prompt": f"p{i}", "answer": i} for i in range(100)]))
    one, same, other = (FileData(path=path, held_out_size=8, seed=s) for s in (0, 0, 1))
    test, train = {p.id for p in one.held_out}, {p.id for p in one.train}
    assert len(test) == 8
    assert len(train) == 92
    assert not test & train
    assert test == {p.id for p in same.held_out} != {p.id for p in other.held_out}
    assert len(FileData(path=path, held_out_size=64).held_out) == 10  # at most a tenth


def test_a_training_problem_with_the_text_of_a_held_out_one_is_left_out(tmp_path):
    train = write(tmp_path / "train.jsonl", [{"id": "1", "prompt": "p  q", "answer": "2"}, {"id": "2", "prompt": "r", "answer": "3"}])
    test = write(tmp_path / "test.jsonl", [{"id": "t", "prompt": "p q", "answer": "2"}])
    data = FileData(path=str(train), held_out_path=str(test))
    assert [p.id for p in data.train] == ["2"]
    assert [p.id for p in data.held_out] == ["t"]
    with pytest.raises(DataError, match="every problem is also held out"):
        FileData(path=str(test), held_out_path=str(test)).check()


def test_checks_name_the_option():
    with pytest.raises(DataError, match=r"data.path: not set"):
        FileData().check()
    with pytest.raises(DataError, match=r"data.name: not set"):
        HubData().check()
    with pytest.raises(DataError, match=r"no template 'qwen'"):
        HubData(name="a/b", template="qwen").check()


@pytest.mark.parametrize("kind", [FileData, HubData])
def test_a_recipe_is_told_of_every_wrong_option_of_a_set(kind):
    wrong = {
        "limit": 0,
        "held_out_size": -1,
        "duplicates": "drp",
        "use": "test",
        "against": "a.jsonl",
        "seed": 1.5,
        "prompt_field": 3,
        "pth": "x",
    }
    problems = check_options("data", kind.__init__, wrong, kind.__name__)
    assert [line.split(":")[0] for line in problems] == [f"data.{name}" for name in list(wrong)[:-1]] + ["data"]
    assert problems[0] == "data.limit: 0 is outside [1, inf] (int in [1, inf] or null is accepted)"
    assert "has no option 'pth'; did you mean 'path'?" in problems[-1]


def test_a_set_of_the_hub_has_the_options_of_a_file_and_its_own():
    file, hub = options_of(FileData.__init__), options_of(HubData.__init__)
    assert set(hub) - set(file) == {"name", "config", "split", "revision", "held_out_split", "protocol", "card"}
    assert {name: (p.annotation, p.default) for name, p in hub.items() if name in file} == {
        n: (p.annotation, p.default) for n, p in file.items()
    }


def test_the_hub_without_a_network_says_what_to_do(monkeypatch):
    import datasets

    def fail(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(DataError, match=r"(?s)owner/set \(train\): could not be loaded .*ConnectionError.*data=file data.path=FILE"):
        _ = HubData(name="owner/set").train


def test_a_data_set_of_the_hub_is_read_with_the_same_fields(monkeypatch):
    import datasets

    asked = []

    def give(name, config, *, split, revision):
        asked.append((name, config, split, revision))
        return datasets.Dataset.from_list([{"question": f"{split} {i}?", "answer": f"work\n#### {i}"} for i in range(1, 4)])

    monkeypatch.setattr(datasets, "load_dataset", give)
    data = HubData(name="openai/gsm8k", config="main", held_out_split="test", revision="abc")
    assert next((p.id, p.prompt, p.gold) for p in data.train) == ("gsm8k-1", "train 1?", "1")
    assert [p.prompt for p in data.held_out] == ["test 1?", "test 2?", "test 3?"]
    assert sorted(asked) == [("openai/gsm8k", "main", "test", "abc"), ("openai/gsm8k", "main", "train", "abc")]
    assert len(load_hub("openai/gsm8k", limit=2)) == 2


@needs_benchmarks
@pytest.mark.parametrize(
    ("file", "count", "first"),
    [
        ("gsm8k_test.jsonl", 1319, ("gsm8k-test-0", "18")),
        ("aime24.jsonl", 30, ("aime24-I-1", "204")),
        ("math500.jsonl", 500, ("math500-precalculus/807", r"\left( 3, \frac{\pi}{2} \right)")),
        ("olympiadbench_maths_en.jsonl", 675, ("olympiad-1606", "2")),
        ("dapo_math_17k.jsonl.gz", 17398, ("dapo-9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079", "34")),
    ],
)
def test_benchmark_files_are_read_whole(file, count, first):
    problems = load_file(BENCHMARKS / file)
    assert len(problems) == count
    assert (problems[0].id, problems[0].gold) == first


@needs_benchmarks
def test_fields_of_a_benchmark_are_kept():
    problem = load_file(BENCHMARKS / "math500.jsonl", limit=1)[0]
    assert problem.meta["subject"] == "Precalculus"
    assert problem.meta["level"] == 2
    assert problem.meta["license"] == "MIT"
    assert problem.source == "math500"
