"""`rlent upload`: a run that was tracked offline, to Weights & Biases."""

from __future__ import annotations

from typing import Annotated

import typer


def upload(run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder that was tracked offline.")]) -> int:
    """Send a run to Weights & Biases; needs `wandb login`.

    \b
    Example:
      rlent upload outputs/mine
    """
    from rlent.track import upload as send

    typer.echo(send(run.removeprefix("run=")))
    return 0
