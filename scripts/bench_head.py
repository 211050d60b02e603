"""Time and memory of the chunked head against materialised logits.

    python scripts/bench_head.py                                      # V = 152,000, D = 896, 4,096 tokens: minutes
    python scripts/bench_head.py --tokens 512 --vocab 32000 --repeats 3

Each measurement runs in a process of its own, the ways take turns, and the table gives medians. A measurement is one
forward and one backward for the gradient of both the log-probability and the entropy, with the same upstream gradients:

    materialised   logits = hidden @ weight.T, log_softmax, gather, entropy from the same log-probabilities, backward
    chunked        `token_statistics` and backward (the logits are made twice)

Memory is the peak resident size of the process, less the weight's gradient, above its size when hidden states, weights
and upstream gradients are there and a small run has loaded the libraries. Needs Linux.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlent.policy.head import token_statistics

WAYS = ("materialised", "chunked")
MEMORY_SHARE, TIME_SHARE = 1 / 8, 1.35


def main() -> None:
    arguments = parse()
    if arguments.child:
        print(json.dumps(measure(arguments.child, arguments)))
        return
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for repeat in range(arguments.repeats):
        for way in WAYS:
            runs[way].append(child(way, arguments))
            note = runs[way][-1]
            print(f"repeat {repeat + 1} {way}: {note['seconds']:.2f} s, {note['mb']:.0f} MB", file=sys.stderr, flush=True)
    result = summary(runs, arguments)
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        show(result)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens in the batch")
    parser.add_argument("--vocab", type=int, default=152_000, help="V, size of the vocabulary")
    parser.add_argument("--width", type=int, default=896, help="D, size of a hidden state")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each way, taking turns")
    parser.add_argument("--threads", type=int, default=None, help="torch threads (default: what the environment gives)")
    parser.add_argument("--chunk", type=int, default=None, help="tokens held at a time (default: the head's own choice)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    return parser.parse_args()


def child(way: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One measurement in a process of its own."""
    command = [sys.executable, __file__, "--child", way, "--dtype", arguments.dtype]
    for name in ("tokens", "vocab", "width", "threads", "chunk"):
        if getattr(arguments, name) is not None:
            command += [f"--{name}", str(getattr(arguments, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{way} failed with exit code {done.returncode}:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(way: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Seconds and peak megabytes of one forward and backward."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    n, size, width = arguments.tokens, arguments.vocab, arguments.width
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, arguments.dtype)
    hidden = torch.randn(n, width, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(size, width, generator=generator).mul_(2.0 * width**-0.5).to(dtype).requires_grad_()
    target = torch.randint(0, size, (n,), generator=generator)
    upstream = torch.randn(2, n, generator=generator)
    small = [x[:64].detach().requires_grad_() for x in (hidden, weight)]
    work(way, small[0], small[1], target[:64] % min(size, 64), upstream[:, :64], arguments.chunk)
    before = reset_peak()
    start, start_cpu = time.perf_counter(), time.process_time()
    d_weight = work(way, hidden, weight, target, upstream, arguments.chunk)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    own = weight.numel() * weight.element_size()  # the weight's gradient belongs to every way
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "mb": (peak() - before - own) / 2**20,
        "norm": float(torch.linalg.vector_norm(d_weight, dtype=torch.float64)),
    }


def work(way: str, hidden: Tensor, weight: Tensor, target: Tensor, upstream: Tensor, chunk: int | None) -> Tensor:
    """Values and gradients of log-probability and entropy; returns the weight's gradient."""
    if way == "chunked":
        found = token_statistics(hidden, weight, target, chunk=chunk)
        values = [found["logp"], found["entropy"]]
    else:
        log_prob = torch.log_softmax((hidden @ weight.T).float(), -1)
        values = [log_prob.gather(1, target[:, None]).squeeze(1), -(log_prob.exp() * log_prob).sum(-1)]
        del log_prob
    torch.autograd.backward(values, list(upstream))
    assert weight.grad is not None
    return weight.grad


def reset_peak() -> int:
    """Forget the process's peak resident size, and return its size now, in bytes (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def peak() -> int:
    """The largest resident size since `reset_peak`, in bytes."""
    return status("VmHWM")


def status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise SystemExit(f"/proc/self/status has no {key}: memory is measured on Linux only")


def summary(runs: dict[str, list[dict[str, float]]], arguments: argparse.Namespace) -> dict[str, object]:
    """Medians, ratios to the materialised way, and whether the promises hold."""
    seconds = {way: statistics.median(r["seconds"] for r in rows) for way, rows in runs.items()}
    memory = {way: statistics.median(r["mb"] for r in rows) for way, rows in runs.items()}
    norm = {way: rows[0]["norm"] for way, rows in runs.items()}
    time_ratio = {
        way: statistics.median(a["seconds"] / b["seconds"] for a, b in zip(runs[way], runs[WAYS[0]], strict=True)) for way in WAYS
    }
    memory_ratio = {way: memory[way] / memory[WAYS[0]] for way in WAYS}
    return {
        "size": {"tokens": arguments.tokens, "vocab": arguments.vocab, "width": arguments.width, "dtype": arguments.dtype},
        "repeats": arguments.repeats,
        "threads": arguments.threads or torch.get_num_threads(),
        "seconds": seconds,
        "cpu_seconds": {way: statistics.median(r["cpu_seconds"] for r in rows) for way, rows in runs.items()},
        "mb": memory,
        "time_ratio": time_ratio,
        "memory_ratio": memory_ratio,
        "gradient_norm": norm,
        "limits": {"memory": MEMORY_SHARE, "chunked": TIME_SHARE},
        "within": {"memory": memory_ratio["chunked"] <= MEMORY_SHARE, "chunked": time_ratio["chunked"] <= TIME_SHARE},
        "runs": runs,
    }


def show(result: dict[str, Any]) -> None:
    size = result["size"]
    print(
        f"{size['tokens']} tokens, V = {size['vocab']}, D = {size['width']}, {size['dtype']}, {result['threads']} threads, medians of {result['repeats']}"
    )
    print(f"{'':14}{'seconds':>10}{'ratio':>8}{'limit':>8}{'MB':>10}{'ratio':>8}{'limit':>8}{'|d weight|':>14}")
    for way in WAYS:
        limit = result["limits"].get(way)
        bounds = (f"{limit:.2f}", f"{MEMORY_SHARE:.3f}") if limit else ("", "")
        print(
            f"{way:14}{result['seconds'][way]:10.2f}{result['time_ratio'][way]:8.3f}{bounds[0]:>8}"
            f"{result['mb'][way]:10.0f}{result['memory_ratio'][way]:8.4f}{bounds[1]:>8}{result['gradient_norm'][way]:14.6g}"
        )
    late = [name for name, good in result["within"].items() if not good]
    print("within every limit" if not late else f"outside the limit: {', '.join(late)}")


if __name__ == "__main__":
    main()
