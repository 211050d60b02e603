"""Seconds per training step and tokens per second, by stage, beside Hugging Face TRL's GRPOTrainer.

    python scripts/bench_step.py                                    # 4 sides x 5 blocks x 10 steps: a few minutes
    python scripts/bench_step.py --recipe clipcov --json
    python scripts/bench_step.py --widths 128 256 512 768 --repeats 3       # a table over model widths
    python scripts/bench_step.py --steps 2 --repeats 1 --warmup 1   # does it run?

A step is one iteration: sample G responses to each of P prompts, grade them, and make M optimizer updates. Four sides
do the same work, each in a process of its own that stays alive; only one runs at a time, in short blocks that alternate:

    rlent   `rlent train`'s own loop with all its metrics and files (no console, no W&B, no evaluation)
    sampler the same with trainer.old_logprobs=rollout: old log-probabilities and entropies are the engine's, without a forward of their own
    bare    rlent without entropy, covariance and ledger: what these cost is rlent - bare, which on a busy machine is
            mostly noise; the stages ledger and measure of rlent itself, all but the entropies in the heads, are steadier
    trl     GRPOTrainer: the same model, prompts in the same order, checker, group, lengths, updates, rate and threads,
            float32, no KL term, no gradient checkpointing, nothing logged or saved

TRL lives in an environment of its own (`--env`), which the script makes: the torch and transformers of this interpreter,
and the latest TRL that goes with them, unless `--trl` names a version.

The limit to compare with is measured in the same run: the matrix products of a step (each prompt once, no padding) at the rate
of large products with as many threads.

Ratios are between blocks of the same round, so that other work on the machine enters them less than it enters the seconds.
Where there is much of it, threads that spin while they wait for each other take the step apart: set `OMP_WAIT_POLICY=passive`
(the children inherit it) or `--threads 1`, and read the ratio of CPU seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

SIDES = ("rlent", "sampler", "bare", "trl")
STAGES = ("sample", "grade", "look_back", "ledger", "shape", "now", "update", "publish", "measure", "other")
PROMISED_RATIO, PROMISED_SHARE = {"rlent": 0.5, "sampler": 1 / 3}, 0.10
LEARNING_RATE, MAX_NORM, SEED = 1e-4, 1.0, 0


@dataclass
class Block:
    """What some steps in a row took: seconds in all and by stage, CPU seconds of all threads, and response tokens sampled."""

    steps: int
    seconds: float
    cpu: float
    tokens: int
    stages: dict[str, float] = field(default_factory=dict)


class Finished(Exception):
    """The parent has closed the pipe: there are no more blocks to do."""


# ---- the parent ---------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    if given.child:
        work(given)
        return
    trl_python = environment(given.env, given.trl) if "trl" in given.sides else None
    if given.widths:
        table = []
        for width in given.widths:
            with tempfile.TemporaryDirectory() as folder:
                parameters = write_model(Path(folder), width)
                table.append({"width": width, "parameters": parameters} | measure(given, trl_python, folder))
        print(json.dumps(table, indent=2) if given.json else show_widths(table))
        return
    found = measure(given, trl_python)
    print(json.dumps(found, indent=2) if given.json else show(found))


def measure(given: argparse.Namespace, trl_python: str | None, model: str | None = None) -> dict[str, Any]:
    """One comparison, of the embedded model or that of a folder."""
    sides = [side for side in SIDES if side in given.sides]
    load, rate = [os.getloadavg()[0]], [matrix_rate(given.threads)]
    with tempfile.TemporaryDirectory() as folder:
        problems = write_problems(Path(folder) / "problems.jsonl", given)
        pythons = {side: trl_python if side == "trl" and trl_python else sys.executable for side in sides}
        started = {side: Child(side, pythons[side], given, Path(folder), problems, model) for side in sides}
        try:
            blocks = alternate(started, given)
        finally:
            for child in started.values():
                child.close()
        gflop = step_gflop(model, problems, given, statistics.median(b.tokens / b.steps for done in blocks.values() for b in done))
    load.append(os.getloadavg()[0])
    rate.append(matrix_rate(given.threads))
    about = {"machine": machine(given.threads, load), "versions": versions(trl_python), "settings": settings(given)}
    found = about | report(blocks)
    return found | {"limit": limit(found, max(rate), matrix_rate(1) if given.threads > 1 else max(rate), gflop)}


RATE = """
import time, torch
from rlent.policy.cpu.products import linear
a, b, rates = torch.randn(1024, 1024), torch.randn(1024, 1024), []
for product in (torch.matmul, linear):
    times = []
    for _ in range(30):
        began = time.perf_counter()
        product(a, b)
        times.append(time.perf_counter() - began)
    rates.append(2 * 1024**3 / sorted(times[5:])[12] / 1e9)
