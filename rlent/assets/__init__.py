"""Files that ship with the package: the tiny model and its tokenizer (made by `scripts/make_tiny_model.py`)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path


def tiny_path() -> Path:
    """The folder of the embedded model, as `from_pretrained` takes it."""
    return Path(str(files(__name__).joinpath("tiny")))
