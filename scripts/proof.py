"""Evaluate every run of a sweep over recipes and seeds, and compare the recipes: entropy, pass@1 and pass@k, paired.

    rlent train -m recipe=grpo,clipcov,klcov seed=0,1,2 hydra/launcher=joblib hydra.launcher.n_jobs=2
    python scripts/proof.py outputs/sweeps/recipe-seed-xxxxxxxx            # the folder the sweep names

Values of a recipe are means over its seeds: of `entropy/mean` at the first step and over the last five logged steps, and of
pass@1 and pass@k on the same held-out problems. A difference from the first recipe is taken problem by problem, each problem's
value being its mean over seeds, and its interval is a paired bootstrap over problems. What is evaluated already is not again.
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

import numpy as np

from rlent.eval.plot import curves, read_metrics, series
from rlent.eval.result import Evaluation
from rlent.math.passk import paired_bootstrap

LAST = 5


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


def evaluate(folder: Path, k: int, n: int, problems: int) -> Evaluation:
    out = folder / f"proof-{problems}x{n}"
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
        done = pool.map(lambda rs: evaluate(runs[rs[0]][rs[1]], options.k, options.n, options.problems), flat)
        evals = dict(zip(flat, done, strict=True))
    rows = {rs: read_metrics(runs[rs[0]][rs[1]] / "metrics.jsonl") for rs in flat}

    mean = lambda values: float(np.mean(list(values)))  # noqa: E731
    report = {}
    for recipe in order:
        mine = [rs for rs in flat if rs[0] == recipe]
        entropy = [series(rows[rs])[1] for rs in mine]
        by_problem = {k: np.mean([evals[rs].pass_values(k) for rs in mine], axis=0) for k in (1, options.k)}
        report[recipe] = {
            "seeds": [rs[1] for rs in mine],
            "entropy_start": mean(e[0] for e in entropy),
            "entropy_end": mean(np.mean(e[-LAST:]) for e in entropy),
            "entropy_end_by_seed": [float(np.mean(e[-LAST:])) for e in entropy],
            **{f"pass@{k}": mean(v) for k, v in by_problem.items()},
            **{f"pass@{k}_by_seed": [float(evals[rs].pass_values(k).mean()) for rs in mine] for k in (1, options.k)},
        }
        if recipe != base:
            for k, values in by_problem.items():
                d = paired_bootstrap(values, np.mean([evals[rs].pass_values(k) for rs in flat if rs[0] == base], axis=0))
                report[recipe][f"pass@{k}_difference"] = {"value": d.value, "low": d.low, "high": d.high}
    (options.sweep / "proof.json").write_text(json.dumps(report, indent=1))

    print(
        f"means over seeds; {options.problems} held-out problems x {options.n} samples; differences from {base}, 95 % paired bootstrap over problems"
    )
    for recipe, r in report.items():
        text = f"{recipe:10s} entropy {r['entropy_start']:.3f} -> {r['entropy_end']:.3f}"
        for k in (1, options.k):
            text += f"   pass@{k} {r[f'pass@{k}']:.3f}"
            if recipe != base:
                d = r[f"pass@{k}_difference"]
                text += f" ({d['value']:+.3f}, {d['low']:+.3f} to {d['high']:+.3f})"
        print(text)
    first = min(seed for _, seed in flat)
    shown = {recipe: (recipe, first) for recipe in order if (recipe, first) in evals}
    files = curves(
        {r: rows[rs] for r, rs in shown.items()},
        {r: evals[rs] for r, rs in shown.items()},
        options.sweep / "proof.png",
        caption=f"Seed {first}.",
    )
    print(f"{options.sweep / 'proof.json'}   {files[0]}")


if __name__ == "__main__":
    main()
