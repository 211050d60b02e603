"""The command line: verbs, and no logic. Whatever is heavy is imported by the verb that needs it."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from rlent import __version__
from rlent.errors import RlentError
from rlent.ranks.launch import end_with, is_rank

TRACEBACK = "--traceback"


class Verbs(TyperGroup):
    """Says what went wrong in a sentence: `error: ...` on stderr, and the exit code of the error's class.

    Errors that rlent raises on purpose, and the system's (a full disk, no permission), have no traceback unless
    `--traceback` or RLENT_TRACEBACK=1 asks for it. Anything else is a defect and shows where it happened.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`--traceback` may stand anywhere on the line."""
        if TRACEBACK in args:
            args = [TRACEBACK, *(a for a in args if a != TRACEBACK)]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
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


app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)

ConfigDirs = Annotated[
    list[str] | None,
    typer.Option("--config-dir", metavar="DIR", help="A folder of your own recipes, options and functions. May be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="OVERRIDES", show_default=False, help="key=value, group=option, +group=option, ~key")
]

PromptField = Annotated[
    str | None, typer.Option("--prompt-field", metavar="FIELD", help="The prompt's field in a file (dots reach inside).")
]
ResponseField = Annotated[str | None, typer.Option("--response-field", metavar="FIELD", help="The response's field.")]
RewardField = Annotated[str | None, typer.Option("--reward-field", metavar="FIELD", help="The reward's field.")]
GroupField = Annotated[
    str | None, typer.Option("--group-field", metavar="FIELD", help="What responses to one prompt share; otherwise the prompt.")
]
TemplateName = Annotated[
    str, typer.Option("--template", metavar="NAME", help="How a file's prompts are put to the model: none, chat, r1, ...")
]
CorrectAbove = Annotated[
    float, typer.Option("--correct-above", metavar="R", help="A response of a file is correct if its reward is above this.")
]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rlent {__version__}")
        raise typer.Exit


@app.callback(epilog="\b\nExamples:\n  rlent train recipe=clipcov trainer.steps=50\n  rlent ls\n  rlent show klcov\n  rlent COMMAND --help")
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
    with_traceback: Annotated[bool, typer.Option(TRACEBACK, help="Show where an error came from (or set RLENT_TRACEBACK=1).")] = False,
) -> None:
    """Experiments on the entropy of language models under reinforcement learning with verifiable rewards."""


@app.command()
def train(
    overrides: Overrides = None,
    multirun: Annotated[bool, typer.Option("--multirun", "-m", help="One job for each combination of the comma-separated values.")] = False,
    config_dir: ConfigDirs = None,
    resume: Annotated[str | None, typer.Option(metavar="DIR", help="Continue the run in DIR from its last checkpoint.")] = None,
    start_from: Annotated[
        str | None,
        typer.Option("--from", metavar="RUN|PATH", help="A new run that starts from the weights of a finished run or of a model folder."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compose, check, print what would run, and stop.")] = False,
) -> None:
    """Train a recipe.

    \b
    Examples:
      rlent train recipe=clipcov
      rlent train recipe=clipcov shape.clip_cov.fraction=0.01 trainer.steps=50 run.dir=outputs/mine
      rlent train 'shape=[erc,clip_cov]' loss=clip_higher
      rlent train -m recipe=grpo,clipcov,klcov seed=0,1,2
      rlent train --resume outputs/mine
      rlent train --config-dir my/ recipe=mine
    """
    from rlent.cli import commands

    code = commands.train(
        overrides or [], multirun=multirun, config_dirs=config_dir or [], resume=resume, start_from=start_from, dry_run=dry_run
    )
    raise typer.Exit(code)


@app.command()
def fork(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run folder to branch from; it may still be running.")],
    at: Annotated[int, typer.Option("--at", metavar="N", min=0, help="A step whose checkpoint the run has kept.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="OVERRIDES", show_default=False, help="What the branches change; commas make one branch for each value."),
    ] = None,
    by_part: Annotated[
        str | None,
        typer.Option("--by-part", metavar="TOKENS,...", help="The artefact meter: each method on whole minibatches and part by part."),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="DIR", help="Where the branches go; otherwise RUN/forks/step_N.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Compose, check, print the branches, and stop.")] = False,
    config_dir: ConfigDirs = None,
) -> None:
    """Branch from a checkpoint of a run, with a method for each branch.

    Branches keep the weights, the optimizer's state, the prompts and the noise of their parent, so that only the method differs.
    Each is a run folder that `train --resume`, `eval`, `fit` and `report` understand. The same command continues a fork that was
    stopped. Train the parent with checkpoint.keep=1000 to have every checkpoint to choose from.

    With --by-part each branch is made with parts of so many tokens, once as it is and once with its functions called part by part
    (scope=part), as released code often does: how much of a method comes from the size of its micro-batches.

    \b
    Examples:
      rlent fork outputs/mine --at 100 recipe=grpo,clipcov,klcov
      rlent fork outputs/mine --at 100 recipe=klcov regularize.kl_cov.coef=0.5,1,2 trainer.steps=300
      rlent fork outputs/mine --at 100 --by-part 512,2048 recipe=clipcov,klcov,steer,hapo,forking trainer.steps=200
    """
    from rlent.cli import commands

    raise typer.Exit(commands.fork(run, at, overrides or [], by_part=by_part, out=out, config_dirs=config_dir or [], dry_run=dry_run))


@app.command("eval")
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
        int | None, typer.Option("--n", metavar="N", min=1, help="Samples of each problem; more than K narrows the interval.")
    ] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="One response to each problem, always the likeliest token.")] = False,
    temperature: Annotated[
        float | None, typer.Option(metavar="T", min=0.0, help="Sampling temperature; otherwise eval.temperature.")
    ] = None,
    problems: Annotated[int | None, typer.Option(metavar="N", min=1, help="The first N held-out problems, or of each set.")] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", help="Seed of the evaluation's own draws.")] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="DIR", help="Where to write; otherwise the run's eval folder.")] = None,
    regrade: Annotated[
        str | None, typer.Option(metavar="DIR", help="Grade the responses in an evaluation's folder again; nothing is sampled.")
    ] = None,
    verl: Annotated[
        bool, typer.Option("--verl", help="Also verl's best@N, worst@N and maj@N (with replacement), to compare with its logs.")
    ] = False,
    as_json: AsJson = False,
    config_dir: ConfigDirs = None,
) -> None:
    """Evaluate runs, checkpoints or models.

    On held-out problems, or on a suite of sets (eval=paper). Several are compared with the first, in pairs. A command that was stopped goes
    on where it was; responses that are there are not sampled again.

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
    from rlent.cli import commands

    code = commands.evaluate(
        arguments or [],
        pass_at_k=pass_at_k,
        n=n,
        greedy=greedy,
        temperature=temperature,
        problems=problems,
        seed=seed,
        out=out,
        regrade=regrade,
        verl=verl,
        as_json=as_json,
        config_dirs=config_dir or [],
    )
    raise typer.Exit(code)


