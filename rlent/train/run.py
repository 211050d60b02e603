"""A run: everything the loop talks to, put together from a recipe."""

from __future__ import annotations

import json
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging as hf_logging

from rlent.data.findings import Findings
from rlent.data.problems import Problems, draw
from rlent.engine.make import make_engine
from rlent.errors import CheckpointError, DataError, EngineError, NonFinite, RlentError, UsageError
from rlent.eval.evaluate import evaluate
from rlent.eval.report import Report
from rlent.eval.suite import Ask, benches
from rlent.grading.early import EarlyGrader
from rlent.math.passk import answer_classes
from rlent.policy.parts import run_halving
from rlent.policy.policy import Policy
from rlent.policy.shard import Sharding
from rlent.ranks import launch
from rlent.ranks.world import World, merge
from rlent.recipe.compose import Recipe, build, differences, from_config, identity
from rlent.recipe.knobs import Knobs
from rlent.runs import checkpoint
from rlent.runs import kept as frozen
from rlent.runs.folder import RunFolder
from rlent.sampling.draw import stop_tokens
from rlent.sampling.drive import evaluated
from rlent.sampling.group import GroupSampler
from rlent.system.signals import on_stop
from rlent.track import Tracker
from rlent.train import objective
from rlent.train.actor import Actor, Minibatch
from rlent.train.alarms import Alarms
from rlent.train.law import LiveLaw
from rlent.train.ledger import EntropyLedger, sample_rows
from rlent.train.meter import Meter
from rlent.types import Batch, Problem, Verdict

hf_logging.disable_progress_bar()


class Feed:
    """Training problems in their order, with the cursor that a resumed run needs."""

    def __init__(self, problems: Problems, seed: int) -> None:
        self.problems, self.seed, self.cursor = problems, seed, 0

    def draw(self, count: int) -> list[Problem]:
        drawn, self.cursor = draw(self.problems, count, self.seed, self.cursor)
        return drawn


