"""GFLOP/s of matrix products of a small model, by torch's own choice and by oneDNN: the limit of a step on the CPU.

python scripts/bench_products.py                 # the embedded model's shapes, one thread
python scripts/bench_products.py --width 512 --rows 4000 --threads 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence

import torch

from rlent.policy.cpu import products


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--rows", type=int, default=1024, help="tokens")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    width, found = given.width, {}
    for inner in (width // 2, width, 3 * width):
        x, g, w = torch.randn(given.rows, width), torch.randn(given.rows, inner), torch.randn(inner, width)
        flops = 2.0 * given.rows * width * inner
        for name, torchs, ours in (
            ("x @ w.T", lambda x=x, w=w: x @ w.t(), lambda x=x, w=w: products.linear(x, w)),
            ("g @ w", lambda g=g, w=w: g @ w, lambda g=g, w=w: products.times(g, w)),
            ("g.T @ x", lambda g=g, x=x: g.t() @ x, lambda g=g, x=x: products.outer(g, x)),
        ):
            found[f"{name} {given.rows} x {width} x {inner}"] = alternating(flops, given.repeats, {"torch": torchs, "rlent": ours})
    if given.json:
        print(json.dumps({"onednn": products.available(), "gflops": found}, indent=2))
        return
    print(f"{given.threads} threads; products go through {'oneDNN' if products.available() else 'torch'}")
    for name, rates in found.items():
        print(
            f"{name:<28}"
            + "".join(f"{side} {rate:>6.0f} GFLOP/s  " for side, rate in rates.items())
            + f"{rates['rlent'] / rates['torch']:.2f}"
        )


def alternating(flops: float, repeats: int, sides: dict[str, Callable[[], torch.Tensor]]) -> dict[str, float]:
    """Median rates; the sides take turns."""
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for repeat in range(repeats + 5):
        for side, work in sides.items():
            began = time.perf_counter()
            work()
            if repeat >= 5:
                seconds[side].append(time.perf_counter() - began)
    return {side: flops / statistics.median(taken) / 1e9 for side, taken in seconds.items()}


if __name__ == "__main__":
    main()
