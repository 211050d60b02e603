"""One-shot EM: the loss of whole left-padded sequences, prompts and all, as in the authors' `train.py`.

The released mask marks the columns of a left-padded batch that are not among the first n, n being the number of prompt tokens: it
takes in the tail of shorter prompts, and is one column late for the rest. `aligned` marks the columns that predict generated tokens.
"""

from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from rlent.methods.one_shot_em import tempered_entropy
from rlent.types import Stream
from rlent.verify.adapter import Adapter


def trained_columns(
    sequences: Int[Tensor, "B L"], *, pad: int, prompt_width: int, mask: Literal["released", "aligned"]
) -> Bool[Tensor, "B L"]:
    """The columns of a left-padded batch whose logits enter the loss; a column's logits predict the next one."""
    real = sequences != pad
    if mask == "released":
        prompt = real[:, :prompt_width].sum(1, keepdim=True)
        return (torch.arange(sequences.shape[1]) >= prompt) & real
    ahead = torch.zeros_like(real)
    ahead[:, :-1] = real[:, 1:]
    return ahead & (torch.arange(sequences.shape[1]) + 1 >= prompt_width)


def losses(
    sequences: Shaped[Tensor, "B L"], logits: Float[Tensor, "B L V"], *, temperature: float, epsilon: float, pad: int, prompt_width: int
) -> dict[str, Tensor]:
    """The loss of whole sequences, prompts and all, under both masks: sum over the mask / max(its size, 1)."""
    ids = sequences.long()
    flat = tempered_entropy(logits.flatten(0, 1), ids.flatten(), temperature=1.0, heat=temperature, epsilon=epsilon)
    entropy = flat.view(ids.shape)
    out = {"token_entropy": entropy}
    for kind, loss in (("released", "loss"), ("aligned", "loss_aligned")):
        mask = trained_columns(ids, pad=pad, prompt_width=prompt_width, mask=kind)  # type: ignore[arg-type]
        out |= {kind: mask, loss: (entropy * mask).sum() / mask.sum().clamp(min=1)}
    return out


class Aligned(Adapter):
    """Whole sequences as responses, trained on the columns that predict generated tokens."""

    kind: ClassVar[Literal["released", "aligned"]] = "aligned"

    def streams(self) -> dict[str, Stream]:
        ids = self.inputs["sequences"].long()
        mask = trained_columns(ids, pad=self.config["pad_id"], prompt_width=self.config["prompt_width"], mask=self.kind)
        return {"labels": ids, "mask": mask}


class Released(Aligned):
    """The same, trained on the columns of the released mask."""

    kind = "released"
