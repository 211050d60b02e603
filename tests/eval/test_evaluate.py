"""Evaluation: what is counted, what is written, what is drawn again after a kill, and what is refused."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rlent.errors import DataError, GraderError, UsageError
from rlent.eval.compare import compare
from rlent.eval.evaluate import evaluate
from rlent.eval.folder import Sample
from rlent.eval.result import Evaluation, Tally, ladder, tally
from rlent.eval.suite import samples_for
from rlent.math import noise
from rlent.math.passk import pass_at_k
from rlent.ranks.world import World
from rlent.sampling.draw import Decoding
from rlent.types import Problem, Request, Rollouts, Verdict

# A model of one character: for each problem it says the right answer with a known chance. Enough to test all but sampling.

EOS = 0


class Letters:
    """One token a character, its code point; 0 ends the text."""

    eos_token_id = EOS
    chat_template = None

    def encode(self, text: str, **_: object) -> list[int]:
        return [ord(c) for c in text]

    def __call__(self, text: str, **_: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=self.encode(text))

    def decode(self, tokens: Sequence[int], **_: object) -> str:
        return "".join(chr(t) for t in tokens if t != EOS)

    def batch_decode(self, rows: Sequence[Sequence[int]], **_: object) -> list[str]:
        return [self.decode(row) for row in rows]


class Coin:
    """Says `7` with the chance written in the prompt (`30%`), else `8`, `9`, or, one time in ten, nothing before the limit."""

    version = 3

    def __init__(self) -> None:
        self.drawn: list[tuple[int, ...]] = []
        self.batches: list[int] = []

    def generate(self, rows: Sequence[Request], *, entropy: bool = False) -> Rollouts:
        self.batches.append(len(rows))
        tokens, logp, finish = [], [], []
        for row in rows:
            self.drawn.append(tuple(row.key))
            chance = float(Letters().decode(row.prompt).rstrip("%")) / 100
            u = float(noise.uniform(*row.key, 0))
            v = float(noise.uniform(*row.key, 1))
            word = "7" if u < chance else "8" if v < 0.5 else "9"
            cut = v > 0.9
            tokens.append([ord(word)] if cut else [ord(word), EOS])
            logp.append([-0.5] if cut else [-0.5, -0.1])
            finish.append("length" if cut else "stop")
        return Rollouts(tokens, logp, finish, version=self.version)

    def load(self, policy: object, version: int) -> None:
        self.version = version

    @contextmanager
    def idle(self) -> Iterator[None]:
        yield


class SameText:
    """Right when the text is the gold."""

    mode = "box"

    def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        return [
            Verdict(r == p.gold, r, "string") if r else Verdict(False, status="no_answer") for r, p in zip(responses, problems, strict=True)
        ]


@pytest.fixture
def problems() -> list[Problem]:
    return [Problem(id=f"p{c}", prompt=f"{c}%", gold="7", source="coins") for c in (0, 10, 30, 50, 100)]


@pytest.fixture
def coin() -> Coin:
    return Coin()


HOT = Decoding(temperature=1.0, max_tokens=2)


def run(engine: Coin, problems: Sequence[Problem], **how: Any) -> Evaluation:
    settings: dict[str, Any] = {"n": 8, "ks": [1, 4], "decoding": HOT, "seed": 0, **how}
    grader = settings.pop("grader", SameText())
    return evaluate(engine, Letters(), problems, grader, **settings)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted(out.glob("responses*.jsonl")) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def counts(evaluation: Evaluation) -> list[tuple[str, str]]:
    return [(t.id, t.verdicts) for t in evaluation.problems]


# --- what is counted


def test_the_numbers_follow_from_the_responses_on_disk(coin: Coin, problems: list[Problem], tmp_path: Path) -> None:
    found = run(coin, problems, out=tmp_path, label="coin")
    rows = lines(tmp_path)
    assert len(rows) == 40 and {(r["problem"], r["sample"]) for r in rows} == {(p.id, s) for p in problems for s in range(8)}
    c = [sum(r["correct"] for r in rows if r["problem"] == p.id) for p in problems]
    assert c[0] == 0 and c[-1] >= 6
    metrics = found.metrics()
    assert metrics["eval/pass@1"] == metrics["eval/avg"] == pytest.approx(np.mean(c) / 8)
    assert metrics["eval/pass@4"] == pytest.approx(pass_at_k(8, c, 4).mean())
    assert metrics["eval/pass@4_low"] < metrics["eval/pass@4"] < metrics["eval/pass@4_high"]
    assert metrics["eval/cut"] == np.mean([r["finish"] == "length" for r in rows]) > 0
    assert metrics["eval/unanswered"] == 0
    tokens = sum(r["tokens"] for r in rows)
    assert metrics["eval/length"] == tokens / 40
    assert metrics["eval/nll"] == pytest.approx(sum(0.5 + 0.1 * (r["finish"] == "stop") for r in rows) / tokens)
    assert set(found.pass_at_k) == {1, 2, 4}
    assert "eval/pass@2" not in metrics  # logged are the k asked for


def test_a_cut_response_is_wrong_and_does_not_vote() -> None:
    def sample(i: int, answer: str, correct: bool, finish: str) -> Sample:
        return Sample("p", "s", i, "?", "7", answer, answer, correct, "ok", "string", finish, 2, 0.5)

    three = [sample(0, "7", True, "stop"), sample(1, "8", False, "length"), sample(2, "8", False, "length")]
    assert tally(three, [1, 3], None).maj == {1: pytest.approx(1 / 3), 3: 1.0}
    assert tally(three, [1, 3], None, cut_is_wrong=False).maj[3] == 0.0
    assert tally(three[::-1], [1], None).verdicts == "100"  # by the number of the sample, whatever the order of the file


def test_a_cut_response_can_be_left_to_the_grader(coin: Coin, problems: list[Problem], tmp_path: Path) -> None:
    strict = run(coin, problems[-1:], n=64, out=tmp_path)
    loose = run(coin, problems[-1:], n=64, cut_is_wrong=False)
    assert loose.average.value == 1.0
    assert strict.average.value == 1 - strict.cut < 1


def test_votes_count_equal_answers_together(coin: Coin, problems: list[Problem]) -> None:
    class Parity(SameText):
        def equal(self, a: str, b: str) -> bool:
            return int(a) % 2 == int(b) % 2

        def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
            return [Verdict(int(r) % 2 == 1, r, "number") for r in responses]

    together = run(coin, problems, n=16, grader=Parity())
    assert [t.classes for t in together.problems] == [2, 2, 2, 2, 1]  # odd (7, 9) and even (8); at 100 % only 7
    apart = run(coin, problems, n=16)
    assert apart.problems[1].classes == 3


def test_status_and_sources_are_reported(coin: Coin, problems: list[Problem]) -> None:
    class Silent(SameText):
        def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
            return [Verdict(False, status="timeout" if r == "8" else "no_answer") for r in responses]

    other = [Problem(id="p0", prompt="0%", gold="7", source="other")]
    found = run(coin, [*problems, *other], grader=Silent())
    document = found.to_dict()
    assert document["timed_out"] + document["unanswered"] == pytest.approx(1.0) and document["timed_out"] > 0
    assert document["maj_at_k"]["4"]["value"] == 0
    assert {s: part["problems"] for s, part in document["by_source"].items()} == {"coins": 5, "other": 1}


# --- what is drawn


@pytest.mark.parametrize("batch_rows", [1, 3, 20, 1000])
def test_batches_change_nothing(coin: Coin, problems: list[Problem], batch_rows: int) -> None:
    whole = run(Coin(), problems)
    found = run(coin, problems, batch_rows=batch_rows)
    assert counts(found) == counts(whole) and found.metrics() == whole.metrics()
    assert max(coin.batches) <= max(batch_rows, 1)
    assert sum(coin.batches) == 40


def test_draws_depend_on_the_seed_and_not_on_the_other_problems(problems: list[Problem]) -> None:
    whole = run(Coin(), problems, n=24)
    assert counts(run(Coin(), problems[2:3], n=24)) == counts(whole)[2:3]
    assert counts(run(Coin(), problems, n=24, seed=1))[2:4] != counts(whole)[2:4]


def test_more_samples_keep_those_that_are_there(problems: list[Problem], tmp_path: Path) -> None:
    run(Coin(), problems, n=8, out=tmp_path)
    more = Coin()
    found = run(more, problems, n=20, ks=[16], out=tmp_path)
    assert len(more.drawn) == 5 * 12
    assert counts(found) == counts(run(Coin(), problems, n=20))
    fewer = Coin()
    assert run(fewer, problems, n=4, out=tmp_path).n == 4 and not fewer.drawn


class Killed(Exception):
    pass


def test_a_killed_evaluation_goes_on(problems: list[Problem], tmp_path: Path) -> None:
    whole = run(Coin(), problems)
    done: list[int] = []

    def kill(count: int) -> None:
        done.append(count)
        if len(done) == 2:
            raise Killed

    with pytest.raises(Killed):
        run(Coin(), problems, out=tmp_path, batch_rows=12, progress=kill)
    assert not (tmp_path / "eval.json").exists()
    path = tmp_path / "responses.jsonl"
    text = path.read_bytes()
    path.write_bytes(text[: len(text) - 30])  # the last line was being written
    kept = len(lines(tmp_path))
    assert kept == 15
    again, seen = Coin(), []
    found = run(again, problems, out=tmp_path, batch_rows=12, progress=seen.append)
    assert len(again.drawn) == 40 - kept and seen[0] == kept and sum(seen) == 40
    assert counts(found) == counts(whole) and found.metrics() == whole.metrics()
    rows = lines(tmp_path)
    assert len(rows) == 40 and len({(r["problem"], r["sample"]) for r in rows}) == 40
    idle = Coin()
    assert counts(run(idle, problems, out=tmp_path)) == counts(whole) and not idle.drawn


def test_a_line_broken_in_the_middle_is_named(coin: Coin, problems: list[Problem], tmp_path: Path) -> None:
    run(coin, problems, out=tmp_path)
    path = tmp_path / "responses.jsonl"
    rows = path.read_text().split("\n")
    rows[4] = rows[4][:20]
    path.write_text("\n".join(rows))
    with pytest.raises(DataError, match=r"responses\.jsonl, line 5: not a response .*; remove the line to have it drawn again"):
        run(coin, problems, out=tmp_path)
    path.write_text("\n".join(rows[:4] + rows[5:30] + rows[32:]))
    again = Coin()
    assert counts(run(again, problems, out=tmp_path)) == counts(run(Coin(), problems))
    assert len(again.drawn) == 3 and len(lines(tmp_path)) == 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoding": Decoding(temperature=0.6, max_tokens=2)}, r"decoding\.temperature was 1\.0 and is 0\.6"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"about": {"model": "b"}}, r"about\.model was None and is 'b'"),
        ({"cut_is_wrong": False}, "cut_is_wrong was True and is False"),
        ({"stop": frozenset({0, 5})}, r"stop was \[0\] and is \[0, 5\]"),
    ],
)
def test_a_folder_made_with_other_settings_is_refused(
    coin: Coin, problems: list[Problem], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    run(coin, problems, out=tmp_path)
    before = (tmp_path / "responses.jsonl").read_bytes()
    with pytest.raises(UsageError, match=message):
        run(coin, problems, out=tmp_path, **change)
    assert (tmp_path / "responses.jsonl").read_bytes() == before


def test_other_weights_data_or_grader_are_refused(coin: Coin, problems: list[Problem], tmp_path: Path) -> None:
    run(coin, problems, out=tmp_path)
    newer = Coin()
    newer.version = 4
    with pytest.raises(UsageError, match=r"engine\.weights was 3 and is 4"):
        run(newer, problems, out=tmp_path)
    with pytest.raises(UsageError, match=r"data\.fingerprint was"):
        run(coin, problems[:-1], out=tmp_path)
    marker = SameText()
    marker.mode = "marker"
    with pytest.raises(UsageError, match=r"grader\.mode was 'box' and is 'marker'"):
        run(coin, problems, out=tmp_path, grader=marker)


def test_responses_without_settings_are_refused(coin: Coin, problems: list[Problem], tmp_path: Path) -> None:
    (tmp_path / "responses.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match=r"no settings\.json"):
        run(coin, problems, out=tmp_path)


def test_odd_characters_survive_the_file(tmp_path: Path) -> None:
    class Odd(SameText):
        def __call__(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
            return [Verdict(r == "7", f"{r}\ud800\u2028\r\n", "string") for r in responses]

    odd = [Problem(id="odd\u2028\n", prompt="50%", gold=["7", "\x00"], source="\x85")]
    first = run(Coin(), odd, out=tmp_path, grader=Odd())
    assert lines(tmp_path)[0]["answer"].endswith("\ud800\u2028\r\n")
    again = Coin()
    assert counts(run(again, odd, out=tmp_path, grader=Odd())) == counts(first) and not again.drawn


# --- what is refused


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"n": 2, "ks": [1, 4]}, UsageError, "pass@4 needs at least 4 samples of each problem, and n is 2"),
        ({"ks": [0]}, UsageError, "at least 1"),
        ({"decoding": Decoding(temperature=0.0)}, UsageError, "8 greedy samples"),
    ],
)
def test_refused(coin: Coin, problems: list[Problem], change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(coin, problems, **change)
    assert not coin.drawn


def test_bad_data_and_bad_graders(coin: Coin, problems: list[Problem]) -> None:
    with pytest.raises(DataError, match="no problems"):
        run(coin, [])
    with pytest.raises(DataError, match="'p0' of 'coins' occurs more than once"):
        run(coin, [*problems, problems[0]])
    with pytest.raises(GraderError, match="1 verdicts for 40 responses"):
        run(coin, problems, grader=lambda responses, problems: [Verdict(True)])


def test_ladder() -> None:
    assert ladder(1) == [1] and ladder(64) == [1, 2, 4, 8, 16, 32, 64] and ladder(50) == [1, 2, 4, 8, 16, 32, 50]
    assert ladder(6) == [1, 2, 4, 6] and ladder(8) == [1, 2, 4, 8]
    assert samples_for(64) == (64, ladder(64)) and samples_for(16, 128) == (128, ladder(16)) and samples_for(16, 4)[0] == 16
    with pytest.raises(UsageError, match="at least 1"):
        ladder(0)


# --- ranks


class Threads(World):
    """Ranks as threads of this process."""

    def __init__(self, rank: int, size: int, board: dict[int, Any], barrier: threading.Barrier) -> None:
        super().__init__(rank, size)
        self.board, self.barrier = board, barrier

    def all_gather(self, value: Any) -> list[Any]:
        self.board[self.rank] = value
        self.barrier.wait(30)
        values = [self.board[r] for r in range(self.size)]
        self.barrier.wait(30)
        return values

    def broadcast(self, value: Any) -> Any:
        return self.all_gather(value)[0]


def on_ranks(size: int, work: Any) -> list[Any]:
    board: dict[int, Any] = {}
    barrier = threading.Barrier(size)
    found: list[Any] = [None] * size

    def one(rank: int) -> None:
        try:
            found[rank] = work(Threads(rank, size, board, barrier))
        except Exception as error:
            found[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_ranks_share_the_problems_and_agree(problems: list[Problem], tmp_path: Path) -> None:
    whole = run(Coin(), problems)
    found = on_ranks(2, lambda world: run(Coin(), problems, out=tmp_path, world=world))
    assert [counts(f) for f in found] == [counts(whole)] * 2
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "eval.json",
        "problems.jsonl",
        "responses.0.jsonl",
        "responses.1.jsonl",
        "settings.json",
    ]
    alone = Coin()
    assert counts(run(alone, problems, out=tmp_path)) == counts(whole) and not alone.drawn  # one rank reads what two wrote
    refused = on_ranks(2, lambda world: run(Coin(), problems, out=tmp_path, world=world, seed=5))
    assert all(isinstance(f, UsageError) for f in refused)


def test_a_folder_without_a_response_takes_other_settings(coin: Coin, problems: list[Problem], tmp_path: Path) -> None:
    """Stopped while the model was still loading, for example; there is nothing to keep apart."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(coin, problems, out=tmp_path, respond=stop)
    (tmp_path / "responses.jsonl").touch()
    assert counts(run(coin, problems, out=tmp_path, seed=5)) == counts(run(coin, problems, seed=5))
    with pytest.raises(UsageError, match="seed was 5 and is 6"):
        run(coin, problems, out=tmp_path, seed=6)