class Clock:
    """Seconds per stage of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def lap(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start

    def clear(self) -> dict[str, float]:
        taken, self.seconds = self.seconds, {}
        return taken


class Run:
    """A training run. Made by `start` or `resume`; `close` it, or use it as a context manager."""

    def __init__(self, recipe: Recipe, folder: RunFolder, world: World, *, run_id: str) -> None:
        config = recipe.config
        self.recipe, self.folder, self.world, self.id = recipe, folder, world, run_id
        self.plan = recipe.plan
        self.clock = Clock()
        self.began = time.monotonic()
        self.total = int(config["trainer"]["steps"])
        self.done = 0
        self.stopped: str | None = None  # why the run stops; it can be resumed
        self.early: str | None = None  # why it ends before its last step, by its recipe
        self.step = 0
        self.seed = int(config["seed"])
        _threads(config["scale"])
        self.source = build(config["data"])
        self.sampler: GroupSampler = build(config["sampler"])
        problems = self.source.train  # what is wrong with the data is said before weights are loaded
        if hasattr(self.sampler, "check_problems"):
            self.sampler.check_problems(problems)
        updates = int(config["trainer"]["minibatches"]) * int(config["trainer"]["epochs"])
        self.policy = Policy.load(
            **loading(config["model"], config["scale"]), optim=config["optim"], steps=self.total, updates_per_step=updates
        )
        self.models = models = {
            name: Policy.load(**loading({**config["model"], **spec}, config["scale"]))
            for name, spec in (config.get("models") or {}).items()
            if name in self.plan.models
        }
        self.tokenizer = self.policy.tokenizer
        self.stop = stop_tokens(self.tokenizer, getattr(self.policy.model, "generation_config", None))
        self.findings = _examine(self.source, self.policy, world)
        self.grader = self.source.grader
        self.judge = EarlyGrader(self.grader)
        self.benches = []
        if config["eval"]["every"]:  # what is wrong with a set is said before the first step
            self.benches = benches(recipe, Ask(problems=config["eval"]["problems"]), made={repr(config["data"]): self.source})
        self.template = self.source.template
        self.data = Feed(self.source.train, self.seed)
        self.decode = self.plan.nodes["decode"]
        self.engine = make_engine(config["engine"], self.policy, self.decode, models)
        self.engine.load(self.policy, 0)
        self._resting = ExitStack()
        for node in self.plan.nodes["sampler"]:
            node.fn = self.sampler
        self.actor = make_actor(recipe, self.policy, models, world)
        self.objective = make_objective(recipe, world)
        self.knobs = Knobs(self.plan.knobs())
        rows = int(config["track"]["ledger"]["rows"])
        self.ledger = EntropyLedger() if rows else None
        self.ledger_rows = rows
        self.meter = Meter(world, self.ledger, rows, from_sampler=self.plan.from_sampler)
        self.tracker = Tracker(
            folder.path,
            run_id=run_id,
            enabled=world.leads,
            **{k: v for k, v in config["track"].items() if k not in ("ledger", "keep_batches")},
        )
        self.tokens = 0
        self._texts: dict[int, str] = {}
        self.alarms = Alarms(collapse=float(config["stop"]["collapse"]), explosion=float(config["stop"]["explosion"]))
        self.law = LiveLaw(config)
        self.kept: frozen.Kept | None = None

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
        folder = folder or RunFolder(Path(path))
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
                "data": run._data_about(),
            }
            folder.describe(config=recipe.config, differences=differences(recipe.config), plan=recipe.plan.lines(), about=about)
            if run.findings is not None:
                folder.write("data.json", json.dumps(run.findings.to_dict(), indent=1))
            folder.status("running", 0)
        run.tracker.start(config=recipe.config, tags=[recipe.name, *recipe["run"]["tags"]], resume_step=None)
        return run

    @staticmethod
    def resume(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Run:
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
        if run._data_about() != about["data"]:
            raise CheckpointError(f"the training data of '{path}' has changed since the run began; its cursor would mean other problems")
        saved = checkpoint.steps(folder.path / "checkpoints")
        if saved:
            run._restore(saved[-1])
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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
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
            for grader in {id(g): g for g in (self.grader, *(b.grader for b in self.benches))}.values():
                if hasattr(grader, "close"):
                    grader.close()
            self.folder.release()

    def _export(self) -> None:
        """The model as transformers and vLLM load it; that of a shorter run in the same folder is replaced."""
        weights = None
        if self.policy.root is not None:  # all ranks gather, one tensor at a time; rank 0 keeps them
            gathered = ((name, value.cpu() if self.world.leads else None) for name, value in self.policy.named_weights())
            weights = {name: value for name, value in gathered if value is not None}
        if not self.world.leads:
            return
        final, fresh = self.folder.path / "model", self.folder.path / ".model.new"
        shutil.rmtree(fresh, ignore_errors=True)
        self.policy.export(fresh, weights)
        shutil.rmtree(final, ignore_errors=True)
        fresh.rename(final)

    def _data_about(self) -> dict[str, Any]:
        return {"name": self.source.train.name, "problems": len(self.source.train), "fingerprint": self.source.train.fingerprint()}

    # ---- the loop's words -----------------------------------------------------------------------------------------

    def steps(self) -> Iterator[int]:
        """The steps still to do. A first Ctrl-C (or SIGTERM, or the time limit) ends the run after the current step."""
        with _stopping(self):
            while self.done < self.total:
                self._check_time()
                self.stopped = self.world.first(self.stopped)
                if self.stopped or self.early:
                    self._save()
                    return
                self.step = self.done + 1
                self.meter.clear()
                yield self.step

    def _check_time(self) -> None:
        limit = self.recipe["trainer"]["max_time"]
        if limit is not None and (time.monotonic() - self.began) / 60 >= limit and not self.stopped:
            self.stopped = f"trainer.max_time of {limit:g} minutes reached"

    @property
    def rows_are(self) -> dict[str, Any]:
        """Plain numbers every batch of this step carries."""
        return {
            "step": self.step,
            "steps": self.total,
            "seed": self.seed,
            "vocab": int(self.policy.model.config.get_text_config().vocab_size),
            "max_tokens": int(self.recipe["sampler"]["max_tokens"]),
            "temperature": float(self.recipe["sampler"]["temperature"]),
        }

    def grade(self, responses: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        """Verdicts, in order. What `ended` was told of may be graded already; the seconds are those the run waits."""
        with self.clock.lap("grade"):
            return self.judge(responses, problems)

    @property
    def ended(self) -> Callable[[str, Problem], None] | None:
        """Takes responses as they end, while others are sampled, so that they are graded meanwhile; None where that gains nothing."""
        return self.judge.tell

    def note(self, name: str, value: float) -> None:
        """A number for this step's metrics."""
        self.meter.numbers[name] = float(value)

    def sample(self, step: int) -> Batch:
        """Draw, generate, grade, keep.

        Raises:
            EngineError: the engine has other weights than the policy.
        """
        if self.engine.version != self.done:
            raise EngineError(
                f"step {step}: the engine holds the weights of step {self.engine.version}, and the policy is at step {self.done}; its `load` was not "
                "called or did not take them, and what it samples would be another model's"
            )
        self.kept = frozen.Kept(self._memory(), self.knobs.turned) if self._keeps(step) else None
        with self.clock.lap("sample"):
            batch = self.sampler(self.engine, self.data, self.grade, self)
            self._resting.enter_context(self.engine.idle())  # until `publish`
        self.clock.seconds["sample"] -= self.clock.seconds.get("grade", 0.0)
        self._current = batch = self.derive(batch)
        return batch

    def derive(self, batch: Batch) -> Batch:
        """The streams that are made from a sample only if some function reads them (a kept batch always has its `pieces`), once."""
        read = {s for members in self.plan.nodes.values() for n in members for s in n.reads} - set(batch)
        if read & {"answer_id", "same"}:
            batch["answer_id"] = answer_ids(batch, getattr(self.grader, "equal", None))
        if "same" in read:
            batch["same"] = equalities(batch, getattr(self.grader, "equal", None))
        if "pieces" in read or (self.kept is not None and "pieces" not in batch):
            batch["pieces"] = [self._pieces(t[:n]) for t, n in zip(batch["tokens"].tolist(), batch["length"].tolist(), strict=True)]
        return batch

    def _pieces(self, tokens: Sequence[int]) -> list[str]:
        """The text of each token by itself."""
        for token in tokens:
            if token not in self._texts:
                self._texts[token] = self.tokenizer.decode([token], skip_special_tokens=False)
        return [self._texts[token] for token in tokens]

    def look_back(self, batch: Batch) -> Batch:
        with self.clock.lap("look_back"):
            batch = self.actor.look_back(self.actor.balance(batch))
            self._begin_ledger(batch)
        if self.kept is not None:
            with self.clock.lap("keep"):
                self.kept.before = self.actor.measure(batch)
        return batch

    def reward(self, batch: Batch) -> Any:
        """`reward` and `token_reward`; the sampler, for its filter or its buffer, asks before the streams of `derive` are there."""
        return objective.add_reward(self.derive(batch.with_()), self.plan.nodes["reward"], self.world)

    def advantage(self, batch: Batch) -> Batch:
        return objective.add_advantage(batch, self.plan.advantage, self.world)

    def turn(self, streams: Batch | Mapping[str, Any], at: str) -> None:
        """Let the controllers of a moment read their streams (or the metrics, at the end) and turn their knobs."""
        for node in self.plan.nodes["control"]:
            if moment(node.reads, node.when) != at:
                continue
            if isinstance(streams, Batch):
                found = objective.whole(node, streams, self.world)
                self.knobs.apply(node, found.get("value", found))
            else:
                self.knobs.apply(node, node({**self.rows_are, **streams}))
        if self.kept is not None:
            self.kept.turned(self.knobs.turned)

    def shape(self, batch: Batch, at: str) -> Batch:
        with self.clock.lap("shape"):
            self._current = batch = self.objective.shape(batch, at)
        return batch

    def split(self, batch: Batch) -> Iterator[Minibatch]:
        return self.actor.split(batch)

    def now(self, minibatch: Minibatch) -> Minibatch:
        if self.kept is not None:
            with self.clock.lap("keep"):
                self.kept.see(minibatch.batch, minibatch.parts, self.actor.watch(minibatch), self.world.rank)
        with self.clock.lap("now"):
            return self.actor.now(minibatch)

    def prepare(self, minibatch: Minibatch) -> tuple[Minibatch, objective.Scale]:
        with self.clock.lap("shape"):
            shaped = self.objective.shape(minibatch.batch, "minibatch", minibatch.index)
            shaped, scale = self.objective.prepare(shaped, minibatch.index)
            self.meter.begin(scale)
        return Minibatch(shaped, minibatch.index, minibatch.parts), scale

    def parts(self, minibatch: Minibatch) -> Iterator[Batch]:
        with self.clock.lap("update"):
            for positions in minibatch.parts:
                yield minibatch.batch.select(positions)

    def accumulate(self, part: Batch, scale: objective.Scale, index: int) -> None:
        """Forward, objective and backward of a part; where memory runs out, of its halves."""

        def once(rows: Batch) -> objective.Out:
            live = self.actor(rows)
            rows = self.actor.on_policy(rows, live) if index == 0 else rows
            out = self.objective(rows, live, scale, index)
            out.loss.backward()
            return out

        if self.policy.root is None:
            for out in run_halving(once, part, self._halved, self.policy.model.parameters()):
                self.meter.add(out)
        elif len(part):
            self.meter.add(once(part))
        else:  # the other ranks have rows: go through the model with them
            sum(value.sum() for value in self.actor(part).values()).backward()

    def _halved(self, rows: int) -> None:
        """A part of `rows` rows did not fit: say so the first time, count it, and cut smaller from the next step on."""
        if not self.actor.halved:
            self.tracker.say(f"step {self.step}: a part of {rows} rows did not fit in memory and was halved; lower trainer.tokens_per_part")
        self.actor.halved += 1
        self.note("update/halved", self.actor.halved)

    def publish(self, step: int) -> None:
        """The engine samples from the new weights from now on."""
        with self.clock.lap("publish"):
            self._resting.close()
            self.engine.load(self.policy, step)

    # ---- numbers --------------------------------------------------------------------------------------------------

    def _begin_ledger(self, batch: Batch) -> None:
        if self.ledger is None:
            return
        drawn = [r for r, source in zip(batch.row.tolist(), batch["source"], strict=True) if source != "demo"]
        everyone = sorted(r for share in self.world.all_gather(drawn) for r in share)
        total = len(everyone)
        chosen = {everyone[i] for i in sample_rows(total, min(self.ledger_rows, total), self.seed, self.step)}
        mine = [i for i, r in enumerate(batch.row.tolist()) if r in chosen]
        sample = batch.select(mine)
        self.meter.start_ledger(sample, self.actor.measure(sample))

    def measure(self, batch: Batch) -> dict[str, float]:
        """The step's metrics, the same on every rank."""
        with self.clock.lap("measure"):
            sample = self.meter.sample
            after = self.actor.measure(sample, moment=False) if sample is not None else None
            if sample is not None:
                sample["adv"] = _rows_at(batch["adv"], batch.row, sample)
            found = self.meter.reduce(batch, after)
        if found is not None:
            found.update({f"knob/{k}": v for k, v in self.knobs.turned.items()})
            self.tokens += int(found["tokens/step"])
            found["tokens/total"] = float(self.tokens)
            acting = (*self.plan.nodes["shape"], *self.plan.nodes["regularize"])
            for alarm in self.alarms.look(self.step, found, {f"effect/{node.name}": node.path for node in acting}):
                self.tracker.alarm(alarm.name, alarm.text)
                if alarm.name in self.recipe["stop"]["on"]:
                    self.early = f"stop.on={alarm.name}: {alarm.text}"
            found.update(self.alarms.states())
        found, self.early = self.world.broadcast((found, self.early))
        return dict(found)

    def every(self, step: int, metrics: dict[str, float], scored: Batch) -> None:
        """pass@k when due; metrics.jsonl, W&B and the console; a checkpoint when due."""
        config = self.recipe.config
        due = config["eval"]["every"]
        last = step == self.total or self.early is not None
        if due and (step % due == 0 or last):
            with self.clock.lap("eval"):
                metrics = {**metrics, **self.evaluate()}
        metrics = {**metrics, **self.law.see(metrics)}
        self._keep(step)
        seconds = self.clock.clear()
        samples = self._samples(scored) if self.tracker.samples_due(step) else []
        if self.world.leads:
            self.tracker.step(step, metrics, seconds=seconds, total=self.total, samples=samples, budget=self._account())
        self.done = step
        saving = config["checkpoint"]["every"]
        if last or (saving and step % saving == 0):
            self._save()

    def _account(self) -> dict[str, Any] | None:
        """The ledger's account of the step, to six digits, with the texts of its tokens."""
        found = self.meter.account
        if found is None:
            return None
        texts = {k: self._pieces([int(k)])[0] for k in found["by"]["token"] if k.isdigit()}
        return {**_rounded(found), "texts": texts}

    def _keeps(self, step: int) -> bool:
        every = int(self.recipe["track"]["keep_batches"])
        return every > 0 and step % every == 0

    def _keep(self, step: int) -> None:
        """Save the step's batch, all ranks' rows, with what its updates saw and did."""
        if self.kept is None:
            return
        with self.clock.lap("keep"):
            after = self.actor.measure(self._current)
            shares = self.world.gather(self.kept.finish(self._current, self.meter.records, after, self.actor.epochs))
            if shares is not None:
                frozen.save(merge(shares) if len(shares) > 1 else shares[0], self.folder.path / "batches" / frozen.file_name(step))
        self.kept = None

    def evaluate(self) -> dict[str, float]:
        """pass@k of the current policy on held-out problems, or on each set of `eval.sets`."""
        settings = self.recipe["eval"]
        found = {
            bench.name: evaluate(
                self.engine,
                self.tokenizer,
                bench.problems,
                bench.grader,
                n=bench.n,
                ks=bench.ks,
                decoding=bench.decoding,
                seed=settings["seed"],
                template=bench.template,
                stop=self.stop,
                batch_rows=settings.get("batch_rows", 1024),
                respond=partial(self.sampler.respond, decode=evaluated(self.decode) if settings.get("decode", True) else ()),
                world=self.world,
            )
            for bench in self.benches
        }
        return Report("", found).metrics() if settings.get("sets") else next(iter(found.values())).metrics()

    def _samples(self, scored: Batch) -> list[dict[str, Any]]:
        """The first responses this rank sampled, with their rewards, which the rank that trained on them knows."""
        now, entropy = self._current, scored.get("sampler_entropy")
        known = dict(zip(now.row.tolist(), now["reward"].tolist(), strict=True)) if "reward" in now else {}
        reward = {row: value for share in self.world.gather(known) or [] for row, value in share.items()}
        rows = []
        sampled = [i for i, source in enumerate(scored["source"]) if source != "demo"]
        for i in sampled[: int(self.recipe["track"]["samples"])]:
            length = int(scored["length"][i])
            rows.append(
                {
                    "prompt": scored["prompt"][i],
                    "response": scored["response"][i],
                    "answer": scored["answer"][i],
                    "correct": bool(scored["correct"][i]),
                    "reward": reward.get(int(scored.row[i])),
                    "length": length,
                    "entropy": float(entropy[i, :length].mean()) if entropy is not None and length else None,
                }
            )
        return rows

    # ---- state ----------------------------------------------------------------------------------------------------

    def _memory(self) -> dict[str, Any]:
        """What the recipe's functions remember, by path."""
        return {path: fn.state_dict() for path, fn in self._stateful().items()}

    def _stateful(self) -> dict[str, Any]:
        return {
            node.path: node.fn
            for members in self.plan.nodes.values()
            for node in members
            if node.stateful and hasattr(node.fn, "state_dict")
        }

    def _save(self) -> None:
        if self.done in checkpoint.steps(self.folder.path / "checkpoints"):
            return
        with self.clock.lap("checkpoint"):
            tensors, plain = self.policy.state_dict()
            state = {
                "recipe": {"name": self.recipe.name, "differences": identity(self.recipe.config)},
                "step": self.done,
                "cursor": self.data.cursor,
                "knobs": self.knobs.state_dict(),
                "functions": self._memory(),
                "ledger": self.ledger.state_dict() if self.ledger else None,
                "alarms": self.alarms.state_dict(),
                "law": self.law.state_dict(),
                "tokens": self.tokens,
                "policy": plain,
                "torch": torch.__version__,
            }
            keep = int(self.recipe["checkpoint"]["keep"])
            checkpoint.save(self.folder.path / "checkpoints", self.done, tensors, state, self.world, keep)

    def _restore(self, step: int) -> None:
        """Take up a checkpoint.

        Raises:
            CheckpointError: it is of another recipe or model, or cannot be read.
        """
        folder = self.folder.path / "checkpoints"
        state = checkpoint.read_state(folder, step)
        ours = identity(self.recipe.config)
        saved = state.get("recipe") or {"differences": ours}  # checkpoints from before they said it
        if (theirs := saved["differences"]) != ours:
            only = [f"the checkpoint has {line}" for line in theirs if line not in ours] + [
                f"this run has {line}" for line in ours if line not in theirs
            ]
            raise CheckpointError(
                f"{folder / checkpoint.name(step)} is of another recipe ({saved['name']}, here {self.recipe.name}): {'; '.join(only[:6])}"
                f"{f', and {len(only) - 6} more' if len(only) > 6 else ''}. "
                "Resume a run in its own folder; to start from other weights use --from"
            )
        tensors, _ = self.policy.state_dict()
        checkpoint.read_tensors(folder, step, tensors, self.world)
        self.policy.load_state_dict(tensors, state["policy"])
        self.data.cursor = int(state["cursor"])
        self.knobs.load_state_dict(state["knobs"])
        for path, fn in self._stateful().items():
            if path in state["functions"]:
                fn.load_state_dict(state["functions"][path])
        if self.ledger and state["ledger"]:
            self.ledger.load_state_dict(state["ledger"])
        self.alarms.load_state_dict(state["alarms"])
        self.law.load_state_dict(state["law"])
        self.tokens = int(state["tokens"])
        self.done = step
        self.engine.load(self.policy, step)

    def keep_failed(self, error: NonFinite) -> Path | None:
        """Save the batch of the step that failed."""
        batch = getattr(self, "_current", None)
        if batch is None:
            return None
        path = self.folder.path / "batches" / f"failed_step_{self.step:06d}_rank{self.world.rank}.safetensors"
        return frozen.save(batch, path)


