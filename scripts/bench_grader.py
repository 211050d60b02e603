#!/usr/bin/env python
r"""How fast the mathematics grader is, and what hostile responses cost.

    python scripts/bench_grader.py                       # problems from a small generator
    python scripts/bench_grader.py --data math500.jsonl  # golds from a file with an `answer` per line
    python scripts/bench_grader.py --workers 8 --json

Five measurements, each with fresh caches and warm workers:

    single    one response per problem: half the gold in another spelling, the rest wrong answers of the same kind
    rollout   groups of 16 responses per problem with repeated answers, as in training
    plain     math-verify in a loop over the same rollout batch (a part of it, scaled)
    hostile   the rollout batch with a tenth of the responses replaced by towers, factorials, deep nesting, ...
    endless   the rollout batch with a tenth of the pairs replaced by questions that no limit refuses and no worker finishes

`hostile` and `endless` print the seconds they add to the rollout batch; the aim is at most the deadline and one second.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from collections import Counter
from pathlib import Path

from rlent.grading.math import MathGrader
from rlent.types import Verdict

Pair = tuple[str, str]

HOSTILE = [
    r"9^{9^{9^9}}",
    r"9^{9^9}",
    r"10^{10^{10}}",
    r"100000000!",
    r"((10!)!)!",
    r"\binom{10^9}{5\cdot10^8}",
    r"\binom{1000000000}{500000000}",
    r"\sqrt[1000000]{2^{999983}+1}",
    r"\sum_{k=1}^{1000000000} \frac{1}{k^2}",
    r"\prod_{k=1}^{10^9} k",
    r"\int_0^{10^9} e^{x^{x^x}} \sin(x^2) \, dx",
    r"\int \frac{\sqrt{\sin x + \sqrt{x^5 + \tan x}}}{\ln(x + e^{x^2})} dx",
    "(" * 2000 + "1" + ")" * 2000,
    "{" * 300 + "x" + "}" * 300,
    r"\frac{1}{" * 200 + "2" + "}" * 200,
    "7" * 100_000,
    "+".join(["x"] * 2000),
    r"(x+y+z)^{5000}",
    r"\left(\sum_{i=1}^{n}\sum_{j=1}^{n}\sum_{k=1}^{n} \binom{n}{i}\binom{n}{j}\binom{n}{k} (i+j+k)!\right)^{7}",
    r"x^{x^{x^{x}}} = \Gamma(x!)",
    r"\sqrt{2+\sqrt{3+\sqrt{5+\sqrt{7+\sqrt{11+\sqrt{13+\sqrt{17+\sqrt{19}}}}}}}}+a",
    r"\begin{pmatrix}" + r"\\".join("&".join(["1"] * 40) for _ in range(40)) + r"\end{pmatrix}",
    ",".join(str(i) for i in range(2000)),
    "__import__('os').system('touch hostile') or 3",
    r"\boxed{" * 50 + "1" + "}" * 50,
]

_SENTENCES = [
    r"We begin with the equation \[ x^2 - 5x + 6 = 0, \] which factors as $(x-2)(x-3) = 0$.",
    r"By the Pythagorean theorem, $AC^2 = AB^2 + BC^2 = 9 + 16 = 25$, so $AC = 5$.",
    r"Substituting $y = 2x + 1$ into the first equation gives $3x + 2(2x+1) = 16$, hence $7x = 14$.",
    r"There are $\binom{8}{3} = 56$ ways to choose the three positions, and $2^5 = 32$ ways to fill the others.",
    r"Using $\sin^2 \theta + \cos^2 \theta = 1$ we find $\cos\theta = \pm\frac{\sqrt{3}}{2}$.",
    r"The sum of the first $n$ terms is $\frac{n(n+1)}{2}$; for $n = 20$ this equals $210$.",
    r"Therefore the probability is $1 - \left(\frac{5}{6}\right)^4$ before we account for the order.",
]


def built_in_golds(draw: random.Random, count: int) -> list[str]:
    """Answers in the kinds and shares of MATH: integers, fractions, radicals, expressions, tuples, intervals, words."""
    makers = [
        (55, lambda: str(draw.randint(-50, 2000))),
        (15, lambda: rf"\frac{{{draw.randint(1, 40)}}}{{{draw.randint(2, 99)}}}"),
        (8, lambda: rf"{draw.randint(2, 9)}\sqrt{{{draw.choice([2, 3, 5, 6, 7, 10, 11])}}}"),
        (5, lambda: rf"{draw.randint(2, 30)}\pi"),
        (6, lambda: rf"x^2{draw.randint(-9, -1)}x+{draw.randint(1, 9)}"),
        (4, lambda: rf"\left({draw.randint(-9, 9)},{draw.randint(-9, 9)}\right)"),
        (3, lambda: rf"[{draw.randint(-9, 0)},{draw.randint(1, 9)})"),
        (2, lambda: rf"{draw.randint(1, 99)}^\circ"),
        (1, lambda: draw.choice([r"\text{even}", r"\text{odd}", r"\text{(C)}", r"\sum_{k=0}^{n-1} a_{k} x^{k}"])),
        (1, lambda: rf"\begin{{pmatrix}} {draw.randint(0, 9)} \\ {draw.randint(0, 9)} \end{{pmatrix}}"),
    ]
    weights = [weight for weight, _ in makers]
    return [draw.choices(makers, weights)[0][1]() for _ in range(count)]


def respelled(gold: str, draw: random.Random) -> str:
    """The same answer, dressed differently (mostly not at all, as models do)."""
    kind = draw.random()
    if kind < 0.6:
        return gold
    if kind < 0.8:
        return gold.replace(r"\frac", r"\dfrac").replace(",", ", ")
    if kind < 0.9:
        return f"x = {gold}" if "=" not in gold and r"\text" not in gold and "," not in gold else gold
    return rf"\,{gold}\,"


def response(answer: str, draw: random.Random) -> str:
    """About 1,100 characters of worked solution that ends with the answer in a box."""
    body = " ".join(draw.choice(_SENTENCES) for _ in range(11))
    return f"{body}\n\nTherefore, the answer is $\\boxed{{{answer}}}$."


def single(golds: list[str], draw: random.Random, count: int) -> list[Pair]:
    pairs = []
    for i in range(count):
        gold = golds[i % len(golds)]
        answer = respelled(gold, draw) if draw.random() < 0.5 else draw.choice(golds)
        pairs.append((response(answer, draw), gold))
    return pairs


def rollout(golds: list[str], draw: random.Random, prompts: int, group: int = 16) -> list[Pair]:
    """Groups with a few distinct answers each; the most frequent one comes up about half of the time."""
    pairs = []
    for gold in draw.sample(golds, min(prompts, len(golds))):
        seen = [respelled(gold, draw), *draw.sample(golds, 4)]
        draw.shuffle(seen)
        pairs += [(response(seen[min(int(draw.expovariate(0.8)), 4)], draw), gold) for _ in range(group)]
    return pairs


def with_hostile(pairs: list[Pair], draw: random.Random, share: float) -> list[Pair]:
    """A share of the responses replaced; each hostile text is made distinct, so that no cache helps."""
    pairs = list(pairs)
    for n, i in enumerate(draw.sample(range(len(pairs)), int(share * len(pairs)))):
        pairs[i] = (f"So \\boxed{{{HOSTILE[n % len(HOSTILE)]} + {n}}}", pairs[i][1])
    return pairs


ENDLESS = [
    (r"\sum_{k=1}^{\infty} \frac{\sin(k^2)}{k^3+\sqrt{k}}", r"\int_0^1 f(x) dx"),
    (
        r"\int_0^1 \frac{\ln(1+x^3)\sqrt{\sin x}+e^{x^2}}{x^{7/3}+\cos x \tan(x^2)} dx",
        r"\int_0^1 \frac{\ln(1+x^3)\sqrt{\cos x}}{x^{7/3}+\sin x} dx",
    ),
    (r"\int_0^\infty \frac{\sin(x^5)\ln(1+x)}{\sqrt{1+x^7}e^{x}} dx", r"\sum_{k=1}^{\infty} \frac{\cos(k^2)}{k^3+\sqrt{k}}"),
]


def with_endless(pairs: list[Pair], draw: random.Random, share: float) -> list[Pair]:
    """A share of the pairs replaced by questions that take all the time they are given, each distinct."""
    pairs = list(pairs)
    for n, i in enumerate(draw.sample(range(len(pairs)), int(share * len(pairs)))):
        answer, gold = ENDLESS[n % len(ENDLESS)]
        pairs[i] = (f"So \\boxed{{{answer} + {n}}}", gold)
    return pairs


def timed(pairs: list[Pair], workers: int) -> tuple[float, list[Verdict]]:
    with MathGrader(workers=workers) as grader:
        warm = [(rf"\boxed{{\sum_{{k=0}}^{{n}} b_{{k}} + {i}}}", r"\sum_{k=0}^{n} c_{k}") for i in range(8 * workers)]
        grader.grade_batch(warm)  # start all workers
        begun = time.perf_counter()
        verdicts = grader.grade_batch(pairs)
        return time.perf_counter() - begun, verdicts


def plain(pairs: list[Pair]) -> float:
    """Seconds of math-verify alone, in a loop, as its documentation shows it."""
    from math_verify import parse, verify

    logging.getLogger("math_verify").setLevel(logging.ERROR)
    verify(parse(r"$\frac{1}{2}$"), parse("$0.5$"))
    begun = time.perf_counter()
    for text, gold in pairs:
        verify(parse(f"${gold}$"), parse(text))
    return time.perf_counter() - begun


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", type=Path, help="JSON lines with an `answer` each; without it answers are generated")
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--count", type=int, default=1500, help="responses of the single batch")
    options.add_argument("--prompts", type=int, default=64, help="groups of 16 in the rollout batch")
    options.add_argument("--plain", type=int, default=256, help="responses of the rollout batch that plain math-verify grades")
    options.add_argument("--hostile", type=float, default=0.1, help="share of hostile responses")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = options.parse_args()

    draw = random.Random(args.seed)
    golds = [json.loads(line)["answer"] for line in args.data.open()] if args.data else built_in_golds(draw, 500)
    batch = single(golds, draw, args.count)
    groups = rollout(golds, draw, args.prompts)
    part = groups[: args.plain]

    single_seconds, single_verdicts = timed(batch, args.workers)
    groups_seconds, groups_verdicts = timed(groups, args.workers)
    plain_seconds = plain(part) / len(part) * len(groups)
    hostile_seconds, hostile_verdicts = timed(with_hostile(groups, draw, args.hostile), args.workers)

    endless_seconds, endless_verdicts = timed(with_endless(groups, draw, args.hostile), args.workers)

    result = {
        "workers": args.workers,
        "single_per_second": len(batch) / single_seconds,
        "rollout_per_second": len(groups) / groups_seconds,
        "plain_per_second": len(groups) / plain_seconds,
        "times_faster": plain_seconds / groups_seconds,
        "hostile_added_seconds": hostile_seconds - groups_seconds,
        "endless_added_seconds": endless_seconds - groups_seconds,
        "single_methods": Counter(v.method for v in single_verdicts),
        "rollout_correct": sum(v.correct for v in groups_verdicts) / len(groups),
        "hostile_status": Counter(v.status for v in hostile_verdicts),
        "endless_status": Counter(v.status for v in endless_verdicts),
    }
    if args.json:
        print(json.dumps(result))
        return
    print(f"single    {len(batch):6d} responses  {result['single_per_second']:9.0f} /s   {dict(result['single_methods'])}")
    print(f"rollout   {len(groups):6d} responses  {result['rollout_per_second']:9.0f} /s   correct {result['rollout_correct']:.2f}")
    print(
        f"plain     {len(part):6d} responses  {result['plain_per_second']:9.0f} /s   rollout is {result['times_faster']:.1f} times as fast"
    )
    print(f"hostile   {args.hostile:6.0%} of them    {result['hostile_added_seconds']:+9.2f} s    {dict(result['hostile_status'])}")
    print(f"endless   {args.hostile:6.0%} of them    {result['endless_added_seconds']:+9.2f} s    {dict(result['endless_status'])}")


if __name__ == "__main__":
    main()
