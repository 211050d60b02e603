"""Errors a person can act on.

One root, `RlentError`, so that a caller can catch everything rlent raises on purpose. Each class is also the
standard exception it specialises, carries the exit code of the command line, and its message is a sentence that
says where, what was found, what is accepted, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class RlentError(Exception):
    """Root of the family. `exit_code` is what the command line returns."""

    exit_code = 1


class RecipeError(RlentError, ValueError):
    """One or more problems in a recipe, found before anything is started. All of them are in `problems`."""

    exit_code = 2

    def __init__(self, problems: Iterable[str], *, where: str = "") -> None:
        self.problems = sorted(set(problems))
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}, nothing was started."
        head = [where] if where else []
        super().__init__("\n".join([*head, *(f"  {p}" for p in self.problems), count]))


class UsageError(RlentError, ValueError):
    """A command was called with arguments that cannot be met."""

    exit_code = 2


class DataError(RlentError, ValueError):
    """A data file is missing, broken or empty; names the file and the row."""

    exit_code = 2


class ModelError(RlentError, ValueError):
    """A model path that cannot be loaded, or a model that cannot do what the recipe asks."""

    exit_code = 2


class RunExists(RlentError, FileExistsError):
    """The run folder is there already (finished or running). Nothing is overwritten."""

    exit_code = 2


class CheckpointError(RlentError, OSError):
    """A checkpoint that cannot be read or written."""


class NonFinite(RlentError, ArithmeticError):
    """A loss, gradient, log-probability or stream with a NaN or an infinity; the batch was saved."""


class StarvedSampler(RlentError, RuntimeError):
    """The sampler's filter kept too few groups within the allowed rounds."""


class EngineError(RlentError, RuntimeError):
    """The rollout engine failed, or samples from weights that are not the policy's."""


class RankLost(RlentError, RuntimeError):
    """Another rank has ended, or did not answer in time. Its own output says why.

    Has an exit code of its own, by which the launcher knows which rank is the cause and which has only lost it.
    """

    exit_code = 3


class GraderError(RlentError, RuntimeError):
    """The grader itself failed (not an answer that is wrong)."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest known word, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else ""
