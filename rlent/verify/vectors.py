"""Vector files: inputs and outputs of the authors' own functions, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlent.errors import UsageError, did_you_mean
from rlent.system.paths import recipes_dir


@dataclass(frozen=True)
class Vector:
    """One file. `config` holds the reference's options by its own names, `inputs` and `outputs` its arrays as nested lists."""

    file: str
    method: str
    kind: str
    reference: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    tolerance: float | Mapping[str, float] = field(default=1e-9)


def read(file: Path) -> Vector:
    """Read a vector file.

    Raises:
        KeyError: the file lacks `method`, `kind`, `inputs` or `outputs`.
    """
    raw = json.loads(file.read_text())
    stated = _reference(raw.get("reference", ""))
    config = raw.get("config") or {}
    return Vector(file.name, raw["method"], raw["kind"], stated, config, raw["inputs"], raw["outputs"], raw.get("tolerance", 1e-9))


def _reference(stated: str | Mapping[str, Any]) -> str:
    """A file's reference as one text, what was run first; metrics state several, or formulas."""
    if isinstance(stated, str):
        return stated
    ran = stated.get("run") or ["formula"]
    return "; ".join([*ran, *(f"{name}: {text}" for name, text in stated.items() if isinstance(text, str))])


def default_folder() -> Path:
    """The vectors of a checkout.

    Raises:
        UsageError: an installed package ships none.
    """
    folder = recipes_dir().parent / "tests" / "golden"
    if not folder.is_dir():
        raise UsageError("no vectors beside this installation; give a folder of them with --vectors DIR")
    return folder


def choose(folder: Path, only: Sequence[str], methods: Mapping[str, Sequence[str]]) -> list[Path]:
    """The vector files of a folder, in order of their names; with `only`, those of the named methods or recipes.

    `methods` lists the methods that each recipe's card maps.

    Raises:
        UsageError: no such folder, no vectors, or a name without vectors.
    """
    if not folder.is_dir():
        raise UsageError(f"--vectors: '{folder}' is not a folder")
    files = {f: str(json.loads(f.read_text()).get("method", "")) for f in sorted(folder.glob("*.json"))}
    there = set(files.values())
    wanted: set[str] = set()
    missing = []
    for name in only:
        found = ({name} | set(methods.get(name, ()))) & there
        wanted |= found
        if not found:
            missing.append(name)
    if missing:
        known = there | {recipe for recipe, theirs in methods.items() if there & set(theirs)}
        raise UsageError(f"--only: no vectors of {', '.join(sorted(missing))}{did_you_mean(sorted(missing)[0], known)} in {folder}")
    chosen = [f for f, method in files.items() if not only or method in wanted]
    if not chosen:
        raise UsageError(f"no vector files (*.json) in {folder}")
    return chosen
