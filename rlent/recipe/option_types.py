"""Options against the types that a signature states for them.

pydantic checks a value as it checks a JSON document, strictly: a list may stand for any sequence, as in YAML, a whole number for a
float, and nothing else for anything else (neither `true` nor "1" is a number). The sentences are made here, because a recipe's reader
wants the value and what is accepted, not the name of a rule.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from pydantic_core import ErrorDetails, to_json

from rlent.errors import did_you_mean

if TYPE_CHECKING:
    from rlent.types import Config, Json

Function: TypeAlias = Callable[..., Any]
"""A function or class of a recipe: only its signature is known."""

_STREAMS = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_UNIONS = (typing.Union, types.UnionType)
_OUTSIDE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_KINDS = {
    "int_type": "an int",
    "float_type": "a float",
    "bool_type": "a bool",
    "string_type": "a str",
    "list_type": "a list",
    "tuple_type": "a list",
    "set_type": "a list",
    "frozen_set_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "none_required": "null",
    "path_type": "a path",
}


# ---- signatures -------------------------------------------------------------------------------------------------------


def signature(target: Function) -> inspect.Signature:
    """The signature with annotations evaluated where that is possible."""
    try:
        return inspect.signature(target, eval_str=True)
    except Exception:
        return inspect.signature(target)


def positional(call: Function) -> list[str]:
    """Names of the positional parameters (streams), without `self`."""
    return [p.name for p in signature(call).parameters.values() if p.kind in _STREAMS and p.name != "self"]


def options_of(call: Function) -> dict[str, inspect.Parameter]:
    """Options: keyword-only parameters."""
    return {p.name: p for p in signature(call).parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY}


# ---- values -----------------------------------------------------------------------------------------------------------


def mismatch(value: object, annotation: object) -> str | None:
    """Why `value` is not what `annotation` accepts, or None. Whole numbers are accepted where floats are; an annotation that pydantic
    does not know accepts everything."""
    try:
        _validated(value, annotation)
    except PydanticUserError:
        return None
    except ValidationError as error:
        found = error.errors(include_url=False)
        return _sentence(value, next((e for e in found if e["type"] in _OUTSIDE), found[0]), annotation)
    return None


def coerce(value: Json, annotation: object) -> Json:
    """A whole number where a float is meant becomes one, so that `fraction=1` and `fraction=1.0` are the same."""
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    try:
        found = _validated(value, annotation)
    except (PydanticUserError, ValidationError):
        return value
    return found if isinstance(found, float) else value


def check_options(place: str, call: Function, given: Config, label: str) -> list[str]:
    """Problems with the options given to a callable: unknown, missing, wrong type, out of range."""
    known = options_of(call)
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in signature(call).parameters.values())
    problems = []
    for key, value in given.items():
        if key not in known:
            if not takes_any:
                listed = ", ".join(sorted(known)) or "none"
                problems.append(f"{place}: {label} has no option '{key}'{did_you_mean(key, known)} (options: {listed})")
        elif wrong := mismatch(value, known[key].annotation):
            problems.append(f"{place}.{key}: {wrong} ({describe(known[key].annotation)} is accepted)")
    for name, parameter in known.items():
        if name not in given and parameter.default is inspect.Parameter.empty:
            problems.append(f"{place}: {label} needs option '{name}' ({describe(parameter.annotation)}), which the recipe does not give")
    return problems


def _validated(value: object, annotation: object) -> object:
    """The value as pydantic reads it.

    Raises:
        PydanticUserError: pydantic has no schema for the annotation.
        ValidationError: the value is not accepted.
    """
    return TypeAdapter(_known(annotation)).validate_json(to_json(value, inf_nan_mode="constants", fallback=str), strict=True)


def _known(annotation: object) -> Any:
    """The annotation with Any where nothing is to be checked: no annotation, a record of ours, a type that is written as a string."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is inspect.Parameter.empty or isinstance(annotation, str | typing.ForwardRef) or is_dataclass(annotation):
        return Any
    if origin in (None, Literal, typing.Annotated) or not inner:
        return annotation
    return typing.Union[tuple(map(_known, inner))] if origin in _UNIONS else origin[tuple(map(_known, inner))]  # noqa: UP007


def _sentence(value: object, error: ErrorDetails, annotation: object) -> str:
    """What is wrong, with the value that was found; of a list or a mapping, its first item that is wrong."""
    found, kind = error["input"], error["type"]
    inside = isinstance(value, list | tuple | Mapping) and found != value
    where = f"in {list(value) if isinstance(value, tuple) else value!r}, " if inside else ""
    shown = repr(found if inside else value)
    if kind in _OUTSIDE:
        return f"{where}{shown} is outside {next(_ranges(annotation), '')}"
    if kind == "literal_error":
        accepted = next(_choices(annotation), ())
        return f"{where}{shown} is not one of {', '.join(map(str, accepted))}"
    return f"{where}{shown} is not {_KINDS[kind]}" if kind in _KINDS else f"{where}{shown}: {error['msg']}"


# ---- types in words ---------------------------------------------------------------------------------------------------


def describe(annotation: object) -> str:
    """An annotation as a person would say it: `float in [0, 1]`, `one of a, b`, `int or null`."""
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        interval = _interval(inner[1:])
        return f"{describe(inner[0])} in {interval}" if interval else describe(inner[0])
    if origin in _UNIONS:
        return " or ".join(map(describe, inner))
    if origin is Literal:
        return "one of " + ", ".join(map(str, inner))
    if annotation in (None, type(None)):
        return "null"
    return "any value" if annotation is inspect.Parameter.empty else str(getattr(annotation, "__name__", annotation))


def _walk(annotation: object) -> Iterator[object]:
    """An annotation and those inside it, outermost first."""
    yield annotation
    if typing.get_origin(annotation) is not Literal:
        for inner in typing.get_args(annotation):
            yield from _walk(inner)


def _ranges(annotation: object) -> Iterator[str]:
    for one in _walk(annotation):
        if typing.get_origin(one) is typing.Annotated and (interval := _interval(typing.get_args(one)[1:])):
            yield interval


def _choices(annotation: object) -> Iterator[tuple[object, ...]]:
    return (typing.get_args(one) for one in _walk(annotation) if typing.get_origin(one) is Literal)


def _interval(metadata: tuple[object, ...]) -> str:
    """`(0, 1]`, or an empty string if nothing bounds the number."""
    bounds = [b for m in metadata for b in (m if isinstance(m, GroupedMetadata) else [m]) if isinstance(b, Ge | Gt | Le | Lt)]
    if not bounds:
        return ""
    left, right = "[-inf", "inf]"
    for bound in bounds:
        match bound:
            case Ge(ge=low):
                left = f"[{low:g}"
            case Gt(gt=low):
                left = f"({low:g}"
            case Le(le=high):
                right = f"{high:g}]"
            case Lt(lt=high):
                right = f"{high:g})"
    return f"{left}, {right}"
