"""`rlent measure`: entropy, covariance and pass@k of responses in a file, under a model, without training."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlent import metrics
from rlent.analysis.source import Reading, Source, read_source
from rlent.errors import UsageError
from rlent.eval.result import ladder
from rlent.math.intervals import bootstrap_interval
from rlent.math.passk import pass_at_k
from rlent.ranks.world import World
from rlent.recipe import compose as recipes
from rlent.runs import kept as frozen
from rlent.train.credit import add_advantage
from rlent.types import Batch, JsonObject

Ints = NDArray[np.int64]

LEVEL = 0.95
GROUPS = ("entropy", "nll", "cov", "correct", "group", "reward", "length", "finish", "mismatch")


def measure(source: Source) -> JsonObject:
    """The metrics of `train` on the batch (advantages are plain GRPO's), and pass@k with intervals over prompts.

    Returns:
        `metrics` by their logged names, `pass_at_k` by k (value, low, high), and sizes. The metrics that a step of training alone has are left out.
    """
    batch = source.batch
    batch = add_advantage(Batch(dict(batch.streams), batch.row), recipes.load(["recipe=grpo"]).plan.advantage, World())
    found = metrics.step_metrics(batch)
    chosen = {k: v for k, v in found.items() if k.partition("/")[0] in GROUPS}
    n, c = _counts(batch)
    return {
        "file": source.label,
        "responses": len(batch),
        "prompts": len(n),
        "tokens": int(batch["mask"].sum()),
        "temperature": float(batch["temperature"]),
        "samples": [int(n.min()), int(n.max())],
        "metrics": {k: v if math.isfinite(v) else None for k, v in chosen.items()},
        "level": LEVEL,
        "pass_at_k": {str(k): _estimate(n, c, k) for k in ladder(int(n.min()))},
    }


def _counts(batch: Batch) -> tuple[Ints, Ints]:
    """Responses and correct responses of each prompt."""
    group, correct = batch["group"].numpy(), batch["correct"].numpy()
    _, at = np.unique(group, return_inverse=True)
    return np.bincount(at), np.bincount(at, weights=correct).astype(np.int64)


def _estimate(n: Ints, c: Ints, k: int) -> dict[str, float]:
    values = pass_at_k(n, c, k)
    low, high = bootstrap_interval(values, level=LEVEL)
    return {"value": float(values.mean()), "low": float(low), "high": float(high)}


def main(
    place: str,
    overrides: Sequence[str],
    reading: Reading,
    *,
    keep: str | None = None,
    as_json: bool = False,
) -> int:
    """Read, look at the responses with the model, print; with `keep`, save them as a frozen batch.

    Raises:
        UsageError: the file to keep the batch in exists, or FILE is a run (whose batches were measured as it was trained).
    """
    if keep is not None and Path(keep).exists():
        raise UsageError(f"--keep: {keep} exists, and nothing is overwritten")
    if Path(place).is_dir() or Path(place).suffix == ".safetensors":
        raise UsageError(
            f"'{place}' is a run or a kept batch, whose numbers are in metrics.jsonl; a file of responses is wanted (rlent replay reads a batch)"
        )
    source, _ = read_source(place, reading, overrides)
    found = {"model": reading.model, **measure(source)}
    if keep is not None:
        frozen.save(source.batch, Path(keep))
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    _print(found)
    if keep is not None:
        print(f"{keep}: for rlent replay and rlent inspect")
    return 0


def _print(found: JsonObject) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.width = max(console.width, 100)
    few, many = found["samples"]
    samples = f"{few}" if few == many else f"{few} to {many}"
    console.print(
        f"{found['file']} under {found['model']}: {found['prompts']} prompts, {samples} responses each, {found['tokens']} tokens, "
        f"temperature {found['temperature']:g}",
        highlight=False,
        soft_wrap=True,
    )
    table = Table(box=None, pad_edge=False)
    table.add_column("metric", no_wrap=True)
    table.add_column("value", justify="right")
    table.add_column("unit")
    table.add_column(f"{LEVEL:.0%} interval over prompts", no_wrap=True)
    for name, value in found["metrics"].items():
        metric = metrics.explain(name)
        table.add_row(name, "-" if value is None else f"{value:.4g}", metric.unit if metric else "", "")
    for k, e in found["pass_at_k"].items():
        table.add_row(f"pass@{k}", f"{e['value']:.4g}", "share", f"{e['low']:.3f} .. {e['high']:.3f}")
    console.print(table)
    console.print("covariances are with plain GRPO's advantage; what a metric means: rlent explain NAME", style="dim", highlight=False)
