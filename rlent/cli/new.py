"""`rlent new`: the four files of a method, with a function that runs and a test that fails until it means something.

Inside a checkout they go where methods live; elsewhere into a folder of your own, which `--config-dir` then names.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rlent.cli.sketches import SKETCHES, texts
from rlent.errors import UsageError, did_you_mean
from rlent.seats import SEATS
from rlent.streams import STREAMS
from rlent.system.paths import checkout, recipes_dir

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def new(
    name: Annotated[str, typer.Argument(help="The method's name: a Python name like entropy_floor.")],
    seat: Annotated[str, typer.Option(metavar="SEAT", help="decode, reward, advantage, shape, loss, regularize, control or probe.")],
    folder: Annotated[
        str | None, typer.Option("--dir", metavar="DIR", help="A folder of your own; without it, the checkout you are in.")
    ] = None,
) -> int:
    """Begin a method of your own.

    Writes the function, its option file, its card and a test that fails until you fill it in. Nothing is overwritten.

    \b
    Examples:
      rlent new spark --seat shape
      rlent new brevity --seat reward --dir my/
    """
    made = make(name, seat, Path(folder) if folder else None)
    lines = [*(f"wrote {file}" for file in made.files), "", "next:", *(f"  {i}. {step}" for i, step in enumerate(made.steps, 1))]
    print("\n".join(lines))
    return 0


@dataclass(frozen=True)
class Made:
    """The files that were written, and what to do next."""

    files: list[Path]
    steps: list[str]


def make(name: str, seat: str, folder: Path | None = None) -> Made:
    """Write the files of a method.

    Raises:
        UsageError: a bad name or seat, a name that is taken, or no folder to write to. Nothing is written then.
    """
    if seat not in SKETCHES:
        raise UsageError(
            f"--seat: '{seat}' is not a seat that a function fills{did_you_mean(seat, SKETCHES)} (seats: {', '.join(SKETCHES)})"
        )
    _check_name(name)
    inside = folder is None
    if folder is None:
        root = checkout()
        if root is None or not Path.cwd().resolve().is_relative_to(root):
            raise UsageError("this is not a checkout of rlent; say where the files should go: --dir my/")
        folder = root
    recipe = name.replace("_", "") if inside else name
    module = f"rlent.methods.{name}" if inside else name
    places = {
        "method": folder / (f"rlent/methods/{name}.py" if inside else f"{name}.py"),
        "option": folder / ("recipes" if inside else "") / seat / f"{name}.yaml",
        "card": folder / ("recipes" if inside else "") / "recipe" / f"{recipe}.yaml",
        "test": folder / (f"tests/methods/test_{name}.py" if inside else f"test_{name}.py"),
    }
    _check_free(name, seat, recipe, places, inside)
    for kind, text in texts(name, seat, module).items():
        places[kind].parent.mkdir(parents=True, exist_ok=True)
        with places[kind].open("x", encoding="utf-8") as file:
            file.write(text)
    shown = {k: _short(p) for k, p in places.items()}
    with_dir = "" if inside else f"--config-dir {_short(folder)} "
    last = f"rlent check {with_dir}recipe={recipe} && rlent train {with_dir}recipe={recipe}"
    if inside:
        last += "; then make table, make check, and a line in CHANGELOG.md"
    return Made(
        files=[Path(s) for s in shown.values()],
        steps=[
            f"say what it is and fill in the function: {shown['method']} (its numbers: {shown['option']}, its card: {shown['card']})",
            f"work out a case by hand and make the test pass: pytest {shown['test']}",
            last,
        ],
    )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise UsageError(f"'{name}' cannot be a method's name; write a Python name in lower case, like entropy_floor")
    if name in STREAMS or name in SEATS or name in ("none", "recipe", "rlent", "test"):
        raise UsageError(f"'{name}' already names a part of a run; choose another name for the method")


def _check_free(name: str, seat: str, recipe: str, places: dict[str, Path], inside: bool) -> None:
    taken = [str(_short(p)) for p in places.values() if p.exists()]
    if taken:
        raise UsageError(f"{', '.join(taken)} exist{'s' if len(taken) == 1 else ''} already; nothing was written")
    if inside:
        return
    shipped = [f"{group}={n}" for group, n in ((seat, name), ("recipe", recipe)) if (recipes_dir() / group / f"{n}.yaml").exists()]
    if shipped:
        raise UsageError(f"rlent ships {' and '.join(shipped)} already; choose another name, nothing was written")
    if importlib.util.find_spec(name) is not None:
        raise UsageError(
            f"'{name}' is also an installed Python module, which would be imported in its place; choose another name, nothing was written"
        )


def _short(path: Path) -> Path:
    """Relative to where one stands, if it is below."""
    try:
        return path.resolve().relative_to(Path.cwd().resolve())
    except ValueError:
        return path
