"""Seconds per step on one rank and on several, and whether they log the same numbers.

    python scripts/bench_ranks.py                                            # 1 and 2 ranks of one thread each, the embedded model
    python scripts/bench_ranks.py --ranks 8 --scale gpus8 --override model=qwen2_5_0_5b --override data=file ...

Each block is a run of its own (`rlent train`), the sides take turns, and the first steps of a block are not counted. With the
same number of threads for each rank, the ratio is the speed-up; with `--threads` for one rank and `--threads-each` for the
others equal to its share, it is the price of being several.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SKIPPED = 2
"""Steps at the start of a block that are not counted."""

SAME = ("reward/mean", "entropy/mean", "loss/policy", "update/grad_norm", "cov/mean")


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    sides = {"one": (1, given.threads), "several": (given.ranks, given.threads_each)}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    stages: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    logged: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(given.repeats):
            for side in list(sides) if repeat % 2 == 0 else list(sides)[::-1]:
                place = Path(folder) / f"{side}{repeat}"
                train(place, *sides[side], given)
                timing = [json.loads(line) for line in (place / "timings.jsonl").read_text().splitlines()][SKIPPED:]
                seconds[side].append(statistics.median(row["seconds/step"] for row in timing))
                names = {k for row in timing for k in row if k.startswith("seconds/") and k != "seconds/step"}
                stages[side].append({k.removeprefix("seconds/"): statistics.fmean(row.get(k, 0.0) for row in timing) for k in names})
                logged.setdefault(side, [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()])
                print(f"round {repeat + 1} {side}: {seconds[side][-1]:.3f} s a step", file=sys.stderr, flush=True)
    report = {
        "sides": {
            side: {
                "ranks": sides[side][0],
                "threads": sides[side][1],
                "seconds": statistics.median(seconds[side]),
                "min": min(seconds[side]),
                "max": max(seconds[side]),
                "stages": {k: statistics.median(s.get(k, 0.0) for s in stages[side]) for k in sorted(stages[side][0])},
            }
            for side in sides
        },
        "speedup": statistics.median(a / b for a, b in zip(seconds["one"], seconds["several"], strict=True)),
        "largest_difference": apart(logged["one"], logged["several"]),
        "load": os.getloadavg()[0],
    }
    print(json.dumps(report, indent=2) if given.json else show(report))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--recipe", default="grpo")
    parser.add_argument("--scale", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of the one rank")
    parser.add_argument("--threads-each", type=int, default=1, help="of each of the several")
    parser.add_argument("--steps", type=int, default=12, help=f"steps in a block; the first {SKIPPED} are not counted")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--override", action="append", default=[], metavar="KEY=VALUE", help="more overrides, for both sides")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    if given.steps <= SKIPPED:
        parser.error(f"--steps {given.steps}: more than {SKIPPED} are needed")
    return given


def train(place: Path, ranks: int, threads: int, given: argparse.Namespace) -> None:
    quiet = ["eval.every=0", "checkpoint.every=0", "track.mode=disabled", "track.console=off"]
    options = [f"recipe={given.recipe}", f"scale={given.scale}", f"scale.ranks={ranks}", f"trainer.steps={given.steps}", *quiet]
    command = [sys.executable, "-m", "rlent", "train", *options, *given.override, f"run.dir={place}"]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stderr[-4000:]}")


def apart(one: Sequence[dict[str, Any]], other: Sequence[dict[str, Any]]) -> float:
    """The largest relative difference of the first step's numbers; later steps differ as their weights do."""
    return max(abs(one[0][k] - other[0][k]) / max(abs(one[0][k]), 1e-9) for k in SAME if k in one[0] and math.isfinite(one[0][k]))


def show(report: dict[str, Any]) -> str:
    lines = []
    for side, row in report["sides"].items():
        what = ", ".join(f"{k} {v:.3f}" for k, v in row["stages"].items() if v >= 0.001)
        lines.append(
            f"{side:<9}{row['ranks']} x {row['threads']} threads: {row['seconds']:.3f} s a step ({row['min']:.3f} to {row['max']:.3f}): {what}"
        )
    lines.append(f"one / several: {report['speedup']:.2f} times; load {report['load']:.1f}")
    lines.append(f"first step's {', '.join(SAME)}: largest relative difference {report['largest_difference']:.1e}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
