"""Commands that look at recipes and start nothing: ls, show, check, verify, explain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlent.cli.options import AsJson, ConfigDirs, Overrides, words

if TYPE_CHECKING:
    from rlent.data.findings import Findings
    from rlent.recipe.compose import Recipe


def ls(
    seat: Annotated[str | None, typer.Option(metavar="SEAT", help="The options of one seat: shape, loss, regularize, ...")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Methods, and the options of every seat and group (model, data, engine, ...).")
    ] = False,
    as_json: AsJson = False,
    config_dirs: ConfigDirs = None,
) -> int:
    """List the methods, or what can be put in a seat.

    CHECKED says what a method's numbers were compared with: the authors' own code, the paper's formula, or nothing. The seats that a method
    fills are in --json; `rlent show NAME` has its functions, their files and options.

    \b
    Examples:
      rlent ls
      rlent ls --seat shape
      rlent ls --all --json
    """
    from rlent.recipe import catalog

    return catalog.main(config_dirs or [], seat=seat, everything=everything, as_json=as_json)


def show(
    name: Annotated[str, typer.Argument(help="A recipe's name, as `rlent ls` prints it.")],
    overrides: Overrides = None,
    as_json: AsJson = False,
    config_dirs: ConfigDirs = None,
) -> int:
    """Show a method: its functions and files, options and plan.

    Every option comes with the file that gave it its value; overrides are taken as `rlent train` takes them.

    \b
    Examples:
      rlent show clipcov
      rlent show clipcov +shape=erc trainer.minibatches=8
    """
    from rlent.cli.card import Shown
    from rlent.recipe import compose

    shown = Shown.of(compose.load([f"recipe={name}", *(overrides or [])], config_dirs or []), name, config_dirs or [])
    print(json.dumps(shown.to_dict(), indent=1, default=str) if as_json else "\n".join(shown.lines()))
    return 0


def check(overrides: Overrides = None, as_json: AsJson = False, config_dirs: ConfigDirs = None) -> int:
    """Check a recipe and its data without starting anything. All problems are printed at once; exit code 2.

    \b
    Examples:
      rlent check recipe=klcov sampler.n=8
      rlent check --config-dir my/ recipe=mine data=file data.path=problems.jsonl
    """
    from rlent.recipe import compose
    from rlent.recipe.describe import describe

    recipe = compose.load(overrides or [], config_dirs or [])
    source = compose.build(recipe["data"])
    if hasattr(source, "check"):
        source.check()
    if recipe["eval"]["every"] and recipe["eval"].get("sets"):
        from rlent.eval.suite import Ask, benches

        benches(recipe, Ask())
    found, notes = _findings(recipe, source)
    sampler: Any = compose.build(recipe["sampler"]) if recipe["sampler"] else None
    if hasattr(sampler, "check_problems") and _is_here(source):
        sampler.check_problems(source.train)
    if as_json:
        data = found.to_dict() if found is not None else None
        print(json.dumps({"recipe": recipe.name, "warnings": recipe.warnings, "plan": recipe.plan.lines(), "data": data, "notes": notes}))
    else:
        print("\n".join([*describe(recipe), *(f"data: {line}" for line in notes), "no problems"]))
    return 0


def _is_here(source: Any) -> bool:
    """Whether a data source is read without a download: it has a file, or makes its problems itself."""
    return bool(getattr(source, "path", "generated"))


def _findings(recipe: Recipe, source: Any) -> tuple[Findings | None, list[str]]:
    """What is found in the data (None: nothing to look at, or not without fetching it), and lines about it."""
    if not hasattr(source, "examine") or not _is_here(source):
        return None, ["not looked at, because it would be fetched from the hub; give a copy with data.path=FILE"]
    from rlent.errors import RlentError
    from rlent.policy.load import load_tokenizer

    notes, tokenizer, room = [], None, None
    try:
        tokenizer, room = load_tokenizer(**{k: recipe["model"][k] for k in ("path", "revision", "trust_remote_code")})
        found = source.examine(tokenizer, room - 1 if room else None)
    except RlentError as error:
        notes.append(f"the lengths of prompts were not counted: {error}")
        found = source.examine()
    if hasattr(source, "grader") and hasattr(source.grader, "close"):
        source.grader.close()
    if found is None:
        return None, notes
    source.settle(found)
    trained = (
        "an evaluation set: no recipe trains on it" if getattr(source, "use", "train") == "evaluate" else f"{len(source.train)} to train on"
    )
    return found, [f"{found.name}: {found.problems} problems, {trained}, {found.held_out} held out", *found.lines(), *notes]


def verify(
    vectors: Annotated[
        str | None, typer.Option(metavar="DIR", help="A folder of vector files; otherwise tests/golden of the checkout.")
    ] = None,
    only: Annotated[str | None, typer.Option(metavar="NAME,...", help="Only the vectors of these recipes or methods.")] = None,
    as_json: AsJson = False,
    config_dirs: ConfigDirs = None,
) -> int:
    """Compare the recipes with the authors' own code.

    Values and gradients of vector files; exit code 1 if any differs.

    \b
    Examples:
      rlent verify
      rlent verify --only clipcov,klcov
      rlent verify --vectors path/to/vectors --json
    """
    from rlent.verify.command import main

    return main(Path(vectors) if vectors else None, words(only), config_dirs or [], as_json=as_json)


def explain(
    name: Annotated[
        str | None, typer.Argument(metavar="[METRIC]", show_default=False, help="A metric's name as it is logged; all of them without it.")
    ] = None,
    as_json: AsJson = False,
) -> int:
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
        print(json.dumps(asdict(metric), indent=1) if as_json and metric else text)
        return 0
    found = metrics.all_metrics()
    if as_json:
        print(json.dumps([asdict(m) for m in found], indent=1))
        return 0
    groups: dict[str, list[str]] = {}
    for m in found:
        groups.setdefault(m.name.partition("/")[0], []).append(f"  {m.name} [{m.unit}]: {m.meaning}")
    for group, lines in groups.items():
        print("\n".join(["", group, *lines]))
    print("\nHow to read one: rlent explain NAME")
    return 0
