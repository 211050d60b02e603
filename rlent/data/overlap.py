r"""When two problems are the same, and which training problems are also test problems.

Two questions, two strictnesses. Duplicates of one set must be the same problem: `same_text` forgets spaces, dollars and the
dress of LaTeX, and nothing that carries mathematics. For contamination a false alarm costs one training problem and a miss
costs a score, so `key` hashes letters and digits alone, in one case: it also finds a problem that was typeset anew. Neither finds a
paraphrase.

`benchmarks()` holds the keys of the usual test sets (not their text, which has licences of its own), so that every training set
is compared with them without a download. They are made by `scripts/benchmark_keys.py`.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path

from rlent.data.problems import Problems
from rlent.grading.base import accepted
from rlent.grading.normalise import normalise
from rlent.types import Problem

_DRESS = re.compile(r"\\(?:left|right|displaystyle|quad|qquad)(?![A-Za-z])|\\[,;:! ()\[\]]|[\s$~]")
_NOT_LETTERS = re.compile(r"[\W_]+")
_KEY_BYTES = 6


def same_text(prompt: str) -> str:
    """The prompt without spaces, dollars, LaTeX spacing and the final punctuation: equal texts are the same problem."""
    return _DRESS.sub("", prompt).rstrip(".?!:")


def key(prompt: str) -> str:
    """A hash (12 hexadecimal digits) of the letters and digits of a prompt, in one case and one width."""
    letters = _NOT_LETTERS.sub("", unicodedata.normalize("NFKC", prompt).casefold())
    return hashlib.blake2b(letters.encode("utf-8", "surrogatepass"), digest_size=_KEY_BYTES).hexdigest()


@lru_cache(maxsize=1)
def benchmarks() -> Mapping[str, frozenset[str]]:
    """Keys of the usual test sets by the name of their data card."""
    return {name: frozenset(keys) for name, keys in json.loads(Path(__file__).with_name("benchmarks.json").read_text()).items()}


def overlap(problems: Iterable[Problem], sets: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """For each set of keys that shares problems with `problems`: the ids of those problems."""
    keys = {problem.id: key(problem.prompt) for problem in problems}
    found = {}
    for name, known in sets.items():
        known = frozenset(known)
        if shared := [i for i, k in keys.items() if k in known]:
            found[name] = shared
    return found


def without(problems: Problems, keys: Iterable[str]) -> Problems:
    """The problems whose key is not among `keys`."""
    known = frozenset(keys)
    return Problems((p for p in problems if key(p.prompt) not in known), name=problems.name)


def groups(problems: Iterable[Problem]) -> list[list[Problem]]:
    """Problems by their text, in the order in which each text first appears."""
    found: dict[str, list[Problem]] = {}
    for problem in problems:
        found.setdefault(same_text(problem.prompt), []).append(problem)
    return list(found.values())


def agree(problems: list[Problem]) -> bool:
    """Whether problems have the same accepted answers, up to the dress of LaTeX."""
    return len({tuple(sorted(normalise(gold).compact for gold in accepted(problem.gold))) for problem in problems}) == 1


def drop_duplicates(problems: Problems) -> Problems:
    """The first problem of each text; a text that comes with different answers is left out altogether."""
    return Problems((same[0] for same in groups(problems) if agree(same)), name=problems.name)
