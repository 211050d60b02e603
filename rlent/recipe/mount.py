"""Mounting: from a recipe's node to a function bound to its streams and options.

The signature is the contract. Positional parameters name streams; keyword-only parameters are options, and the recipe
must give each of them a value of the stated type and range. Nothing is registered: a node names its function by dotted
path. A class is mounted by constructing it with its options; its `__call__` names the streams.
"""

from __future__ import annotations

import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rlent.errors import did_you_mean
from rlent.options import Range
from rlent.seats import AGGREGATES, RUNNER_KEYS, SCOPES, SEATS

NodeWhen = Literal["step", "minibatch", "live"]
_TEXT_PARAMETERS = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@dataclass
class Node:
    """A mounted function: where it sits, what it reads, what it was given.

    `reads` holds the stream for each positional parameter, in order. `options` is live: turning a knob changes it.
    """

    seat: str
    name: str
    path: str
    target: str
    fn: Callable[..., Any]
    reads: tuple[str, ...]
    options: dict[str, Any]
    coef: float = 1.0
    aggregate: str | None = None
    scope: str = "minibatch"
    when: NodeWhen = "step"
    card: dict[str, Any] = field(default_factory=dict)
    stateful: bool = False

    def fresh(self) -> Node:
        """A node of its own for one run: its options can be turned and, if it is stateful, its memory is empty."""
        fn = locate(self.target)(**self.options) if self.stateful and self.seat != "sampler" else self.fn
        return replace(self, fn=fn, options=dict(self.options))

    def __call__(self, streams: Mapping[str, Any], renamed: Mapping[str, str] | None = None) -> Any:
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
            found: Any = importlib.import_module(module_name)
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


def mismatch(value: Any, annotation: Any) -> str | None:
    """Why `value` is not what `annotation` accepts, or None. Integers are accepted where floats are."""
    if annotation is inspect.Parameter.empty or annotation is Any:
        return None
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        base, *extras = typing.get_args(annotation)
        wrong = mismatch(value, base)
        if wrong is None and value is not None:
            for extra in extras:
                if isinstance(extra, Range) and not extra.holds(value):
                    return f"{value!r} is outside {extra}"
        return wrong
    if origin in (typing.Union, types.UnionType):
        reasons = [mismatch(value, choice) for choice in typing.get_args(annotation)]
        return None if None in reasons else next((r for r in reasons if r and "outside" in r), reasons[0])
    if origin is Literal:
        accepted = typing.get_args(annotation)
        return None if value in accepted else f"{value!r} is not one of {', '.join(map(str, accepted))}"
    if annotation in (None, type(None)):
        return None if value is None else f"{value!r} is not null"
    plain = origin or annotation
    if plain is float:
        good = isinstance(value, int | float) and not isinstance(value, bool)
    elif plain is int:
        good = isinstance(value, int) and not isinstance(value, bool)
    elif plain is Path:
        good = isinstance(value, str | Path)
    elif plain in (list, tuple, set, frozenset) or (inspect.isclass(plain) and issubclass(plain, typing.Sequence) and plain is not str):
        good = isinstance(value, list | tuple)
        if good and (kinds := typing.get_args(annotation)):
            wrong_items = [w for w in (mismatch(item, kinds[0]) for item in value) if w]
            return f"in {list(value)!r}, {wrong_items[0]}" if wrong_items else None
    elif inspect.isclass(plain) and issubclass(plain, Mapping):
        good = isinstance(value, Mapping)
    elif plain in (bool, str):
        good = isinstance(value, plain)
    else:
        return None
    return None if good else f"{value!r} is not {'an' if plain is int else 'a'} {getattr(plain, '__name__', plain)}"


def coerce(value: Any, annotation: Any) -> Any:
    """A whole number where a float is meant becomes one, so that `fraction=1` and `fraction=1.0` are the same."""
    if isinstance(value, int) and not isinstance(value, bool):
        if typing.get_origin(annotation) is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        kinds = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else (annotation,)
        kinds = tuple(typing.get_args(k)[0] if typing.get_origin(k) is typing.Annotated else k for k in kinds)
        return float(value) if float in kinds and int not in kinds else value
    return value


def signature(target: Callable[..., Any]) -> inspect.Signature:
    """The signature with annotations evaluated where that is possible."""
    try:
        return inspect.signature(target, eval_str=True)
    except Exception:
        return inspect.signature(target)


