r"""`rlent grade`: rows stream through, broken ones are named, and nothing that was graded is lost."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from rlent.errors import DataError, UsageError
from rlent.eval import grade as command
from rlent.eval.grade import BATCH, VERDICT, main

ROOT = str(Path(__file__).resolve().parents[2])
ROWS = [
    {"id": 1, "response": r"so $\boxed{1/2}$", "gold": "0.5"},
    {"id": 2, "response": r"so $\boxed{4}$", "gold": ["3", 4]},
    {"id": 3, "response": "no box: 7", "gold": 7},
    {"id": 4, "response": "ü \ud800 \\boxed{x}", "gold": "y"},
]


def write(path: Path, rows: list[object]) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def read(path: Path) -> list[dict]:
    data = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()]


def command_line(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rlent", "grade", *arguments]


ENVIRONMENT = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_each_row_comes_back_with_its_verdict_in_order(tmp_path, suffix, capsys):
    out = tmp_path / f"graded{suffix}"
    assert main(str(write(tmp_path / f"in{suffix}", ROWS)), out=str(out)) == 0
    graded = read(out)
    assert [{k: v for k, v in row.items() if k not in VERDICT} for row in graded] == ROWS
    assert [(row["correct"], row["answer"], row["method"], row["status"]) for row in graded] == [
        (True, "1/2", "number", "ok"),
        (True, "4", "string", "ok"),
        (False, None, "none", "no_answer"),
        (False, "x", "symbolic", "ok"),
    ]
    assert all(row["seconds"] >= 0 for row in graded)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "2 of 4 rows correct (50.0%)" in shown.err
    assert "status: ok 3, no_answer 1" in shown.err


def test_rows_go_to_standard_output_and_the_summary_to_stderr(tmp_path, capsys):
    assert main(str(write(tmp_path / "in.jsonl", ROWS[:3])), as_json=True) == 0
    shown = capsys.readouterr()
    assert [json.loads(line)["id"] for line in shown.out.splitlines()] == [1, 2, 3]
    summary = json.loads(shown.err)
    assert (summary["rows"], summary["correct"], summary["accuracy"], summary["broken"]) == (3, 2, 2 / 3, 0)
    assert main(str(tmp_path / "in.jsonl"), out=str(tmp_path / "out.jsonl"), as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3, "with --out the summary has standard output"


def test_fields_mode_and_policy_are_settings(tmp_path, capsys):
    rows = [{"model": {"text": "<think>Answer: 1</think> Answer: 3,5"}, "key": "3.5"}]
    path = str(write(tmp_path / "in.jsonl", rows))
    named = {"response_field": "model.text", "gold_field": "key"}
    assert main(path, mode="box", **named) == 0
    assert main(path, mode="marker", **named) == 0
    assert main(path, mode="marker", policy=command.GradePolicy(decimal_comma=True, strip_think=True), **named) == 0
    verdicts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(v["correct"], v["answer"]) for v in verdicts] == [(False, None), (False, "3,5"), (True, "3,5")]


def test_a_broken_row_is_named_with_its_number_and_the_rest_goes_on(tmp_path, capsys):
    rows = [
        ROWS[0],
        "{not json",
        '["a list"]',
        {"respones": "x", "gold": 1},
        {"response": ["a"], "gold": 1},
        {"response": "a", "gold": None},
        "",
        ROWS[1],
    ]
    out = tmp_path / "out.jsonl"
    assert main(str(write(tmp_path / "in.jsonl", rows)), out=str(out)) == 0
    assert [row["id"] for row in read(out)] == [1, 2]
    said = capsys.readouterr().err
    for text in (
        "row 2: not JSON",
        "row 3: a list, and an object with fields is wanted",
        "row 4: no field 'response'; did you mean 'respones'? (fields: respones, gold)",
        "row 5: 'response' is a list, and a text is wanted",
        "row 6: 'gold' is null, and a text, a number or a list of them is wanted",
        "5 broken rows, not in the output",
    ):
        assert text in said


def test_many_broken_rows_are_counted_and_a_file_of_nothing_else_is_refused(tmp_path, capsys):
    path = write(tmp_path / "in.jsonl", ["{"] * 50)
    with pytest.raises(DataError, match="not one of 50 rows can be graded.*--response-field"):
        main(str(path), out=str(tmp_path / "out.jsonl"))
    said = capsys.readouterr().err
    assert said.count("not JSON") == 20
    assert not (tmp_path / "out.jsonl").exists(), "a second try with the right names must not find the file taken"


def test_an_output_that_is_there_is_not_overwritten(tmp_path):
    path, out = write(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    out.write_text("mine\n")
    with pytest.raises(UsageError, match="is there already, and is not overwritten"):
        main(str(path), out=str(out))
    assert out.read_text() == "mine\n"
    with pytest.raises(UsageError, match="there is no folder"):
        main(str(path), out=str(tmp_path / "gone" / "out.jsonl"))


@pytest.mark.parametrize(("option", "name"), [("gold_field", "answer"), ("response_field", "correct")])
def test_a_field_that_a_verdict_would_replace_is_refused(tmp_path, option, name):
    with pytest.raises(UsageError, match=f"the output has a field '{name}' of its own"):
        main(str(write(tmp_path / "in.jsonl", ROWS)), **{option: name})


def test_files_that_cannot_be_read_are_named(tmp_path):
    write(tmp_path / "in.jsonl", ROWS)
    with pytest.raises(DataError, match=r"imn\.jsonl: there is no such file; did you mean 'in\.jsonl'"):
        main(str(tmp_path / "imn.jsonl"))
    with pytest.raises(DataError, match="is a folder"):
        main(str(tmp_path))


def test_a_compressed_file_that_was_cut_gives_the_rows_before_the_cut(tmp_path):
    rows = [{"response": rf"\boxed{{{i}}} {os.urandom(64).hex()}", "gold": str(i)} for i in range(4 * BATCH)]
    path = write(tmp_path / "in.jsonl.gz", rows)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match="ends in the middle"):
        main(str(path), out=str(tmp_path / "out.jsonl"))
    done = read(tmp_path / "out.jsonl")
    assert len(done) >= BATCH and all(row["correct"] for row in done)


def test_a_run_that_stopped_is_continued_and_comes_to_the_same(tmp_path, capsys):
    rows = [{"response": rf"\boxed{{{i}}}", "gold": str(i % 7)} for i in range(20)]
    path = str(write(tmp_path / "in.jsonl", [*rows[:9], "broken", *rows[9:]]))
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    main(path, out=str(whole))
    lines = whole.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join(lines[:12]) + lines[12][:30])  # killed in the middle of a line
    assert main(path, out=str(part), resume=True) == 0
    assert [{**row, "seconds": 0} for row in read(part)] == [{**row, "seconds": 0} for row in read(whole)]
    assert "12 rows graded before" in capsys.readouterr().err
    assert main(path, out=str(tmp_path / "new.jsonl"), resume=True) == 0, "nothing to continue is a beginning"


def test_continuing_with_another_file_or_other_settings_is_refused(tmp_path):
    rows = [{"response": f"Answer: {i}", "gold": str(i)} for i in range(9)]
    path = str(write(tmp_path / "in.jsonl", rows))
    out = str(tmp_path / "out.jsonl")
    main(path, out=out, mode="marker")
    with pytest.raises(UsageError, match="made from other settings"):
        main(path, out=out, mode="box", resume=True)
    with pytest.raises(UsageError, match="made from another input"):
        main(str(write(tmp_path / "other.jsonl", rows[::-1])), out=out, mode="marker", resume=True)
    with pytest.raises(UsageError, match="9 rows, more than the input"):
        main(str(write(tmp_path / "short.jsonl", rows[:3])), out=out, mode="marker", resume=True)
    with pytest.raises(UsageError, match="--resume .* needs --out"):
        main(path, resume=True)


def begin(*arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command_line(*arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        start_new_session=True,
    )


def row(i: int) -> bytes:
    return json.dumps({"i": i, "response": rf"so \boxed{{{i}}}", "gold": str(i)}).encode() + b"\n"


def wait_until_it_waits(process: subprocess.Popen[bytes]) -> None:
    """Until the process has taken all that was written to it, and sleeps: it waits for more input."""
    assert process.stdin is not None
    asleep = 0
    while asleep < 10:
        (unread,) = struct.unpack("i", fcntl.ioctl(process.stdin, termios.FIONREAD, b"\0" * 4))
        state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
        asleep = asleep + 1 if unread == 0 and state == "S" else 0
        time.sleep(0.02)


def test_rows_come_out_while_others_still_come_in_and_ctrl_c_writes_those_in_hand():
    process = begin("-")
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(b"".join(map(row, range(BATCH + 5))))
    process.stdin.flush()
    first = [json.loads(process.stdout.readline()) for _ in range(BATCH)]  # the input is still open
    assert [one["i"] for one in first] == list(range(BATCH))
    wait_until_it_waits(process)  # with the last rows in hand
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
    rest, said = process.communicate(timeout=120)
    assert [json.loads(line)["i"] for line in rest.splitlines()] == list(range(BATCH, BATCH + 5))
    assert process.returncode == 130
    assert b"stopping after the rows in hand" in said and b"every row before that is written" in said


def test_ctrl_c_while_workers_are_busy_costs_no_verdict(tmp_path):
    sums = [(rf"\sum_{{k=0}}^{{n-1}} F_{{n-k-1}} F_{{k}} + {i}", rf"\sum_{{k=0}}^{{n-1}} F_{{k}} F_{{n-k-1}} + {i}") for i in range(80)]
    rows = [{"response": rf"\boxed{{{a}}}", "gold": g} for a, g in sums for _ in range(BATCH // 8)]
    path = write(tmp_path / "in.jsonl", rows)  # ten batches of eight questions
    process = begin(str(path), "--out", str(tmp_path / "out.jsonl"), "--timeout", "20")
    deadline = threading.Event()
    while not (tmp_path / "out.jsonl").exists() and process.poll() is None:
        deadline.wait(0.05)
    deadline.wait(0.1)  # into the second batch
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    done = read(tmp_path / "out.jsonl")
    assert BATCH <= len(done) < len(rows)
    assert [(one["correct"], one["status"]) for one in done] == [(True, "ok")] * len(done)


@pytest.mark.slow
def test_a_hundred_thousand_rows_need_no_more_memory_than_a_few():
    """200 MB of responses go through; the program may grow by what its caches hold."""
    filler = "We look at the next case and find nothing new. " * 40

    def peak(count: int) -> int:
        script = "import sys, resource; from rlent.eval.grade import main; main('-'); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT
        )
        assert process.stdin is not None and process.stderr is not None
        for i in range(count):
            text = json.dumps({"response": rf"{i} {filler} \boxed{{{i}}}", "gold": str(i % 1000)})
            process.stdin.write(text.encode() + b"\n")
        process.stdin.close()
        said = process.stderr.read().splitlines()
        assert process.wait(60) == 0
        assert f"{count:,} rows correct".encode() in b"".join(said)
        return int(said[-1]) // 1024

    few, many = peak(1000), peak(100_000)
    assert many - few < 150, f"{few} MB for a thousand rows, {many} MB for a hundred thousand"