@app.command()
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
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an --out FILE that was begun.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The summary as JSON: on standard output with --out, otherwise on stderr.")
    ] = False,
) -> None:
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

    policy = GradePolicy(strip_think=strip_think, decimal_comma=decimal_comma, relation_for_interval=relation_for_interval)
    code = main(
        file,
        out=out,
        mode=mode,  # type: ignore[arg-type]
        response_field=response_field,
        gold_field=gold_field,
        workers=workers,
        timeout=timeout,
        policy=policy,
        resume=resume,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command()
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
) -> None:
    """Fit the law R = -a e^H + b of a run: what score is left when all entropy is spent.

    Scores are those of `eval.every`, paired with the entropy of the same weights. Exit code 1 if no run could be fitted.

    \b
    Examples:
      rlent fit outputs/mine
      rlent fit outputs/sweeps/recipe-seed-1a2b3c4d --out law
      rlent fit outputs/mine --y eval/pass@16 --early 0.3 --json
    """
    from rlent.cli import commands

    raise typer.Exit(commands.fit(runs, x=x, y=y, early=early, force=force, predict=predict, out=out, as_json=as_json))


@app.command()
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
    config_dir: ConfigDirs = None,
) -> None:
    """Train every method on the embedded task with the same budget, evaluate, and write one table.

    Stopped or killed, the same command goes on. Exit code 1 if a method failed (the others are in the table).

    \b
    Examples:
      rlent arena --quick
      rlent arena grpo clipcov klcov --out outputs/three
      rlent arena --table
    """
    from rlent.cli import commands

    try:
        numbers = [int(s) for s in seeds.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{seeds!r}: whole numbers with commas between are accepted", param_hint="--seeds") from None
    sizes = {"steps": steps, "n": n, "k": pass_at_k, "problems": problems, "overrides": tuple(override or ()) or None}
    code = commands.arena(
        recipes or [],
        out=out,
        seeds=numbers,
        sizes=sizes,
        quick=quick,
        workers=workers,
        table_only=table,
        as_json=as_json,
        config_dirs=config_dir or [],
    )
    raise typer.Exit(code)


@app.command("replay")
def replay_(
    batch: Annotated[str, typer.Argument(metavar="BATCH", help="A run folder, a kept batch of it, or a file of responses (with --model).")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="recipe=A,B,... OVERRIDES", show_default=False, help="The methods, and overrides of their recipes."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="PATH|RUN", help="Compute log-probs, entropies, probes and parameter gradients with this model.")
    ] = None,
    step: Annotated[int | None, typer.Option(metavar="N", help="Which of the run's kept steps; otherwise the last one.")] = None,
    prompt_field: PromptField = None,
    response_field: ResponseField = None,
    reward_field: RewardField = None,
    group_field: GroupField = None,
    template: TemplateName = "none",
    correct_above: CorrectAbove = 0.0,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="The first N rows of a file.")] = None,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help="Also write the JSON to this file.")] = None,
    as_json: AsJson = False,
    config_dir: ConfigDirs = None,
) -> None:
    """Replay one batch with several methods: what each selects, clips and reweights, and where its gradient points.

    `track.keep_batches=N` makes a run keep every N-th step's batch with what its updates saw, so that ratios and clips are those of the run.
    Files of verl, TRL and prime-rl are read as they are. A method whose streams are missing says so, and the others go on.

    \b
    Examples:
      rlent train recipe=grpo track.keep_batches=10 trainer.steps=20 run.dir=outputs/mine
      rlent replay outputs/mine recipe=clipcov,klcov,erc
      rlent replay outputs/mine/batches/step_000010.safetensors recipe=clipcov shape.clip_cov.fraction=0.05 --json
      rlent replay outputs/mine recipe=siren,klcov --model outputs/mine
      rlent replay rollouts/120.jsonl recipe=clipcov --model path/to/model
    """
    from rlent.cli import commands

    code = commands.replay(
        batch,
        overrides or [],
        model=model,
        step=step,
        fields=(prompt_field, response_field, reward_field, group_field),
        template=template,
        correct_above=correct_above,
        limit=limit,
        out=out,
        as_json=as_json,
        config_dirs=config_dir or [],
    )
    raise typer.Exit(code)


