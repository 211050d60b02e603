"""Tokens per second of our vLLM engine beside bare `LLM.generate` with the same parameters.

    python scripts/bench_engine.py                                                     # the embedded model, on the CPU or a GPU
    python scripts/bench_engine.py --model Qwen/Qwen2.5-1.5B --dtype bfloat16 --max-tokens 1024 --prompts 64 --group 8

One vLLM, in this process; blocks alternate, and both sides get the same prompts, seeds and lengths:

    rlent   `VllmEngine.generate`: requests checked, one seed for each, log-probabilities of the processed distribution as lists
    bare    `LLM.generate` with the same `SamplingParams`; its answers are left as they are
    native  (`--native`) our own engine on the same requests, for comparison

Stop tokens are off, so that every response has `--max-tokens` tokens and the sides do equal work. Ratios are between blocks of
the same round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from rlent.engine.native import NativeEngine
from rlent.engine.vllm import VllmEngine
from rlent.math import noise
from rlent.policy.policy import Policy
from rlent.types import Request

PROMISED = 0.95


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    policy = Policy.load(given.model, dtype=given.dtype, device="cuda" if torch.cuda.is_available() else "cpu")
    engine = VllmEngine(policy.model, 0, max_batch=given.max_batch)
    engine.load(policy, 0)
    sides: dict[str, Callable[[list[Request]], int]] = {
        "rlent": lambda rows: sum(map(len, engine.generate(rows).tokens)),
        "bare": lambda rows: bare(engine, rows),
    }
    if given.native:
        native = NativeEngine(policy.model, 0)
        sides["native"] = lambda rows: sum(map(len, native.generate(rows).tokens))
    found: dict[str, list[float]] = {side: [] for side in sides}
    for repeat in range(given.repeats + 1):  # the first round warms up
        rows = requests(given, engine, repeat)
        for side in list(sides) if repeat % 2 == 0 else list(sides)[::-1]:
            began = time.perf_counter()
            tokens = sides[side](rows)
            rate = tokens / (time.perf_counter() - began)
            if repeat:
                found[side].append(rate)
                print(f"round {repeat} {side}: {rate:.0f} tokens/s", file=sys.stderr, flush=True)
    report = {side: {"median": statistics.median(v), "min": min(v), "max": max(v)} for side, v in found.items()}
    ratio = [a / b for a, b in zip(found["rlent"], found["bare"], strict=True)]
    report["ratio"] = {"median": statistics.median(ratio), "min": min(ratio), "max": max(ratio), "promised": PROMISED}
    print(json.dumps(report, indent=2) if given.json else show(report))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a folder, a name on the hub, or tiny")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--group", type=int, default=16, help="responses to each prompt")
    parser.add_argument("--prompt-tokens", type=int, default=16, help="tokens of each prompt, drawn at random")
    parser.add_argument("--max-tokens", type=int, default=64, help="tokens of each response")
    parser.add_argument("--max-batch", type=int, default=256, help="sequences decoded at once")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--native", action="store_true", help="also time the native engine")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


def requests(given: argparse.Namespace, engine: VllmEngine, repeat: int) -> list[Request]:
    draw = torch.Generator().manual_seed(repeat)
    prompts = torch.randint(0, engine.vocab, (given.prompts, given.prompt_tokens), generator=draw).tolist()
    return [
        Request(prompt, key=(repeat, p, g), max_tokens=given.max_tokens) for p, prompt in enumerate(prompts) for g in range(given.group)
    ]


def bare(engine: Any, rows: Sequence[Request]) -> int:
    """The same work by vLLM alone; returns the number of tokens."""
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": list(row.prompt)} for row in rows]
    specs = [
        SamplingParams(
            temperature=1.0, max_tokens=row.max_tokens, stop_token_ids=[], ignore_eos=True, logprobs=0, seed=seed_of(row), detokenize=False
        )
        for row in rows
    ]
    return sum(len(answer.outputs[0].token_ids) for answer in engine.llm.generate(prompts, specs, use_tqdm=False))


def seed_of(row: Request) -> int:
    """The seed that our engine gives a request."""
    return int(noise.uniform("vllm", *row.key, len(row.prefix)) * 2**53)


def show(report: dict[str, dict[str, float]]) -> str:
    lines = [f"{side:<8}{v['median']:>10.0f} tokens/s ({v['min']:.0f} to {v['max']:.0f})" for side, v in report.items() if side != "ratio"]
    ratio = report["ratio"]
    kept = "kept" if ratio["median"] >= PROMISED else "NOT KEPT"
    return "\n".join(
        [*lines, f"rlent / bare: {ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f}); at least {PROMISED} is the aim: {kept}"]
    )


if __name__ == "__main__":
    main()
