"""Cutting rows into parts: what goes through the model at once."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from rlent.errors import ModelError
from rlent.types import Batch

Result = TypeVar("Result")


def cut(lengths: Sequence[int], tokens_per_part: int) -> list[list[int]]:
    """Rows in parts of at most `tokens_per_part` tokens, padding counted (rows times the longest).

    Rows go in order of length, the longest first, so that little is padded and what does not fit in memory is found at
    once; equal lengths keep their order. A single row above the budget is a part of its own.

    Returns:
        The parts, each a list of positions in `lengths`; every row is in exactly one.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    parts = []
    while order:
        take = max(1, tokens_per_part // max(1, lengths[order[0]]))
        parts.append(order[:take])
        order = order[take:]
    return parts


def pack(prompts: Sequence[Sequence[int]], lengths: Sequence[int], tokens_per_part: int) -> list[list[int]]:
    """Rows in parts of at most `tokens_per_part` tokens, where a prompt counts once for all its rows of a part.

    Rows of one prompt stay together as far as they fit. The prompt with the longest row goes first, and its rows from the longest
    to the shortest, so that what does not fit in memory is found at once. A single row above the budget is a part of its own.

    Args:
        lengths: response tokens of each row.

    Returns:
        The parts, each a list of positions in `lengths`; every row is in exactly one.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, prompt in enumerate(prompts):
        groups.setdefault(tuple(prompt), []).append(row)
    for rows in groups.values():
        rows.sort(key=lambda row: (-lengths[row], row))
    parts: list[list[int]] = []
    room = 0
    for prompt, rows in sorted(groups.items(), key=lambda item: (-len(item[0]) - lengths[item[1][0]], item[1][0])):
        ahead = len(prompt)  # tokens of the prompt that the part still has to pay for
        for row in rows:
            if not parts or ahead + lengths[row] > room:
                parts.append([])
                room, ahead = tokens_per_part, len(prompt)
            parts[-1].append(row)
            room -= ahead + lengths[row]
            ahead = 0
    return parts


def share_out(costs: Sequence[int], ranks: int) -> list[int]:
    """The rank of each row of a list, in order: consecutive rows to each, no rank's cost above the mean by more than one row's."""
    total, before, found = sum(costs), 0, []
    for cost in costs:
        middle = 2 * before + cost
        found.append(min(ranks - 1, middle * ranks // (2 * total)) if total else 0)
        before += cost
    return found


def run_halving(
    fn: Callable[[Batch], Result],
    part: Batch,
    on_split: Callable[[int], None] | None = None,
    weights: Iterable[Tensor] = (),
) -> list[Result]:
    """`fn(part)`, or where memory does not suffice, `fn` on halves of its rows; the results in the order of the rows.

    `on_split(rows)` is called before each halving with the number of rows that did not fit. When `fn` accumulates gradients,
    give it as `weights` the parameters: what a failed try has added to their gradients is taken back. For that, gradients
    from earlier parts are set aside while `fn` runs, and cost their memory.

    Raises:
        ModelError: a single row does not fit.
    """
    weights = list(weights)
    before = [w.grad for w in weights]
    for w in weights:
        w.grad = None
    try:
        results = [fn(part)]
    except (torch.OutOfMemoryError, MemoryError):
        results = None
    except BaseException:
        _restore(weights, before)
        raise
    if results is not None:
        _add(weights, before)
        return results
    _restore(weights, before)
    del before
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    rows = len(part)
    if rows <= 1:
        tokens = len(part["prompt_ids"][0]) + part.width if "prompt_ids" in part and rows else part.width
        raise ModelError(
            f"one response with its prompt ({tokens} tokens, row {part.row.tolist()}) does not fit in memory; "
            "lower sampler.max_tokens, use shorter prompts or a smaller model, or set model.dtype=bfloat16"
        )
    if on_split is not None:
        on_split(rows)
    halves = (part.select(range(rows // 2)), part.select(range(rows // 2, rows)))
    return [result for half in halves for result in run_halving(fn, half, on_split, weights)]


def _restore(weights: Sequence[Tensor], before: Sequence[Tensor | None]) -> None:
    for w, grad in zip(weights, before, strict=True):
        w.grad = grad


def _add(weights: Sequence[Tensor], before: Sequence[Tensor | None]) -> None:
    for w, grad in zip(weights, before, strict=True):
        if grad is not None:
            w.grad = grad if w.grad is None else grad.add_(w.grad)
