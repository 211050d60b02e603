"""`rlent verify`: vectors of the authors' own functions, run through the composed recipes.

A vector file names a method; the method's card states in its `golden:` block which recipe to compose and what each name of the file
is there (`grammar.py`). The objective, advantage, reward, filter or controller of that recipe is the one the loop uses. A block may
also name a function by its path (`call:`); such vectors are counted apart, as no run goes through them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rlent.verify import report
from rlent.verify.run import check_folder
from rlent.verify.vectors import default_folder


def main(vectors: Path | None, only: Sequence[str], config_dirs: Sequence[str], *, as_json: bool = False) -> int:
    """Print the table, or JSON; 1 if anything failed."""
    checks = check_folder(vectors or default_folder(), only, config_dirs)
    if as_json:
        print(report.as_json(checks))
    else:
        report.print_table(checks)
    return 1 if any(c.failures for c in checks) else 0
