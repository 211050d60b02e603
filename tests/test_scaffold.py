"""`rlent new`: files that compile, a recipe that composes, a test that fails, and nothing overwritten."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rlent.cli import new as scaffold
from rlent.cli.new import SKETCHES, make
from rlent.errors import UsageError
from rlent.recipe.compose import load
from rlent.seats import SEATS

ROOT = Path(__file__).parent.parent


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty checkout that one stands in."""
    monkeypatch.setattr(scaffold, "checkout", lambda: tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pytest_of(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_there_is_a_sketch_for_every_seat_that_a_function_fills() -> None:
    assert set(SKETCHES) == set(SEATS) - {"sampler"}


@pytest.mark.parametrize("seat", SKETCHES)
def test_the_recipe_composes_as_it_is_written(seat: str, tmp_path: Path) -> None:
    name = f"brand_new_{seat}"
    made = make(name, seat, tmp_path)
    assert all(file.is_file() for file in made.files)
    assert {f.name for f in made.files} == {f"{name}.py", f"{name}.yaml", f"test_{name}.py"}
    for file in tmp_path.rglob("*.py"):
        ast.parse(file.read_text())
    for file in tmp_path.rglob("*.yaml"):
        assert yaml.safe_load(file.read_text())
    recipe = load([f"recipe={name}"], [tmp_path])
    node = recipe.nodes[seat][-1]
    assert node.target.startswith(f"{name}.")
    assert recipe.config["card"]["proof"] == "none"


@pytest.mark.parametrize("seat", SKETCHES)
def test_the_written_files_are_tidy(seat: str, tmp_path: Path) -> None:
    make(f"tidy_{seat}", seat, tmp_path)
    text = (tmp_path / f"tidy_{seat}.py").read_text()
    assert "$" not in "".join(f.read_text() for f in tmp_path.rglob("*.*"))
    assert all(len(line) <= 140 for line in text.splitlines())
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--config", str(ROOT / "pyproject.toml"), str(tmp_path / f"tidy_{seat}.py")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_written_tests_fail_and_say_what_to_do_next(tmp_path: Path) -> None:
    for seat in SKETCHES:
        make(f"fresh_{seat}", seat, tmp_path)
    done = pytest_of(tmp_path)
    assert done.returncode == 1, done.stdout
    assert f"{len(SKETCHES)} failed" in done.stdout
    assert done.stdout.count("AssertionError: write down what ") >= len(SKETCHES)


def test_the_written_test_passes_once_the_case_is_worked_out(tmp_path: Path) -> None:
    # entropies 0.2 and 0.7 about a floor of 0.5: the first token is left out; the third, of entropy 0, is padding and stays 1
    wants = {
        "reward": "[0.5, 0.0]",
        "advantage": "[1.0, -1.0, 0.0, 0.0]",
        "shape": "[[0.0, 1.0, 1.0]]",
        "loss": "[[-1.2, -0.5, 2.0]]",
        "regularize": "[[0.0, 0.25, 0.25]]",
        "control": "0.23",
        "probe": "[0.75, 0.9]",
        "decode": "[1.5, 1.0]",
    }
    for seat in SKETCHES:
        make(f"worked_{seat}", seat, tmp_path)
        file = tmp_path / f"test_worked_{seat}.py"
        file.write_text(file.read_text().replace("want = None", f"want = {wants[seat]}"))
    done = pytest_of(tmp_path)
    assert done.returncode == 0, done.stdout
    assert f"{len(SKETCHES)} passed" in done.stdout


def test_inside_a_checkout_the_files_go_where_methods_live(checkout: Path) -> None:
    made = make("brand_new", "shape")
    assert [str(f) for f in made.files] == [
        "rlent/methods/brand_new.py",
        "recipes/shape/brand_new.yaml",
        "recipes/recipe/brandnew.yaml",
        "tests/methods/test_brand_new.py",
    ]
    assert (
        yaml.safe_load((checkout / "recipes/shape/brand_new.yaml").read_text())["brand_new"]["_target_"]
        == "rlent.methods.brand_new.brand_new"
    )
    assert "from rlent.methods.brand_new import brand_new" in (checkout / "tests/methods/test_brand_new.py").read_text()
    assert len(made.steps) == 3
    assert "recipe=brandnew" in made.steps[2]


def test_nothing_is_overwritten_and_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "test_brand_new.py").write_text("mine")
    with pytest.raises(UsageError, match=r"test_brand_new.py exists already; nothing was written"):
        make("brand_new", "loss", tmp_path)
    assert [f.name for f in tmp_path.rglob("*")] == ["test_brand_new.py"]
    assert (tmp_path / "test_brand_new.py").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "seat", "said"),
    [
        ("Spark", "shape", "lower case"),
        ("2fast", "shape", "lower case"),
        ("a-b", "shape", "lower case"),
        ("../spark", "shape", "lower case"),
        ("class", "shape", "lower case"),
        ("match", "shape", "lower case"),
        ("entropy", "probe", "already names a part of a run"),
        ("adv", "advantage", "already names a part of a run"),
        ("spark", "sampler", "not a seat that a function fills"),
        ("spark", "shap", "did you mean 'shape'"),
        ("erc", "shape", "ships shape=erc and recipe=erc already"),
        ("random", "shape", "installed Python module"),
    ],
)
def test_a_name_that_cannot_work_is_refused(name: str, seat: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said):
        make(name, seat, tmp_path / "my")
    assert not (tmp_path / "my").exists()


def test_outside_a_checkout_a_folder_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="--dir my/"):
        make("spark", "shape")


@pytest.mark.slow
def test_what_is_written_trains_as_it_is(tmp_path: Path) -> None:
    for seat in SKETCHES:
        make(f"train_{seat}", seat, tmp_path)
    base = ["eval.every=0", "track.mode=disabled", "trainer.steps=2", "sampler.prompts=4", "sampler.n=4"]
    together = [
        "reward=[correct,train_reward]",
        "advantage=train_advantage",
        "shape=[train_shape]",
        "regularize=[train_regularize]",
        "control=[train_control]",
        "decode=[train_decode]",
    ]
    for index, picks in enumerate((together, ["recipe=train_loss"], ["recipe=train_probe"])):
        command = [sys.executable, "-m", "rlent", "train", "--config-dir", str(tmp_path), *picks, *base, f"run.dir=out{index}"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{picks}\n{done.stderr}"
        assert len((tmp_path / f"out{index}" / "metrics.jsonl").read_text().splitlines()) == 2
