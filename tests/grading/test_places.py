r"""Where the grader is used from: any thread, asyncio, another process's child, pytest-xdist, torchrun. The verdicts are the same."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rlent.grading.math import MathGrader
from rlent.grading.worker import RECYCLE_AT

ROOT = str(Path(__file__).resolve().parents[2])
ENVIRONMENT = {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}
SUM = r"\sum_{k=0}^{n-1} F_{n-k-1} F_{k}"
TURNED = r"\sum_{k=0}^{n-1} F_{k} F_{n-k-1}"
PAIRS = [
    (rf"\boxed{{{SUM}}}", TURNED),
    (r"\boxed{9^{9^{9^9}}}", "1"),
    (r"\boxed{\frac12}", "0.5"),
    ("nothing", "1"),
    (rf"\boxed{{{SUM} + 1}}", TURNED),
    (r"\boxed{7}", "7"),
]
WANTED = [(True, "ok"), (False, "limit"), (True, "ok"), (False, "no_answer"), (False, "ok"), (True, "ok")]

SCRIPT = textwrap.dedent(f"""
    import json, os, sys
    from rlent.grading.math import grade_batch
    verdicts = [(v.correct, v.status) for v in grade_batch({PAIRS!r})]
    sys.stdout.write(json.dumps({{"rank": os.environ.get("RANK"), "verdicts": verdicts}}) + "\\n")
""")  # no main guard: a worker must not import it


def verdicts(grader: MathGrader) -> list[tuple[bool, str]]:
    return [(v.correct, v.status) for v in grader.grade_batch(PAIRS)]


@pytest.fixture(scope="module")
def grader():
    with MathGrader(workers=2) as grader:
        yield grader


def test_main_thread_other_threads_and_many_at_once(grader):
    assert verdicts(grader) == WANTED
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: verdicts(grader), range(6))) == [WANTED] * 6


def test_inside_asyncio_in_the_loop_and_beside_it(grader):
    async def several():
        here = verdicts(grader)
        beside = await asyncio.gather(*(asyncio.to_thread(verdicts, grader) for _ in range(3)))
        return [here, *beside]

    assert asyncio.run(several()) == [WANTED] * 4


def _in_a_child(queue):
    with MathGrader(workers=1) as grader:
        queue.put(verdicts(grader))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_inside_a_daemon_process(method):
    """A data loader's worker is one; processes of multiprocessing could not be started from it."""
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_in_a_child, args=(queue,), daemon=True)
    child.start()
    assert queue.get(timeout=120) == WANTED
    child.join(30)
    assert child.exitcode == 0


def test_a_grader_that_was_used_before_a_fork_works_in_parent_and_child(grader):
    assert verdicts(grader) == WANTED
    queue = multiprocessing.get_context("fork").Queue()
    child = multiprocessing.get_context("fork").Process(target=lambda: queue.put(verdicts(grader)))
    child.start()
    assert queue.get(timeout=120) == WANTED
    child.join(30)
    assert child.exitcode == 0
    assert grader.equal(SUM + "+ x", TURNED + "+ x"), "the child's end did not take the parent's workers along"


def test_from_a_script_without_a_main_guard():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, env=ENVIRONMENT, timeout=120, check=True)
    assert [tuple(v) for v in json.loads(done.stdout)["verdicts"]] == WANTED


@pytest.mark.slow
def test_under_torchrun(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300, check=True)
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert sorted(one["rank"] for one in said) == ["0", "1"]
    assert all([tuple(v) for v in one["verdicts"]] == WANTED for one in said)


@pytest.mark.slow
def test_under_pytest_xdist(tmp_path):
    pytest.importorskip("xdist")
    file = tmp_path / "test_it.py"
    file.write_text(
        f"import pytest\nfrom rlent.grading.math import grade_batch\n\n@pytest.mark.parametrize('i', range(4))\ndef test_it(i):\n    assert [(v.correct, v.status) for v in grade_batch({PAIRS!r})] == {WANTED!r}\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider", str(file)],
        capture_output=True, text=True, env=ENVIRONMENT, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert "4 passed" in done.stdout, done.stdout


def test_a_worker_that_holds_too_much_memory_answers_and_is_replaced(monkeypatch):
    with MathGrader(workers=1) as grader:
        assert grader.equal(SUM, TURNED)
        (worker,) = grader.pool._workers
        assert worker.full is False, f"{RECYCLE_AT} bytes are more than an ordinary question needs"
        before = grader.pool.processes
        read = type(worker).read
        monkeypatch.setattr(type(worker), "read", lambda self: (read(self), setattr(self, "full", True))[0])
        assert grader.equal(SUM + "+1", TURNED + "+1")
        assert grader.pool.processes != before
        assert grader.equal(SUM + "+2", TURNED + "+2")
