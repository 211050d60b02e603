"""Following the documents as a reader would: files written, commands run small, and those that need more only checked."""

from __future__ import annotations

import contextlib
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import typer
from documents import ROOT, Block, blocks
from typer.testing import CliRunner

from rlent.cli.app import app

SMALL = [
    "trainer.steps=2",
    "trainer.minibatches=2",
    "sampler.prompts=4",
    "sampler.n=4",
    "sampler.max_tokens=8",
    "checkpoint.every=1",
    "eval.every=0",
    "eval.n=2",
    "eval.ks=[1,2]",
    "eval.problems=4",
    "track.mode=disabled",
    "track.console=off",
    "track.ledger.rows=4",
    "track.save_batches=1",
]
"""What makes a training of the documents one of seconds; added after its own overrides, so that those are still checked."""

EVALUATED = ["eval.every=1", "trainer.steps=6"]
"""Where a command is about the evaluations made while training (`eval.every=`), for `rlent fit`."""

SMALLER = {
    "--at": "1",
    "--by-microbatch": "64",
    "--pass-at-k": "2",
    "--problems": "4",
}
"""Options whose values belong to a long run."""

FEWER = {
    "recipe=grpo,clipcov,klcov": "recipe=klcov",
    "recipe=clipcov,klcov,steer,hapo,forking": "recipe=clipcov",
    "recipe=clipcov,klcov": "recipe=clipcov",
    "seed=0,1,2": "seed=0",
    "trainer.steps=700": "trainer.steps=3",
}
"""Sweeps and ends of long runs, shortened where the documents name them."""


def shrunk(words: Sequence[str]) -> list[str]:
    """A command of the documents, with the same options and small sizes."""
    verb, rest = words[1], list(words[2:])
    for option, value in SMALLER.items():
        if verb != "grade" and option in rest:
            rest[rest.index(option) + 1] = value
    if verb in ("train", "fork", "replay"):
        rest = [FEWER.get(word, word) if verb != "replay" else word for word in rest]
    if verb == "train" and "--resume" not in rest:
        rest += [*SMALL, *(EVALUATED if any(word.startswith("eval.every=") for word in rest) else [])]
    if verb == "fork":
        rest += ["trainer.steps=2"]
    if verb == "eval" and "--regrade" not in rest:
        rest += ["--problems", "4"] if "--problems" not in rest else []
    if verb == "verify" and "--only" not in rest:
        rest += ["--only", "clip_cov"]
    return [verb, *rest]


def run(*words: str) -> tuple[int, str]:
    """`rlent ...` in this process: exit code and output."""
    done = CliRunner().invoke(app, list(words), prog_name="rlent")
    raised = "" if done.exception is None or isinstance(done.exception, SystemExit) else repr(done.exception)
    return done.exit_code, f"{done.output}{raised}"


def option_problems(words: Sequence[str]) -> str:
    """Why a command line is refused before anything runs; nothing if it is taken."""
    group = typer.main.get_command(app)
    try:
        with contextlib.redirect_stderr(StringIO()):
            context = group.make_context("rlent", [words[0]])
            name, verb, _ = group.resolve_command(context, [words[0]])  # type: ignore[attr-defined]
            verb.make_context(name, list(words[1:]), parent=context)
    except Exception as error:  # whatever the parser raises
        return f"{type(error).__name__}: {error}"
    return ""


def script_problems(words: Sequence[str]) -> str:
    """Options of `python scripts/...` that the script does not have."""
    shown = StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        before, sys.argv = sys.argv, [words[1], "--help"]
        try:
            runpy.run_path(str(ROOT / words[1]), run_name="__main__")
        finally:
            sys.argv = before
    return ", ".join(word for word in words if word.startswith("--") and word not in shown.getvalue())


def check(words: list[str]) -> str:
    """Why a command that cannot be run here is wrong; nothing if it is right. Training commands are composed and checked, others parsed."""
    if words[0] == "torchrun":
        words = ["rlent", *words[words.index("rlent") + 1 :]]
    elif words[0] == "sbatch":
        script = next(i for i, word in enumerate(words) if word.endswith(".sbatch"))
        if not (ROOT / words[script]).is_file():
            return f"there is no {words[script]}"
        words = ["rlent", "train", f"run.dir={words[script + 1]}", "scale=multinode", *words[script + 2 :]]
    if words[0] == "make":
        return run_make(words)
    if words[:1] == ["python"]:
        return script_problems(words)
    if words[0] != "rlent":
        return "a command that no test knows"
    if words[1] in ("train", "fork") and "--resume" not in words:
        code, output = run(*words[1:], "--dry-run")
        return "" if code == 0 else output
    return option_problems(words[1:])


def run_make(words: Sequence[str]) -> str:
    """Why make does not know a target; nothing if it has commands for it."""
    done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 and done.stdout.strip() else f"{done.stdout}{done.stderr}"


def perform(block: Block, words: list[str]) -> str:
    """Run a command, or check it where its block needs what is not here; returns what went wrong."""
    if words[0] == "." and words[1:] == [".venv/bin/activate"]:
        return ""
    if block.needs is not None:
        return check(words)
    if words[0] == "make":
        return run_make(words)
    if words[0] != "rlent":
        return "a command that no test runs: mark its block with what it needs"
    short = shrunk(words)
    if short[0] == "train" and "--resume" not in short and "--dry-run" not in short:
        for word in short:
            if word.startswith("run.dir="):
                shutil.rmtree(word.partition("=")[2], ignore_errors=True)
    code, output = run(*short)
    return "" if code == 0 else f"exit {code}: {output[-1500:]}"


def walk(page: Path) -> list[str]:
    """Follow a page from its top: write the files it shows, run its commands, and run its programs. Returns what went wrong."""
    wrong = []
    for block in blocks(page):
        if block.file is not None:
            text = block.text.replace("step_000100", "step_000003")
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(text, encoding="utf-8")
            if block.language == "python" and "/" not in block.file:
                exec(compile(text, block.file, "exec"), {"__name__": "__main__"})
        for words in block.commands:
            if problem := perform(block, words):
                wrong.append(f"{page.name}: {' '.join(words)}\n    {problem}")
    return wrong
