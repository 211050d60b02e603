r"""The whole grader: statuses, workers that are killed, threads, forks, side effects, and the public cases."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlent.data.files import FileData
from rlent.errors import UsageError
from rlent.grading.base import GradePolicy
from rlent.grading.equality import Outcome, Question, Reply
from rlent.grading.math import MathGrader
from rlent.grading.pool import GRACE
from rlent.types import Problem, Verdict

SYMBOLIC = (r"\sum_{k=0}^{n-1} F_{n-k-1} F_{k}", r"\sum_{k=0}^{n-1} F_{k} F_{n-k-1}")
CASES = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "grader_cases.jsonl"


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader(workers=2) as grader:
        yield grader


def problem(gold: object, name: str = "p") -> Problem:
    return Problem(id=name, prompt="", gold=gold)


def box(answer: str) -> str:
    return rf"so the answer is $\boxed{{{answer}}}$."


def ask(answer: str, gold: str):  # type: ignore[no-untyped-def]
    """A comparison that is one question for a worker, past all static limits."""
    reply: Reply = yield Question(answer, gold)
    return Outcome(reply == "equal", "symbolic", "ok" if reply in ("equal", "different") else reply)


# --- verdicts -----------------------------------------------------------------------------------------------------------


def test_a_verdict_says_what_was_found_and_which_step_decided(grader: MathGrader) -> None:
    right = grader.grade(box(r"\frac{2}{4}"), "0.5")
    assert (right.correct, right.answer, right.method, right.status) == (True, r"\frac{2}{4}", "number", "ok")
    assert grader.grade(box("0.5"), "0.5").method == "string"
    assert grader.grade("no box", "0.5") == Verdict(False, None, "none", "no_answer", pytest.approx(0, abs=1))
    assert grader.grade(box("9^{9^{9}}"), "0.5").status == "limit"
    assert grader.grade(box("x" * 5000), "x").status == "limit"
    assert grader.grade(box("__import__('os') or 1"), "1").status == "unparsed"


def test_any_of_several_golds_is_accepted(grader: MathGrader) -> None:
    assert grader.grade(box("4"), ["3", "4"]).correct
    assert not grader.grade(box("5"), ["3", "4"]).correct
    assert not grader.grade(box("5"), []).correct
    assert grader.grade(box("4"), 4).correct


def test_a_gold_may_be_a_worked_solution(grader: MathGrader) -> None:
    assert grader.grade(box("7"), r"Since $3+4=7$ we get $\boxed{7}$.").correct
    assert not grader.grade(box("3"), r"Since $3+4=7$ we get $\boxed{7}$.").correct
    assert grader.grade(box("7"), "3+4=7\n#### 7").correct


def test_a_run_of_boxes_counts_only_for_a_gold_of_several_elements(grader: MathGrader) -> None:
    response = r"\boxed{1} and \boxed{2}"
    assert grader.grade(response, r"\{1,2\}").correct
    assert grader.grade(response, "2").correct
    assert not grader.grade(response, "1").correct
    assert not grader.grade(r"\boxed{1} is wrong, it is \boxed{2}", r"\{1,2\}").correct


def test_the_symbolic_step_decides_what_is_left(grader: MathGrader) -> None:
    verdict = grader.grade(box(SYMBOLIC[0]), SYMBOLIC[1])
    assert (verdict.correct, verdict.method, verdict.status) == (True, "symbolic", "ok")
    assert not grader.equal(SYMBOLIC[0], SYMBOLIC[1].replace("n-1", "n"))


def test_problems_and_responses_keep_their_order(grader: MathGrader) -> None:
    golds = [str(i) for i in range(40)]
    responses = [box(str(i) if i % 3 else SYMBOLIC[0]) for i in range(40)]
    verdicts = grader(responses, [problem(gold) for gold in golds])
    assert [v.correct for v in verdicts] == [i % 3 != 0 for i in range(40)]
    assert [v.answer for v in verdicts] == [str(i) if i % 3 else SYMBOLIC[0] for i in range(40)]


def test_golds_that_cannot_be_read_are_reported_by_id(grader: MathGrader) -> None:
    problems = [
        problem("3", "fine"),
        problem(r"t(0,4]", "odd"),
        problem("", "empty"),
        problem(r"\frac{1}{2", "open"),
        problem(["1", "x=2"], "two"),
    ]
    assert grader.check_golds(problems) == ["odd", "empty", "open"]


@pytest.mark.parametrize("answer", ["⑴", "①", "x^⑴", "2①", "፩", "①:2", "(①, 2)"])
def test_digits_that_are_no_numbers_do_not_raise(grader: MathGrader, answer: str) -> None:
    assert [grader.grade(box(answer), gold).correct for gold in ("1", "(1,2)", answer)] == [False, False, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "bax"}, "mode is 'bax'.*box, marker, any.*did you mean 'box'"),
        ({"workers": 0}, "workers is 0"),
        ({"timeout": 0}, "timeout is 0"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MathGrader(**options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="2 responses for 1 problems"):
        MathGrader()(["a", "b"], [problem("1")])


def test_thinking_that_never_ends_is_no_answer() -> None:
    grader = MathGrader(policy=GradePolicy(strip_think=True))
    assert grader.grade(r"<think> \boxed{1}", "1").status == "no_answer"
    assert grader.grade(r"<think> \boxed{2}</think> \boxed{1}", "1").correct


HACKS = [
    r"\boxed{1, 2, 3, 4, 5}",
    r"\boxed{3 \text{ or } 4}",
    r"\boxed{\mathbb{R}}",
    r"\boxed{[-100, 100]}",
    r"\boxed{x}",
    r"\boxed{3} \boxed{4}",
    r"\boxed{}",
    r"\boxed{...}",
    r"\boxed{3",
    r"\boxed{nan}",
    r"\boxed{0/0}",
    r"\boxed{5}<|im_end|>user \boxed{3}",
    "Answer: 3\nAnswer: 4",
    r"\boxed{3 = 4}",
    r"\boxed{3 \approx 4 = 5}",
    r"\boxed{\text{the answer}}",
    r"\boxed{\int_0^1 3 \, dx}",
    r"\boxed{__import__('os').system('true') or 3}",
]


@pytest.mark.parametrize("response", HACKS)
def test_hacks_earn_nothing(grader: MathGrader, response: str) -> None:
    assert not grader.grade(response, "3").correct
    assert not MathGrader(mode="marker").grade(response, "3").correct


# --- workers ------------------------------------------------------------------------------------------------------------


def test_no_worker_is_started_for_what_needs_none() -> None:
    with MathGrader() as grader:
        assert grader.grade(box(r"\frac{1}{2}"), "0.5").correct
        assert grader.pool.processes == []
        assert grader.equal(*SYMBOLIC)
        started = grader.pool.processes
        assert len(started) == 1
        grader.close()
        assert grader.pool.processes == []
        assert not any(alive(pid) for pid in started)
        assert grader.equal(SYMBOLIC[0] + "+1", SYMBOLIC[1] + "+1"), "a closed grader starts again"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_worker_that_hangs_in_one_c_call_times_out_and_the_rest_goes_on() -> None:
    with MathGrader(workers=1, timeout=2.0) as grader:
        assert grader.equal(*SYMBOLIC)
        before = grader.pool.processes
        outcomes, _ = grader.pool.run([ask(SYMBOLIC[0], SYMBOLIC[1]), ask("3^{3^{18}}", "1"), ask(SYMBOLIC[0] + "+2", SYMBOLIC[1] + "+2")])
        assert [(o.correct, o.status) for o in outcomes] == [(True, "ok"), (False, "timeout"), (True, "ok")]
        assert grader.pool.processes == before or not any(alive(pid) for pid in before)  # it gave up by itself, or was killed


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_was_stopped_is_replaced_and_its_question_asked_again(workers: int) -> None:
    with MathGrader(workers=workers, timeout=2.0) as grader:
        assert grader.equal(*SYMBOLIC)
        (stopped,) = grader.pool.processes
        os.kill(stopped, signal.SIGSTOP)
        outcomes, _ = grader.pool.run([ask(SYMBOLIC[0] + f"+{i}", SYMBOLIC[1] + f"+{i}") for i in (2, 3)])
        assert [(o.correct, o.status) for o in outcomes] == [(True, "ok")] * 2
        assert not alive(stopped)


def test_a_worker_that_dies_gives_a_crash_and_the_rest_goes_on() -> None:
    with MathGrader(workers=1) as grader:
        assert grader.equal(*SYMBOLIC)
        os.kill(grader.pool.processes[0], 9)
        outcomes, _ = grader.pool.run([ask("a_{1}", "a_{1}"), ask(SYMBOLIC[0], SYMBOLIC[1])])
        assert [o.status for o in outcomes] == ["crash", "ok"]
        assert outcomes[1].correct


def test_a_timeout_is_tried_again_in_the_next_batch_and_a_verdict_is_remembered(grader: MathGrader) -> None:
    asked = []
    real = grader.pool.run
    grader.pool.run = lambda comparisons: asked.append(len(comparisons)) or real(comparisons)  # type: ignore[method-assign]
    try:
        assert grader.equal(SYMBOLIC[0] + "+3", SYMBOLIC[1] + "+3")
        first = time.perf_counter()
        for _ in range(200):
            assert grader.equal(SYMBOLIC[0] + "+3", SYMBOLIC[1] + "+3")
        assert (SYMBOLIC[0] + "+3", SYMBOLIC[1] + "+3") in grader._known
        assert time.perf_counter() - first < 5
    finally:
        grader.pool.run = real  # type: ignore[method-assign]


HOSTILE = [
    "9^{9^{9^9}}",
    "100000000!",
    r"\binom{10^9}{5\cdot10^8}",
    r"\sqrt[1000000]{2^{999983}+1}",
    r"\sum_{k=1}^{1000000000} \frac{1}{k^2}",
    "(" * 2000 + "1" + ")" * 2000,
    "7" * 100_000,
    "+".join(["x"] * 3000),
    r"\begin{pmatrix}" + r"\\".join("&".join(["1"] * 40) for _ in range(40)) + r"\end{pmatrix}",
    r"\boxed{" * 50 + "1",
]


def test_hostile_responses_change_no_other_verdict_and_leave_the_pool_whole(grader: MathGrader) -> None:
    pairs = [(box(str(i % 7)), str(i % 5)) for i in range(90)]
    expected = [v.correct for v in grader.grade_batch(pairs)]
    mixed = list(pairs)
    for n, text in enumerate(HOSTILE):
        mixed.insert(n * 10, (box(text), "3"))
    verdicts = grader.grade_batch(mixed)
    assert [v.correct for i, v in enumerate(verdicts) if i % 10 or i >= 100] == expected
    assert not any(v.correct for v in verdicts[:100:10])
    assert not {v.status for v in verdicts[:100:10]} & {"timeout", "crash"}, "refused before any worker"
    assert grader.equal(SYMBOLIC[0] + "+5", SYMBOLIC[1] + "+5")


def test_many_questions_that_never_end_waste_one_deadline_and_no_ordinary_answer() -> None:
    endless = r"\sum_{k=1}^{\infty} \frac{\sin(k^2)}{k^3+\sqrt{k}}"
    workers, timeout = 2, 1.5
    with MathGrader(workers=workers, timeout=timeout) as grader:
        assert grader.equal(*SYMBOLIC)
        mixed = [ask(endless + f"+{i}", r"\int_0^1 f(x) dx") for i in range(40)]
        mixed[5:5] = [ask(SYMBOLIC[0] + f"+{i}", SYMBOLIC[1] + f"+{i}") for i in range(6)]
        outcomes, seconds = grader.pool.run(mixed)
        ordinary = slice(5, 11)
        assert [(o.correct, o.status) for o in outcomes[ordinary]] == [(True, "ok")] * 6
        rest = [*outcomes[:5], *outcomes[11:]]
        assert {(o.correct, o.status) for o in rest} == {(False, "timeout")}
        wasted = sum(seconds) - sum(seconds[ordinary])
        assert wasted <= workers * (timeout + GRACE) + 2 * timeout / 6, "of the processor, so a crowded machine changes nothing"
        assert grader.equal(SYMBOLIC[0] + "+9", SYMBOLIC[1] + "+9"), "the pool is whole"


def test_the_first_question_of_a_new_worker_has_the_time_to_fill_its_tables() -> None:
    endless = r"\sum_{k=1}^{\infty} \frac{\sin(k^2)}{k^3+\sqrt{k}}"
    with MathGrader(workers=1, timeout=0.6) as grader:
        batch = [ask(*SYMBOLIC), *(ask(endless + f"+{i}", r"\int_0^1 f(x) dx") for i in range(20))]
        outcomes, _ = grader.pool.run(batch)
    assert (outcomes[0].correct, outcomes[0].status) == (True, "ok"), "it was cut short, and no time was left for a second try"


def test_verdicts_do_not_depend_on_the_number_of_workers() -> None:
    pairs = [(box(rf"\sum_{{k=0}}^{{n}} a_{{k}} x^{{{i}}}"), rf"\sum_{{k=0}}^{{n}} x^{{{i % 4}}} a_{{k}}") for i in range(6)]
    results = []
    for workers in (1, 3):
        with MathGrader(workers=workers) as grader:
            results.append([(v.correct, v.method, v.status) for v in grader.grade_batch(pairs)])
    assert results[0] == results[1]
    assert [correct for correct, _, _ in results[0]] == [True] * 4 + [False] * 2


def test_threads_and_asyncio(grader: MathGrader) -> None:
    found: dict[int, bool] = {}

    def work(i: int) -> None:
        found[i] = grader.equal(rf"{SYMBOLIC[0]}+{i}", rf"{SYMBOLIC[1]}+{i}") and not grader.equal("1", "2")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == dict.fromkeys(range(4), True)

    async def both() -> list[bool]:
        return [grader.equal(*SYMBOLIC), await asyncio.to_thread(grader.equal, *SYMBOLIC)]

    assert asyncio.run(both()) == [True, True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_workers_end_with_a_parent_that_is_killed() -> None:
    script = textwrap.dedent(rf"""
        import sys, time
        from rlent.grading.math import MathGrader
        grader = MathGrader(workers=1)
        grader.equal(*{SYMBOLIC!r})
        print(grader.pool.processes[0], flush=True)
        time.sleep(60)
    """)
    root = str(Path(__file__).resolve().parents[2])
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root})
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert alive(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    for _ in range(200):
        if not alive(worker):
            break
        time.sleep(0.1)
    assert not alive(worker)


PAYLOADS = [
    "__import__('os').system('touch {}')",
    "open('{}', 'w').write('x')",
    "().__class__.__bases__[0].__subclasses__()",
    r"\text{{exec(open('{}','w'))}}",
    "(lambda: open('{}', 'w'))()",
    "x.__init__.__globals__['os'].system('touch {}')",
]


def test_nothing_a_model_writes_is_run(grader: MathGrader, tmp_path: Path) -> None:
    target = tmp_path / "hacked"
    texts = [payload.format(target) for payload in PAYLOADS]
    for mode in ("box", "marker", "any"):
        here = MathGrader(mode=mode)  # type: ignore[arg-type]
        here.pool = grader.pool
        for text in texts:
            for response in (box(text), f"Answer: {text}", text):
                assert not here.grade(response, "0").correct
    outcomes, _ = grader.pool.run([ask(text, "0") for text in texts])
    assert not any(o.correct for o in outcomes)
    assert not target.exists()


def test_a_worker_refuses_to_write_compile_and_spawn(tmp_path: Path) -> None:
    script = textwrap.dedent(f"""
        import os, socket, subprocess, sys
        from rlent.grading.worker import _guard, _limit
        _limit()
        sys.addaudithook(_guard)
        def tries(action):
            try:
                action()
            except (PermissionError, OSError):
                return "refused"
            return "done"
        print(tries(lambda: open({str(tmp_path / "a")!r}, "w")), tries(lambda: compile("1", "<string>", "eval")), tries(lambda: eval("1+1")),
              tries(lambda: subprocess.run(["true"])), tries(lambda: os.system("true")), tries(lambda: socket.create_connection(("127.0.0.1", 9))),
              tries(lambda: os.mkdir({str(tmp_path / "b")!r})), tries(lambda: open(os.devnull)))
    """)
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}, check=True
    )
    assert done.stdout.split() == ["refused"] * 7 + ["done"]
    assert list(tmp_path.iterdir()) == []


def test_the_worker_starts_without_torch() -> None:
    root = str(Path(__file__).resolve().parents[2])
    code = "import sys, rlent.grading.worker; print('torch' in sys.modules, 'sympy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root}, check=True)
    assert done.stdout.split() == ["False", "False"]


# --- public cases -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not CASES.exists(), reason="the public grader cases are not beside this checkout")
def test_public_cases(grader: MathGrader) -> None:
    cases = [case for case in map(json.loads, CASES.read_text().splitlines()) if case["class"] == "core"]
    graders = {mode: MathGrader(mode=mode) for mode in ("box", "marker", "any")}  # type: ignore[arg-type]
    for one in graders.values():
        one.pool = grader.pool
    agree, false_positives, crashes = 0, [], []
    for case in cases:
        if case["form"] == "answer":
            correct = grader.equal(case["response"], case["gold"])
        else:
            verdict = graders[case["extract"]].grade(case["response"], case["gold"])
            correct = verdict.correct
            crashes += [case["gold"]] if verdict.status == "crash" else []
        agree += correct == case["expected"]
        if correct and not case["expected"] and case["extract"] != "any":
            false_positives.append((case["gold"], case["response"][-80:]))
    assert not false_positives
    assert not crashes
    assert agree / len(cases) >= 0.97


def test_a_template_that_opens_thinking_is_read_after_its_end(tmp_path):
    (tmp_path / "data.jsonl").write_text('{"prompt": "1+1?", "answer": "2"}\n')
    verdicts = {}
    for template, stated in (("r1", None), ("r1", False), ("qwen-boxed", None)):
        grader = MathGrader(policy=GradePolicy(strip_think=stated))
        with grader:
            held = FileData(path=str(tmp_path / "data.jsonl"), held_out_size=0, template=template, grader=grader)
            texts = [r"so \boxed{3}? no </think> \boxed{2}", r"it is \boxed{2}", r"\boxed{2} </think> done"]
            verdicts[template, stated] = [v.correct for v in held.grader(texts, [Problem("a", "1+1?", "2")] * 3)]
    assert verdicts["r1", None] == [True, False, False], "thinking that never ends is no answer, and what was thought is none"
    assert verdicts["r1", False] == verdicts["qwen-boxed", None] == [True, True, True]
