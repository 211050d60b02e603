"""EDT: a temperature for every token, lower where the model is certain.

Paper: EDT: Improving Large Language Models' Generation by Entropy-based Dynamic Temperature Sampling, arXiv:2403.14541.
Seat:  decode, inside the engine.
Checked against: the formula, token level; no code of the authors was found.
"""

from jaxtyping import Float
from torch import Tensor

from rlent.math.entropy import entropy_from_logits
from rlent.options import NonNegative, Positive, Share


def dynamic_temperature(
    logits: Float[Tensor, "n V"], *, base: Positive, theta: NonNegative, share: Share, floor: Positive, most: Positive | None
) -> dict[str, Tensor]:
    """T = T0 N^(theta / H): T0 at high entropy, greedy as H goes to 0. H in nats, of the untempered distribution."""
    entropy = entropy_from_logits(logits).clamp(min=floor)
    temperature = base * share ** (theta / entropy)
    return {"temperature": temperature if most is None else temperature.clamp(max=most), "entropy": entropy}
