"""The command line: quick answers, clear refusals, exit codes."""

from __future__ import annotations

import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import parsed
from typer.testing import CliRunner, Result

from rlent import __version__
from rlent.cli import doctor
from rlent.cli.app import app
from rlent.cli.commands import COMMANDS
from rlent.errors import NonFinite, RecipeError, RlentError, UsageError

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "hydra", "omegaconf", "wandb", "transformers", "numpy", "scipy", "datasets", "matplotlib", "rich")
QUICK = ["eval.every=0", "track.mode=disabled", "trainer.steps=2", "sampler.prompts=4", "sampler.n=4"]


def call(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, list(arguments), prog_name="rlent", env=environment)


def shell(*arguments: str, cwd: Path, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "rlent", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


# ---- quick ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["--help", "--version", "ls", "ls --all --json", "ls --seat shape", "train --help", "explain --help", "doctor --help"]
)
def test_nothing_heavy_is_imported_for_a_quick_answer(line: str) -> None:
    code = (
        "import sys\n"
        "from rlent.cli.app import app\n"
        "try:\n    app(sys.argv[1:], prog_name='rlent')\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        f"print('loaded:', *[m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *line.split()], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "loaded:"


def test_the_help_names_every_command_with_a_sentence_that_is_not_cut() -> None:
    text = call("--help").output
    listed = re.findall(r"^  (\w+) +([A-Z].*)$", text.partition("Commands:\n")[2], re.MULTILINE)
    assert [name for name, _ in listed] == list(COMMANDS)
    assert [sentence for _, sentence in listed if sentence.endswith("...")] == []


def examples(command: str) -> list[list[str]]:
    """The lines that a command's help shows as examples, as a shell reads them; of a pipe, the part that is rlent."""
    done = call(*command.split(), "--help")
    assert done.exit_code == 0
    shown = re.findall(r"^ {4,}(.*\brlent .*)$", done.output.partition("Example")[2], re.MULTILINE)
    pipes = [part for line in shown for part in line.split(" | ")]
    return [shlex.split(part)[1:] for part in pipes if part.startswith("rlent ")]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_every_example_of_a_help_parses_and_its_overrides_compose(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from rlent.recipe import compose
    from rlent.studies import sweep

    monkeypatch.chdir(ROOT)
    found = examples(command)
    assert any(command in ("", line[0]) for line in found), f"rlent {command} --help shows no example"
    for line in found:
        if line[-1] == "--help":
            assert call(*line).exit_code == 0, line
            continue
        name, given = parsed(*line)
        overrides = given.get("overrides") or []
        if name not in ("train", "check", "show") or given.get("config_dirs") or given.get("resume"):
            continue
        recipe = [f"recipe={given['name']}"] if name == "show" else []
        for job in sweep.jobs(overrides) if given.get("multirun") else [overrides]:
            assert compose.load([*recipe, *job]).plan.lines(), line


def test_show_prints_what_every_seat_does_the_sampler_too() -> None:
    text = call("show", "srft").output
    assert "`n` responses to each prompt and, in the same group, up to `most` of the demonstrations" in text
    assert "-A log pi on the policy's own responses" in text and "type(object)" not in text


def test_show_leads_from_a_recipes_name_to_its_functions_and_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    shown = json.loads(call("show", "clipcov", "--json").output)
    places = {p["path"]: p for p in shown["functions"]}
    assert shown["file"] == "recipes/recipe/clipcov.yaml"
    assert {k: places["shape.clip_cov"][k] for k in ("function", "module", "options")} == {
        "function": "rlent.methods.clip_cov.drop_high_covariance",
        "module": "rlent/methods/clip_cov.py",
        "options": "recipes/shape/clip_cov.yaml",
    }
    for place in places.values():
        assert Path(place["module"]).is_file() and Path(place["options"]).is_file(), place
    text = call("show", "clipcov").output
    assert "shape.clip_cov: rlent.methods.clip_cov.drop_high_covariance\n    module file: rlent/methods/clip_cov.py\n" in text
    assert "recipe file: recipes/recipe/clipcov.yaml" in text
    monkeypatch.chdir(tmp_path)
    assert call("new", "sparkle", "--seat", "shape", "--dir", "my").exit_code == 0
    text = call("show", "sparkle", "--config-dir", "my").output
    assert "shape.sparkle: sparkle.sparkle\n    module file: my/sparkle.py\n    option file: my/shape/sparkle.yaml\n" in text


def test_version() -> None:
    assert call("--version").output == f"rlent {__version__}\n"


# ---- refusals ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("trian", "Did you mean 'train'?"),
        ("train --resum x", "--resume"),
        ("ls --seat shap", "did you mean 'shape'"),
        ("ls --config-dir nowhere", "'nowhere' is not a folder"),
        ("train recipe=clipcv", "did you mean 'clipcov'"),
        ("train recipe=clipcov shape.clip_cov.fractoin=0.1", "did you mean 'shape.clip_cov.fraction'"),
        ("train --resume nowhere", "'nowhere' is not a run folder"),
        ("train -m --resume nowhere recipe=grpo", "-m starts new runs"),
        ("check sampler.n=0 trainer.steps=many", "2 problems, nothing was started"),
        ("show clipcv", "did you mean 'clipcov'"),
        ("show", "Missing argument"),
        ("eval", "what is to be evaluated?"),
        ("eval run=nowhere", "not a run folder"),
        ("eval --pass-at-k 0 model=tiny", "--pass-at-k"),
        ("eval --pass-at-k 8 --n 4 model=tiny", "needs at least as many samples"),
        ("verify --only no_such_method", "no vectors of no_such_method"),
        ("verify --vectors nowhere", "'nowhere' is not a folder"),
        ("explain entropy/men", "did you mean 'entropy/mean'"),
        ("new spark --seat shap --dir my", "did you mean 'shape'"),
        ("upload nowhere", "'nowhere' is not a folder"),
    ],
)
def test_a_wrong_call_says_what_is_accepted_and_exits_with_2(line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*shlex.split(line))
    assert done.exit_code == 2, done.output
    assert said in done.stderr, done.stderr
    assert "Traceback" not in done.output
    assert list(tmp_path.iterdir()) == []  # nothing was started


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RecipeError(["loss.low: 2 is outside [0, 1]"]), 2, "error:   loss.low: 2 is outside [0, 1]\n1 problem, nothing was started."),
        (UsageError("a reason"), 2, "error: a reason"),
        (RlentError("a reason"), 1, "error: a reason"),
        (NonFinite("step 3: loss is nan"), 1, "error: step 3: loss is nan"),
        (OSError(28, "No space left on device", "metrics.jsonl"), 1, "No space left on device: 'metrics.jsonl'"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_a_sentence_with_the_exit_code_of_its_class(
    error: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> int:
        raise error

    monkeypatch.setattr("rlent.recipe.compose.load", fail)
    done = call("check")
    assert done.exit_code == code
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_traceback_is_shown_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> int:
        raise UsageError("a reason")

    monkeypatch.setattr("rlent.recipe.compose.load", fail)
    assert "Traceback" not in call("check").stderr
    for asked in (call("--traceback", "check"), call("check", "--traceback"), call("check", RLENT_TRACEBACK="1")):
        assert asked.exit_code == 2
        assert "Traceback" in asked.stderr
        assert "error: a reason" in asked.stderr


def test_a_defect_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> int:
        raise TypeError("a defect")

    monkeypatch.setattr("rlent.recipe.compose.load", fail)
    done = call("check")
    assert done.exit_code == 1
    assert isinstance(done.exception, TypeError)


# ---- what the commands take ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "train recipe=grpo,klcov ~shape +shape=erc -m --config-dir a --config-dir b",
            {"overrides": ["recipe=grpo,klcov", "~shape", "+shape=erc"], "multirun": True, "config_dirs": ["a", "b"]},
        ),
        ("train --resume out", {"resume": "out"}),
        ("train --from out --dry-run seed=1", {"overrides": ["seed=1"], "start_from": "out", "dry_run": True}),
        (
            "eval --pass-at-k 64 run=out --n 128 --problems 9 --seed 3 --out x --json --temperature 0.6 data=file",
            {
                "arguments": ["run=out", "data=file"],
                "pass_at_k": 64,
                "n": 128,
                "temperature": 0.6,
                "problems": 9,
                "seed": 3,
                "out": "x",
                "as_json": True,
            },
        ),
        ("show klcov sampler.n=4 --json", {"name": "klcov", "overrides": ["sampler.n=4"], "as_json": True}),
        ("check recipe=grpo --config-dir a", {"overrides": ["recipe=grpo"], "config_dirs": ["a"]}),
        ("verify --only erc,qae --vectors v", {"only": "erc,qae", "vectors": "v"}),
        ("fork out --at 3 --by-microbatch 64,128 seed=1", {"run": "out", "at": 3, "by_microbatch": "64,128", "overrides": ["seed=1"]}),
        ("fork out --at 3 --by-part 64", {"run": "out", "at": 3, "by_microbatch": "64"}),
        ("inspect out --methods klcov,erc --rows 4", {"run": "out", "methods": "klcov,erc", "rows": 4}),
    ],
)
def test_a_command_gets_what_was_typed_and_its_own_defaults_for_the_rest(line: str, expected: dict[str, Any]) -> None:
    name, given = parsed(*shlex.split(line))
    defaults = {k: p.default for k, p in inspect.signature(COMMANDS[name]).parameters.items()}
    assert given == {**defaults, **expected}


