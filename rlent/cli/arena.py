"""`rlent arena`: the benchmark of all methods on the embedded task."""

from __future__ import annotations

from typing import Annotated

import typer

from rlent.cli.options import AsJson, ConfigDirs, numbers


def arena(
    recipes: Annotated[list[str] | None, typer.Argument(metavar="[RECIPE...]", show_default=False, help="All methods without it.")] = None,
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Where the runs and the table are kept.")] = "outputs/arena",
    seeds: Annotated[str, typer.Option(metavar="N,...", help="Seeds of each method.")] = "0,1,2",
    quick: Annotated[bool, typer.Option("--quick", help="One seed, 40 small steps, a small evaluation: does everything run?")] = False,
    steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="Steps of each run; 200 otherwise.")] = None,
    n: Annotated[int | None, typer.Option("--n", metavar="N", min=1, help="Samples of each held-out problem; 128 otherwise.")] = None,
    pass_at_k: Annotated[int | None, typer.Option("--pass-at-k", metavar="K", min=1, help="The large k; 64 otherwise.")] = None,
    problems: Annotated[int | None, typer.Option(metavar="N", min=1, help="Held-out problems; 128 otherwise.")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An override for every job.")] = None,
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="Jobs at a time, one thread each.")] = 2,
    table: Annotated[bool, typer.Option("--table", help="Only write the table of what is finished.")] = False,
    as_json: AsJson = False,
    config_dirs: ConfigDirs = None,
) -> int:
    """Benchmark every method on the embedded task.

    Each is trained with the same budget and evaluated; one table has them all. A command that was stopped or killed continues where it was.
    Exit code 1 if a method failed (the others are in the table).

    \b
    Examples:
      rlent arena --quick
      rlent arena grpo clipcov klcov --out outputs/three
      rlent arena --table
    """
    listed = numbers(seeds, "--seeds")
    from dataclasses import replace

    from rlent.report.arena import Settings
    from rlent.studies.arena import QUICK, main

    settings = QUICK if quick else Settings()
    given = {"steps": steps, "n": n, "k": pass_at_k, "problems": problems}
    settings = replace(settings, overrides=(*settings.overrides, *(override or ())), **{k: v for k, v in given.items() if v is not None})
    return main(
        recipes or [],
        out=out,
        seeds=listed,
        settings=settings,
        quick=quick,
        workers=workers,
        table_only=table,
        as_json=as_json,
        config_dirs=config_dirs or [],
    )
