"""`rlent grade`: responses that are in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

if TYPE_CHECKING:
    from rlent.grading.base import Mode


def grade(
    file: Annotated[str, typer.Argument(metavar="FILE", help="JSON lines (.jsonl, .jsonl.gz), or - for standard input.")],
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Where to write (.jsonl, .jsonl.gz); never overwritten. Otherwise standard output."
        ),
    ] = None,
    mode: Annotated[
        str, typer.Option(metavar="MODE", help="Where the answer is: box (the last \\boxed{}), marker (also Answer:, ####, <answer>), any.")
    ] = "box",
    response_field: Annotated[
        str, typer.Option("--response-field", metavar="NAME", help="Field of the response; a dotted path.")
    ] = "response",
    gold_field: Annotated[
        str, typer.Option("--gold-field", metavar="NAME", help="Field of the accepted answer, or of a list of them; a dotted path.")
    ] = "gold",
    workers: Annotated[int, typer.Option(metavar="N", help="Processes for answers that need algebra.")] = 2,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Time of one answer in a worker; then it is wrong.")] = 3.0,
    strip_think: Annotated[bool, typer.Option("--strip-think", help="Read only what follows the last </think>.")] = False,
    decimal_comma: Annotated[bool, typer.Option("--decimal-comma", help="3,5 is three and a half.")] = False,
    relation_for_interval: Annotated[
        bool, typer.Option("--relation-for-interval", help="An inequality may answer a gold that is an interval.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an --out FILE that was begun.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The summary as JSON: on standard output with --out, otherwise on stderr.")
    ] = False,
) -> int:
    """Grade responses that are in a file.

    Each row of the output is a row of the input with correct, answer, method, status and seconds. A row that cannot be graded is
    named on stderr and left out. Rows stream, so the file may be of any size.

    \b
    Examples:
      rlent grade responses.jsonl --out graded.jsonl
      rlent grade responses.jsonl.gz --mode marker --gold-field answer_key --workers 8 --out graded.jsonl.gz
      zcat responses.jsonl.gz | rlent grade - | jq -c 'select(.status != "ok")'
      rlent grade responses.jsonl --out graded.jsonl --json
    """
    from rlent.eval.grade import main
    from rlent.grading.base import GradePolicy

    return main(
        file,
        out=out,
        mode=cast("Mode", mode),  # the grader refuses another word
        response_field=response_field,
        gold_field=gold_field,
        workers=workers,
        timeout=timeout,
        policy=GradePolicy(strip_think=strip_think, decimal_comma=decimal_comma, relation_for_interval=relation_for_interval),
        resume=resume,
        as_json=as_json,
    )
