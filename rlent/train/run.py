"""A run: a trainer with an engine, a task, a folder and a record; how it begins, stops, is saved and goes on."""

from __future__ import annotations

import json
import signal
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

import torch
from transformers.utils import logging as hf_logging

from rlent.data.findings import Findings
from rlent.engine.make import make_engine
from rlent.errors import CheckpointError, EngineError, NonFinite, RlentError, UsageError
from rlent.ranks.world import World, merge
from rlent.recipe.compare import differences, identity
from rlent.recipe.compose import Recipe, build, from_config
from rlent.recipe.knobs import Knobs
from rlent.runs import checkpoint
from rlent.runs import kept as saved
from rlent.runs.folder import RunFolder
from rlent.runs.state import RecipeMark, TrainingState
from rlent.sampling.draw import stop_tokens
from rlent.sampling.group import GroupSampler, SamplerContext
from rlent.system.signals import on_stop
from rlent.system.write import atomic
from rlent.track import Tracker
from rlent.train.alarms import Alarms
from rlent.train.assemble import load_models, load_policy, make_actor, make_objective
from rlent.train.derived import Derived
from rlent.train.law import LiveLaw
from rlent.train.ledger import EntropyLedger
from rlent.train.meter import Meter
from rlent.train.records import Clock, Scalars, Step
from rlent.train.samples import account_lines, samples
from rlent.train.task import Task
from rlent.train.trainer import Controllers, Trainer
from rlent.types import Batch, Json, Problem, Verdict

hf_logging.disable_progress_bar()


