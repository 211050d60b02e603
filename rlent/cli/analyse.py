"""Commands that look at runs without training: replay, measure, inspect, budget, fit."""

from __future__ import annotations

from typing import Annotated

import typer

from rlent.cli.options import (
    AsJson,
    ConfigDirs,
    CorrectAbove,
    GroupField,
    Limit,
    PromptField,
    ResponseField,
    RewardField,
    TemplateName,
    words,
)


def replay(
    batch: Annotated[
        str, typer.Argument(metavar="BATCH", help="A run folder, a saved batch of it, or a file of responses (with --model).")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="recipe=A,B,... OVERRIDES", show_default=False, help="The methods, and overrides of their recipes."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="PATH|RUN", help="Compute log-probs, entropies, probes and parameter gradients with this model.")
    ] = None,
    step: Annotated[int | None, typer.Option(metavar="N", help="Which of the run's saved steps; otherwise the last one.")] = None,
    prompt_field: PromptField = None,
    response_field: ResponseField = None,
    reward_field: RewardField = None,
    group_field: GroupField = None,
    template: TemplateName = "none",
    correct_above: CorrectAbove = 0.0,
    limit: Limit = None,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help="Also write the JSON to this file.")] = None,
    as_json: AsJson = False,
    config_dirs: ConfigDirs = None,
) -> int:
    """Re-score one batch offline with several methods.

    For each: what it selects, clips and reweights, and where its gradient points.

    `track.save_batches=N` makes a run save every N-th step's batch with what its updates saw, so that ratios and clips are those of
    the run. Files of verl, TRL and prime-rl are read as they are. A method that needs streams the batch lacks is skipped with the
    reason; the others are re-scored.

    \b
    Examples:
      rlent train recipe=grpo track.save_batches=10 trainer.steps=20 run.dir=outputs/mine
      rlent replay outputs/mine recipe=clipcov,klcov,erc
      rlent replay outputs/mine/batches/step_000010.safetensors recipe=clipcov shape.clip_cov.fraction=0.05 --json
      rlent replay outputs/mine recipe=siren,klcov --model outputs/mine
      rlent replay rollouts/120.jsonl recipe=clipcov --model path/to/model
    """
    from rlent.analysis.command import main
    from rlent.analysis.dumps import Fields
    from rlent.analysis.source import Reading

    fields = Fields(prompt_field, response_field, reward_field, group_field)
    reading = Reading(model, step, fields, template, correct_above, limit)
    return main(batch, overrides or [], reading, out=out, as_json=as_json, config_dirs=config_dirs or [])


def measure(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a model's folder, a name on the hub, or tiny.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="Prompts, responses and rewards: .jsonl, .jsonl.gz, .json or .parquet.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="OVERRIDES", show_default=False, help="sampler.temperature=0.6, scale=gpu, model.dtype=bfloat16, ..."),
    ] = None,
    prompt_field: PromptField = None,
    response_field: ResponseField = None,
    reward_field: RewardField = None,
    group_field: GroupField = None,
    template: TemplateName = "none",
    correct_above: CorrectAbove = 0.0,
    limit: Limit = None,
    keep: Annotated[str | None, typer.Option(metavar="FILE.safetensors", help="Save the measured batch, for replay and inspect.")] = None,
    as_json: AsJson = False,
) -> int:
    """Measure responses in a file: entropy, covariance, pass@k.

    Nothing is trained. Entropy is exact, over the full vocabulary, in float32, at sampler.temperature. Files of verl, TRL and prime-rl
    are read as they are.

    \b
    Examples:
      rlent measure outputs/mine outputs/mine/eval/pass64/responses.jsonl
      rlent measure path/to/model rollouts/120.jsonl scale=gpu model.dtype=bfloat16
      rlent measure path/to/model dump.jsonl --response-field answer_text --reward-field points --json
    """
    from rlent.analysis.dumps import Fields
    from rlent.analysis.measure import main
    from rlent.analysis.source import Reading

    fields = Fields(prompt_field, response_field, reward_field, group_field)
    reading = Reading(model, None, fields, template, correct_above, limit)
    return main(file, overrides or [], reading, keep=keep, as_json=as_json)


