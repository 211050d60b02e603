"""What every rollout engine offers, and what it asks of the policy that it samples from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from torch import Tensor

from rlent.engine.rules import Rule
from rlent.errors import EngineError, ModelError
from rlent.policy.forward import Model
from rlent.types import Batch, Request, Rollouts

Done = Callable[[Sequence[int], Sequence[Sequence[int]]], None]
"""Called with requests that have ended, while others go on: their places in the call, and their sampled tokens."""


class Weights(Protocol):
    """What `Engine.load` needs of a policy. A class that builds on this one has whole weights, unless its `whole` gathers them."""

    model: Model

    def named_weights(self) -> Iterable[tuple[str, Tensor]]:
        """Every parameter by its Hugging Face name, gathered whole, one at a time."""
        ...

    def whole(self) -> AbstractContextManager[None]:
        """While inside, `model` has whole weights, also where they are split over ranks."""
        return contextlib.nullcontext()

    def look(self, part: Batch) -> dict[str, Tensor]:
        """`logp` of response tokens at temperature 1. All ranks must ask together."""
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

    def generate(self, rows: Sequence[Request], *, entropy: bool = False, rules: Sequence[Rule] = (), done: Done | None = None) -> Rollouts:
        """One response for each request, in the order of the requests.

        `sampler_logp`, and `sampler_entropy` when asked for, are those of the distribution each token was drawn from:
        after the `rules`, temperature, top-k and top-p. What the rules note of tokens is in `notes`.

        `done` is called, in this thread, as requests end; it need not be called for all of them, and for none of them twice.

        Raises:
            EngineError: a request that cannot be served; names the row.
            ModelError: a prompt that does not fit the model; names the row, its length and the limit.
            NonFinite: the model's logits have a NaN or an infinity; names the rows and positions.
        """
        ...

    @staticmethod
    def departs() -> str | None:
        """Why `sampler_logp` and `sampler_entropy` at temperature 1, uncut and without rules, are not the policy's to rounding; None: they are.

        An engine without this method, or with a reason, is refused by `trainer.old_logprobs=rollout`.
        """
        ...

    def load(self, policy: Weights, version: int) -> None:
        """Sample from the policy's weights from now on."""
        ...

    def serving(self, policy: Weights) -> AbstractContextManager[None]:
        """While inside, another model samples: one with the same tokenizer, and in vLLM also of the same shape. Then the policy again."""
        ...

    def idle(self) -> AbstractContextManager[None]:
        """While inside, the engine samples nothing and holds as little memory as it can."""
        ...


def blank(rows: Sequence[Request], version: int, *, entropy: bool) -> Rollouts:
    """A response without tokens for each request, to be filled in: `length` is its finish."""
    found = Rollouts([[] for _ in rows], [[] for _ in rows], ["length"] * len(rows), version=version)
    if entropy:
        found.sampler_entropy = [[] for _ in rows]
    return found


def budgets(rows: Sequence[Request], limit: int | None) -> list[int]:
    """The most tokens that may be sampled for each request, in a model with `limit` positions."""
    return [min(r.max_tokens, (limit or 1 << 62) - len(r.prompt) - len(r.prefix)) for r in rows]


def check_requests(rows: Sequence[Request], *, vocab: int, limit: int | None) -> None:
    """Refuse what no engine can sample from a model with `vocab` tokens and `limit` positions.

    Raises:
        EngineError, ModelError: see `Engine.generate`.
    """
    checked: set[int] = set()
    for i, r in enumerate(rows):
        if not len(r.prompt):
            raise EngineError(f"row {i} (key {r.key}): the prompt has 0 tokens; at least 1 is needed")
        length = len(r.prompt) + len(r.prefix)
        if limit is not None and length >= limit:
            raise ModelError(
                f"row {i} (key {r.key}): prompt and prefix have {length} tokens; the model has {limit} positions, "
                f"and at least one is needed for the response"
            )
        for ids in (r.prompt, r.prefix):
            if id(ids) not in checked and len(ids) and not 0 <= min(ids) <= max(ids) < vocab:
                found = f"token ids from {min(ids)} to {max(ids)}"
                raise EngineError(f"row {i} (key {r.key}): {found}; the vocabulary is 0 to {vocab - 1}")
            checked.add(id(ids))
        for name, value, good, accepted in (
            ("max_tokens", r.max_tokens, r.max_tokens >= 0, "0 or more"),
            ("temperature", r.temperature, 0 <= r.temperature < float("inf"), "a finite number from 0 (greedy)"),
            ("top_p", r.top_p, 0 < r.top_p <= 1, "above 0 and at most 1"),
            ("top_k", r.top_k, r.top_k >= 0, "0 (off) or more"),
        ):
            if not good:
                raise EngineError(f"row {i} (key {r.key}): {name} is {value}; {accepted} is accepted")