print(max(rates))
"""


def matrix_rate(threads: int) -> float:
    """GFLOP/s of large float32 matrix products by the fastest library here, in a process of its own with that many threads."""
    given = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(package_root())}
    done = subprocess.run([sys.executable, "-c", RATE], env=os.environ | given, check=True, capture_output=True)
    return float(done.stdout)


def step_gflop(model: str | None, problems: Path, given: argparse.Namespace, tokens: float) -> dict[str, float]:
    """GFLOP of the model's matrix products in a step with each prompt read once and no padding: 2 a weight and token forward, 6 with gradients."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from rlent.system.paths import tiny_path

    place = model or str(tiny_path())
    with torch.device("meta"):
        net: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(place))
    weights = sum(m.weight.numel() for m in net.modules() if isinstance(m, torch.nn.Linear))
    prompts = [json.loads(line)["prompt"] for line in problems.read_text().splitlines()]
    length = statistics.mean(len(ids) for ids in AutoTokenizer.from_pretrained(place)(prompts)["input_ids"])
    once = weights * (tokens + given.prompts * length) / 1e9
    return {"sample": 2 * once, "look_back": 2 * once, "update": 6 * once}


def limit(found: Mapping[str, Any], rate: float, one: float, gflop: Mapping[str, float]) -> dict[str, Any]:
    """The seconds that the products of a step take at the matrix rate, and how many times that each side takes."""
    need = {side: (sum(gflop.values()) - (side == "sampler") * gflop["look_back"]) / rate for side in found["sides"]}
    times = {side: row["seconds_per_step"]["median"] / need[side] for side, row in found["sides"].items()}
    return {"gflops": rate, "gflops_of_one_thread": one, "gflop": dict(gflop), "seconds": need, "times": times}


