"""The update on a GPU: model FLOPs utilisation, memory of the head, and where a step's time goes.

    python scripts/bench_gpu.py                              # random weights in the shape of Qwen2.5-1.5B, 4,096 tokens, bfloat16
    python scripts/bench_gpu.py --rows 32 --tokens 16384
    python scripts/bench_gpu.py --device cpu --tiny          # the same code, small, in float32: does it run?

Three tables, each from one process on one device, sides alternating:

    update   forward, objective-like loss, backward and optimizer step of one part, as the trainer makes them (packed rows, a shared
             prompt once, chunked head), beside `plain`: padded rows, materialised logits, autograd. FLOPs are those of the model
             (6 per weight and token, 12 per pair of attention, causal; the head on response tokens), without what is computed
             twice, and of a shared prompt once where a side computes it once; the rate to compare with is that of one large matrix product in the same dtype, measured before and after.
    head     peak memory above what is held already, of log-probability and entropy with gradients, chunked and materialised
    step     seconds by stage of `rlent train` on random weights (engine=auto: vLLM where it is)

Nothing is downloaded. Memory is the allocator's peak on CUDA, the process's on the CPU (Linux).
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config

from rlent.policy.policy import Policy
from rlent.types import Batch

AIM_MFU, AIM_RATIO = 0.45, 1.5
QWEN = {"vocab_size": 151_936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12}
TINY = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4}


def main(arguments: Sequence[str] | None = None) -> None:
    given = parse(arguments)
    torch.manual_seed(0)
    found: dict[str, Any] = {"device": _device_name(given.device), "torch": torch.__version__, "settings": vars(given)}
    if "update" in given.parts:
        found["update"] = update(given)
    if "head" in given.parts:
        found["head"] = head(given)
    if "step" in given.parts:
        found["step"] = step(given)
    print(json.dumps(found, indent=2) if given.json else show(found))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small shapes, to see that everything runs")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default=None, help="default: bfloat16 on CUDA, float32 on a CPU")
    parser.add_argument("--tokens", type=int, default=None, help="tokens of a part, prompts counted for each row (default 4096; tiny 256)")
    parser.add_argument("--rows", type=int, default=8, help="responses of a part, all to one prompt")
    parser.add_argument("--prompt-share", type=float, default=0.25, help="share of a row that is its prompt")
    parser.add_argument("--recompute", action="store_true", help="activation checkpointing, on both sides")
    parser.add_argument("--compile", action="store_true", help="norms and MLPs by torch.compile, on our side")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=("update", "head", "step"), default=["update", "head", "step"])
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; --device cpu --tiny runs the same code")
    given.dtype = given.dtype or ("bfloat16" if given.device == "cuda" else "float32")
    given.tokens = given.tokens or (256 if given.tiny else 4096)
    return given


# ---- the update ---------------------------------------------------------------------------------------------------


def update(given: argparse.Namespace) -> dict[str, Any]:
    config, part = shape(given), rows(given)
    rate = [matrix_rate(given)]
    sides: dict[str, dict[str, Any]] = {}
    makers = {"rlent": lambda: ours(config, given), "plain": lambda: plain(config, given)}
    for side, make in makers.items():  # one at a time, so that memory is the side's own; then what is held is given back
        policy, once = make()
        sides[side] = {"seconds": [], "peak_gib": 0.0, "packs": policy.packs}
        for repeat in range(given.repeats + 2):
            _reset_peak(given.device)
            seconds = timed(given.device, lambda once=once: once(part))
            if repeat >= 2:  # the first ones allocate and choose kernels
                sides[side]["seconds"].append(seconds)
                sides[side]["peak_gib"] = max(sides[side]["peak_gib"], _peak(given.device))
        del policy, once
        _free(given.device)
    rate.append(matrix_rate(given))
    best = max(rate)
    for side in sides.values():
        side["median"] = statistics.median(side["seconds"])
        side["tflop"] = model_flops(config, part, shared=side["packs"]) / 1e12
        side["mfu"] = side["tflop"] * 1e12 / side["median"] / best
        side["tokens_per_second"] = int(part["mask"].sum()) / side["median"]
    return {
        "matrix_tflops": best / 1e12,
        "sides": sides,
        "ratio": sides["plain"]["median"] / sides["rlent"]["median"],
    }


def shape(given: argparse.Namespace) -> Qwen2Config:
    """The model's configuration. Positions suffice for the longest row."""
    sizes = TINY if given.tiny else QWEN
    return Qwen2Config(
        **sizes,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        max_position_embeddings=max(4096, given.tokens),
        attn_implementation="sdpa",
    )


def model(config: Qwen2Config, given: argparse.Namespace) -> Any:
    with torch.device(given.device):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, given.dtype))


