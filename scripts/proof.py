"""Evaluate every run of a sweep over recipes and seeds, and compare the recipes: entropy, pass@1 and pass@k, paired.

    rlent train -m recipe=grpo,clipcov,klcov seed=0,1,2 hydra/launcher=joblib hydra.launcher.n_jobs=2
    python scripts/proof.py outputs/sweeps/recipe-seed-xxxxxxxx            # the folder the sweep names

Values of a recipe are means over its seeds: of `entropy/mean` at the first step and over the last five steps, and of
pass@1 and pass@k on the same held-out problems. A difference from GRPO, or else from the first recipe, is taken problem by problem, each problem's
value being its mean over the seeds that both have, and its interval is a paired bootstrap over problems. What is evaluated already is not again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rlent.eval.figures import curves
from rlent.eval.result import Evaluation
from rlent.report.arena import Result, compare, row_of
from rlent.track.record import read_metrics


def runs_of(sweep: Path) -> dict[str, dict[int, Path]]:
    """Finished runs by recipe and seed."""
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for folder in sorted(sweep.iterdir()):
        if not (folder / "run.json").is_file():
            continue
        state = json.loads((folder / "status.json").read_text())["state"]
        if state != "finished":
            sys.exit(f"{folder} is {state}; finish the sweep with the command that began it")
        named = dict(part.split("=", 1) for part in folder.name.split(","))
        found[named["recipe"]][int(named["seed"])] = folder
    if not found:
        sys.exit(f"no runs in {sweep}")
    return found


def out_of(folder: Path, options: argparse.Namespace) -> Path:
    """Where a run's evaluation is kept."""
    return folder / f"proof-{options.problems}x{options.n}"


def evaluate(folder: Path, options: argparse.Namespace) -> Evaluation:
    k, n, problems, out = options.k, options.n, options.problems, out_of(folder, options)
    if not (out / "eval.json").is_file():
        environment = {"OMP_NUM_THREADS": "1", **os.environ, "TOKENIZERS_PARALLELISM": "false"}
        sizes = ["--pass-at-k", str(k), "--n", str(n), "--problems", str(problems)]
        command = [sys.executable, "-m", "rlent", "eval", f"run={folder}", *sizes, "--out", str(out), "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"evaluating {folder} failed:\n{done.stderr[-2000:]}")
        print(f"evaluated {folder.name}", flush=True)
    return Evaluation.load(out / "eval.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--k", type=int, default=64)
    parser.add_argument("--n", type=int, default=128, help="samples of each problem")
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--jobs", type=int, default=2, help="evaluations at once")
    options = parser.parse_args()

    runs = runs_of(options.sweep)
    base = "grpo" if "grpo" in runs else next(iter(runs))
    order = [base, *(r for r in runs if r != base)]
    flat = [(recipe, seed) for recipe in order for seed in sorted(runs[recipe])]
    with ThreadPoolExecutor(options.jobs) as pool:
        done = pool.map(lambda rs: evaluate(runs[rs[0]][rs[1]], options), flat)
        evals = dict(zip(flat, done, strict=True))
    results = {recipe: [Result(seed, run, out_of(run, options)) for seed, run in sorted(runs[recipe].items())] for recipe in order}
    table = [row_of(recipe, mine, list(dict.fromkeys((1, options.k))), share=0.0) for recipe, mine in results.items()]
    compare(table, base)
    (options.sweep / "proof.json").write_text(json.dumps([row.plain() for row in table], indent=1) + "\n")

    steps = len(read_metrics(results[base][0].run))
    print(
        f"means over seeds after {steps} steps; {options.problems} held-out problems x {options.n} samples; in brackets 95 % bootstrap intervals"
    )
    print("over problems; entropy: nats per token, at the first step and over the last five steps")
    for row in table:
        text = f"{row.recipe:10s} entropy {row.entropy_start:.3f} -> {row.entropy_end:.3f}"
        for at, found in row.passes.items():
            d = row.differences.get(at)
            text += f"   pass@{at} {found.value:.3f}"
            text += f" ({d.value:+.3f}, {d.low:+.3f} to {d.high:+.3f})" if d else ""
        print(text)
    first = min(seed for _, seed in flat)
    shown = {recipe: (recipe, first) for recipe in order if (recipe, first) in evals}
    files = curves(
        {r: read_metrics(runs[r][first]) for r in shown},
        {r: evals[rs] for r, rs in shown.items()},
        options.sweep / "proof.png",
        caption=f"Seed {first}.",
    )
    print(f"{options.sweep / 'proof.json'}   {files[0]}")


if __name__ == "__main__":
    main()