def make_actor(recipe: Recipe, policy: Policy, models: Mapping[str, Policy], world: World, kind: type[Actor] = Actor) -> Actor:
    """The actor of a recipe: how its policy goes over a batch."""
    trainer = recipe["trainer"]
    return kind(
        policy,
        recipe.plan,
        models,
        world,
        temperature=float(recipe["sampler"]["temperature"]),
        minibatches=int(trainer["minibatches"]),
        epochs=int(trainer["epochs"]),
        tokens_per_part=int(trainer["tokens_per_part"]),
        seed=int(recipe["seed"]),
    )


def make_objective(recipe: Recipe, world: World) -> objective.Objective:
    """The objective of a recipe."""
    shape = recipe["objective"]
    return objective.Objective(
        recipe.plan,
        aggregate=shape["aggregate"],
        length=float(shape["length"] or recipe["sampler"]["max_tokens"]),
        empty_rows=bool(shape["empty_rows"]),
        world=world,
    )


def answer_ids(batch: Batch, equal: Callable[[str, str], bool] | None) -> Tensor:
    """Equivalence class of each answer within its group [N], -1 where there is none."""
    ids = torch.full((len(batch),), -1, dtype=torch.long)
    for group in batch["group"].unique():
        rows = (batch["group"] == group).nonzero()[:, 0].tolist()
        found = answer_classes([batch["answer"][i] for i in rows], equal, [bool(batch["correct"][i]) for i in rows])
        ids[rows] = torch.tensor(found)
    return ids