# --- what is reported


def test_saved_and_loaded(coin: Coin, problems: list[Problem], tmp_path: Path) -> None:
    found = run(coin, problems, out=tmp_path, label="coin", about={"model": "coin"})
    text = (tmp_path / "eval.json").read_text()
    document = json.loads(text)
    assert document["samples"] == 8 and document["settings"]["about"] == {"model": "coin"}
    assert document["settings"]["decoding"] == {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 2}
    assert document["settings"]["rendered"] == "0%" and document["settings"]["data"]["problems"] == 5
    assert [row["correct"] for row in document["per_problem"]] == [t.correct for t in found.problems]
    loaded = Evaluation.load(tmp_path)
    assert loaded.metrics() == found.metrics() and loaded.to_dict() == document


def test_nothing_in_the_file_is_nan(coin: Coin, problems: list[Problem]) -> None:
    found = run(coin, problems[2:3])
    assert math.isnan(found.average.se_problems)

    def refuse(name: str) -> None:
        raise AssertionError(name)

    document = json.loads(json.dumps(found.to_dict()), parse_constant=refuse)
    assert document["avg"]["se_problems"] is None


def test_loading_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no evaluation"):
        Evaluation.load(tmp_path)
    (tmp_path / "eval.json").write_text('{"label": "x"}')
    with pytest.raises(DataError, match="not an evaluation"):
        Evaluation.load(tmp_path)


