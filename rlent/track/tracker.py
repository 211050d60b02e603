"""What the loop talks to: files, console, W&B and other trackers behind a few calls."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from rlent.errors import RunExists
from rlent.track.console import Console
from rlent.track.console import Mode as ConsoleMode
from rlent.track.others import Other, TensorBoard, Trackio
from rlent.track.record import JsonlRecord
from rlent.track.wandb_run import Mode, Wandb

if TYPE_CHECKING:
    from rlent.types import Config, Json, JsonObject

METRICS, TIMINGS, SAMPLES, BUDGET = "metrics.jsonl", "timings.jsonl", "samples.jsonl", "budget.jsonl"


class Tracker:
    """Keeps a run's numbers: `metrics.jsonl` is the record, the console and W&B are views of it.

    What depends on the clock goes to `timings.jsonl`, so that the record of a resumed run equals that of one never stopped. Sampled responses go
    to `samples.jsonl` on the first step and every `samples_every` steps (0: never), `samples` of them. With `enabled` False (all ranks but
    one) nothing is kept and nothing is printed.
    """

    def __init__(
        self,
        run_dir: str | Path,
        *,
        run_id: str | None = None,
        enabled: bool = True,
        mode: Mode = "auto",
        project: str = "rlent",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        samples_every: int = 25,
        samples: int = 8,
        console: ConsoleMode = "auto",
        tensorboard: bool = False,
        trackio: bool = False,
        stream: TextIO | None = None,
    ) -> None:
        self.run_dir, self.run_id, self.enabled = Path(run_dir), run_id or uuid.uuid4().hex[:8], enabled
        self.tags, self.samples_every, self.samples = list(tags), samples_every, samples
        self.console = Console(console, stream)
        self.wandb = Wandb(mode=mode, project=project, entity=entity, group=group, say=self.say)
        self.others: list[Other] = []
        if enabled:
            self.others += [TensorBoard()] if tensorboard else []
            self.others += [Trackio(project)] if trackio else []
        self.record = JsonlRecord(self.run_dir / METRICS)
        self.timings = JsonlRecord(self.run_dir / TIMINGS, sync="end")
        self.sampled = JsonlRecord(self.run_dir / SAMPLES, sync="end", unique=False)
        self.budget = JsonlRecord(self.run_dir / BUDGET, sync="end")

    def start(self, config: Config, tags: Sequence[str] = (), resume_step: int | None = None, name: str | None = None) -> None:
        """Begin, or go on after `resume_step`: what was written later is cut off, and W&B begins anew with the kept rows.

        Raises:
            RunExists: a new run (`resume_step` None) in a folder that has a record already.
            RlentError: a file cannot be written.
        """
        if not self.enabled:
            return
        rows: list[JsonObject] = []
        samples: list[JsonObject] = []
        if resume_step is None:
            if self.record.path.exists() and self.record.path.stat().st_size:
                raise RunExists(f"{self.record.path} is there already; resume that run, or choose another run.dir")
        else:
            rows = self.record.cut_back(resume_step)
            seconds = {row["step"]: row for row in self.timings.cut_back(resume_step)}
            samples = self.sampled.cut_back(resume_step)
            self.budget.cut_back(resume_step)
            rows = [{**row, **seconds.get(row["step"], {})} for row in rows]
        self.wandb.start(
            self.run_dir, config, self.run_id, name=name or self.run_dir.name, tags=[*tags, *self.tags], replay=rows, samples=samples
        )
        self._view(lambda other: other.start(self.run_dir, config, self.run_id, rows))

    def _view(self, act: Callable[[Other], None]) -> None:
        """Let each of the other trackers take something; one in trouble is given up, never the run."""
        for other in list(self.others):
            try:
                act(other)
            except Exception as error:
                self.others.remove(other)
                self.say(f"{other.name}: given up ({type(error).__name__}: {error}); metrics.jsonl goes on")

    def samples_due(self, step: int) -> bool:
        """Whether sampled responses of this step are kept. The same on every rank."""
        return self.samples > 0 and self.samples_every > 0 and (step == 1 or step % self.samples_every == 0)

    def step(
        self,
        step: int,
        metrics: Mapping[str, float],
        samples: Sequence[JsonObject] | None = None,
        *,
        seconds: Mapping[str, float] | None = None,
        total: int | None = None,
        budget: Mapping[str, Json] | None = None,
    ) -> None:
        """Write a step down everywhere. `seconds` are by stage; `total` is the run's number of steps, for the bar; `budget` is the ledger's account.

        Raises:
            RlentError: a file cannot be written; it is whole up to the step before.
        """
        if not self.enabled:
            return
        timing = _timing(metrics, seconds or {})
        kept = list(samples or [])[: self.samples] if self.samples_due(step) else []
        if kept:
            self.sampled.extend(step, kept)
        if timing:
            self.timings.append(step, timing)
        if budget:
            self.budget.append(step, budget)
        self.record.append(step, metrics)
        whole = {**metrics, **timing}
        self.wandb.log(step, whole, kept)
        self._view(lambda other: other.log(step, whole, kept))
        self.console.step(step, whole, total)

    def alarm(self, name: str, text: str) -> None:
        """Say that an alarm begins, on the console and as a W&B alert."""
        if self.enabled:
            self.say(text)
            self.wandb.alert(name, text)
            self._view(lambda other: other.alert(name, text))

    def say(self, message: str) -> None:
        """A message for the person who watches."""
        if self.enabled:
            self.console.say(message)

    def summary(self, values: Mapping[str, Json]) -> None:
        """Values for the trackers' summary of the run."""
        if self.enabled:
            self.wandb.summary(values)
            self._view(lambda other: other.summary(values))

    def finish(self, status: str = "finished") -> None:
        """Close everything. `status` is finished, stopped or failed."""
        if not self.enabled:
            return
        self.console.finish()
        for record in (self.record, self.timings, self.sampled, self.budget):
            record.close()
        self._view(lambda other: other.finish())
        self.wandb.finish(status)


def _timing(metrics: Mapping[str, float], seconds: Mapping[str, float]) -> dict[str, float]:
    if not seconds:
        return {}
    step = sum(seconds.values())
    found = {f"seconds/{stage}": value for stage, value in seconds.items()}
    found["seconds/step"] = step
    tokens = metrics.get("tokens/step")
    if isinstance(tokens, int | float) and step > 0:
        found["tokens/per_second"] = tokens / step
    return found
