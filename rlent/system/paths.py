"""Where the shipped files are, and names that are not taken. Standard library only."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent.parent


def recipes_dir() -> Path:
    """The Hydra config folder: inside an installed package, or beside the package in a checkout."""
    shipped = _PACKAGE / "_recipes"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "recipes"


def checkout() -> Path | None:
    """The repository this package runs from, or None for an installed package."""
    root = _PACKAGE.parent
    return root if (root / "recipes" / "config.yaml").is_file() and not (_PACKAGE / "_recipes").is_dir() else None


def constraints_file() -> Path | None:
    """The tested set of versions: shipped in the package, or the checkout's; None if it is in neither."""
    for file in (_PACKAGE / "_constraints.txt", _PACKAGE.parent / "constraints.txt"):
        if file.is_file():
            return file
    return None


def free(path: Path) -> Path:
    """The path, or with -2, -3, ... before its ending where that is taken: nothing is overwritten."""
    count, found = 1, path
    while found.exists():
        count += 1
        found = path.with_stem(f"{path.stem}-{count}")
    return found


def tiny_path() -> Path:
    """The embedded model's folder."""
    return _PACKAGE / "assets" / "tiny"
