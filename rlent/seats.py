"""The nine seats: the places of a run where a method may act. Public interface, with `rlent/streams.py`.

Rule of thumb: what needs `reward` is an advantage, what needs `adv` is a shape.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlent.streams import When


@dataclass(frozen=True, slots=True)
class Seat:
    """`many`: a list of named nodes, in order. `sees`: the moments whose streams a function in this seat may name."""

    name: str
    many: bool
    sees: frozenset[When]
    barred: frozenset[str]
    returns: str


_BEFORE_CREDIT: frozenset[When] = frozenset({"run", "sample", "look"})
_STEP: frozenset[When] = _BEFORE_CREDIT | {"credit"}
_ALL: frozenset[When] = _STEP | {"now", "live"}
_OUTPUTS = frozenset({"adv", "weight", "loss_mask"})

SEATS: dict[str, Seat] = {
    s.name: s
    for s in [
        Seat("sampler", False, frozenset(), frozenset(), "a class: draws prompts, generates, grades, keeps"),
        Seat(
            "decode",
            True,
            frozenset(),
            frozenset(),
            "inside the engine, row by row: (logits, ...) -> logits, or a dict with any of logits, temperature, memory and notes of its own; "
            "around it: (requests, generate, ...) -> rollouts",
        ),
        Seat(
            "reward",
            True,
            _BEFORE_CREDIT,
            _OUTPUTS | {"reward", "token_reward"},
            "[N] or [N,T]; summed with coef, [N] falls on the last token",
        ),
        Seat("advantage", False, _STEP, _OUTPUTS, "[N] or [N,T], or a dict with `adv` and streams of its own"),
        Seat(
            "shape", True, _ALL, frozenset(), "a factor on the weight, or a dict with any of adv, weight, gate, mask and streams of its own"
        ),
        Seat("loss", False, _ALL, frozenset(), "[B,T], not reduced"),
        Seat("regularize", True, _ALL, frozenset(), "[B,T] or {value, mask}, minimised; a scalar from a whole-minibatch function"),
        Seat("control", True, _ALL - {"live"}, frozenset(), "a class: reads streams or metrics, turns knobs"),
        Seat("probe", True, frozenset({"run"}), frozenset(), "(logits | hidden | hidden_<k>, target) -> [t]; its name becomes a stream"),
    ]
}

SINGLE = tuple(s.name for s in SEATS.values() if not s.many)
MANY = tuple(s.name for s in SEATS.values() if s.many)

RUNNER_KEYS = frozenset({"_target_", "coef", "aggregate", "scope", "streams", "card"})
"""Keys of a node that belong to the runner and are not options of the function."""

AGGREGATES = ("token_mean", "seq_mean", "seq_sum", "constant")
SCOPES = ("minibatch", "microbatch")