def rows(given: argparse.Namespace) -> Batch:
    """`rows` responses to one prompt, of lengths from half to one and a half of the mean."""
    draw = torch.Generator().manual_seed(1)
    each = given.tokens // given.rows
    prompt = max(1, int(each * given.prompt_share))
    lengths = (torch.linspace(0.5, 1.5, given.rows) * (each - prompt)).long().clamp(min=1)
    vocab = (TINY if given.tiny else QWEN)["vocab_size"]
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    tokens = torch.randint(0, vocab, mask.shape, generator=draw) * mask
    ids = torch.randint(0, vocab, (prompt,), generator=draw).tolist()
    return Batch({"prompt_ids": [ids] * given.rows, "tokens": tokens, "mask": mask})


OPTIM = {"lr": 1e-6, "max_norm": 1.0}


def ours(config: Qwen2Config, given: argparse.Namespace) -> tuple[Policy, Callable[[Batch], None]]:
    """The trainer's own forward and update, and a loss of log-probability and entropy like that of a recipe with an entropy bonus."""
    policy = Policy(model(config, given), optim=OPTIM, recompute=given.recompute, compile=given.compile)

    def once(part: Batch) -> None:
        live = policy(part)
        weight = part["mask"] / part["mask"].sum()
        (-(live["logp"] * weight).sum() - 1e-3 * (live["entropy"] * weight).sum()).backward()
        policy.step()

    return policy, once


def plain(config: Qwen2Config, given: argparse.Namespace) -> tuple[Policy, Callable[[Batch], None]]:
    """Padded rows, logits of all positions that predict a response, log_softmax, autograd: what a trainer on transformers does."""
    policy = Policy(model(config, given), optim=OPTIM, lean=False, packing="off", recompute=given.recompute)
    net = policy.model

    def once(part: Batch) -> None:
        prompt = len(part["prompt_ids"][0])
        ids = torch.cat((torch.tensor(part["prompt_ids"]), part["tokens"]), 1).to(given.device)
        mask, target = part["mask"].to(given.device), part["tokens"].to(given.device)
        logits = net(input_ids=ids, use_cache=False, logits_to_keep=part.width + 1).logits[:, :-1].float()
        assert ids.shape[1] == prompt + part.width
        logp = logits.log_softmax(-1)
        chosen = logp.gather(2, target[..., None])[..., 0]
        entropy = -(logp.exp() * logp).sum(-1)
        weight = mask / mask.sum()
        (-(chosen * weight).sum() - 1e-3 * (entropy * weight).sum()).backward()
        policy.step()

    return policy, once


def model_flops(config: Qwen2Config, part: Batch, *, shared: bool) -> float:
    """Forward and backward of the model: 2 FLOPs a multiply-add, three products a weight. `shared`: the one prompt is counted once."""
    head = config.hidden_size // config.num_attention_heads
    kv = config.num_key_value_heads * head
    layer = config.hidden_size * (2 * config.hidden_size + 2 * kv) + 3 * config.hidden_size * config.intermediate_size
    prompt = len(part["prompt_ids"][0])
    lengths = [prompt + int(n) - 1 for n in part.lengths.tolist()]  # the last token predicts nothing
    twice = (len(lengths) - 1) * shared
    weights = 6.0 * config.num_hidden_layers * layer * (sum(lengths) - twice * prompt)
    pairs = sum(n * (n + 1) / 2 for n in lengths) - twice * prompt * (prompt + 1) / 2
    attention = 12.0 * config.num_hidden_layers * config.hidden_size * pairs
    return weights + attention + 6.0 * config.vocab_size * config.hidden_size * int(part["mask"].sum())


def matrix_rate(given: argparse.Namespace) -> float:
    """FLOP/s of a large matrix product."""
    size = 512 if given.tiny or given.device == "cpu" else 8192
    a, b = (torch.randn(size, size, device=given.device, dtype=getattr(torch, given.dtype)) for _ in range(2))
    seconds = [timed(given.device, lambda: a @ b) for _ in range(12)]
    return 2.0 * size**3 / statistics.median(seconds[2:])


# ---- the head -----------------------------------------------------------------------------------------------------