def inspect(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder with saved batches (track.save_batches), or one saved batch.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="OVERRIDES", show_default=False, help="Overrides of the methods' recipes.")
    ] = None,
    step: Annotated[int | None, typer.Option(metavar="N", help="Which of the saved steps; otherwise the last one.")] = None,
    methods: Annotated[str, typer.Option(metavar="A,B,...", help="Methods whose selection, clips and weights to show.")] = "",
    rows: Annotated[int, typer.Option(metavar="N", min=1, help="Responses to show; those of prompts with mixed rewards come first.")] = 32,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="Where to write; otherwise the run's inspect folder.")
    ] = None,
    config_dirs: ConfigDirs = None,
) -> int:
    """Make a page of sampled responses, coloured token by token.

    Colours are entropy, probability, covariance, advantage, weight, and what methods would do. It is one HTML file that opens offline;
    hovering over a token shows its numbers. No model is needed.

    \b
    Examples:
      rlent train recipe=grpo track.save_batches=10 trainer.steps=20 run.dir=outputs/mine
      rlent inspect outputs/mine --methods clipcov,klcov
      rlent inspect outputs/mine --step 10 --methods clipcov shape.clip_cov.fraction=0.05 --out step10.html
    """
    from rlent.analysis.inspection import View, main

    return main(run, overrides or [], View(step, words(methods), rows), out=out, config_dirs=config_dirs or [])


def budget(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    by: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="advantage, probability, position, accuracy, token; otherwise all of them.")
    ] = None,
    first: Annotated[int | None, typer.Option("--from-step", metavar="N", help="The first step that counts.")] = None,
    last: Annotated[int | None, typer.Option("--to-step", metavar="N", help="The last step that counts.")] = None,
    tokens: Annotated[int, typer.Option(metavar="N", min=1, help="How many tokens of the vocabulary to list.")] = 8,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help="Draw it: FILE.png, .svg and .csv.")] = None,
    as_json: AsJson = False,
) -> int:
    """Entropy accounting: when and on which tokens entropy changed.

    Beside the measured change stands how much of it theory predicts.

    `train` measures the entropy of track.ledger.rows rows again after each step's updates; where it changed is kept in budget.jsonl.

    \b
    Examples:
      rlent budget outputs/mine
      rlent budget outputs/mine --by advantage,token --from-step 1 --to-step 100
      rlent budget outputs/mine --out outputs/mine/budget --json
    """
    from rlent.analysis.budget import main

    return main(run, by=words(by), first=first, last=last, tokens=tokens, out=out, as_json=as_json)


def fit(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders, or the folder of a sweep.")],
    x: Annotated[str, typer.Option(metavar="METRIC", help="The entropy.")] = "entropy/mean",
    y: Annotated[str, typer.Option(metavar="METRIC", help="The score of held-out problems.")] = "eval/pass@1",
    early: Annotated[
        float, typer.Option(metavar="SHARE", min=0.01, max=0.99, help="Share of the points that the forecast is fitted on.")
    ] = 0.15,
    predict: Annotated[
        float | None, typer.Option(metavar="N", help="Ceiling of a model of N parameters, from runs of several sizes.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Fit runs with an intervention too; the result is no ceiling.")] = False,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="Draw the points and laws: FILE.png, .svg and .csv.")
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Fit the law R = -a e^H + b, and forecast the score at H = 0.

    Scores are those of `eval.every`, paired with the entropy of the same weights. Exit code 1 if no run could be fitted.

    \b
    Examples:
      rlent fit outputs/mine
      rlent fit outputs/sweeps/recipe-seed-1a2b3c4d --out law
      rlent fit outputs/mine --y eval/pass@16 --early 0.3 --json
    """
    from rlent.analysis.fit import Points, main

    return main(runs, Points(x, y, early, force), predict=predict, out=out, as_json=as_json)
