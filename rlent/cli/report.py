"""`rlent report` and `rlent plot`: runs compared on a page, and charts of their metrics."""

from __future__ import annotations

from typing import Annotated

import typer

from rlent.cli.options import AsJson


def report(
    places: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs (with their forks), the folders of sweeps and forks, and evaluations.")
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE", help="The page; the numbers of its figures go to FILE_data/.")
    ] = "report.html",
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is no report.")] = False,
) -> int:
    """Compare runs on one page.

    It shows what differs, entropy, reward, pass@k, paired tests and cost. Runs that differ in the seed only are one method. pass@k and
    tests come from the runs' evaluations (rlent eval) where every run has one, else from those made while training. The page is one file that opens offline, in light and dark, and prints.

    \b
    Examples:
      rlent report outputs/sweeps/recipe-seed-1a2b3c4d -o report.html
      rlent report outputs/mine outputs/other start/eval.json
      rlent report outputs/mine/forks/step_000100
    """
    from rlent.report import command

    return command.report(places, out, force=force)


def plot(
    arguments: Annotated[list[str], typer.Argument(metavar="RUN... METRIC...", help="Folders that are there, and names of metrics.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="A .png or .svg; the numbers go beside it as .csv.")] = "plot.png",
    smooth: Annotated[int, typer.Option(metavar="STEPS", min=1, help="Running mean over so many steps; 1 for none.")] = 9,
    as_json: AsJson = False,
) -> int:
    """Draw metrics of runs, one panel each.

    \b
    Examples:
      rlent plot outputs/mine entropy/mean reward/mean -o entropy.svg
      rlent plot outputs/sweeps/recipe-seed-1a2b3c4d cov/top_0.02 ratio/max clip/share --smooth 1
    """
    from rlent.report import command

    return command.plot(arguments, out, smooth=smooth, as_json=as_json)
