"""A run folder that commit cce68e5 wrote resumes, branches, evaluates and replays with the numbers that commit gave, to the last bit.

The fixture says on which processor it was made (`where.json`). On another one float32 products round otherwise: there the folder must still be
read, and what is drawn before any weight moves must agree to rounding.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import rlent

FIXTURE = Path(__file__).parent / "fixtures" / "cce68e5"
EXPECTED = FIXTURE / "expected"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


WHERE = json.loads((FIXTURE / "where.json").read_text())
SAME_MACHINE = (_processor(), torch.backends.cpu.get_cpu_capability(), torch.__version__) == (
    WHERE["cpu"],
    WHERE["capability"],
    WHERE["torch"],
)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the run and its model, both writable."""
    for name in ("run", "mini"):
        shutil.copytree(FIXTURE / name, tmp_path / name)
    return tmp_path


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def same(found: Path, expected: Path) -> None:
    """The same record: byte for byte on the machine of the fixture; elsewhere the same steps, names and first numbers."""
    if SAME_MACHINE:
        assert found.read_bytes() == expected.read_bytes()
        return
    ours, theirs = rows(found), rows(expected)
    assert [(r["step"], sorted(r)) for r in ours[:5]] == [(r["step"], sorted(r)) for r in theirs[:5]]
    assert ours[:4] == theirs[:4], "the record of the steps before the checkpoint is not touched"
    assert ours[4]["entropy/mean"] == pytest.approx(theirs[4]["entropy/mean"], abs=0.05)


def test_an_old_run_resumes(place: Path) -> None:
    rlent("train", "--resume", "run", "trainer.steps=6", cwd=place)
    same(place / "run" / "metrics.jsonl", EXPECTED / "resumed.jsonl")


def test_an_old_run_says_its_settings_by_their_old_names_and_its_checkpoint_does_too(place: Path) -> None:
    """Names that were changed since: in recipe.yaml, and in the lines by which a checkpoint knows its recipe."""
    recipe, state = place / "run" / "recipe.yaml", place / "run" / "checkpoints" / "step_000004" / "state.json"
    text, saved = recipe.read_text(), json.loads(state.read_text())
    assert "look_back: policy" in text and "tokens_per_part: 16384" in text and "keep_batches: 4" in text
    recipe.write_text(text.replace("tokens_per_part: 16384", "tokens_per_part: 8192"))
    rlent("train", "--resume", "run", "trainer.steps=5", cwd=place, check=False)
    refused = json.loads((place / "run" / "status.json").read_text())
    saved["recipe"]["differences"] = sorted([*saved["recipe"]["differences"], "trainer.tokens_per_part: 16384 -> 8192"])
    state.write_text(json.dumps(saved))
    rlent("train", "--resume", "run", "trainer.steps=5", cwd=place)
    assert (refused["step"], json.loads((place / "run" / "status.json").read_text())["step"]) == (4, 5)
    assert "max_tokens_per_microbatch: 8192" in recipe.read_text() and "old_logprobs: recompute" in recipe.read_text()


def test_an_old_run_is_forked(place: Path) -> None:
    rlent("fork", "run", "--at", "4", "recipe=klcov", "trainer.steps=6", "--out", "forks", cwd=place)
    same(place / "forks" / "recipe=klcov" / "metrics.jsonl", EXPECTED / "forked.jsonl")


def test_an_old_run_is_evaluated(place: Path) -> None:
    rlent("eval", "--pass-at-k", "4", "--problems", "24", "run=run", "--out", "eval", cwd=place)
    found, expected = (rows(f) for f in (place / "eval" / "responses.jsonl", EXPECTED / "responses.jsonl"))
    assert len(found) == len(expected)
    if SAME_MACHINE:
        assert found == expected
    else:
        same_text = sum(a["response"] == b["response"] for a, b in zip(found, expected, strict=True))
        assert same_text > 0.9 * len(expected)


def test_a_batch_that_an_old_run_kept_is_replayed(place: Path) -> None:
    done = rlent("replay", "run", "recipe=clipcov,klcov", "--json", cwd=place)
    found, expected = json.loads(done.stdout), json.loads((EXPECTED / "replay.json").read_text())
    assert found == expected if SAME_MACHINE else found.keys() == expected.keys()
