"""DiffAdapt-style routing: a temperature and a budget for each problem, from how certain and how agreed a few first responses are.

Paper: DiffAdapt: Difficulty-Adaptive Reasoning for Token-Efficient LLM Inference, arXiv:2510.19669.
Seat:  decode, around the engine.
Checked against: nothing. The paper routes by a probe on the hidden state of the prompt, trained on labels from accuracy and entropy; here
       first responses are drawn for every problem and their agreement stands in for accuracy. Thresholds are not known (UNVERIFIED).
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from rlent.math.drawing import Request, Rollouts
from rlent.math.entropy import entropy_from_logits
from rlent.options import NonNegative, PositiveCount, Share

KINDS = ("easy", "normal", "hard")


def kind(agreement: float, entropy: float, *, agree_normal: float, agree_hard: float, entropy_normal: float) -> str:
    """Normal where a >= a0 and e <= e0, else hard where a < a1, else easy: easy problems may have high entropy."""
    if agreement >= agree_normal and entropy <= entropy_normal:
        return "normal"
    return "hard" if agreement < agree_hard else "easy"


def route(
    requests: Sequence[Request],
    generate: Callable[..., Rollouts],
    decode: Callable[[Sequence[int]], str],
    *,
    pilots: PositiveCount,
    agree_normal: Share,
    agree_hard: Share,
    entropy_normal: NonNegative,
    easy_temperature: NonNegative,
    normal_temperature: NonNegative,
    hard_temperature: NonNegative,
    easy_budget: Share,
    normal_budget: Share,
    hard_budget: Share,
) -> Rollouts:
    """Draw `pilots` responses to each problem, sort it, and draw its responses at the temperature and share of the budget of its kind."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for i, request in enumerate(requests):
        groups.setdefault(request.key[:-1], []).append(i)
    asked = [replace(requests[rows[0]], key=(*requests[rows[0]].key[:-1], 0, p)) for rows in groups.values() for p in range(pilots)]
    tried = generate(asked, _entropy)
    heat = {"easy": easy_temperature, "normal": normal_temperature, "hard": hard_temperature}
    share = {"easy": easy_budget, "normal": normal_budget, "hard": hard_budget}
    chosen, spent = [""] * len(requests), [0.0] * len(requests)
    for g, rows in enumerate(groups.values()):
        mine = range(g * pilots, (g + 1) * pilots)
        told = [h for j in mine for h in tried.notes["entropy"][j]]
        votes = Counter(decode(tried.tokens[j]).strip() for j in mine)
        agreement, entropy = max(votes.values()) / pilots, sum(told) / max(len(told), 1)
        found = kind(agreement, entropy, agree_normal=agree_normal, agree_hard=agree_hard, entropy_normal=entropy_normal)
        for row in rows:
            chosen[row], spent[row] = found, sum(len(tried.tokens[j]) for j in mine) / len(rows)
    out = generate(
        [
            replace(
                r,
                temperature=heat[k] if r.temperature else 0.0,
                max_tokens=min(r.max_tokens, max(round(share[k] * r.max_tokens), 1)),
            )
            for r, k in zip(requests, chosen, strict=True)
        ]
    )
    out.counts = {"pilot_tokens": spent, **{name: [int(k == name) for k in chosen] for name in KINDS}}
    return out


def _entropy(logits: Float[Tensor, "n V"]) -> dict[str, Tensor]:
    return {"entropy": entropy_from_logits(logits)}