def test_one_greedy_sample_gets_wilson(coin: Coin, problems: list[Problem]) -> None:
    found = run(coin, problems, n=1, ks=[1], decoding=Decoding(temperature=0.0, max_tokens=2))
    assert found.average.low == pytest.approx(made_by_wilson(found.problems))


def made_by_wilson(tallies: Sequence[Tally]) -> float:
    x, n, z = sum(t.correct for t in tallies), len(tallies), 1.959963984540054
    p = x / n
    return (p + z * z / (2 * n) - z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n)


def test_rows_and_table_show_every_k(coin: Coin, problems: list[Problem]) -> None:
    found = run(coin, problems, label="coin")
    rows = {row[0]: row for row in found.plain()}
    assert float(rows["pass@4"][1]) == pytest.approx(found.pass_at_k[4].value, abs=1e-4)
    assert float(rows["pass@4"][2]) < float(rows["pass@4"][1]) < float(rows["pass@4"][3])
    table = found.table()
    assert list(table.columns[0].cells) == ["1", "2", "4"]
    assert table.title == "coin: 5 problems x 8 samples, T 1, seed 0"


# --- comparing


def of(label: str, verdicts: dict[str, str], **settings: Any) -> Evaluation:
    tallies = tuple(Tally(i, "s", v, 1, {1: 0.0, 2: 0.0}, 0, 0, {"ok": len(v)}, 1, 0.1) for i, v in verdicts.items())
    return Evaluation(label, (1, 2), tallies, settings)


