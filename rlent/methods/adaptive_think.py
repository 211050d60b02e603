"""Adaptive Think: end the thinking when the answer no longer depends on it.

Paper: Think or Not? Exploring Thinking Efficiency in Large Reasoning Models via an Information-Theoretic Lens, arXiv:2505.18237.
Seat:  decode, around the engine.
Checked against: the formula; no code of the authors was found. That the average entropy is the mean over candidates of -P log2 P, and
       that the candidates of an open question are the distinct answers sampled, are ours.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rlent.math.drawing import Request, Rollouts
from rlent.options import Count, NonNegative, PositiveCount


def threshold(alpha: float) -> float:
    """alpha / (e ln 2) bits: a share of the largest that -P log2 P can be."""
    return alpha / (math.e * math.log(2))


def average_entropy(probs: Sequence[float] | Tensor) -> float:
    """Mean over the candidates of -P log2 P, bits; 0 log 0 = 0."""
    p = torch.as_tensor(probs, dtype=torch.float64)
    return float(-(torch.special.xlogy(p, p) / math.log(2)).mean())


def think(
    requests: Sequence[Request],
    generate: Callable[..., Rollouts],
    encode: Callable[[str], list[int]],
    decode: Callable[[Sequence[int]], str],
    *,
    alpha: NonNegative,
    step_tokens: PositiveCount,
    split: str,
    least: Count,
    probe: str,
    samples: PositiveCount,
    answer_tokens: PositiveCount,
    close: str,
    greedy: bool,
) -> Rollouts:
    """Draw `step_tokens` at a time. Where a step ends (`least` characters with a `split` among them), draw `samples` short answers after
    the text and `probe`; where they agree enough, append `close` and draw the answer, `greedy` or as before.

    The tokens of `close` were not drawn: their sampler_logp is 0.
    """
    out = generate([replace(r, max_tokens=0) for r in requests])
    since, probes, spent, stopped = [0] * len(requests), [0] * len(requests), [0] * len(requests), [0] * len(requests)
    going = [i for i, r in enumerate(requests) if r.max_tokens > 0]
    ask, end = encode(probe) if probe else [], encode(close) if close else []

    def on(i: int, most: int, more: Sequence[int] = (), **changes: object) -> Request:
        have = [*requests[i].prefix, *out.tokens[i], *more]
        return replace(requests[i], prefix=have, max_tokens=max(min(most, requests[i].max_tokens - len(out.tokens[i])), 0), **changes)

    while going:
        found = generate([on(i, step_tokens) for i in going])
        for j, i in enumerate(going):
            out.extend(i, found, j)
        going = [
            i
            for j, i in enumerate(going)
            if out.finish[i] != "stop" and len(found.tokens[j]) == step_tokens and len(out.tokens[i]) < requests[i].max_tokens
        ]
        ended = []
        for i in going:
            text = decode(out.tokens[i][since[i] :])
            if len(text) >= least and split in text:
                since[i], probes[i] = len(out.tokens[i]), probes[i] + 1
                ended.append(i)
        asked = [on(i, answer_tokens, ask, key=(*requests[i].key, probes[i], s)) for i in ended for s in range(samples)]
        asked = [replace(r, max_tokens=answer_tokens) for r in asked]
        answers = generate(asked)
        closing = []
        for place, i in enumerate(ended):
            mine = range(place * samples, (place + 1) * samples)
            spent[i] += sum(len(answers.tokens[j]) for j in mine)
            votes = Counter(decode(answers.tokens[j]).strip() for j in mine)
            if average_entropy([v / samples for v in votes.values()]) <= threshold(alpha):
                closing.append(i)
        for i in closing:
            stopped[i] = 1
            room = requests[i].max_tokens - len(out.tokens[i])
            out.tokens[i] += end[:room]
            out.sampler_logp[i] += [0.0] * len(end[:room])
            if out.sampler_entropy is not None:
                out.sampler_entropy[i] += [0.0] * len(end[:room])
        last = generate([on(i, requests[i].max_tokens, **({"temperature": 0.0} if greedy else {})) for i in closing])
        for j, i in enumerate(closing):
            out.extend(i, last, j)
        going = [i for i in going if i not in closing]
    out.notes = {}
    out.counts = {"probes": probes, "probe_tokens": spent, "stopped": stopped}
    return out
