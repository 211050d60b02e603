"""The command line. `rlent.cli:main` is the entry point; whatever is heavy is imported by the verb that needs it."""

from rlent.cli.app import main

__all__ = ["main"]
