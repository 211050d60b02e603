"""Record responses whose verdicts are known, for `rlent eval --regrade`: every gold of benchmark files as it is, dressed, damaged, and left out.

    python scripts/record_golds.py ../shared/data/math500.jsonl ../shared/data/aime24.jsonl --out outputs/recorded
    rlent eval --regrade outputs/recorded

`correct` in the recorded rows is what a sound grader must say, so whatever grading again changes is a disagreement, row by row in
`changes.jsonl`. Sample 0 is the gold in a box, 1 the gold dressed otherwise (no verdict may change), 2 a damaged gold (wrong), 3 has no box.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from rlent.data.files import load_file
from rlent.grading.base import accepted

DIGIT = re.compile(r"\d(?!\d)")
CHOICE = re.compile(r"\(([A-I])\)")


def bare(gold: str) -> str:
    """The gold without the dollars it comes in."""
    return gold.strip().strip("$").strip()


def dressed(gold: str) -> str:
    """Another way to write the same: other fractions, spaces, a full stop."""
    text = gold.replace(r"\frac{", r"\dfrac{").replace("+", " + ").replace(r"\left(", "(").replace(r"\right)", ")")
    return f"${text}$."


def damaged(gold: str) -> str:
    """Another value: the next choice, or the first number's last digit one higher; without either, something is added."""
    if CHOICE.search(gold):
        return CHOICE.sub(lambda m: f"({chr(ord(m[1]) + 1)})", gold)
    return DIGIT.sub(lambda m: str((int(m[0]) + 1) % 10), gold, count=1) if DIGIT.search(gold) else rf"{gold} + 1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="benchmark files (.jsonl, .jsonl.gz, .json, .parquet)")
    parser.add_argument("--out", type=Path, default=Path("outputs/recorded"))
    parser.add_argument("--limit", type=int, help="first problems of each file")
    options = parser.parse_args()
    for file in options.files:
        problems = load_file(file, limit=options.limit)
        folder = options.out / problems.name
        if folder.exists():
            sys.exit(f"{folder} exists, and nothing is overwritten; choose another --out")
        folder.mkdir(parents=True)
        with (folder / "responses.jsonl").open("w", encoding="utf-8") as out:
            for problem in problems:
                gold = bare(accepted(problem.gold)[0])
                said = [
                    (rf"We find that the answer is $\boxed{{{gold}}}$.", True),
                    (rf"Step by step, with \boxed{{}} at the end. So: \boxed{{{dressed(gold)}}} as wanted.", True),
                    (rf"We find that the answer is $\boxed{{{damaged(gold)}}}$.", False),
                    (f"The answer is {gold}.", False),
                ]
                for sample, (response, correct) in enumerate(said):
                    row = {
                        "problem": problem.id,
                        "source": problem.source,
                        "sample": sample,
                        "prompt": problem.prompt,
                        "gold": problem.gold,
                    }
                    out.write(json.dumps({**row, "response": response, "correct": correct}, ensure_ascii=False) + "\n")
        print(f"{folder}: {len(problems)} problems, {4 * len(problems)} responses")


if __name__ == "__main__":
    main()
