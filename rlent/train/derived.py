"""Streams that are made from a sample only if some function reads them: which answers are the same, and the text of each token."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rlent.math.vote import answer_classes
from rlent.recipe.plan import Plan
from rlent.types import Batch, Grader, Tokenizer

Equal = Callable[[str, str], bool]


class Derived:
    """Makes `answer_id`, `same` and `pieces` where the plan reads them. `grader` and `tokenizer` are asked for when they are first needed."""

    def __init__(self, plan: Plan, grader: Callable[[], Grader], tokenizer: Callable[[], Tokenizer]) -> None:
        self.read = {s for members in plan.nodes.values() for n in members for s in n.reads}
        self.grader, self.tokenizer = grader, tokenizer
        self._texts: dict[int, str] = {}

    def add(self, batch: Batch, *, pieces: bool = False) -> Batch:
        """The batch with the streams it lacks of those that are read; with `pieces`, the texts of its tokens in any case."""
        read = self.read - set(batch)
        if read & {"answer_id", "same"}:
            batch["answer_id"] = answer_ids(batch, self._equal())
        if "same" in read:
            batch["same"] = equalities(batch, self._equal())
        if "pieces" in read or (pieces and "pieces" not in batch):
            batch["pieces"] = [self.pieces(t[:n]) for t, n in zip(batch["tokens"].tolist(), batch["length"].tolist(), strict=True)]
        return batch

    def pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token by itself."""
        for token in tokens:
            if token not in self._texts:
                self._texts[token] = self.tokenizer().decode([token], skip_special_tokens=False)
        return [self._texts[token] for token in tokens]

    def _equal(self) -> Equal | None:
        return getattr(self.grader(), "equal", None)


def answer_ids(batch: Batch, equal: Equal | None) -> Tensor:
    """Equivalence class of each answer within its group [N], -1 where there is none."""
    ids = torch.full((len(batch),), -1, dtype=torch.long)
    for group in batch["group"].unique():
        rows = (batch["group"] == group).nonzero()[:, 0].tolist()
        found = answer_classes([batch["answer"][i] for i in rows], equal, [bool(batch["correct"][i]) for i in rows])
        ids[rows] = torch.tensor(found)
    return ids


def equalities(batch: Batch, equal: Equal | None) -> list[list[bool]]:
    """For each row, by sample of its group: is the answer the same? The grader is asked in the order (earlier, later); no answer is like none."""
    found: list[list[bool]] = [[] for _ in range(len(batch))]
    for group in batch["group"].unique():
        rows = (batch["group"] == group).nonzero()[:, 0].tolist()
        rows = sorted(rows, key=lambda i: int(batch["sample"][i]))
        answers = [batch["answer"][i] for i in rows]
        known: dict[tuple[str, str], bool] = {}
        for i, row in enumerate(rows):
            for j in range(len(rows)):
                a, b = answers[min(i, j)], answers[max(i, j)]
                if a is None or b is None:
                    known[a, b] = i == j
                elif (a, b) not in known:
                    known[a, b] = a == b or bool(equal and equal(a, b))
                found[row].append(known[a, b] if a is not None and b is not None else i == j)
    return found
