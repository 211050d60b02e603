"""Think Just Enough: accept the first answer where its tokens were certain, and think again where they were not.

Paper: Think Just Enough: Sequence-Level Entropy as a Confidence Signal for LLM Reasoning, arXiv:2510.08146.
Seats: decode (`in_rounds`, around the engine), control (`calibrate`, which sets its threshold from graded responses).
Checked against: nothing; the procedure is the paper's, the forms of its thresholds could not be checked.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from rlent.math.drawing import Request, Rollouts
from rlent.math.entropy import top_entropy
from rlent.options import NonNegative, PositiveCount


def in_rounds(
    requests: Sequence[Request],
    generate: Callable[..., Rollouts],
    encode: Callable[[str], list[int]],
    *,
    rounds: PositiveCount,
    tau: NonNegative,
    top_k: PositiveCount,
    again: str | None,
) -> Rollouts:
    """E, the mean over a response's tokens of the entropy of the `top_k` most likely, decides: E < tau is accepted, else all rounds are run.

    With a text `again`, each round reads the rounds before it, and the last one counts; its context is what it read. Without, a round
    begins anew, and of all the one with the least E counts (the form for a model of one turn; ours).
    """

    def measure(logits: Float[Tensor, "n V"]) -> dict[str, Tensor]:
        return {"top": top_entropy(logits, top_k)}

    out = generate(requests, measure)
    level = [_mean(told) for told in out.notes["top"]]
    first, used, drawn = list(level), [1] * len(requests), [len(t) for t in out.tokens]
    contexts = [[*r.prompt] for r in requests]
    unsure = [i for i, e in enumerate(level) if not e < tau]
    for r in range(2, rounds + 1):
        asked = []
        for i in unsure:
            if again is not None:
                said = [t for t in out.tokens[i] if t not in requests[i].stop]
                contexts[i] = [*contexts[i], *(requests[i].prefix if r == 2 else ()), *said, *encode(again)]
            asked.append(replace(requests[i], prompt=contexts[i], key=(*requests[i].key, r)))
            if again is not None:
                asked[-1] = replace(asked[-1], prefix=[])
        found = generate(asked, measure)
        for j, i in enumerate(unsure):
            e = _mean(found.notes["top"][j])
            used[i], drawn[i] = r, drawn[i] + len(found.tokens[j])
            if again is not None or e < level[i]:
                out.cut(i, 0)
                out.extend(i, found, j)
                level[i] = e
    out.contexts = contexts
    out.counts = {"entropy": level, "first": first, "rounds": used, "drawn": drawn}
    out.notes = {}
    return out


def calibrate(
    think_just_enough_entropy: Float[Tensor, " N"], correct: Bool[Tensor, " N"], *, knob: str, threshold: Literal["mean", "bayes"]
) -> float | None:
    """tau from graded responses: the mean E of correct ones, or where Gaussians of correct and wrong ones, equally likely, cross."""
    return tau_of(think_just_enough_entropy, correct, threshold)


def tau_of(entropy: Float[Tensor, " N"], correct: Bool[Tensor, " N"], threshold: str) -> float | None:
    """None where there are too few of a kind to say, or the Gaussians do not cross between their means."""
    right, wrong = entropy[correct].double(), entropy[~correct].double()
    if threshold == "mean":
        return float(right.mean()) if len(right) else None
    if len(right) < 2 or len(wrong) < 2:
        return None
    (m1, s1), (m2, s2) = ((float(x.mean()), max(float(x.std()), 1e-6)) for x in (right, wrong))
    # ln N(x; m1, s1) = ln N(x; m2, s2), a quadratic in x
    a, b = 1 / s2**2 - 1 / s1**2, 2 * (m1 / s1**2 - m2 / s2**2)
    c = (m2 / s2) ** 2 - (m1 / s1) ** 2 + 2 * math.log(s2 / s1)
    if abs(a) < 1e-12:
        roots = [-c / b] if b else []
    else:
        under = b * b - 4 * a * c
        roots = [(-b + sign * math.sqrt(under)) / (2 * a) for sign in (-1, 1)] if under >= 0 else []
    between = [x for x in roots if min(m1, m2) <= x <= max(m1, m2)]
    return between[0] if between else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
