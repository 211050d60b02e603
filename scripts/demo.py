"""The collapse and the rescue, on a laptop: train GRPO and Clip-Cov on the embedded task, evaluate both, draw one picture.

    make demo                                # or: python scripts/demo.py --steps 250 --out demo

The two trainings run side by side, one thread each. Everything is kept in the output folder; a demo that was stopped is
continued by the same command.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

METHODS = ("grpo", "clipcov")


def rlent(*arguments: str, log: Path | None = None) -> subprocess.Popen[str]:
    """Start `rlent ...` with one thread; output goes to `log`, or is shown."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    out = log.open("a") if log else None
    return subprocess.Popen(
        [sys.executable, "-m", "rlent", *arguments], env=environment, stdout=out, stderr=subprocess.STDOUT if out else None, text=True
    )


def train(out: Path, steps: int, seed: int) -> None:
    """Both runs at once; a finished one is left as it is, a stopped one is resumed."""
    jobs = {}
    for method in METHODS:
        folder = out / method
        if (folder / "model" / "config.json").is_file():
            continue
        if (folder / "recipe.yaml").is_file():
            arguments = ["--resume", str(folder)]
        else:
            arguments = [
                f"recipe={method}",
                f"run.dir={folder}",
                f"seed={seed}",
                f"trainer.steps={steps}",
                "eval.every=0",
                "track.mode=disabled",
            ]
        jobs[method] = rlent("train", *arguments, log=out / f"{method}.log")
    while jobs and any(job.poll() is None for job in jobs.values()):
        done = {m: _rows(out / m / "metrics.jsonl") for m in METHODS}
        print("  ".join(f"{m}: step {n} of {steps}" for m, n in done.items()), end="\r" if sys.stdout.isatty() else "\n", flush=True)
        time.sleep(2 if sys.stdout.isatty() else 15)
    print()
    for method, job in jobs.items():
        if job.returncode:
            sys.exit(f"training {method} failed; see {out / f'{method}.log'}\n{(out / f'{method}.log').read_text()[-2000:]}")


def _rows(file: Path) -> int:
    return sum(1 for _ in file.open()) if file.is_file() else 0


def evaluate(out: Path, samples: int, problems: int) -> dict[str, Path]:
    """pass@k of the start model and both runs, on the same held-out problems."""
    folders = {name: out / f"eval-{name}" for name in ("start", *METHODS)}
    jobs = []
    for name, folder in folders.items():
        if (folder / "eval.json").is_file():
            continue
        what = ["model=tiny"] if name == "start" else [f"run={out / name}"]
        arguments = [*what, "--pass-at-k", str(samples), "--problems", str(problems), "--out", str(folder), "--json"]
        jobs.append((name, rlent("eval", *arguments, log=out / f"eval-{name}.log")))
        if len(jobs) >= 2:
            jobs[-2][1].wait()
    for name, job in jobs:
        if job.wait():
            sys.exit(f"evaluating {name} failed; see {out / f'eval-{name}.log'}")
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--samples", type=int, default=64, help="responses to each held-out problem")
    parser.add_argument("--problems", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    print(f"training {' and '.join(METHODS)} for {options.steps} steps each (logs in {options.out})")
    train(options.out, options.steps, options.seed)
    print(f"evaluating: {options.samples} samples of {options.problems} held-out problems")
    folders = evaluate(options.out, options.samples, options.problems)

    from rich.console import Console

    from rlent.eval.figures import curves, demo_table
    from rlent.eval.result import Evaluation
    from rlent.track.record import read_metrics

    evals = {name: Evaluation.load(folder / "eval.json") for name, folder in folders.items()}
    start = evals.pop("start")
    runs = {m: read_metrics(options.out / m / "metrics.jsonl") for m in METHODS}
    files = curves(runs, evals, options.out / "demo.png", start=start)
    Console().print(demo_table(runs, evals, start))
    print(f"picture: {files[0]}   ({time.monotonic() - began:.0f} s)")
    print("next: rlent ls   |   rlent show clipcov   |   rlent train recipe=klcov   |   rlent explain entropy/mean")


if __name__ == "__main__":
    main()
