"""HICRA: more credit on planning tokens, the phrases that set a response's direction.

Paper:  Emergent Hierarchical Reasoning in LLMs through Reinforcement Learning, arXiv:2509.03646.
Seats:  shape, twice: `strategic_grams` finds the phrases, `amplified` raises their credit.
Checked against: a third party's arithmetic (teilomillet/textpolicy `apply_hicra`); the official repository holds no code.

The paper mines its phrases: frequent across right solutions, rare within one. Here they are a list in the option file, for
English and for reasoning models; how they are matched is ours.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rlent.options import Share


def strategic_grams(pieces: Sequence[Sequence[str]], mask: Bool[Tensor, "N T"], *, phrases: Sequence[str]) -> dict[str, Tensor]:
    """`planning` [N,T]: the tokens that hold any part of one of the phrases, which match whole words in any case.

    Phrases match across tokens; runs of white space count as one space.
    """
    planning = torch.zeros_like(mask)
    if not phrases:
        return {"planning": planning}
    pattern = re.compile("|".join(map(_phrase, phrases)), re.IGNORECASE)
    for row, texts in enumerate(pieces):
        ends = list(accumulate(map(len, texts)))
        for found in pattern.finditer("".join(texts)):
            first, last = bisect_right(ends, found.start()), bisect_right(ends, found.end() - 1)
            planning[row, first : last + 1] = True
    return {"planning": planning & mask}


def amplified(adv: Float[Tensor, "N T"], grams_planning: Bool[Tensor, "N T"], *, alpha: Share) -> dict[str, Tensor]:
    """adv + alpha |adv| on planning tokens: right plans earn more, wrong ones pay less. `selected` are those tokens."""
    planning = grams_planning.bool()
    return {"adv": torch.where(planning, adv + alpha * adv.abs(), adv), "selected": planning}


def _phrase(phrase: str) -> str:
    """A pattern for a phrase: white space of any kind between its words, and no longer word around it."""
    words = r"\s+".join(map(re.escape, phrase.split()))
    return ("(?<!\\w)" if phrase[0].isalnum() else "") + words + ("(?!\\w)" if phrase[-1].isalnum() else "")