def positional(call: Callable[..., Any]) -> list[str]:
    """Names of the positional parameters (streams), without `self`."""
    return [p.name for p in signature(call).parameters.values() if p.kind in _TEXT_PARAMETERS and p.name != "self"]


def options_of(call: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Options: keyword-only parameters."""
    return {p.name: p for p in signature(call).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def check_options(place: str, call: Callable[..., Any], given: Mapping[str, Any], label: str) -> list[str]:
    """Problems with the options given to a callable: unknown, missing, wrong type, out of range."""
    known = options_of(call)
    problems = []
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature(call).parameters.values())
    for key, value in given.items():
        if key not in known:
            if not takes_any:
                listed = ", ".join(sorted(known)) or "none"
                problems.append(f"{place}: {label} has no option '{key}'{did_you_mean(key, known)} (options: {listed})")
            continue
        wrong = mismatch(value, known[key].annotation)
        if wrong:
            problems.append(f"{place}.{key}: {wrong} ({describe(known[key].annotation)} is accepted)")
    for name, parameter in known.items():
        if name not in given and parameter.default is inspect.Parameter.empty:
            problems.append(f"{place}: {label} needs option '{name}' ({describe(parameter.annotation)}), which the recipe does not give")
    return problems


def describe(annotation: Any) -> str:
    """An annotation as a person would say it."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        base, *extras = typing.get_args(annotation)
        ranges = [str(e) for e in extras if isinstance(e, Range)]
        return f"{describe(base)} in {' and '.join(ranges)}" if ranges else describe(base)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(a) for a in typing.get_args(annotation))
    if origin is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(annotation)))
    if annotation in (None, type(None)):
        return "null"
    return "any value" if annotation is inspect.Parameter.empty else str(getattr(annotation, "__name__", annotation))


def mount(seat: str, name: str, spec: Mapping[str, Any], problems: list[str]) -> Node | None:
    """Bind one node. Problems are appended, so that a recipe reports all of them; then the result is None."""
    path = f"{seat}.{name}" if SEATS[seat].many else seat
    target = spec.get("_target_")
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
    before = len(problems)
    runner = {k: spec[k] for k in RUNNER_KEYS if k in spec}
    _check_runner_keys(path, seat, runner, problems)
    is_class = inspect.isclass(fn)
    maker = fn.__init__ if is_class else fn
    given = {k: v for k, v in spec.items() if k not in RUNNER_KEYS or k in options_of(maker)}
    problems.extend(check_options(path, maker, given, target))
    call = fn.__call__ if is_class else fn
    names = positional(call)
    rename = dict(runner.get("streams") or {})
    problems.extend(
        f"{path}.streams: {target} has no parameter '{key}'{did_you_mean(key, names)} (parameters: {', '.join(names)})"
        for key in rename
        if key not in names
    )
    if len(problems) > before:
        return None
    known = options_of(maker)
    given = {k: coerce(v, known[k].annotation) if k in known else v for k, v in given.items()}
    if is_class:
        try:
            fn = fn(**given)
        except Exception as error:
            problems.append(f"{path}: {target} refused its options: {error}")
            return None
    coef = runner.get("coef", 1.0)
    return Node(
        seat=seat,
        name=name,
        path=path,
        target=target,
        fn=fn,
        reads=tuple(rename.get(n, n) for n in names),
        options=dict(given),
        coef=1.0 if coef is None else coef,
        aggregate=runner.get("aggregate"),
        scope=runner.get("scope") or "minibatch",
        card=dict(runner.get("card") or {}),
        stateful=is_class,
    )


def _check_runner_keys(path: str, seat: str, runner: Mapping[str, Any], problems: list[str]) -> None:
    coef = runner.get("coef", 1.0)
    if not isinstance(coef, int | float) or isinstance(coef, bool):
        problems.append(f"{path}.coef: {coef!r} is not a number")
    if "coef" in runner and seat not in ("reward", "regularize"):
        problems.append(f"{path}.coef: only nodes of reward and regularize have a coefficient")
    for key, accepted in (("aggregate", AGGREGATES), ("scope", SCOPES)):
        value = runner.get(key)
        if value is not None and value not in accepted:
            problems.append(f"{path}.{key}: {value!r} is not one of {', '.join(accepted)}{did_you_mean(str(value), accepted)}")


def known_names(groups: Iterable[Iterable[str]]) -> list[str]:
    """All names of several groups, sorted, without repeats."""
    return sorted({name for group in groups for name in group})
