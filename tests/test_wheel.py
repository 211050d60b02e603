"""The wheel in an environment of its own: what it holds, that it trains from another folder, and that its types are seen."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow

USE = """
import torch

import rlent

ones = torch.ones(2)
reveal_type(rlent.masked_mean(ones, ones))
reveal_type(rlent.grade("a", "b").correct)
reveal_type(rlent.method("clipcov"))
rlent.method(3)
"""


@dataclass
class Installed:
    """A wheel and a virtual environment that has it; what it depends on is borrowed from the tests' own environment."""

    wheel: Path
    folder: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        environment["OMP_NUM_THREADS"] = "1"
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    @property
    def python(self) -> str:
        return str(self.folder / "env" / "bin" / "python")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    pytest.importorskip("hatchling", reason="needs hatchling, which the extra dev installs")
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True, text=True)
    (wheel,) = folder.glob("rlent-*.whl")
    found = Installed(wheel, folder)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "env")], check=True)
    own = Path(found.run(found.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib"))  # a folder that a .pth names does not read its own: no editable rlent
    install = [sys.executable, "-m", "pip", "--python", found.python, "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return found


def test_a_wheel_holds_the_recipes_the_tiny_model_and_the_mark_of_its_types(installed: Installed) -> None:
    names = set(zipfile.ZipFile(installed.wheel).namelist())
    shipped = {f"rlent/_recipes/{f.relative_to(ROOT / 'recipes').as_posix()}" for f in (ROOT / "recipes").rglob("*.yaml")}
    assert shipped <= names
    assert {"rlent/_recipes/config.yaml", "rlent/_constraints.txt", "rlent/py.typed"} <= names
    assert {f"rlent/assets/tiny/{f.name}" for f in (ROOT / "rlent" / "assets" / "tiny").iterdir()} <= names
    assert not [n for n in names if n.startswith(("tests/", "scripts/", "recipes/"))]


def test_the_installed_package_trains_from_another_folder(installed: Installed) -> None:
    where = (
        "import rlent; from rlent.system.paths import checkout, recipes_dir; print(recipes_dir(), checkout(), rlent.method('clipcov').own)"
    )
    printed = installed.run(installed.python, "-c", where).stdout.split()
    assert printed[1:] == ["None", "shape.clip_cov"] and Path(printed[0]).is_relative_to(installed.folder / "env")
    quick = ["eval.every=0", "track.mode=disabled", "trainer.steps=2", "sampler.prompts=4", "sampler.n=4"]
    done = installed.run(str(installed.folder / "env" / "bin" / "rlent"), "train", "recipe=clipcov", *quick, "run.dir=out")
    assert done.returncode == 0, done.stderr
    assert len((installed.folder / "out" / "metrics.jsonl").read_text().splitlines()) == 2


def test_a_type_checker_sees_the_types_of_the_installed_package(installed: Installed) -> None:
    pytest.importorskip("mypy", reason="needs mypy, which the extra dev installs")
    (installed.folder / "use.py").write_text(USE)
    done = installed.run(sys.executable, "-m", "mypy", "--python-executable", installed.python, "--cache-dir", "cache", "use.py")
    assert [f'Revealed type is "{kind}"' in done.stdout for kind in ("torch._tensor.Tensor", "bool", "rlent.library.method.Method")] == [
        True
    ] * 3
    assert 'Argument 1 to "method" has incompatible type "int"; expected "str"' in done.stdout
    assert "Found 1 error" in done.stdout, done.stdout
