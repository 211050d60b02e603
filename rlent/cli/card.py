"""What `rlent show` prints of a method: from its recipe's name to its functions, the files they are in, its options and the plan."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlent.recipe.catalog import CARDS, header, roots
from rlent.seats import SEATS

if TYPE_CHECKING:
    from rlent.recipe.compose import Recipe
    from rlent.recipe.mount import Node


@dataclass(frozen=True, slots=True)
class Place:
    """A function of the method: where it is called (`path`), its dotted name, its module's file, and the file that chooses its options."""

    path: str
    function: str
    module: str
    options: str
    doc: str


@dataclass(frozen=True, slots=True)
class Option:
    """An option, its value, and the file that gave it the value."""

    name: str
    value: object
    source: str


@dataclass(frozen=True)
class Shown:
    """A method as `rlent show` prints it."""

    recipe: Recipe
    file: str
    about: str
    places: list[Place]
    options: list[Option]

    @classmethod
    def of(cls, recipe: Recipe, name: str, config_dirs: Sequence[str] = ()) -> Shown:
        """A composed recipe, under the name by which it was asked for."""
        from rlent.recipe import compose

        file = compose.groups(config_dirs).get(CARDS, {}).get(name)
        nodes = [node for seat in SEATS for node in recipe.plan.nodes.get(seat, [])]
        values = compose.flat({seat: recipe.config[seat] for seat in SEATS if recipe.config.get(seat)})
        options = [Option(k, v, recipe.sources.get(k, "default")) for k, v in values.items() if not k.endswith("_target_")]
        about = header(file.read_text(encoding="utf-8")) if file is not None else ""
        return cls(recipe, _near(file) if file else "", about or name, [_place(n, recipe, config_dirs) for n in nodes], options)

    @property
    def card(self) -> dict[str, object]:
        """The card, without what `rlent verify` and the tests read."""
        return {k: v for k, v in (self.recipe.config.get("card") or {}).items() if k not in ("golden", "claims")}

    def to_dict(self) -> dict[str, object]:
        return {
            "card": self.card,
            "file": self.file,
            "functions": [asdict(p) for p in self.places],
            "options": [{"option": o.name, "value": o.value, "from": o.source} for o in self.options],
            "plan": self.recipe.plan.lines(),
            "config": self.recipe.config,
            "warnings": self.recipe.warnings,
        }

    def lines(self) -> list[str]:
        lines = [*self.about.splitlines(), *(f"  {key}: {_words(value)}" for key, value in self.card.items())]
        lines += [f"  recipe file: {self.file}"] if self.file else []
        for place in self.places:
            lines += ["", f"{place.path}: {place.function}", f"    module file: {place.module}", f"    option file: {place.options}"]
            lines += [f"    {line.strip()}" if line.strip() else "" for line in place.doc.splitlines()]
        width = max((len(o.name) for o in self.options), default=10)
        lines += ["", "options", *(f"  {o.name:<{width}}  {o.value!s:<12}  {o.source}" for o in self.options)]
        lines += ["", "plan", *(f"  {line}" for line in self.recipe.plan.lines())]
        return lines + [f"warning: {warning}" for warning in self.recipe.warnings]


def _place(node: Node, recipe: Recipe, config_dirs: Sequence[str]) -> Place:
    made = node.stateful and not isinstance(node.fn, type)
    fn: Any = type(node.fn) if made else node.fn
    source = recipe.sources.get(f"{node.path}._target_", "")
    files = [file for root in roots(config_dirs) if source and (file := root / source).is_file()]
    module = getattr(sys.modules.get(fn.__module__), "__file__", None)
    return Place(
        path=node.path,
        function=node.target,
        module=_near(Path(module)) if module else "-",
        options=_near(files[0]) if files else source or "set by an override",
        doc=(fn.__doc__ or "").strip(),
    )


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _near(path: Path) -> str:
    """Relative to the current folder, if it is below."""
    path, here = path.resolve(), Path.cwd().resolve()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