class Run:
    """A training run. Made by `start` or `resume`; `close` it, or use it as a context manager.

    `done` steps of `total` are trained. `stopped` says why the run stops before its last step and can be resumed; `early` why it ends there,
    by its recipe. `current` is the step that is going on.
    """

    def __init__(self, recipe: Recipe, folder: RunFolder, world: World, *, run_id: str) -> None:
        config = recipe.config
        self.recipe, self.folder, self.world, self.id = recipe, folder, world, run_id
        self.began = time.monotonic()
        self.total, self.done, self.tokens = int(config["trainer"]["steps"]), 0, 0
        self.seed = int(config["seed"])
        self.stopped: str | None = None
        self.early: str | None = None
        self.current: Step | None = None
        if config["scale"]["threads"]:
            torch.set_num_threads(int(config["scale"]["threads"]))
        plan = recipe.plan.fresh()  # this run's own nodes: their options are turned, their functions remember
        self.sampler: GroupSampler = build(config["sampler"])
        for node in plan.nodes["sampler"]:
            node.fn = self.sampler
        self.task = Task(recipe, self.sampler)
        self.policy = load_policy(recipe)
        self.models = load_models(recipe)
        self.task.examine(self.policy, world)
        self.tokenizer = self.policy.tokenizer
        self.stop = stop_tokens(self.tokenizer, getattr(self.policy.model, "generation_config", None))
        self.decode = plan.nodes["decode"]
        self.engine = make_engine(config["engine"], self.policy, self.decode, self.models)
        self.engine.load(self.policy, 0)
        self._resting = ExitStack()
        rows = int(config["track"]["ledger"]["rows"])
        self.tracker = Tracker(
            folder.path,
            run_id=run_id,
            enabled=world.leads,
            **{k: v for k, v in config["track"].items() if k not in ("ledger", "save_batches")},
        )
        self.knobs = Knobs(plan.knobs())
        self.trainer = Trainer(
            plan,
            world,
            make_actor(recipe, plan, self.policy, self.models, world),
            make_objective(recipe, plan, world),
            Controllers(plan.nodes["control"], self.knobs, world),
            Derived(plan, lambda: self.task.grader, lambda: self.tokenizer),
            self.seed,
            sampled_rows=rows,
            say=self.tracker.say,
        )
        self.meter = Meter(world, EntropyLedger() if rows else None, from_sampler=plan.from_sampler)
        self.alarms = Alarms(collapse=float(config["stop"]["collapse"]), explosion=float(config["stop"]["explosion"]))
        self.law = LiveLaw(config)

    # ---- beginnings and ends ------------------------------------------------------------------------------------

    @staticmethod
    def start(recipe: Recipe) -> Run:
        """A new run in a new folder.

        Raises:
            RunExists: the folder is there already.
        """
        world = World.join(recipe["scale"]["device"], recipe["scale"]["timeout"])
        world.agree("recipe", json.dumps(recipe.config, sort_keys=True, default=str))
        run_id = world.broadcast(uuid.uuid4().hex[:8])
        folder = _make_folder(recipe, world)
        try:
            run = Run(recipe, folder, world, run_id=run_id)
        except BaseException:
            if world.leads:
                _discard(folder)
            raise
        if world.leads:
            about = {
                "id": run_id,
                "name": recipe.name,
                "overrides": recipe.overrides,
                "config_dirs": recipe.config_dirs,
                "data": run.task.about(),
            }
            folder.describe(config=recipe.config, differences=differences(recipe.config), plan=recipe.plan.lines(), about=about)
            if run.findings is not None:
                folder.write("data.json", json.dumps(run.findings.to_dict(), indent=1))
            folder.status("running", 0)
        run.tracker.start(config=recipe.config, tags=[recipe.name, *recipe["run"]["tags"]], resume_step=None)
        return run

    @staticmethod
    def resume(path: str | Path, overrides: Mapping[str, Json] | None = None) -> Run:
        """Continue a run from its last whole checkpoint; what was logged after it is cut back and done again.

        Raises:
            CheckpointError: the checkpoint belongs to other data or another model.
        """
        folder = RunFolder(Path(path))
        if not (folder.path / "recipe.yaml").is_file():
            RunFolder.open(path)  # says what is wrong
        config, about = folder.config, folder.about
        for key, value in (overrides or {}).items():
            block, _, option = key.partition(".")
            config[block][option] = value
        recipe = from_config(config, name=about["name"], config_dirs=about.get("config_dirs", []))
        world = World.join(config["scale"]["device"], config["scale"]["timeout"])
        if world.leads:
            folder.lock()
        run = Run(recipe, folder, world, run_id=about["id"])
        if run.task.about() != about["data"]:
            raise CheckpointError(f"the training data of '{path}' has changed since the run began; its cursor would mean other problems")
        kept = checkpoint.steps(folder.path / "checkpoints")
        if kept:
            run._restore(kept[-1])
        if world.leads and overrides:
            folder.describe(
                config=config,
                differences=differences(config),
                plan=recipe.plan.lines(),
                about={k: v for k, v in about.items() if k not in ("command", "resume", "versions")},
            )
        run.tracker.start(config=config, tags=[recipe.name, *recipe["run"]["tags"]], resume_step=run.done)
        folder.status("running", run.done)
        return run

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        state = "finished" if self.done >= self.total or self.early else "stopped"
        if error is not None and not isinstance(error, KeyboardInterrupt):
            state = "failed"
        self.close(state, str(error) if error else self.early or self.stopped or "")

    def close(self, state: str, reason: str = "") -> None:
        """End the run: the model is exported when it finished, trackers are closed, the folder is released."""
        try:
            if state == "finished":
                self._export()
            if self.world.leads:
                self.folder.status(state, self.done, reason)
                self.tracker.summary(self.law.coefficients())
            self.tracker.finish(state)
        finally:
            self.task.close()
            self.folder.release()

    def _export(self) -> None:
        """The model as transformers and vLLM load it; that of a shorter run in the same folder is replaced."""
        weights = None
        if self.policy.root is not None:  # all ranks gather, one tensor at a time; rank 0 keeps them
            gathered = ((name, value.cpu() if self.world.leads else None) for name, value in self.policy.named_weights())
            weights = {name: value for name, value in gathered if value is not None}
        if not self.world.leads:
            return
        with atomic(self.folder.path / "model") as fresh:
            self.policy.export(fresh, weights)

    @property
    def step(self) -> int:
        """The number of the step that is going on, or of the last one."""
        return self.current.number if self.current is not None else self.done

    @property
    def findings(self) -> Findings | None:
        """What was found in the data; None for data that cannot be examined."""
        return self.task.findings

    # ---- the loop's words -----------------------------------------------------------------------------------------

    def steps(self) -> Iterator[Step]:
        """The steps still to do. A first Ctrl-C (or SIGTERM, or the time limit) ends the run after the current step."""
        with _stopping(self):
            while self.done < self.total:
                self._check_time()
                self.stopped = self.world.first(self.stopped)
                if self.stopped or self.early:
                    self._save(Clock())
                    return
                self.current = Step(self._scalars(self.done + 1))
                yield self.current

    def _scalars(self, step: int) -> Scalars:
        sampler = self.recipe["sampler"]
        vocab = int(self.policy.model.config.get_text_config().vocab_size)
        return Scalars(step, self.total, self.seed, vocab, int(sampler["max_tokens"]), float(sampler["temperature"]))

    def _check_time(self) -> None:
        limit = self.recipe["trainer"]["max_time"]
        if limit is not None and (time.monotonic() - self.began) / 60 >= limit and not self.stopped:
            self.stopped = f"trainer.max_time of {limit:g} minutes reached"

    def sample(self, step: Step) -> Batch:
        """Draw, generate, grade, keep.

        Raises:
            EngineError: the engine has other weights than the policy.
        """
        if self.engine.version != self.done:
            raise EngineError(
                f"step {step.number}: the engine holds the weights of step {self.engine.version}, and the policy is at step {self.done}; its `load` "
                "was not called or did not take them, and what it samples would be another model's"
            )
        every = int(self.recipe["track"]["save_batches"])
        if every > 0 and step.number % every == 0:
            step.kept = saved.Kept(self.trainer.memory(), self.knobs.turned)

        def grade(responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
            with step.clock.lap("grade"):  # the seconds that the run waits; some may be graded already
                return self.task.grade(responses, problems)

        with step.clock.lap("sample"):
            batch = self.sampler(self.engine, self.task.feed, grade, self._lent(step))
            self._resting.enter_context(self.engine.idle())  # until `publish`
        step.clock.seconds["sample"] -= step.clock.seconds.get("grade", 0.0)
        step.batch = batch = self.trainer.derive(step, batch)
        return batch

    def _lent(self, step: Step) -> SamplerContext:
        """What the sampler may use of the run."""
        return SamplerContext(
            tokenizer=self.tokenizer,
            template=self.task.template,
            stop=self.stop,
            seed=self.seed,
            step=step.number,
            world=self.world,
            rows_are=step.scalars.streams(),
            decode=self.decode,
            models=self.models,
            reward=lambda batch: self.trainer.reward(step, batch),
            note=step.note,
            ended=self.task.ended,
        )

    def publish(self, step: Step) -> None:
        """The engine samples from the new weights from now on."""
        with step.clock.lap("publish"):
            self._resting.close()
            self.engine.load(self.policy, step.number)

    def measure(self, step: Step, batch: Batch) -> dict[str, float]:
        """The step's metrics, the same on every rank."""
        with step.clock.lap("measure"):
            found = self.meter.reduce(step, batch, self.trainer.after(step, batch))
        if found is not None:
            found.update({f"knob/{k}": v for k, v in self.knobs.turned.items()})
            self.tokens += int(found["tokens/step"])
            found["tokens/total"] = float(self.tokens)
            nodes = self.trainer.plan.nodes
            acting = (*nodes["shape"], *nodes["regularize"])
            for alarm in self.alarms.look(step.number, found, {f"effect/{node.name}": node.path for node in acting}):
                self.tracker.alarm(alarm.name, alarm.text)
                if alarm.name in self.recipe["stop"]["on"]:
                    self.early = f"stop.on={alarm.name}: {alarm.text}"
            found.update(self.alarms.states())
        found, self.early = self.world.broadcast((found, self.early))
        return dict(found)

    def every(self, step: Step, metrics: dict[str, float], scored: Batch, batch: Batch) -> None:
        """pass@k when due; metrics.jsonl, W&B and the console; a checkpoint when due."""
        number, config = step.number, self.recipe.config
        due = config["eval"]["every"]
        last = number == self.total or self.early is not None
        if due and (number % due == 0 or last):
            with step.clock.lap("eval"):
                found = self.task.evaluate(self.engine, self.tokenizer, self.sampler, self.stop, self.decode, self.world)
                metrics = {**metrics, **found}
        metrics = {**metrics, **self.law.see(metrics)}
        self._keep(step, batch)
        seconds, step.clock.seconds = step.clock.seconds, {}
        rows = samples(scored, batch, int(config["track"]["samples"]), self.world) if self.tracker.samples_due(number) else []
        if self.world.leads:
            account = account_lines(step.account, self.trainer.derived.pieces)
            self.tracker.step(number, metrics, seconds=seconds, total=self.total, samples=rows, budget=account)
        self.done = number
        saving = config["checkpoint"]["every"]
        if last or (saving and number % saving == 0):
            self._save(step.clock)

    # ---- state ----------------------------------------------------------------------------------------------------

    def _keep(self, step: Step, batch: Batch) -> None:
        """Save the step's batch, all ranks' rows, with what its updates saw and did."""
        if step.kept is None:
            return
        with step.clock.lap("keep"):
            actor = self.trainer.actor
            records = [[part.tokens for part in parts] for parts in step.records]
            shares = self.world.gather(step.kept.finish(batch, records, actor.measure(batch), actor.epochs))
            if shares is not None:
                whole = merge(shares) if len(shares) > 1 else shares[0]
                saved.save(whole, self.folder.path / "batches" / saved.file_name(step.number))

    def state(self) -> TrainingState:
        """What the run must remember beside tensors."""
        ledger = self.meter.ledger
        return TrainingState(
            recipe=RecipeMark(self.recipe.name, identity(self.recipe.config)),
            step=self.done,
            cursor=self.task.feed.cursor,
            knobs=self.knobs.state_dict(),
            functions=self.trainer.memory(),
            ledger=ledger.state_dict() if ledger else None,
            alarms=self.alarms.state_dict(),
            law=self.law.state_dict(),
            tokens=self.tokens,
            policy=self.policy.state_dict()[1],
            torch=torch.__version__,
        )

    def _save(self, clock: Clock) -> None:
        place = self.folder.path / "checkpoints"
        if self.done in checkpoint.steps(place):
            return
        with clock.lap("checkpoint"):
            tensors, _ = self.policy.state_dict()
            checkpoint.save(place, self.done, tensors, self.state(), self.world, int(self.recipe["checkpoint"]["keep"]))

    def _restore(self, step: int) -> None:
        """Take up a checkpoint.

        Raises:
            CheckpointError: it is of another recipe or model, or cannot be read.
        """
        folder = self.folder.path / "checkpoints"
        state = checkpoint.read_state(folder, step)
        _same_recipe(state.recipe, self.recipe, folder / checkpoint.name(step))
        tensors, _ = self.policy.state_dict()
        checkpoint.read_tensors(folder, step, tensors, self.world)
        self.policy.load_state_dict(tensors, state.policy)
        self.task.feed.cursor = state.cursor
        self.knobs.load_state_dict(state.knobs)
        self.trainer.remember(state.functions)
        if self.meter.ledger and state.ledger:
            self.meter.ledger.load_state_dict(state.ledger)
        self.alarms.load_state_dict(state.alarms)
        self.law.load_state_dict(state.law)
        self.tokens, self.done = state.tokens, step
        self.engine.load(self.policy, step)

    def keep_failed(self, error: NonFinite) -> Path | None:
        """Save the batch of the step that failed."""
        if self.current is None or self.current.batch is None:
            return None
        path = self.folder.path / "batches" / f"failed_step_{self.current.number:06d}_rank{self.world.rank}.safetensors"
        return saved.save(self.current.batch, path)


def _same_recipe(mark: RecipeMark | None, recipe: Recipe, place: Path) -> None:
    """Refuse the checkpoint of another recipe; those without a mark are from before there was one.

    Raises:
        CheckpointError: with the lines in which they differ.
    """
    if mark is None or (ours := identity(recipe.config)) == mark.differences:
        return
    only = [f"the checkpoint has {line}" for line in mark.differences if line not in ours]
    only += [f"this run has {line}" for line in ours if line not in mark.differences]
    raise CheckpointError(
        f"{place} is of another recipe ({mark.name}, here {recipe.name}): {'; '.join(only[:6])}"
        f"{f', and {len(only) - 6} more' if len(only) > 6 else ''}. "
        "Resume a run in its own folder; to start from other weights use --from"
    )


def _make_folder(recipe: Recipe, world: World) -> RunFolder:
    """The run's folder, made by rank 0; every rank fails where it cannot be made."""
    folder = None
    failure: str | None = None
    if world.leads:
        try:
            folder = RunFolder.make(recipe["run"]["dir"], recipe.name)
        except RlentError as error:
            failure, cause = str(error), error
    failure = world.broadcast(failure)
    if failure:
        raise cause if world.leads else UsageError(failure)
    path = world.broadcast(str(folder.path) if folder else None)
    return folder or RunFolder(Path(path))


def _discard(folder: RunFolder) -> None:
    """Remove a folder in which nothing was started."""
    folder.release()
    for file in folder.path.iterdir():
        file.unlink()
    folder.path.rmdir()


@contextmanager
def _stopping(run: Run) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks for a stop after the current step; the second one interrupts."""

    def ask(received: signal.Signals) -> None:
        if run.stopped:
            raise KeyboardInterrupt
        run.stopped = f"stopped by {received.name}"
        run.tracker.say(f"stopping after step {run.step}; once more stops at once")

    with on_stop(ask):
        yield
