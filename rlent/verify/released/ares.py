"""ARES: windows and rewards from lists of likely tokens, as the authors' rollout worker and trainer compute them."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlent.methods.ares import entropy_score, is_trigger, window_counts
from rlent.recipe.mount import Node
from rlent.types import Stream
from rlent.verify.adapter import Adapter
from rlent.verify.compare import Tree


def top_entropy(logps: Sequence[float | int], *, tail: bool) -> float:
    """Entropy (nats) of the likeliest tokens, from their log-probabilities; with `tail`, the missing mass is one more token."""
    mass = [math.exp(x) for x in logps]
    rest = max(0.0, 1.0 - sum(mass))
    return -sum(p * x for p, x in zip(mass, logps, strict=True)) - (rest * math.log(rest) if tail and rest > 0 else 0.0)


def windows(
    top_logprobs: Sequence[Sequence[Sequence[Sequence[float]]]],
    *,
    top_k: int,
    window: int,
    threshold: float,
    percentile: float,
    vocab: Sequence[str],
    words: Sequence[str],
) -> dict[str, list[float]]:
    """`window_counts` of each response, from the likeliest tokens at each position; the likeliest one decides what is a trigger."""
    found = []
    for response in top_logprobs:
        tops = [sorted(position, key=lambda pair: -pair[1])[: int(top_k)] for position in response]
        triggers = [bool(top) and is_trigger(vocab[int(top[0][0]) % len(vocab)], words) for top in tops]
        whole, plain = ([top_entropy([x for _, x in top], tail=tail) for top in tops] for tail in (True, False))
        found.append(window_counts(whole, plain, triggers, window=window, threshold=threshold, percentile=percentile))
    return {key: [f[key] for f in found] for key in found[0]} if found else {}


def rewards(correct: Tensor, difficulty: Sequence[str], gen_count: Tensor, target_count: Tensor, **options: Any) -> dict[str, list[float]]:
    """Entropy term and total (accuracy plus term) of each response."""
    rows = zip([bool(c) for c in correct], difficulty, [float(c) for c in gen_count], [float(t) for t in target_count], strict=True)
    scores = [entropy_score(c, d, n, t, **options) for c, d, n, t in rows]
    return {"entropy_score": scores, "overall": [float(c) + s for c, s in zip(correct, scores, strict=True)]}


class Windows(Adapter):
    """Responses whose tokens are the likeliest ones, with the entropies of the listed tokens."""

    def run(self, node: Node) -> dict[str, Tree]:
        vocab, top_k = self.config["vocab"], int(self.config["top_k"])
        rows = [[sorted(position, key=lambda pair: -pair[1])[:top_k] for position in row] for row in self._listed()]
        entropy = [torch.tensor([top_entropy([x for _, x in top], tail=True) for top in row], dtype=torch.float64) for row in rows]
        pieces = [[vocab[int(top[0][0]) % len(vocab)] if top else "" for top in row] for row in rows]
        streams: dict[str, Stream] = {
            "correct": torch.zeros(len(rows)),
            "old_entropy": torch.nn.utils.rnn.pad_sequence(entropy, batch_first=True),
            "mask": torch.nn.utils.rnn.pad_sequence([torch.ones(len(h), dtype=torch.bool) for h in entropy], batch_first=True),
            "pieces": pieces,
            "group": torch.arange(len(rows)),
        }
        found = node(streams)
        return {"valid_count": found["count"], "soft_cost": found["cost"]}

    def _listed(self) -> list[list[list[list[float]]]]:
        given = self.inputs["top_logprobs"]
        return given.tolist() if isinstance(given, torch.Tensor) else given
