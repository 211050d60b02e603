"""TensorBoard and trackio, through their own libraries, as further views of metrics.jsonl."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlent.errors import UsageError

if TYPE_CHECKING:
    from rlent.types import Config, Json, JsonObject


class Other(Protocol):
    """A view of the record. `replay` are the rows of a run that goes on; any failure after `start` is the tracker's to catch."""

    name: str

    def start(self, run_dir: Path, config: Config, run_id: str, replay: Iterable[JsonObject]) -> None: ...
    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[JsonObject]) -> None: ...
    def alert(self, name: str, text: str) -> None: ...
    def summary(self, values: Mapping[str, Json]) -> None: ...
    def finish(self) -> None: ...


def _needs(module: str, option: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"track.{option}=true needs the package {package}, which is not installed ({error}); pip install {package}"
        ) from None


def _numbers(metrics: Mapping[str, float]) -> dict[str, float]:
    found = {k: float(v) for k, v in metrics.items() if k != "step" and isinstance(v, int | float) and not isinstance(v, bool)}
    return {k: v for k, v in found.items() if math.isfinite(v)}


class TensorBoard:
    """Event files in the run folder's `tensorboard`; `tensorboard --logdir outputs` shows them. A resumed run begins a folder of its own
    inside, into which the kept rows are replayed; the older one is removed, so that steps are not there twice.

    Raises:
        UsageError: the package tensorboard is not installed.
    """

    name = "TensorBoard"

    def __init__(self) -> None:
        _needs("tensorboard", "tensorboard", "tensorboard")
        self.writer: Any = None
        self.step = 0

    def start(self, run_dir: Path, config: Config, run_id: str, replay: Iterable[JsonObject]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = run_dir / "tensorboard"
        for old in folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = SummaryWriter(str(folder))
        self.writer.add_text("recipe", f"```\n{json.dumps(dict(config), indent=1, default=str)}\n```", 0)
        for row in replay:
            self.log(int(row["step"]), row, ())

    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[JsonObject]) -> None:
        self.step = step
        for name, value in _numbers(metrics).items():
            self.writer.add_scalar(name, value, step)
        for i, sample in enumerate(samples):
            self.writer.add_text(f"samples/{i}", json.dumps(dict(sample), ensure_ascii=False, default=str), step)

    def alert(self, name: str, text: str) -> None:
        self.writer.add_text(f"alarm/{name}", text, self.step)

    def summary(self, values: Mapping[str, Json]) -> None:
        for name, value in _numbers(values).items():
            self.writer.add_scalar(f"summary/{name}", value, self.step)

    def finish(self) -> None:
        self.writer.close()


class Trackio:
    """A run of trackio's local project (`trackio show`). A resumed run goes on under the same name: steps since its checkpoint, which are
    done again, are there twice with the same values.

    Raises:
        UsageError: the package trackio is not installed.
    """

    name = "trackio"

    def __init__(self, project: str) -> None:
        self.project, self.module = project, _needs("trackio", "trackio", "trackio")
        self.run: Any = None

    def start(self, run_dir: Path, config: Config, run_id: str, replay: Iterable[JsonObject]) -> None:
        plain = json.loads(json.dumps(dict(config), default=str))
        options = {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
        self.run = self.module.init(project=self.project, name=f"{run_dir.name}-{run_id}", config=plain, resume="allow", **options)

    def log(self, step: int, metrics: Mapping[str, float], samples: Sequence[JsonObject]) -> None:
        self.run.log(_numbers(metrics), step=step)

    def alert(self, name: str, text: str) -> None:
        self.module.alert(title=name, text=text)

    def summary(self, values: Mapping[str, Json]) -> None:
        if numbers := {f"summary/{k}": v for k, v in _numbers(values).items()}:
            self.run.log(numbers)

    def finish(self) -> None:
        self.run.finish()
