"""Mounting: from a recipe's node to a function bound to its streams and options.

The signature is the contract. Positional parameters name streams; keyword-only parameters are options, and the recipe
must give each of them a value of the stated type and range. Nothing is registered: a node names its function by dotted
path. A class is mounted by constructing it with its options; its `__call__` names the streams.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from rlent.errors import did_you_mean
from rlent.recipe.option_types import Function, check_options, coerce, options_of, positional
from rlent.seats import AGGREGATES, RUNNER_KEYS, SCOPES, SEATS

if TYPE_CHECKING:
    from rlent.types import Config, Json, JsonObject

NodeWhen = Literal["step", "minibatch", "live"]


@dataclass
class Node:
    """A mounted function: where it sits, what it reads, what it was given.

    `reads` holds the stream for each positional parameter, in order. `options` is live: turning a knob changes it.
    """

    seat: str
    name: str
    path: str
    target: str
    fn: Function
    reads: tuple[str, ...]
    options: JsonObject
    coef: float = 1.0
    aggregate: str | None = None
    scope: str = "minibatch"
    when: NodeWhen = "step"
    card: JsonObject = field(default_factory=dict)
    stateful: bool = False

    def fresh(self) -> Node:
        """A node of its own for one run: its options can be turned and, if it is stateful, its memory is empty."""
        fn = locate(self.target)(**self.options) if self.stateful and self.seat != "sampler" else self.fn
        return replace(self, fn=fn, options=dict(self.options))

    def __call__(self, streams: Mapping[str, object], renamed: Mapping[str, str] | None = None) -> Any:
        """Call the function on streams. `renamed` feeds another stream in a stream's place (lifting)."""
        renamed = renamed or {}
        arguments = [streams[renamed.get(name, name)] for name in self.reads]
        return self.fn(*arguments) if self.stateful else self.fn(*arguments, **self.options)

    def turn(self, option: str, value: float) -> None:
        """Set a numeric option while the run goes on."""
        if option == "coef":
            self.coef = value
            return
        self.options[option] = value
        if self.stateful:
            setattr(self.fn, option, value)

    def numbers(self) -> dict[str, float]:
        """The knobs of this node: every numeric option and, where the seat sums, the coefficient."""
        found = {k: v for k, v in self.options.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        if self.seat in ("reward", "regularize"):
            found["coef"] = self.coef
        return found


def locate(target: str) -> Any:
    """Import the object at a dotted path.

    Raises:
        ImportError: with a sentence that says which part was not found.
    """
    parts = target.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:cut])
        try:
            found: object = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
                continue
            raise ImportError(f"importing '{module_name}' failed: {error}") from error
        except Exception as error:
            raise ImportError(f"importing '{module_name}' failed: {type(error).__name__}: {error}") from error
        for attribute in parts[cut:]:
            if not hasattr(found, attribute):
                known = [n for n in vars(found) if not n.startswith("_")]
                raise ImportError(f"'{module_name}' has no '{attribute}'{did_you_mean(attribute, known)}")
            found = getattr(found, attribute)
        return found
    raise ImportError(f"no module for '{target}' (a dotted path like 'package.module.function' is expected)")


def mount(seat: str, name: str, spec: Config, problems: list[str]) -> Node | None:
    """Bind one node. Problems are appended, so that a recipe reports all of them; then the result is None."""
    path = f"{seat}.{name}" if SEATS[seat].many else seat
    target = spec.get("_target_")
    if (fn := _function(path, target, problems)) is None:
        return None
    before = len(problems)
    runner = {k: spec[k] for k in RUNNER_KEYS if k in spec}
    _check_runner_keys(path, seat, runner, problems)
    is_class = inspect.isclass(fn)
    maker, call = (fn.__init__, fn.__call__) if is_class else (fn, fn)
    known = options_of(maker)
    given = {k: v for k, v in spec.items() if k not in RUNNER_KEYS or k in known}
    problems.extend(check_options(path, maker, given, target))
    reads = _streams(path, target, positional(call), runner.get("streams") or {}, problems)
    if len(problems) > before:
        return None
    options = {k: coerce(v, known[k].annotation) if k in known else v for k, v in given.items()}
    if is_class and (fn := _instance(path, target, fn, options, problems)) is None:
        return None
    return Node(
        seat=seat, name=name, path=path, target=target, fn=fn, reads=reads, options=options, stateful=is_class, **_runner_values(runner)
    )


def _instance(path: str, target: str, made: Function, options: Config, problems: list[str]) -> Function | None:
    """The object of a class with its options, or None with the reason among the problems."""
    try:
        return made(**options)
    except Exception as error:
        problems.append(f"{path}: {target} refused its options: {error}")
        return None


def _runner_values(given: Config) -> JsonObject:
    """What a node's own keys set, where they are given."""
    card = dict(given.get("card") or {})
    return {"card": card} | {k: given[k] for k in ("coef", "aggregate", "scope") if given.get(k) is not None}


def _function(path: str, target: Json, problems: list[str]) -> Any:
    """The function or class that a node names, or None with the reason among the problems."""
    if not isinstance(target, str):
        problems.append(f"{path}: a node needs '_target_: package.module.function', found {target!r}")
        return None
    try:
        fn = locate(target)
    except ImportError as error:
        problems.append(f"{path}: {error}")
        return None
    if not callable(fn):
        problems.append(f"{path}: '{target}' is not a function or class")
        return None
    return fn


def _streams(path: str, target: str, names: Sequence[str], rename: Mapping[str, str], problems: list[str]) -> tuple[str, ...]:
    """The stream for each positional parameter: its own name, or what the node's `streams` says."""
    problems.extend(
        f"{path}.streams: {target} has no parameter '{key}'{did_you_mean(key, names)} (parameters: {', '.join(names)})"
        for key in rename
        if key not in names
    )
    return tuple(rename.get(n, n) for n in names)


def _check_runner_keys(path: str, seat: str, runner: Config, problems: list[str]) -> None:
    coef = runner.get("coef", 1.0)
    if not isinstance(coef, int | float) or isinstance(coef, bool):
        problems.append(f"{path}.coef: {coef!r} is not a number")
    if "coef" in runner and seat not in ("reward", "regularize"):
        problems.append(f"{path}.coef: only nodes of reward and regularize have a coefficient")
    for key, accepted in (("aggregate", AGGREGATES), ("scope", SCOPES)):
        value = runner.get(key)
        if value is not None and value not in accepted:
            problems.append(f"{path}.{key}: {value!r} is not one of {', '.join(accepted)}{did_you_mean(str(value), accepted)}")