@app.command("measure")
def measure_(
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
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="The first N rows.")] = None,
    keep: Annotated[str | None, typer.Option(metavar="FILE.safetensors", help="Save the measured batch, for replay and inspect.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure entropy, covariance and pass@k of responses in a file, without training.

    Entropy is exact, over the full vocabulary, in float32, at sampler.temperature. Files of verl, TRL and prime-rl are read as they are.

    \b
    Examples:
      rlent measure outputs/mine outputs/mine/eval/pass64/responses.jsonl
      rlent measure path/to/model rollouts/120.jsonl scale=gpu model.dtype=bfloat16
      rlent measure path/to/model dump.jsonl --response-field answer_text --reward-field points --json
    """
    from rlent.cli import commands

    code = commands.measure(
        model,
        file,
        overrides or [],
        fields=(prompt_field, response_field, reward_field, group_field),
        template=template,
        correct_above=correct_above,
        limit=limit,
        keep=keep,
        as_json=as_json,
    )
    raise typer.Exit(code)


@app.command("inspect")
def inspect_(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder with kept batches (track.keep_batches), or one kept batch.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="OVERRIDES", show_default=False, help="Overrides of the methods' recipes.")
    ] = None,
    step: Annotated[int | None, typer.Option(metavar="N", help="Which of the kept steps; otherwise the last one.")] = None,
    methods: Annotated[str, typer.Option(metavar="A,B,...", help="Methods whose selection, clips and weights to show.")] = "",
    rows: Annotated[int, typer.Option(metavar="N", min=1, help="Responses to show; those of prompts with mixed rewards come first.")] = 32,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE", help="Where to write; otherwise the run's inspect folder.")
    ] = None,
    config_dir: ConfigDirs = None,
) -> None:
    """Make a page of sampled responses: tokens coloured by entropy, probability, covariance, advantage, weight, and by what methods would do.

    One HTML file that opens offline; hovering over a token shows its numbers. No model is needed.

    \b
    Examples:
      rlent train recipe=grpo track.keep_batches=10 trainer.steps=20 run.dir=outputs/mine
      rlent inspect outputs/mine --methods clipcov,klcov
      rlent inspect outputs/mine --step 10 --methods clipcov shape.clip_cov.fraction=0.05 --out step10.html
    """
    from rlent.cli import commands

    names = [m.strip() for m in methods.split(",") if m.strip()]
    raise typer.Exit(commands.inspect(run, overrides or [], step=step, methods=names, rows=rows, out=out, config_dirs=config_dir or []))


@app.command("budget")
def budget_(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder.")],
    by: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="advantage, probability, position, accuracy, token; otherwise all of them.")
    ] = None,
    first: Annotated[int | None, typer.Option("--from-step", metavar="N", help="The first step that counts.")] = None,
    last: Annotated[int | None, typer.Option("--to-step", metavar="N", help="The last step that counts.")] = None,
    tokens: Annotated[int, typer.Option(metavar="N", min=1, help="How many tokens of the vocabulary to list.")] = 8,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help="Draw it: FILE.png, .svg and .csv.")] = None,
    as_json: AsJson = False,
) -> None:
    """Account for the entropy that a run spent: when, on which tokens, and how much of it theory predicts.

    `train` measures the entropy of track.ledger.rows rows again after each step's updates; where it changed is kept in budget.jsonl.

    \b
    Examples:
      rlent budget outputs/mine
      rlent budget outputs/mine --by advantage,token --from-step 1 --to-step 100
      rlent budget outputs/mine --out outputs/mine/budget --json
    """
    from rlent.cli import commands

    ways = [b.strip() for b in by.split(",") if b.strip()] if by else []
    raise typer.Exit(commands.budget(run, by=ways, first=first, last=last, tokens=tokens, out=out, as_json=as_json))


Places = Annotated[
    list[str], typer.Argument(metavar="RUN...", help="Runs (with their forks), the folders of sweeps and forks, and evaluations.")
]


@app.command()
def report(
    places: Places,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE", help="The page; the numbers of its figures go to FILE_data/.")
    ] = "report.html",
    force: Annotated[bool, typer.Option("--force", help="Overwrite a file that is no report.")] = False,
) -> None:
    """Compare runs on one page: what differs, entropy, reward, pass@k, paired tests, cost.

    Runs that differ in the seed only are one method. pass@k and tests come from the runs' evaluations (rlent eval) where every run
    has one, else from those made while training. The page is one file that opens offline, in light and dark, and prints.

    \b
    Examples:
      rlent report outputs/sweeps/recipe-seed-1a2b3c4d -o report.html
      rlent report outputs/mine outputs/other start/eval.json
      rlent report outputs/mine/forks/step_000100
    """
    from rlent.cli import commands

    raise typer.Exit(commands.report(places, out, force=force))


@app.command()
def plot(
    arguments: Annotated[list[str], typer.Argument(metavar="RUN... METRIC...", help="Folders that are there, and names of metrics.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="A .png or .svg; the numbers go beside it as .csv.")] = "plot.png",
    smooth: Annotated[int, typer.Option(metavar="STEPS", min=1, help="Running mean over so many steps; 1 for none.")] = 9,
    as_json: AsJson = False,
) -> None:
    """Draw metrics of runs, one panel each.

    \b
    Examples:
      rlent plot outputs/mine entropy/mean reward/mean -o entropy.svg
      rlent plot outputs/sweeps/recipe-seed-1a2b3c4d cov/top_0.02 ratio/max clip/share --smooth 1
    """
    from rlent.cli import commands

    raise typer.Exit(commands.plot(arguments, out, smooth=smooth, as_json=as_json))


@app.command("ls")
def list_(
    seat: Annotated[str | None, typer.Option(metavar="SEAT", help="The options of one seat: shape, loss, regularize, ...")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Methods, and the options of every seat and group (model, data, engine, ...).")
    ] = False,
    as_json: AsJson = False,
    config_dir: ConfigDirs = None,
) -> None:
    """List the methods, or what can be put in a seat.

    CHECKED says what a method's numbers were compared with: the authors' own code, the paper's formula, or nothing.

    \b
    Examples:
      rlent ls
      rlent ls --seat shape
      rlent ls --all --json
    """
    from rlent.recipe import catalog

    raise typer.Exit(catalog.main(config_dir or [], seat=seat, everything=everything, as_json=as_json))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A recipe's name, as `rlent ls` prints it.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
    config_dir: ConfigDirs = None,
) -> None:
    """Show a method: its card, options and plan.

    Every option comes with the file that gave it its value; overrides are taken as `rlent train` takes them.

    \b
    Examples:
      rlent show clipcov
      rlent show clipcov +shape=erc trainer.minibatches=8
    """
    from rlent.cli import commands

    raise typer.Exit(commands.show(name, overrides or [], config_dirs=config_dir or [], as_json=as_json))


@app.command()
def check(overrides: Overrides = None, as_json: AsJson = False, config_dir: ConfigDirs = None) -> None:
    """Check a recipe and its data without starting anything. All problems are printed at once; exit code 2.

    \b
    Examples:
      rlent check recipe=klcov sampler.n=8
      rlent check --config-dir my/ recipe=mine data=file data.path=problems.jsonl
    """
    from rlent.cli import commands

    raise typer.Exit(commands.check(overrides or [], config_dirs=config_dir or [], as_json=as_json))


@app.command()
def verify(
    vectors: Annotated[
        str | None, typer.Option(metavar="DIR", help="A folder of vector files; otherwise tests/golden of the checkout.")
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="NAME,...", help="Only the vectors of these methods.")] = None,
    as_json: AsJson = False,
    config_dir: ConfigDirs = None,
) -> None:
    """Compare the recipes with the authors' own code.

    Values and gradients of vector files; exit code 1 if any differs.

    \b
    Examples:
      rlent verify
      rlent verify --only clip_cov,kl_cov
      rlent verify --vectors path/to/vectors --json
    """
    from rlent.cli import commands

    names = [n.strip() for n in (only or "").split(",") if n.strip()]
    raise typer.Exit(commands.verify(vectors=vectors, only=names, config_dirs=config_dir or [], as_json=as_json))


@app.command()
def explain(
    name: Annotated[
        str | None, typer.Argument(metavar="[METRIC]", show_default=False, help="A metric's name as it is logged; all of them without it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain a metric: its unit, its definition, and how to read it.

    \b
    Examples:
      rlent explain entropy/seq_mean
      rlent explain cov/top_0.02
      rlent explain
    """
    from dataclasses import asdict

    from rlent import metrics

    if name:
        text, metric = metrics.describe(name), metrics.explain(name)  # describe refuses an unknown name
        typer.echo(json.dumps(asdict(metric), indent=1) if as_json and metric else text)
        return
    found = metrics.all_metrics()
    if as_json:
        typer.echo(json.dumps([asdict(m) for m in found], indent=1))
        return
    group = None
    for m in found:
        if group != (group := m.name.partition("/")[0]):
            typer.echo(f"\n{group}")
        typer.echo(f"  {m.name} [{m.unit}]: {m.meaning}")
    typer.echo("\nHow to read one: rlent explain NAME")


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="The method's name: a Python name like entropy_floor.")],
    seat: Annotated[str, typer.Option(metavar="SEAT", help="decode, reward, advantage, shape, loss, regularize, control or probe.")],
    folder: Annotated[
        str | None, typer.Option("--dir", metavar="DIR", help="A folder of your own; without it, the checkout you are in.")
    ] = None,
) -> None:
    """Begin a method of your own.

    Writes the function, its option file, its card and a test that fails until you fill it in. Nothing is overwritten.

    \b
    Examples:
      rlent new spark --seat shape
      rlent new brevity --seat reward --dir my/
    """
    from rlent.cli import new as scaffold

    made = scaffold.make(name, seat, Path(folder) if folder else None)
    typer.echo(
        "\n".join([*(f"wrote {file}" for file in made.files), "", "next:", *(f"  {i}. {step}" for i, step in enumerate(made.steps, 1))])
    )


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine offers a run.

    What was found, and what it means; exit code 1 if something needed is broken.
    """
    from rlent.cli import doctor as examination

    raise typer.Exit(examination.main(as_json=as_json))


@app.command()
def upload(run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder that was tracked offline.")]) -> None:
    """Send a run to Weights & Biases; needs `wandb login`.

    \b
    Example:
      rlent upload outputs/mine
    """
    from rlent.track import upload as send

    typer.echo(send(run.removeprefix("run=")))


def main() -> None:
    """Entry point of the `rlent` script."""
    if is_rank():
        end_with(lambda: app(prog_name="rlent"))
    app(prog_name="rlent")
