"""What every rollout engine offers, and what it asks of the policy that it samples from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from rlent.types import Request, Rollouts


class Weights(Protocol):
    """What `Engine.load` needs of a policy."""

    model: Any

    def named_weights(self) -> Iterable[tuple[str, Tensor]]:
        """Every parameter by its Hugging Face name, gathered whole, one at a time."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Samples responses.

    A response depends on its request and on the weights, never on the other requests of the call, their order or their
    number: the token at response position t is drawn with `noise.uniform(*request.key, t)`, where t counts from the
    start of the response, prefix included.

    `version` is that of the weights it samples from, -1 before the first `load`.
    """

    @property
    def version(self) -> int: ...

    def generate(self, rows: Sequence[Request], *, entropy: bool = False) -> Rollouts:
        """One response for each request, in the order of the requests.

        `sampler_logp`, and `sampler_entropy` when asked for, are those of the distribution each token was drawn from:
        after temperature, top-k and top-p.

        Raises:
            EngineError: a request that cannot be served; names the row.
            ModelError: a prompt that does not fit the model; names the row, its length and the limit.
            NonFinite: the model's logits have a NaN or an infinity; names the rows and positions.
        """
        ...

    def load(self, policy: Weights, version: int) -> None:
        """Sample from the policy's weights from now on."""
        ...

    def idle(self) -> AbstractContextManager[None]:
        """While inside, the engine samples nothing and holds as little memory as it can."""
        ...
