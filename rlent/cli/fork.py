"""`rlent fork`: branches of a run, from one of its checkpoints."""

from __future__ import annotations

from typing import Annotated

import typer

from rlent.cli.options import ConfigDirs, words
from rlent.errors import UsageError


def fork(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run folder to branch from; it may still be running.")],
    at: Annotated[int, typer.Option("--at", metavar="N", min=0, help="A step whose checkpoint the run has kept.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="OVERRIDES", show_default=False, help="What the branches change; commas make one branch for each value."),
    ] = None,
    by_microbatch: Annotated[
        str | None,
        typer.Option(
            "--by-microbatch",
            "--by-part",
            metavar="TOKENS,...",
            help="Micro-batch sensitivity: each method on whole mini-batches, and micro-batch by micro-batch of so many tokens.",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="DIR", help="Where the branches go; otherwise RUN/forks/step_N.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compose, check, print the branches, and stop.")] = False,
    config_dirs: ConfigDirs = None,
) -> int:
    """Branch from a checkpoint of a run, with a method for each branch.

    Branches keep the weights, the optimizer's state, the prompts and the noise of their parent, so that only the method differs.
    Each is a run folder that `train --resume`, `eval`, `fit` and `report` understand. The same command continues a fork that was
    stopped. Train the parent with checkpoint.keep=1000 to have every checkpoint to choose from.

    --by-microbatch measures micro-batch sensitivity. Each branch is made twice with micro-batches of so many tokens: once with the
    method's functions called on the whole mini-batch, once micro-batch by micro-batch, as released code often does. The difference is
    what the method owes to the size of its micro-batches.

    \b
    Examples:
      rlent fork outputs/mine --at 100 recipe=grpo,clipcov,klcov
      rlent fork outputs/mine --at 100 recipe=klcov regularize.kl_cov.coef=0.5,1,2 trainer.steps=300
      rlent fork outputs/mine --at 100 --by-microbatch 512,2048 recipe=clipcov,klcov,steer,hapo,forking trainer.steps=200
    """
    from rlent.studies.fork import main

    sizes = words(by_microbatch)
    if not all(s.isdigit() and int(s) for s in sizes):
        raise UsageError(f"--by-microbatch takes numbers of tokens separated by commas (512,2048), found '{by_microbatch}'")
    return main(run, at, overrides or [], by_part=[int(s) for s in sizes], out=out, config_dirs=config_dirs or [], dry_run=dry_run)
