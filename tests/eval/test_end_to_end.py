"""The embedded model on countdown, through the engine, the grader and the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlent.data.countdown import countdown_problems
from rlent.engine.native import NativeEngine
from rlent.errors import UsageError
from rlent.eval.evaluate import evaluate
from rlent.eval.result import Evaluation
from rlent.grading.countdown import CountdownGrader, grade
from rlent.sampling.draw import Decoding
from rlent.system.paths import tiny_path

if not (tiny_path() / "config.json").exists():
    pytest.skip("the embedded model has not been made (scripts/make_tiny_model.py)", allow_module_level=True)

HOT = Decoding(temperature=1.0, max_tokens=16)


@pytest.fixture(scope="module")
def tiny() -> tuple[NativeEngine, Any]:
    tokenizer = AutoTokenizer.from_pretrained(tiny_path())
    return NativeEngine(AutoModelForCausalLM.from_pretrained(tiny_path()).float().eval(), tokenizer.pad_token_id), tokenizer


def test_countdown_end_to_end(tiny: tuple[NativeEngine, Any], tmp_path: Path) -> None:
    engine, tokenizer = tiny
    problems = countdown_problems(12, split="held_out")
    how: dict[str, Any] = {"n": 16, "ks": [1, 16], "decoding": HOT, "seed": 0, "out": tmp_path, "batch_rows": 48}
    stopped: list[int] = []

    def stop_early(count: int) -> None:
        stopped.append(count)
        if len(stopped) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(engine, tokenizer, problems, CountdownGrader(), progress=stop_early, **how)
    first = (tmp_path / "responses.jsonl").read_bytes()
    found = evaluate(engine, tokenizer, problems, CountdownGrader(), **how)
    text = (tmp_path / "responses.jsonl").read_bytes()
    assert text.startswith(first) and len(first.splitlines()) == 96  # what was there is kept, and is not drawn again
    rows = [json.loads(line) for line in text.splitlines()]
    assert len(rows) == 192
    by_id = {p.id: p for p in problems}
    for row in rows:  # the verdicts hold against a second look at the text
        meta = by_id[row["problem"]].meta
        assert row["correct"] == (grade(row["response"], meta["target"], meta["numbers"]).correct and row["finish"] == "stop")
    solved = sum(any(r["correct"] for r in rows if r["problem"] == p.id) for p in problems)
    assert found.pass_at_k[16].value == pytest.approx(solved / 12)
    assert 0 < found.pass_at_k[1].value < found.pass_at_k[16].value  # the embedded model can do some of it
    assert found.metrics()["eval/nll"] == pytest.approx(sum(r["nll"] * r["tokens"] for r in rows) / sum(r["tokens"] for r in rows))
    assert 0.1 < found.nll < 3
    alone = evaluate(engine, tokenizer, problems, CountdownGrader(), **{**how, "out": None, "batch_rows": 1000})
    assert [t.verdicts for t in alone.problems] == [t.verdicts for t in found.problems]
    assert Evaluation.load(tmp_path).metrics() == found.metrics()
    with pytest.raises(UsageError, match=r"decoding\.top_p was 1\.0 and is 0\.9"):
        evaluate(engine, tokenizer, problems, CountdownGrader(), **{**how, "decoding": Decoding(top_p=0.9, max_tokens=16)})
