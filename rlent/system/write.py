"""Files and folders that are written whole or not at all: a kill or a full disk leaves what was there before."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: str | Path, *, sync: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`; what is written to it takes the place of `path` at the end, or is removed on an error.

    The temporary path may become a file or a folder. A file replaces a file; a folder replaces a folder, which is gone for the moment between.
    `sync` forces it to the disk first (a crash of the machine, not of the process, may otherwise lose it). Parents are made.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    remove(temporary)
    try:
        yield temporary
        if sync:
            sync_tree(temporary)
        if temporary.is_dir():
            remove(path)
        os.replace(temporary, path)
        if sync:
            sync_one(path.parent)
    except BaseException:
        remove(temporary)
        raise


def write_text(path: str | Path, text: str, *, sync: bool = False) -> None:
    """Write UTF-8 text so that a reader sees the old file or the new one. Characters that are none (lone surrogates) are written as escapes."""
    with atomic(path, sync=sync) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def sync_tree(path: Path) -> None:
    """Force a file, or a folder with all that is in it, to the disk."""
    for place in [*(path.rglob("*") if path.is_dir() else ()), path]:
        sync_one(place)


def sync_one(path: Path) -> None:
    """Force one file, or the list of a folder's names, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