def write_model(folder: Path, width: int) -> int:
    """A model of the embedded one's kind, `width` wide, with random weights; returns its number of parameters."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from rlent.system.paths import tiny_path

    config = AutoConfig.from_pretrained(tiny_path())
    config.hidden_size, config.intermediate_size = width, 3 * width
    config.num_attention_heads, config.num_key_value_heads = width // 32, max(1, width // 64)
    torch.manual_seed(SEED)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_path()).save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def show_widths(table: Sequence[Mapping[str, Any]]) -> str:
    """A line for each width."""
    sides = [side for side in SIDES if side in table[0]["sides"]]
    lines = [
        f"{'width':>6}{'parameters':>12}"
        + "".join(f"{side + ' s/step':>15}" for side in sides)
        + f"{'rlent / TRL':>24}{'sampler / TRL':>24}{'limit s/step':>14}"
    ]
    for row in table:
        seconds = "".join(f"{row['sides'][side]['seconds_per_step']['median']:>15.3f}" for side in sides)
        ratios = ["{median:.2f} ({min:.2f} to {max:.2f})".format(**row[k]) if k in row else "-" for k in ("ratio", "sampler_ratio")]
        lines.append(
            f"{row['width']:>6}{row['parameters'] / 1e6:>10.1f} M{seconds}"
            + "".join(f"{ratio:>24}" for ratio in ratios)
            + f"{row['limit']['seconds'][sides[0]]:>14.3f}"
        )
    return "\n".join(lines)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="grpo", help="the recipe of our side, such as grpo or clipcov; TRL's side is always GRPO")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="which sides run")
    parser.add_argument("--repeats", type=_at_least(1), default=5, help="blocks of each side, taking turns")
    parser.add_argument("--steps", type=_at_least(1), default=10, help="steps in a block")
    parser.add_argument("--warmup", type=_at_least(0), default=3, help="steps of each side before the first block")
    parser.add_argument("--threads", type=_at_least(1), default=2)
    parser.add_argument("--prompts", type=_at_least(1), default=16, help="P, prompts a step")
    parser.add_argument("--group", type=_at_least(2), default=16, help="G, responses to each prompt")
    parser.add_argument("--max-tokens", type=_at_least(1), default=16, help="most tokens in a response")
    parser.add_argument("--updates", type=_at_least(1), default=4, help="M, optimizer updates a step; prompts must be a multiple of it")
    parser.add_argument("--env", type=Path, default=Path(".bench-trl"), help="folder of TRL's environment, made if it is not there")
    parser.add_argument(
        "--trl", default=None, metavar="VERSION", help="version of TRL (default: the latest, or the one the environment has)"
    )
    parser.add_argument(
        "--widths",
        type=_width,
        nargs="+",
        metavar="D",
        help="a table over models of these widths with random weights (768: 28 M parameters)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--problems", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.prompts % given.updates:
        parser.error(
            f"--prompts {given.prompts} is not a multiple of --updates {given.updates}; an update takes whole groups, equally many each time"
        )
    return given


def _width(text: str) -> int:
    if not text.isdecimal() or int(text) < 64 or int(text) % 64:
        raise argparse.ArgumentTypeError(f"{text!r} is not a multiple of 64 (heads of 32, half as many for keys)")
    return int(text)


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return number


def alternate(started: Mapping[str, Child], given: argparse.Namespace) -> dict[str, list[Block]]:
    """Blocks of every side, one side at a time; every second round goes the other way."""
    blocks: dict[str, list[Block]] = {side: [] for side in started}
    for side, child in started.items():
        if given.warmup:
            child.run(given.warmup)
        print(f"{side}: ready", file=sys.stderr, flush=True)
    for repeat in range(given.repeats):
        order = list(started) if repeat % 2 == 0 else list(started)[::-1]
        for side in order:
            block = started[side].run(given.steps)
            blocks[side].append(block)
            print(f"round {repeat + 1} {side}: {block.seconds / block.steps:.3f} s a step", file=sys.stderr, flush=True)
    return blocks


class Child:
    """One side in a process of its own, which waits on a pipe between blocks."""

    def __init__(self, side: str, python: str, given: argparse.Namespace, folder: Path, problems: Path, model: str | None = None) -> None:
        from rlent.system.paths import tiny_path

        self.side, self.log = side, folder / f"{side}.log"
        command = [
            python,
            str(Path(__file__).resolve()),
            "--child",
            side,
            "--model",
            model or str(tiny_path()),
            "--problems",
            str(problems),
        ]
        for name in ("recipe", "threads", "prompts", "group", "max_tokens", "updates"):
            command += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
        threads = {name: str(given.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(package_root())}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                env=os.environ | threads | quiet,
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def run(self, steps: int) -> Block:
        """Do some steps, and wait for them."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(f"{steps}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise SystemExit(f"{self.side} ended with exit code {self.process.wait()}:\n{self.log.read_text()[-4000:]}")
        return Block(**json.loads(line))

    def close(self) -> None:
        """End the process: it goes when its pipe is closed."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def package_root() -> Path:
    """The folder from which `rlent` is imported here; TRL's side takes the countdown checker from it, and nothing else."""
    import rlent

    return Path(str(rlent.__file__)).resolve().parents[1]


def recipe_of(given: argparse.Namespace, *more: str) -> Any:
    """Our side's recipe, with everything off that is no part of a step."""
    from rlent.recipe import compose as recipe

    return recipe.load(
        [
            f"recipe={given.recipe}",
            f"seed={SEED}",
            f"sampler.prompts={given.prompts}",
            f"sampler.n={given.group}",
            f"sampler.max_tokens={given.max_tokens}",
            "sampler.temperature=1.0",
            f"trainer.minibatches={given.updates}",
            "trainer.epochs=1",
            "trainer.steps=1000000",
            f"optim.lr={LEARNING_RATE}",
            f"optim.max_norm={MAX_NORM}",
            "optim.schedule=constant",
            "eval.every=0",
            "checkpoint.every=0",
            "track.mode=disabled",
            "track.console=off",
            f"scale.threads={given.threads}",
            *more,
        ]
    )