def equalities(batch: Batch, equal: Callable[[str, str], bool] | None) -> list[list[bool]]:
    """For each row, by sample of its group: is the answer the same? The grader is asked in the order (earlier, later); no answer is like none."""
    found: list[list[bool]] = [[] for _ in range(len(batch))]
    for group in batch["group"].unique():
        rows = (batch["group"] == group).nonzero()[:, 0].tolist()
        rows = sorted(rows, key=lambda i: int(batch["sample"][i]))
        answers = [batch["answer"][i] for i in rows]
        known: dict[tuple[str, str], bool] = {}
        for i, row in enumerate(rows):
            for j in range(len(rows)):
                a, b = answers[min(i, j)], answers[max(i, j)]
                if a is None or b is None:
                    known[a, b] = i == j
                elif (a, b) not in known:
                    known[a, b] = a == b or bool(equal and equal(a, b))
                found[row].append(known[a, b] if a is not None and b is not None else i == j)
    return found


def moment(reads: Sequence[str], when: str) -> str:
    """When a controller acts: at the end of the step if it reads metrics, else when its streams exist."""
    return "end" if "metrics" in reads else when


def _rounded(value: Any) -> Any:
    """Floats to six significant digits, inside lists and mappings too."""
    if isinstance(value, Mapping):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _rows_at(values: Tensor, rows: Tensor, sample: Batch) -> Tensor:
    place = {int(r): i for i, r in enumerate(rows.tolist())}
    return values[[place[int(r)] for r in sample.row.tolist()]][:, : sample.width]


