"""What makes small models fast on a CPU. The numbers are those of the general ways to rounding, and the rest of the package takes from here:

    LeanForward   the forward and backward of a policy, in the place of `rlent.policy.forward.GeneralForward`
    LeanDecoder   sampling one token at a time, in the place of `rlent.policy.decode.Decoder`; on other devices, too
    ROWS          batches whose size varies are rounded up to a multiple of it

Each has `obstacle(model)`, why a model does not fit.
"""

from rlent.policy.cpu.decode import LeanDecoder
from rlent.policy.cpu.lean import LeanForward
from rlent.policy.cpu.products import ROWS

__all__ = ["ROWS", "LeanDecoder", "LeanForward"]