def write_problems(path: Path, given: argparse.Namespace) -> Path:
    """The problems in the order in which our side draws them, as many as the run will need."""
    from rlent.data.problems import draw
    from rlent.recipe.compose import build

    train = build(recipe_of(given)["data"]).train
    drawn, _ = draw(train, given.prompts * (given.warmup + given.steps * given.repeats + 1), SEED, 0)
    with path.open("w") as file:
        for problem in drawn:
            file.write(json.dumps({"prompt": problem.prompt, "target": problem.meta["target"], "numbers": problem.meta["numbers"]}) + "\n")
    return path


# ---- TRL's environment --------------------------------------------------------------------------------------------


def environment(folder: Path, wanted: str | None) -> str:
    """The interpreter of an environment with TRL beside our torch and transformers; what is missing is installed."""
    python = folder.resolve() / "bin" / "python"
    ours = {name: version(name).partition("+")[0] for name in ("torch", "transformers")}
    if not python.exists():
        print(f"making {folder} (a few minutes, once)", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (folder / ".gitignore").write_text("*\n")
    there = installed(str(python))
    same = all(there.get(name, "").partition("+")[0] == number for name, number in ours.items())
    if not same or not there.get("trl") or (wanted and there["trl"] != wanted):
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        pinned = [f"{name}=={number}" for name, number in ours.items()]
        subprocess.run([*pip, pinned[0]], check=True, stdout=sys.stderr)  # by itself, so that the index's own choice of build is kept
        subprocess.run([*pip, *pinned, f"trl=={wanted}" if wanted else "trl", "datasets", "accelerate"], check=True, stdout=sys.stderr)
        there = installed(str(python))
    print("TRL's environment: " + ", ".join(f"{k} {v}" for k, v in there.items()), file=sys.stderr, flush=True)
    return str(python)


def installed(python: str) -> dict[str, str]:
    """Versions of the packages that matter, as an interpreter sees them."""
    look = (
        "import json; from importlib.metadata import distributions; "
        "print(json.dumps({d.name: d.version for d in distributions() if d.name in ('trl', 'torch', 'transformers', 'accelerate')}))"
    )
    found: dict[str, str] = json.loads(subprocess.run([python, "-c", look], check=True, capture_output=True, text=True).stdout)
    return dict(sorted(found.items()))


# ---- the report ---------------------------------------------------------------------------------------------------


def report(blocks: Mapping[str, Sequence[Block]]) -> dict[str, Any]:
    """Medians and ranges over blocks, the ratio to TRL, and the share of the metrics."""
    found: dict[str, Any] = {"sides": {side: _side(done) for side, done in blocks.items()}}
    for side, prefix in (("rlent", ""), ("sampler", "sampler_")):
        if {side, "trl"} <= blocks.keys():
            ratio, promised = (
                _spread(_paired(blocks, lambda ours, theirs: ours.seconds / theirs.seconds, "trl", side)),
                PROMISED_RATIO[side],
            )
            found[f"{prefix}ratio"] = ratio | {"promised": promised, "kept": ratio["median"] <= promised}
            found[f"{prefix}cpu_ratio"] = _spread(_paired(blocks, lambda ours, theirs: ours.cpu / theirs.cpu, "trl", side))
    if "rlent" in blocks:
        spent = [(b.stages.get("measure", 0.0) + b.stages.get("ledger", 0.0)) / b.seconds for b in blocks["rlent"]]
        found["metrics_stage_share"] = _spread(spent)
    if {"rlent", "bare"} <= blocks.keys():
        share = _spread(_paired(blocks, lambda ours, bare: 1 - bare.seconds / ours.seconds, "bare"))
        found["metrics_share"] = share | {"promised": PROMISED_SHARE, "kept": share["median"] < PROMISED_SHARE}
        found["metrics_cpu_share"] = _spread(_paired(blocks, lambda ours, bare: 1 - bare.cpu / ours.cpu, "bare"))
    found["blocks"] = {side: [asdict(b) for b in done] for side, done in blocks.items()}
    return found


def _paired(
    blocks: Mapping[str, Sequence[Block]], compare: Callable[[Block, Block], float], other: str, side: str = "rlent"
) -> list[float]:
    """Our block against the other side's of the same round; a round has as many steps on every side."""
    return [compare(ours, theirs) for ours, theirs in zip(blocks[side], blocks[other], strict=True)]


def _side(done: Sequence[Block]) -> dict[str, Any]:
    stages = {
        stage: statistics.median(b.stages.get(stage, 0.0) / b.steps for b in done)
        for stage in STAGES
        if any(stage in b.stages for b in done)
    }
    return {
        "seconds_per_step": _spread([b.seconds / b.steps for b in done]),
        "cpu_seconds_per_step": _spread([b.cpu / b.steps for b in done]),
        "tokens_per_second": _spread([b.tokens / b.seconds for b in done]),
        "tokens_per_step": statistics.median(b.tokens / b.steps for b in done),
        "stages": stages,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def machine(threads: int, load: Sequence[float]) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"processor": platform.machine(), "cores": cores, "threads": threads, "load_before": load[0], "load_after": load[1]}


def versions(trl_python: str | None) -> dict[str, Any]:
    ours = {"python": platform.python_version(), **{name: version(name) for name in ("torch", "transformers")}}
    return {"rlent": ours, "trl": installed(trl_python) if trl_python else None}


def settings(given: argparse.Namespace) -> dict[str, Any]:
    return {k: getattr(given, k) for k in ("recipe", "repeats", "steps", "warmup", "prompts", "group", "max_tokens", "updates")}


def show(found: Mapping[str, Any]) -> str:
    """The report as text."""
    where, how, has = found["machine"], found["settings"], found["versions"]
    busy = " (busy: other work shares the cores)" if where["load_before"] > 0.5 * where["cores"] else ""
    lines = [
        f"{how['prompts']} prompts x {how['group']} responses of at most {how['max_tokens']} tokens, {how['updates']} updates a step; "
        f"recipe {how['recipe']}; {how['repeats']} blocks of {how['steps']} steps of each side, alternating",
        f"{where['cores']} cores ({where['processor']}), {where['threads']} threads, load {where['load_before']:.1f} before and "
        f"{where['load_after']:.1f} after{busy}; torch {has['rlent']['torch']}, transformers {has['rlent']['transformers']}"
        + (f", trl {has['trl']['trl']} on torch {has['trl']['torch']}" if has["trl"] else ""),
        "",
        f"{'side':<8}{'s/step':>8}{'min':>8}{'max':>8}{'CPU s/step':>12}{'tokens/s':>10}{'min':>8}{'max':>8}{'tokens/step':>13}",
    ]
    for side, row in found["sides"].items():
        seconds, tokens = row["seconds_per_step"], row["tokens_per_second"]
        lines.append(
            f"{side:<8}"
            + "".join(f"{seconds[k]:>8.3f}" for k in ("median", "min", "max"))
            + f"{row['cpu_seconds_per_step']['median']:>12.3f}{tokens['median']:>10.0f}{tokens['min']:>8.0f}{tokens['max']:>8.0f}{row['tokens_per_step']:>13.0f}"
        )
    stages = [s for s in STAGES if any(s in row["stages"] for row in found["sides"].values())]
    lines += ["", "seconds a step by stage (medians)", f"{'side':<8}" + "".join(f"{s:>10}" for s in stages)]
    for side, row in found["sides"].items():
        lines.append(f"{side:<8}" + "".join(f"{row['stages'][s]:>10.4f}" if s in row["stages"] else f"{'-':>10}" for s in stages))
    lines.append("")
    if "ratio" in found:
        lines.append(_verdict("seconds per step, rlent / TRL", found["ratio"], found["cpu_ratio"], "{:.2f}", "at most"))
    if "sampler_ratio" in found:
        what = "with trainer.old_logprobs=rollout, sampler / TRL"
        lines.append(_verdict(what, found["sampler_ratio"], found["sampler_cpu_ratio"], "{:.2f}", "at most"))
    if "metrics_share" in found:
        share, cpu = found["metrics_share"], found["metrics_cpu_share"]
        lines.append(_verdict("entropy, covariance and ledger, share of the step", share, cpu, "{:.1%}", "under"))
        lines.append(f"the stages ledger and measure of rlent alone: {found['metrics_stage_share']['median']:.1%}")
    if "limit" in found:
        top = found["limit"]
        lines += [
            "",
            f"matrix rate {top['gflops']:.0f} GFLOP/s with {where['threads']} threads, {top['gflops_of_one_thread']:.0f} with one; "
            f"the products of a step are {sum(top['gflop'].values()):.1f} GFLOP: "
            + ", ".join(f"{side} takes {top['times'][side]:.2f} times {top['seconds'][side]:.3f} s" for side in top["times"]),
        ]
    return "\n".join(lines)


def _verdict(what: str, found: Mapping[str, Any], cpu: Mapping[str, float], form: str, bound: str) -> str:
    low, mid, high, aim = (form.format(found[k]) for k in ("min", "median", "max", "promised"))
    of_cpu = "{} ({} to {})".format(*(form.format(cpu[k]) for k in ("median", "min", "max")))
    return (
        f"{what}: {mid} ({low} to {high}); {bound} {aim} is promised: {'kept' if found['kept'] else 'NOT KEPT'}. Of CPU seconds: {of_cpu}"
    )


# ---- a child ------------------------------------------------------------------------------------------------------


class Pace:
    """A child's end of the pipe: waits for the next block, and reports it when its steps are done."""

    def __init__(self, stages: Callable[[], Mapping[str, float]], tokens: Callable[[], int]) -> None:
        """`stages` and `tokens` give what was spent and sampled since they were last asked."""
        self.stages, self.tokens = stages, tokens
        self.pipe = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what libraries print goes to the log
        self.asked = self.left = 0
        self.start = self.start_cpu = 0.0

    def wait(self) -> None:
        """Block until there is a step to do.

        Raises:
            Finished: the parent wants no more.
        """
        if self.left:
            return
        line = sys.stdin.readline()
        if not line.strip():
            raise Finished
        self.asked = self.left = int(line)
        self.start, self.start_cpu = time.perf_counter(), time.process_time()

    def done(self) -> None:
        """A step is done."""
        self.left -= 1
        if self.left:
            return
        seconds, cpu = time.perf_counter() - self.start, time.process_time() - self.start_cpu
        stages = dict(self.stages())
        stages["other"] = seconds - sum(stages.values())
        self.pipe.write(json.dumps(asdict(Block(self.asked, seconds, cpu, self.tokens(), stages))) + "\n")
        self.pipe.flush()


def work(given: argparse.Namespace) -> None:
    """Be one side, until the parent closes the pipe."""
    try:
        if given.child == "trl":
            train_trl(given)
        else:
            train_rlent(given, given.child)
    except Finished:
        pass


def train_rlent(given: argparse.Namespace, side: str) -> None:
    """`rlent.loop.train`, held back between blocks. Stages and tokens are those of the run's own files."""
    from rlent.loop import train
    from rlent.track.record import read_rows
    from rlent.train.run import Run

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "run"
        own = {"bare": ["track.ledger.rows=0"], "sampler": ["trainer.old_logprobs=rollout"]}.get(side, [])
        run = Run.start(recipe_of(given, f"run.dir={place}", f"model.path={given.model}", *own))
        seen = {"timings": 0, "metrics": 0}

        def fresh(name: str) -> list[dict[str, Any]]:
            rows = read_rows(place / f"{name}.jsonl")[seen[name] :]
            seen[name] += len(rows)
            return rows

        def stages() -> dict[str, float]:
            total: dict[str, float] = {}
            for row in fresh("timings"):
                for key, seconds in row.items():
                    stage = key.removeprefix("seconds/")
                    if stage in STAGES:
                        total[stage] = total.get(stage, 0.0) + seconds
            if "ledger" in total:  # its rows are measured within the look-back, and again in `measure`
                total["look_back"] -= total["ledger"]
            return total

        pace = Pace(stages, lambda: int(sum(row["tokens/step"] for row in fresh("metrics"))))
        steps = run.steps

        def paced() -> Iterator[Any]:
            pace.wait()
            for step in steps():
                yield step
                pace.done()
                pace.wait()

        run.steps = paced  # type: ignore[method-assign]
        if side == "bare":
            strip(run)
        else:
            sample_entropy = run.trainer._sample_entropy

            def timed(step: Any, batch: Any) -> None:
                with step.clock.lap("ledger"):
                    sample_entropy(step, batch)

            run.trainer._sample_entropy = timed  # type: ignore[method-assign]
        try:
            train(run)
        finally:
            run.close("stopped", "the benchmark is over")


def strip(run: Any) -> None:
    """Take out of a run what only describes entropy and covariance: metrics, and entropies no function of the recipe reads.

    The ledger is switched off by the recipe (`track.ledger.rows=0`). Gradients per token, a by-product of the objective, stay.
    """
    from rlent import metrics

    def only_tokens(batch: Any) -> dict[str, float]:
        return {"tokens/step": float(batch["mask"].sum())}

    metrics.step_metrics = only_tokens  # type: ignore[attr-defined]
    metrics.update_metrics = lambda records: {}  # type: ignore[attr-defined]
    reads = {stream for nodes in run.trainer.plan.nodes.values() for node in nodes for stream in node.reads}
    if "sampler_entropy" not in reads:
        generate = run.engine.generate
        run.engine.generate = lambda rows, **options: generate(rows, **{**options, "entropy": False})
    if not reads & {"entropy", "now_entropy", "old_entropy"}:
        forward = run.trainer.actor._forward
        run.trainer.actor._forward = lambda *rows, **options: forward(*rows, **{**options, "entropy": False})


def train_trl(given: argparse.Namespace) -> None:
    """`GRPOTrainer.train`, held back between blocks, with its methods timed from outside."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from rlent.grading.countdown import grade

    torch.set_num_threads(given.threads)
    rows = [json.loads(line) for line in given.problems.read_text().splitlines()]

    def correct(completions: list[str], target: list[int], numbers: list[list[int]], **others: Any) -> list[float]:
        return [float(grade(*row).correct) for row in zip(completions, target, numbers, strict=True)]

    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(given.model, dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(given.model),
        reward_funcs=correct,
        train_dataset=Dataset.from_list(rows),
        args=GRPOConfig(
            output_dir=str(given.problems.parent / "trl"),
            use_cpu=True,
            bf16=False,
            seed=SEED,
            shuffle_dataset=False,
            max_steps=1_000_000,
            per_device_train_batch_size=given.prompts * given.group // given.updates,  # one update
            gradient_accumulation_steps=1,
            steps_per_generation=given.updates,  # all updates of a step share its responses
            num_iterations=1,
            num_generations=given.group,
            max_completion_length=given.max_tokens,
            temperature=1.0,
            beta=0.0,
            loss_type="dapo",  # the mean over the tokens of an update, as ours
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=MAX_NORM,
            gradient_checkpointing=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
    )
    watch = Stopwatch()
    watch.wrap(trainer, "_generate", "sample")
    watch.wrap(trainer, "_calculate_rewards", "grade")
    watch.wrap(trainer, "_generate_and_score_completions", "look_back")  # less the two above: old log-probs, advantages, padding
    watch.wrap(trainer, "training_step", "update")  # less the three above: forward, loss, backward; the optimizer comes next
    watch.wrap(trainer.accelerator, "clip_grad_norm_", "update")
    watch.wrap(trainer, "create_optimizer", "other", then=lambda: watch.wrap(trainer.optimizer, "step", "update"))
    tokens = [0]
    score = trainer._generate_and_score_completions

    def counted(inputs: Any) -> Any:
        out = score(inputs)
        tokens[0] += int(out["completion_mask"].sum())
        return out

    trainer._generate_and_score_completions = counted

    def taken() -> int:
        count, tokens[0] = tokens[0], 0
        return count

    pace = Pace(watch.clear, taken)

    class Paced(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            pace.wait()

        def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
            if state.global_step % given.updates == 0:
                pace.done()
                pace.wait()

    trainer.add_callback(Paced())
    trainer.train()


class Stopwatch:
    """Seconds by stage of methods that call each other: the inner one's seconds are not the outer one's."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.inner: list[float] = []

    def wrap(self, owner: Any, name: str, stage: str, then: Callable[[], None] | None = None) -> None:
        """Time a method of one object from now on; `then` is called after it."""
        method = getattr(owner, name)

        def timed(*positional: Any, **named: Any) -> Any:
            with self.lap(stage):
                out = method(*positional, **named)
            if then:
                then()
            return out

        setattr(owner, name, timed)

    @contextmanager
    def lap(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        self.inner.append(0.0)
        try:
            yield
        finally:
            whole, inner = time.perf_counter() - start, self.inner.pop()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + whole - inner
            if self.inner:
                self.inner[-1] += whole

    def clear(self) -> dict[str, float]:
        taken, self.seconds = self.seconds, {}
        return taken


if __name__ == "__main__":
    main()
