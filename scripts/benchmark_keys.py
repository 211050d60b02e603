#!/usr/bin/env python
"""Make rlent/data/benchmarks.json: the keys by which training sets are compared with the usual test sets.

    python scripts/benchmark_keys.py aime24=aime24.jsonl math500=math500.jsonl ...

Each argument is NAME=FILE, where NAME is a data card and FILE a file of its problems (any kind that `data.path` reads).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rlent.data.files import load_file
from rlent.data.overlap import key

OUT = Path(__file__).parent.parent / "rlent" / "data" / "benchmarks.json"


def main(arguments: list[str]) -> None:
    sets = {name: sorted({key(p.prompt) for p in load_file(file)}) for name, _, file in (a.partition("=") for a in arguments)}
    OUT.write_text(json.dumps(sets, sort_keys=True, separators=(",", ":")).replace("],", "],\n") + "\n")
    print(f"{OUT}: " + ", ".join(f"{name} {len(keys)}" for name, keys in sorted(sets.items())))


if __name__ == "__main__":
    if not sys.argv[1:] or not all("=" in a for a in sys.argv[1:]):
        sys.exit(__doc__)
    main(sys.argv[1:])
