"""`rlent eval`: runs, checkpoints and models on held-out problems or suites."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from rlent.cli.options import AsJson, ConfigDirs
from rlent.errors import UsageError


def evaluate(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ARGS",
            show_default=False,
            help="run=DIR, checkpoint=DIR/checkpoints/step_000100 or model=PATH, one or several, and overrides of the recipe.",
        ),
    ] = None,
    pass_at_k: Annotated[int | None, typer.Option("--pass-at-k", metavar="K", min=1, help="Estimate pass@1, 2, 4, ... K.")] = None,
    n: Annotated[
        int | None,
        typer.Option("--n", metavar="N", min=1, help="Samples of each problem (or eval.n=N); more than K narrows the interval."),
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="One response to each problem, always the likeliest token.")] = False,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", min=0.0, help="Sampling temperature; otherwise eval.temperature.")
    ] = None,
    problems: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="The first N held-out problems, or of each set (or eval.problems=N).")
    ] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of the evaluation's own draws.")] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="DIR", help="Where to write; otherwise the run's eval folder.")] = None,
    regrade: Annotated[
        str | None, typer.Option(metavar="DIR", help="Grade the responses in an evaluation's folder again; nothing is sampled.")
    ] = None,
    verl: Annotated[
        bool, typer.Option("--verl", help="Also verl's best@N, worst@N and maj@N (with replacement), to compare with its logs.")
    ] = False,
    as_json: AsJson = False,
    config_dirs: ConfigDirs = None,
) -> int:
    """Evaluate runs, checkpoints or models.

    On held-out problems, or on a suite of sets (eval=paper). Several are compared with the first, in pairs. A command that was stopped
    continues where it was; responses that are there are not sampled again.

    \b
    Examples:
      rlent eval --pass-at-k 64 run=outputs/mine
      rlent eval --pass-at-k 16 --problems 64 checkpoint=outputs/mine/checkpoints/step_000100
      rlent eval --greedy model=tiny
      rlent eval --pass-at-k 8 model=path/to/model data=file data.path=problems.jsonl
      rlent eval eval=paper run=outputs/grpo run=outputs/clipcov engine=vllm
      rlent eval eval=paper 'eval.sets=[aime24,math500]' eval.paths.math500=math500.jsonl model=path/to/model
      rlent eval --regrade outputs/mine/eval/paper-seed0 grader.mode=any
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from rlent.eval.suite import Ask

    ask, given, dirs = Ask(pass_at_k, n, greedy, temperature, problems, seed), arguments or [], config_dirs or []
    if regrade is not None:
        from rlent.eval.regrade import main as grade_again

        if ask != Ask() or verl:
            raise UsageError("--regrade samples nothing: of the other options it takes --out, --json and --config-dir")
        return grade_again(regrade, given, out=out, as_json=as_json, config_dirs=dirs)
    from rlent.eval.command import main

    return main(given, ask, out=out, verl=verl, as_json=as_json, config_dirs=dirs)
