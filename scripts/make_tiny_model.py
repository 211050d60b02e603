"""Make the model that ships with rlent: a small Qwen2 that writes countdown expressions and is seldom right.

    python scripts/make_tiny_model.py                          # writes rlent/assets/tiny, about 6 minutes of one core
    python scripts/make_tiny_model.py --out elsewhere --steps 20 --problems 4
    python scripts/make_tiny_model.py --out small --layers 2   # half the parameters, for the law across sizes; not shipped

The model is trained, supervised, on random well-formed expressions over the prompt's numbers, of which three in five equal
the target. So reinforcement learning starts where it is interesting: the form is known, entropy is high, a single try is
seldom right, and some of 64 tries usually is. No held-out problem (`rlent.data.countdown.held_out`) is shown.

The same seed, number of threads and torch build give the same bytes.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from rlent.data.countdown import countdown_problems, held_out, prompt_text
from rlent.grading.countdown import CountdownGrader
from rlent.math import noise
from rlent.system.paths import tiny_path
from rlent.types import Problem

PAD, EOS, UNKNOWN = "<pad>", "<eos>", "<unk>"
ALPHABET = "0123456789+-*/(),:?"
MAX_POSITIONS = 128

SIZES, LARGEST, MAX_TARGET = (3, 4), 9, 99
RIGHT_SHARE = 0.6
OPERATORS = "+++--**/"
"""Drawn from with equal chances: division seldom leads to a whole number."""

WIDTH, LAYERS = 128, 4
HEAD, SHARED, INNER = 32, 2, 3
"""Width of a head, heads to a key and value, and the inner width as a multiple of the width, at every size."""

LEARNING_RATE, WARMUP, CLIP = 2e-3, 40, 1.0
RESPONSE_TOKENS = 20


def make_tokenizer() -> Qwen2Tokenizer:
    """One token per character: a byte-pair tokenizer without merges, of the class that transformers expects of a Qwen2 model."""
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, UNKNOWN, *ALPHABET])}
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=[],
        pad_token=PAD,
        eos_token=EOS,
        unk_token=UNKNOWN,
        padding_side="left",
        model_max_length=MAX_POSITIONS,
    )


def make_model(tokenizer: Qwen2Tokenizer, width: int = WIDTH, layers: int = LAYERS) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=INNER * width,
        num_hidden_layers=layers,
        num_attention_heads=width // HEAD,
        num_key_value_heads=width // (HEAD * SHARED),
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=torch.float32,
    )
    return Qwen2ForCausalLM(config)


def random_expression(numbers: list[int], rng: random.Random) -> tuple[str, Fraction | None]:
    """A random tree over the numbers in random order, every inner operation in parentheses, and its value (None: division by zero)."""
    values: list[tuple[str, Fraction | None]] = [(str(n), Fraction(n)) for n in numbers]
    while True:
        left, a = values.pop(int(rng.random() * len(values)))
        right, b = values.pop(int(rng.random() * len(values)))
        op = OPERATORS[int(rng.random() * len(OPERATORS))]
        value = None
        if a is not None and b is not None and (op != "/" or b):
            value = {"+": a.__add__, "-": a.__sub__, "*": a.__mul__, "/": a.__truediv__}[op](b)
        if not values:
            return f"{left}{op}{right}", value
        values.append((f"({left}{op}{right})", value))


def random_numbers(rng: random.Random) -> list[int]:
    return [1 + int(rng.random() * LARGEST) for _ in range(SIZES[int(rng.random() * len(SIZES))])]


def right_example(rng: random.Random) -> tuple[list[int], int, str]:
    """Numbers, a target, and an expression that equals it."""
    while True:
        numbers = random_numbers(rng)
        text, value = random_expression(numbers, rng)
        if value is not None and value.denominator == 1 and 1 <= value <= MAX_TARGET:
            return numbers, int(value), text


def examples(count: int, rng: random.Random, right: float) -> list[tuple[str, str]]:
    """`count` pairs of prompt and response, a share `right` of them right; none is a held-out problem."""
    rows = []
    for _ in range(count):
        numbers, target, text = right_example(rng)
        if rng.random() >= right:
            text, _ = random_expression(numbers, rng)
        rows.append((numbers, target, text))
    given = torch.tensor([n + [0] * (max(SIZES) - len(n)) for n, _, _ in rows])
    secret = held_out(given, torch.tensor([t for _, t, _ in rows])).tolist()
    return [(prompt_text(n, t), text) for (n, t, text), hidden in zip(rows, secret, strict=True) if not hidden]


def encode(pairs: list[tuple[str, str]], tokenizer: Qwen2Tokenizer) -> tuple[Tensor, Tensor]:
    """Token ids [M, L], right-padded, and a mask of the response tokens (end of text included)."""
    prompts = tokenizer([p for p, _ in pairs]).input_ids
    responses = tokenizer([r for _, r in pairs]).input_ids
    width = max(len(p) + len(r) + 1 for p, r in zip(prompts, responses, strict=True))
    ids = torch.full((len(pairs), width), tokenizer.pad_token_id)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for i, (p, r) in enumerate(zip(prompts, responses, strict=True)):
        row = [*p, *r, tokenizer.eos_token_id]
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, len(p) : len(row)] = True
    return ids, mask


def train(
    model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, *, steps: int, batch: int, seed: int, right: float, log_every: int = 50
) -> None:
    """AdamW with warm-up and a cosine to zero; each step sees new examples."""
    rng = random.Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.01)
    model.train()
    began = time.time()
    for step in range(1, steps + 1):
        rate = LEARNING_RATE * min(step / WARMUP, 0.5 * (1 + math.cos(math.pi * step / (steps + 1))))
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids, mask = encode(examples(batch, rng, right), tokenizer)
        logits = model(ids[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits[mask[:, 1:]], ids[:, 1:][mask[:, 1:]])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        if step % log_every == 0 or step == steps:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.time() - began:6.1f} s", flush=True)


@torch.no_grad()
def sample(
    model: Qwen2ForCausalLM, prompt: list[int], rows: int, *, seed: int, eos: int, limit: int = RESPONSE_TOKENS
) -> tuple[Tensor, float, int]:
    """`rows` responses to one prompt: ids [rows, T], and the sum of the exact entropies (nats) over its count of tokens."""
    cache, ids = DynamicCache(config=model.config), torch.tensor([prompt] * rows)
    alive, tokens = torch.ones(rows, dtype=torch.bool), []
    entropy, count = 0.0, 0
    for position in range(limit):
        logp = model(ids, past_key_values=cache).logits[:, -1].float().log_softmax(-1)
        entropy -= float((logp.exp() * logp).sum(-1)[alive].sum())
        count += int(alive.sum())
        u = noise.uniform("tiny", seed, *prompt, torch.arange(rows), position).float()
        choice = (logp.exp().cumsum(-1) < u[:, None]).sum(-1).clamp(max=logp.shape[-1] - 1)
        tokens.append(torch.where(alive, choice, eos))
        alive &= choice != eos
        ids = choice[:, None]
        if not alive.any():
            break
    return torch.stack(tokens, 1), entropy, count


def measure(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, problems: list[Problem], n: int, *, seed: int) -> dict[str, float]:
    """Mean exact entropy per response token (nats, temperature 1) and pass@k on the problems, from n responses each."""
    model.eval()
    grader = CountdownGrader()
    entropy, count, length = 0.0, 0, 0
    correct, formed = [], 0
    for problem in problems:
        tokens, total, positions = sample(model, tokenizer(problem.prompt).input_ids, n, seed=seed, eos=tokenizer.eos_token_id)
        entropy, count = entropy + total, count + positions
        length += n
        verdicts = grader(tokenizer.batch_decode(tokens, skip_special_tokens=True), [problem] * n)
        correct.append([v.correct for v in verdicts])
        formed += sum(v.method == "value" for v in verdicts)
    table = torch.tensor(correct)
    return {
        "entropy": entropy / count,
        "pass@1": table.float().mean().item(),
        f"pass@{n}": table.any(1).float().mean().item(),
        "well formed": formed / length,
        "tokens": count / length,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Make the embedded tiny model.")
    parser.add_argument("--out", type=Path, default=tiny_path(), help="folder to write (default: the package's assets)")
    parser.add_argument("--width", type=int, default=WIDTH, help=f"hidden size, a multiple of {HEAD * SHARED}")
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--steps", type=int, default=700, help="updates of the supervised training")
    parser.add_argument("--batch", type=int, default=256, help="examples an update")
    parser.add_argument("--right", type=float, default=RIGHT_SHARE, help="share of the examples whose expression equals the target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="torch threads; another number may give other bytes")
    parser.add_argument("--problems", type=int, default=64, help="held-out problems to measure on")
    parser.add_argument("--samples", type=int, default=64, help="responses to each of them")
    options = parser.parse_args(argv)
    if options.width < 1 or options.width % (HEAD * SHARED):
        parser.error(f"--width {options.width}: a multiple of {HEAD * SHARED} is wanted ({SHARED} heads of {HEAD} to each key and value)")
    if options.layers < 1:
        parser.error(f"--layers {options.layers}: one or more are wanted")
    if options.out.resolve() == tiny_path().resolve() and (options.width, options.layers) != (WIDTH, LAYERS):
        parser.error("a model of another size is not the one that ships: name a folder for it with --out")

    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, options.width, options.layers)
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, vocabulary {len(tokenizer)}")
    train(model, tokenizer, steps=options.steps, batch=options.batch, seed=options.seed, right=options.right)

    options.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    size = sum(f.stat().st_size for f in options.out.iterdir())
    print(f"wrote {options.out} ({size / 1e6:.1f} MB)")

    if options.problems:
        problems = countdown_problems(options.problems, split="held_out", sizes=SIZES, largest=LARGEST, max_target=MAX_TARGET)
        for name, value in measure(model, tokenizer, list(problems), options.samples, seed=options.seed).items():
            print(f"{name:12s} {value:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