def head(given: argparse.Namespace) -> dict[str, Any]:
    from rlent.policy.head import token_statistics

    sizes = TINY if given.tiny else QWEN
    dtype = getattr(torch, given.dtype)
    hidden = torch.randn(given.tokens, sizes["hidden_size"], device=given.device, dtype=dtype, requires_grad=True)
    weight = (torch.randn(sizes["vocab_size"], sizes["hidden_size"], device=given.device, dtype=dtype) * 0.02).requires_grad_()
    target = torch.randint(0, sizes["vocab_size"], (given.tokens,), device=given.device)

    def chunked() -> tuple[Tensor, Tensor]:
        found = token_statistics(hidden, weight, target)
        return found["logp"], found["entropy"]

    def materialised() -> tuple[Tensor, Tensor]:
        logp = (hidden @ weight.t()).float().log_softmax(-1)
        return logp.gather(1, target[:, None])[:, 0], -(logp.exp() * logp).sum(-1)

    out: dict[str, Any] = {"tokens": given.tokens, "vocab": sizes["vocab_size"]}
    values = {}
    for name, way in {"chunked": chunked, "materialised": materialised}.items():
        peaks, seconds = [], []
        for _ in range(given.repeats + 1):
            hidden.grad = weight.grad = None
            _free(given.device)
            held = _reset_peak(given.device)

            def both(way: Callable[[], tuple[Tensor, Tensor]] = way) -> None:
                logp, entropy = way()
                values[name] = torch.stack((logp.detach().float(), entropy.detach().float()))  # noqa: B023
                (logp.sum() + entropy.sum()).backward()

            seconds.append(timed(given.device, both))
            peaks.append(_peak(given.device) - held)
        out[name] = {"peak_gib": max(peaks[1:]), "seconds": statistics.median(seconds[1:])}
    out["largest_difference"] = float((values["chunked"] - values["materialised"]).abs().max())
    out["memory_share"] = out["chunked"]["peak_gib"] / max(out["materialised"]["peak_gib"], 1e-9)
    return out


# ---- a whole step -------------------------------------------------------------------------------------------------


def step(given: argparse.Namespace) -> dict[str, float]:
    """Seconds by stage: medians over the steps after the second, from the run's own `timings.jsonl`."""
    from rlent.cli import commands
    from rlent.system.paths import tiny_path

    with tempfile.TemporaryDirectory() as folder:
        place = str(tiny_path())
        if not given.tiny:
            from transformers import AutoTokenizer

            place = str(Path(folder) / "model")
            model(shape(given), given).save_pretrained(place)
            AutoTokenizer.from_pretrained(tiny_path()).save_pretrained(place)
            _free(given.device)
        sizes = ["sampler.prompts=4", "sampler.n=4", "sampler.max_tokens=8"] if given.tiny else ["sampler.max_tokens=512"]
        options = ["recipe=clipcov", f"model.path={place}", f"model.dtype={given.dtype}", f"scale.device={given.device}", *sizes]
        quiet = ["trainer.steps=5", "eval.every=0", "checkpoint.every=0", "track.mode=disabled", "track.console=off"]
        run = Path(folder) / "run"
        with contextlib.redirect_stdout(sys.stderr):
            if commands.train([*options, *quiet, f"run.dir={run}"]) != 0:
                raise SystemExit("the run failed")
        timing = [json.loads(line) for line in (run / "timings.jsonl").read_text().splitlines()][2:]
    names = sorted({k for row in timing for k in row if k.startswith("seconds/")})
    return {k.removeprefix("seconds/"): statistics.median(row.get(k, 0.0) for row in timing) for k in names}


# ---- time and memory ----------------------------------------------------------------------------------------------


def timed(device: str, work: Callable[[], Any]) -> float:
    _wait(device)
    began = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _free(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def _reset_peak(device: str) -> float:
    """Begin to measure; returns the GiB held now."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated() / 2**30
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    return _status("VmRSS")


def _peak(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else _status("VmHWM")


def _status(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 2**20


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"


def show(found: dict[str, Any]) -> str:
    how = found["settings"]
    lines = [
        f"{found['device']}, torch {found['torch']}, {how['dtype']}{', tiny shapes: these figures say nothing of speed' if how['tiny'] else ''}"
    ]
    if "update" in found:
        done = found["update"]
        lines.append(
            f"\nupdate of {how['tokens']} tokens, {how['rows']} rows of one prompt; matrix rate {done['matrix_tflops']:.4g} TFLOP/s"
        )
        for side, row in done["sides"].items():
            packed = "packed" if row["packs"] else "padded"
            lines.append(
                f"{side:<8}{row['median'] * 1000:>9.1f} ms  {row['tflop']:>9.4g} TFLOP, {row['mfu']:>6.1%} of the matrix rate  {row['tokens_per_second']:>9.0f} response tokens/s  "
                f"{row['peak_gib']:>7.2f} GiB  {packed}"
            )
        lines.append(
            f"rlent is {done['ratio']:.2f} times as fast; the aims are {AIM_MFU:.0%} of the matrix rate and {AIM_RATIO} times a plain trainer"
        )
    if "head" in found:
        done = found["head"]
        lines.append(f"\nhead, {done['tokens']} tokens, vocabulary {done['vocab']}; largest difference {done['largest_difference']:.1e}")
        for way in ("chunked", "materialised"):
            lines.append(f"{way:<14}{done[way]['peak_gib']:>8.3f} GiB {done[way]['seconds'] * 1000:>9.1f} ms")
        lines.append(f"chunked / materialised memory: {done['memory_share']:.3f}")
    if "step" in found:
        lines.append("\nseconds of a step: " + ", ".join(f"{k} {v:.3f}" for k, v in found["step"].items()))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