@pytest.mark.parametrize(("returned", "code"), [(0, 0), (7, 7), (130, 130)])
def test_the_exit_code_is_what_the_command_returns(returned: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def main(vectors: Path | None, only: list[str], config_dirs: list[str], *, as_json: bool) -> int:
        seen.append((vectors, only, config_dirs, as_json))
        return returned

    monkeypatch.setattr("rlent.verify.command.main", main)
    assert call("verify", "--only", "erc, qae", "--vectors", "v").exit_code == code
    assert seen == [(Path("v"), ["erc", "qae"], [], False)]


def test_upload_sends_the_run_and_says_where_it_went(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlent.track.upload", lambda run: f"sent {run}")
    assert call("upload", "run=out/mine").output == "sent out/mine\n"


def test_explain_defines_one_metric_and_lists_all_by_group() -> None:
    one = call("explain", "entropy/seq_mean").output
    assert "mean over the tokens of each response" in one
    assert "reading:" in one
    everything = call("explain").output
    assert everything.index("\nentropy\n") < everything.index("\ncov\n")
    assert "entropy/seq_mean [nats]" in everything
    heads = re.findall(r"^\w+$", everything, re.MULTILINE)
    assert {"entropy", "cov", "sampler"} <= set(heads) and len(heads) == len(set(heads))
    assert json.loads(call("explain", "cov/top_0.02", "--json").output)["name"] == "cov/top_0.02"
    names = [m["name"] for m in json.loads(call("explain", "--json").output)]
    assert "entropy/mean" in names
    assert all(name in everything for name in names)


# ---- doctor -------------------------------------------------------------------------------------------------------------------


def test_doctor_says_what_was_found_and_what_it_means() -> None:
    done = call("doctor", "--json")
    found = {f["what"]: f for f in json.loads(done.stdout)}
    assert {"Python", "packages", "torch", "GPU", "transformers", "engine", "W&B", "disk", "memory"} <= set(found)
    assert all(f["found"] and f["means"] for f in found.values())
    assert "engine=auto takes" in found["engine"]["means"]
    assert done.exit_code == int(any(f["health"] == "broken" for f in found.values()))


def test_doctor_fails_only_for_what_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    fine, note = doctor.Finding("a", "b", "c"), doctor.Finding("GPU", "none", "slow", "note")
    monkeypatch.setattr(doctor, "EXAMINATIONS", (lambda: fine, lambda: note))
    assert call("doctor").exit_code == 0
    monkeypatch.setattr(doctor, "EXAMINATIONS", (lambda: fine, lambda: doctor.Finding("torch", "absent", "install it", "broken")))
    done = call("doctor")
    assert done.exit_code == 1
    assert "broken: torch" in done.output


def test_doctor_names_packages_that_are_missing_or_not_as_tested(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["torch>=2.11", "no-such-package>=1", "only-elsewhere; extra == 'dev'"])
    found = doctor.packages()
    assert (found.health, found.found) == ("broken", "no-such-package is missing")
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["typer>=999"])
    assert "needs >=999" in doctor.packages().found
    monkeypatch.setattr(doctor.metadata, "requires", lambda name: ["typer>=0.1"])
    pins = tmp_path / "constraints.txt"
    pins.write_text("# a set\ntyper==0.0.1\nnot-installed-here==1\n")
    monkeypatch.setattr(doctor, "constraints_file", lambda: pins)
    found = doctor.packages()
    assert found.health == "note"
    assert found.found.startswith("1 differ: typer ")


def test_doctor_says_when_runs_have_no_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 10 * 2**20}))
    assert doctor.disk().health == "broken"
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 36 * 10**9}))
    assert "up to 1.0 billion parameters" in doctor.disk().means


# ---- packaging ----------------------------------------------------------------------------------------------------------------


def test_make_lists_its_targets() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = re.findall(r"^  make (\S+) +\S", done.stdout, re.MULTILINE)
    assert {"help", "demo", "test", "check", "fmt", "test-gpu", "table", "clean"} <= set(listed)


def test_the_constraints_pin_every_dependency_once_and_within_its_range() -> None:
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    pins = dict(line.split("==") for line in lines)
    assert len(pins) == len(lines)
    for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins[wanted.name.lower()]), text


@pytest.mark.parametrize("command", ["fork", "eval", "grade", "fit", "arena", "replay", "inspect", "budget", "report", "plot"])
def test_out_is_o_for_every_command_that_writes(command: str) -> None:
    assert re.search(r"-o, --out\b", call(command, "--help").output)