def _threads(scale: Mapping[str, Any]) -> None:
    if scale["threads"]:
        torch.set_num_threads(int(scale["threads"]))


def loading(model: Mapping[str, Any], scale: Mapping[str, Any]) -> dict[str, Any]:
    """How a policy is loaded: the options of `Policy.load` in the blocks `model` and `scale`."""
    known = {k: model[k] for k in ("path", "dtype", "attn", "revision", "trust_remote_code") if k in model}
    known |= {"device": scale["device"], "recompute": scale["recompute"], "packing": scale.get("packing", "auto")}
    known["compile"] = scale.get("compile", False)
    if scale["shard"] and launch.is_rank():
        compute = getattr(torch, scale["compute"]) if scale["compute"] else None
        known["sharding"] = Sharding(replicas=launch.copies(scale), compute=compute, offload=bool(scale["offload"]))
    return known


def _examine(source: Any, policy: Policy, world: World) -> Findings | None:
    """Findings about the data, by rank 0 for all; sources that cannot be examined (a user's own) are taken as they are.

    Raises:
        DataError: on every rank, where the settings say so.
    """
    if not hasattr(source, "examine"):
        return None
    found: Findings | None = None
    failure: str | None = None
    if world.leads:
        try:
            found = source.examine(policy.tokenizer, policy.limit - 1 if policy.limit else None)
        except RlentError as error:
            failure = str(error)
    failure, found = world.broadcast((failure, found))
    if failure:
        raise DataError(failure)
    if found is not None:
        source.settle(found)
    return found


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
