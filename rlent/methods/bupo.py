"""BuPO: for the first steps, train the policy that an inner layer implies, then the model as a whole.

Paper: Bottom-up Policy Optimization: Your Language Model Policy Secretly Contains Internal Policies, arXiv:2512.19673.
Seats: probe (`internal_logp`), loss (any, reading the probe instead of `logp`), control (`Phase`).
Checked against: the authors' `modeling_qwen3.py` and `dp_actor.py`.
"""

from collections.abc import Callable, Mapping

from jaxtyping import Float, Int
from torch import Tensor

from rlent.options import PositiveCount


def internal_logp(
    inner: Float[Tensor, "n D"],
    hidden: Float[Tensor, "n D"],
    target: Int[Tensor, " n"],
    unembed: Callable[[Tensor], Tensor],
    *,
    share: float,
) -> Float[Tensor, " n"]:
    """log softmax(W h_k / temperature) of the sampled token, h_k being the residual stream after block k, without the final norm.

    The gradient reaches the blocks below, the embedding and the head. With `share` 0 it is the whole model's log-probability.
    """
    logits = unembed(inner if share > 0 else hidden)
    return logits.log_softmax(-1).gather(-1, target[:, None]).squeeze(-1)


class Phase:
    """The first `steps` steps train the inner policy, the rest the whole one."""

    def __init__(self, *, knob: str, steps: PositiveCount) -> None:
        self.knob = knob
        self.steps = steps

    def __call__(self, metrics: Mapping[str, float], step: int) -> float:
        """The value of the knob for the next step."""
        return 1.0 if step + 1 <= self.steps else 0.0