def test_compare_pairs_by_problem() -> None:
    a = of("a", {"x": "1000", "y": "1100", "z": "0000"}, template="none")
    b = of("b", {"y": "1110", "x": "1100", "w": "1111"}, template="qwen-math")
    found = compare([a, b])
    assert found.problems == 2
    # x: 1/4 -> 2/4, y: 2/4 -> 3/4; pass@2: 1/2 -> 5/6, 5/6 -> 1
    assert found.differences["b"]["avg"].value == pytest.approx(0.25) and found.differences["b"]["avg"].low == pytest.approx(0.25)
    assert found.differences["b"]["pass@2"].value == pytest.approx((2 / 6 + 1 / 6) / 2)
    assert found.values["a"]["avg"] == pytest.approx(3 / 8)  # of the two shared problems
    assert found.notes == ("b differs from a: template was 'none' and is 'qwen-math'",)
    assert found.plain()[1][:4] == ("b", "a", "avg", "+0.2500")
    assert [c.header for c in found.table().columns] == ["metric", "a", "b"]


def test_compare_refuses_what_cannot_be_paired() -> None:
    a = of("a", {"x": "10"})
    with pytest.raises(UsageError, match="at least two"):
        compare([a])
    with pytest.raises(UsageError, match="different labels; found a, a"):
        compare([a, a])
    with pytest.raises(UsageError, match="no problem in common"):
        compare([a, of("b", {"y": "10"})])
