"""The root of the command line: the group of all commands, how their errors are printed, and their exit codes."""

from __future__ import annotations

import os
import traceback
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rlent import __version__
from rlent.cli.commands import COMMANDS
from rlent.errors import RlentError
from rlent.ranks.launch import end_with, is_rank

TRACEBACK = "--traceback"


class Commands(TyperGroup):
    """Exits with the code that a command returns; an error is printed as `error: ...` on stderr and exits with the code of its class.

    Errors that rlent raises on purpose, and the system's (a full disk, no permission), have no traceback unless
    `--traceback` or RLENT_TRACEBACK=1 asks for it. Anything else is a defect and shows where it happened.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`--traceback` may stand anywhere on the line."""
        if TRACEBACK in args:
            args = [TRACEBACK, *(a for a in args if a != TRACEBACK)]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> None:
        try:
            code = super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            raise  # the reader of a pipe has gone; typer ends quietly
        except (RlentError, OSError) as error:
            if ctx.params.get("with_traceback") or os.environ.get("RLENT_TRACEBACK") == "1":
                traceback.print_exc()
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code if isinstance(error, RlentError) else 1) from error
        raise typer.Exit(code or 0)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rlent {__version__}")
        raise typer.Exit


@app.callback(epilog="\b\nExamples:\n  rlent train recipe=clipcov trainer.steps=50\n  rlent ls\n  rlent show klcov\n  rlent train --help")
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    with_traceback: Annotated[bool, typer.Option(TRACEBACK, help="Show where an error came from (or set RLENT_TRACEBACK=1).")] = False,
) -> None:
    """Experiments on the entropy of language models under reinforcement learning with verifiable rewards."""


for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> None:
    """Entry point of the `rlent` script."""
    if is_rank():
        end_with(lambda: app(prog_name="rlent"))
    app(prog_name="rlent")
