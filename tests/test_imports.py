"""Imports point one way. Read from the source, so that an import inside a function counts as well."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rlent"
HEAVY = {
    "torch",
    "hydra",
    "omegaconf",
    "wandb",
    "transformers",
    "numpy",
    "scipy",
    "datasets",
    "matplotlib",
    "rich",
    "safetensors",
    "pyarrow",
}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(f): f for f in sorted(PACKAGE.rglob("*.py")) if "_recipes" not in f.parts}


def imported(tree: ast.AST, name: str, *, top: bool = False, package: bool = False) -> Iterator[str]:
    """Dotted names a module imports; `top` only those that run when it is imported. `from a import b` gives a.b if that is a module, else a."""
    nodes = _top(tree) if top else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = name.split(".") if package else name.split(".")[:-1]
                base = ".".join([*here[: len(here) - node.level + 1], *([base] if base else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                yield full if full in MODULES else base


def _top(tree: ast.AST) -> Iterator[ast.AST]:
    """Statements that run on import: not the bodies of functions, nor what only a type checker reads."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _top(child)


def of(name: str, *, top: bool = False) -> set[str]:
    file = MODULES[name]
    return set(imported(ast.parse(file.read_text()), name, top=top, package=file.name == "__init__.py"))


def own(names: set[str]) -> set[str]:
    return {n for n in names if n == "rlent" or n.startswith("rlent.")}


def below(name: str, *packages: str) -> bool:
    return any(name == p or name.startswith(p + ".") for p in packages)


def members(package: str) -> list[str]:
    return [m for m in MODULES if below(m, package)]


@pytest.mark.parametrize("module", members("rlent.methods"))
def test_a_method_uses_mathematics_and_options_and_nothing_else_of_the_package(module: str) -> None:
    wrong = [n for n in own(of(module)) if not below(n, "rlent.math", "rlent.options")]
    assert wrong == [], f"{module} imports {wrong}"


@pytest.mark.parametrize("module", members("rlent.math"))
def test_mathematics_stands_by_itself(module: str) -> None:
    wrong = [n for n in own(of(module)) if not below(n, "rlent.math", "rlent.options", "rlent.errors")]
    assert wrong == [], f"{module} imports {wrong}"


@pytest.mark.parametrize("module", [m for m in MODULES if not below(m, "rlent.methods", "rlent.verify.released")])
def test_nobody_imports_a_method(module: str) -> None:
    wrong = [n for n in of(module) if below(n, "rlent.methods")]
    assert wrong == [], f"{module} imports {wrong}; a recipe names a method, the package does not"


@pytest.mark.parametrize("module", [m for m in MODULES if not below(m, "rlent.verify.released")])
def test_what_only_proves_is_imported_by_nobody(module: str) -> None:
    wrong = [n for n in of(module) if below(n, "rlent.verify.released")]
    assert wrong == [], f"{module} imports {wrong}; a card names it under call: or adapter:"


def reached(start: str) -> dict[str, str]:
    """Modules of the package that importing `start` imports, and by which module."""
    found, todo = {start: ""}, [start]
    while todo:
        name = todo.pop()
        parents = [".".join(name.split(".")[:i]) for i in range(1, name.count(".") + 1)]
        for other in {*own(of(name, top=True)), *parents} & set(MODULES):
            if other not in found:
                found[other] = name
                todo.append(other)
    return found


@pytest.mark.parametrize("module", [*members("rlent.cli"), "rlent.recipe.catalog", "rlent.system.paths", "rlent.__main__"])
def test_the_quick_part_imports_nothing_heavy_by_any_way(module: str) -> None:
    for name, by in reached(module).items():
        heavy = {n.partition(".")[0] for n in of(name, top=True)} & HEAVY
        assert not heavy, f"{module} reaches {name} (by {by or 'itself'}), which imports {sorted(heavy)}"


FLOORS = [
    "__main__",
    "cli",
    "studies",
    "report",
    "analysis verify",
    "loop",
    "train",
    "eval",
    "sampling",
    "engine",
    "data policy methods library",
    "runs grading",
    "recipe",
    "ranks track metrics plots",
    "seats math",
    "errors options streams types system",
]
"""The rooms of the package, from the top floor down: a room imports from floors below its own, and from nowhere else."""

FLOOR = {room: len(FLOORS) - i for i, row in enumerate(FLOORS) for room in row.split()}


def room(module: str) -> str:
    """The room of a module; the package's own face has none."""
    return module.split(".")[1] if "." in module else ""


def test_every_room_has_a_floor_and_loose_files_are_few() -> None:
    rooms = {room(m) for m in MODULES} - {""}
    assert rooms == set(FLOOR)
    loose = [f.name for f in PACKAGE.glob("*.py")]
    assert len(loose) <= 8, loose
    assert len(rooms) + 1 <= 30  # and scripts/


@pytest.mark.parametrize("module", [m for m in MODULES if room(m)])
def test_arrows_point_down(module: str) -> None:
    wrong = [n for n in own(of(module)) if room(n) and room(n) != room(module) and FLOOR[room(n)] >= FLOOR[room(module)]]
    assert wrong == [], f"{module} is on floor {FLOOR[room(module)]} and imports {wrong}"


def test_no_circle_of_imports_inside_a_room() -> None:
    """Arrows between rooms point down; within a room, too, no file may need itself by way of others."""
    arrows = {m: {n for n in own(of(m)) & set(MODULES) if room(n) == room(m) and n != m} for m in MODULES}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join((*path[path.index(module) :], module))}"
        if module not in done:
            for other in sorted(arrows[module]):
                visit(other, (*path, module))
            done.add(module)

    for module in sorted(arrows):
        visit(module, ())


def test_the_loop_knows_the_trainer_alone() -> None:
    assert {room(n) for n in own(of("rlent.loop"))} <= {"train", "types"}


TABLES = {"rlent/metrics/definitions.py"}
"""Files that are one long table."""


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_a_file_is_of_a_size_that_can_be_read(file: Path) -> None:
    lines = len(file.read_text().splitlines())
    assert lines <= 450 or str(file.relative_to(ROOT)) in TABLES, f"{lines} lines; split it where it has two ideas"


def test_the_reader_of_imports_sees_every_kind() -> None:
    source = "import a.b\nfrom rlent import errors\nfrom rlent.math import masked\nfrom . import seats\ndef f():\n    import torch\nif TYPE_CHECKING:\n    import numpy\n"
    tree = ast.parse(source)
    assert set(imported(tree, "rlent.x")) == {"a.b", "rlent.errors", "rlent.math.masked", "rlent.seats", "torch", "numpy"}
    assert set(imported(tree, "rlent.x", top=True)) == {"a.b", "rlent.errors", "rlent.math.masked", "rlent.seats"}
