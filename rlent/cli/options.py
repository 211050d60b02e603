"""Options that several commands share, each declared once."""

from __future__ import annotations

from typing import Annotated

import typer

ConfigDirs = Annotated[
    list[str] | None,
    typer.Option("--config-dir", metavar="DIR", help="A folder of your own recipes, options and functions. May be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="OVERRIDES", show_default=False, help="key=value, group=option, +group=option, ~key")
]

# ---- how a file of responses is read (replay, measure) ----------------------------------------------------------------------

PromptField = Annotated[
    str | None, typer.Option("--prompt-field", metavar="FIELD", help="The prompt's field in a file (dots reach inside).")
]
ResponseField = Annotated[str | None, typer.Option("--response-field", metavar="FIELD", help="The response's field.")]
RewardField = Annotated[str | None, typer.Option("--reward-field", metavar="FIELD", help="The reward's field.")]
GroupField = Annotated[
    str | None,
    typer.Option("--group-field", metavar="FIELD", help="The field that responses to one prompt share; otherwise the prompt itself."),
]
TemplateName = Annotated[str, typer.Option("--template", metavar="NAME", help="Prompt template of a file: none, chat, r1, ...")]
CorrectAbove = Annotated[
    float, typer.Option("--correct-above", metavar="R", help="A response of a file is correct if its reward is above this.")
]
Limit = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="The first N rows of a file.")]


def words(text: str | None) -> list[str]:
    """The words of a comma-separated option; none of them is empty."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def numbers(text: str, option: str) -> list[int]:
    """The whole numbers of a comma-separated option.

    Raises:
        BadParameter: something else is among them.
    """
    try:
        return [int(word) for word in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r}: whole numbers with commas between are accepted", param_hint=option) from None
