"""The record survives kills, full disks and resumes, and keeps every bit of every float."""

import errno
import json
import math
import os
import resource
import signal
import struct
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlent.errors import DataError, RlentError
from rlent.track.record import JsonlRecord, read_rows


def fill(path, steps, **options):
    record = JsonlRecord(path, **options)
    for step in steps:
        record.append(step, {"a": step / 3})
    return record


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_come_back_to_the_last_bit(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("floats") / "metrics.jsonl"
    JsonlRecord(path, sync="never").append(1, {"x": value})
    (row,) = read_rows(path)
    assert struct.pack("d", row["x"]) == struct.pack("d", value)


def test_what_is_not_finite_is_null_and_arrays_are_numbers(tmp_path):
    path = tmp_path / "metrics.jsonl"
    values = {
        "nan": math.nan,
        "inf": -math.inf,
        "np": np.float32(0.5),
        "t": torch.tensor(2),
        "deep": {"x": [math.inf, 1]},
        "flag": True,
        "text": "a\nb",
    }
    JsonlRecord(path).append(3, values)
    text = path.read_text()
    assert text.count("\n") == 1 and text.startswith('{"step": 3, ')
    strict = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert strict == {"step": 3, "nan": None, "inf": None, "np": 0.5, "t": 2, "deep": {"x": [None, 1]}, "flag": True, "text": "a\nb"}


def test_a_row_can_be_read_as_soon_as_it_is_appended(tmp_path):
    path = tmp_path / "metrics.jsonl"
    record = JsonlRecord(path)
    for step in (1, 2, 3):
        record.append(step, {"a": step})
        assert [r["step"] for r in read_rows(path)] == list(range(1, step + 1))


def test_a_torn_last_line_is_ignored_and_then_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    fill(path, [1, 2]).close()
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 3, "a": 0.')
    assert [r["step"] for r in read_rows(path)] == [1, 2]
    fill(path, [3])
    assert [r["step"] for r in read_rows(path)] == [1, 2, 3]
    assert path.read_bytes().startswith(whole)


def test_a_row_without_its_line_end_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}')
    fill(path, [3])
    assert [r["step"] for r in read_rows(path)] == [1, 2, 3]


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step"\n{"step": 3}\n')
    with pytest.raises(DataError, match="metrics.jsonl line 2"):
        read_rows(path)


def test_cut_back_keeps_the_bytes_of_the_rows_it_keeps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    fill(path, [1, 2, 3, 4]).close()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(path.read_bytes() + b'{"st')
    kept = JsonlRecord(path).cut_back(2)
    assert [r["step"] for r in kept] == [1, 2]
    assert path.read_bytes() == b"".join(lines[:2])
    assert os.listdir(tmp_path) == ["metrics.jsonl"]


def test_a_record_goes_on_after_it_was_cut_back(tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    fill(whole, range(1, 7))
    record = fill(cut, range(1, 6))
    record.cut_back(3)
    for step in (4, 5, 6):
        record.append(step, {"a": step / 3})
    assert cut.read_bytes() == whole.read_bytes()


def test_cutting_back_what_is_not_there_is_nothing(tmp_path):
    assert JsonlRecord(tmp_path / "none.jsonl").cut_back(5) == []
    assert os.listdir(tmp_path) == []


def test_a_step_has_one_row_unless_several_are_allowed(tmp_path):
    record = fill(tmp_path / "metrics.jsonl", [1, 2])
    for step in (2, 1):
        with pytest.raises(RlentError, match="ends with step 2"):
            record.append(step, {})
    with pytest.raises(RlentError, match="ends with step 2"):  # known from the file, too
        fill(tmp_path / "metrics.jsonl", [2])
    many = JsonlRecord(tmp_path / "samples.jsonl", unique=False)
    many.extend(4, [{"a": 1}, {"a": 2}])
    many.extend(4, [{"a": 3}])
    assert [r["a"] for r in read_rows(many.path)] == [1, 2, 3]


def test_a_full_disk_is_named_and_leaves_no_half_row(tmp_path):
    """A real limit on the file's size: the write stops in the middle of the row."""
    record = fill(tmp_path / "metrics.jsonl", [1, 2])
    whole = record.path.read_bytes()
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 10, before[1]))
        with pytest.raises(RlentError, match=r"step 3 could not be written to .*metrics\.jsonl"):
            record.append(3, {"a": "long" * 100})
        assert record.path.read_bytes() == whole
        with pytest.raises(RlentError, match=r"cut back"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (5, before[1]))
            record.cut_back(1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert record.path.read_bytes() == whole and os.listdir(tmp_path) == ["metrics.jsonl"]
    record.append(3, {"a": 1})
    assert [r["step"] for r in read_rows(record.path)] == [1, 2, 3]


def test_no_space_left_is_said(tmp_path, monkeypatch):
    record = fill(tmp_path / "metrics.jsonl", [1])

    def full(handle, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("rlent.track.record.os.write", full)
    with pytest.raises(RlentError, match="No space left on device"):
        record.append(2, {})


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RlentError, match=r"metrics\.jsonl cannot be"):
        fill(tmp_path / "file" / "metrics.jsonl", [1])


def test_every_row_is_whole_after_a_kill(tmp_path):
    path = tmp_path / "metrics.jsonl"
    code = f"""
import os, signal
from rlent.track.record import JsonlRecord
record = JsonlRecord({str(path)!r}, sync="never")
for step in range(1, 101):
    record.append(step, {{"a": step}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False, cwd=os.getcwd())
    assert [r["step"] for r in read_rows(path)] == list(range(1, 101))
