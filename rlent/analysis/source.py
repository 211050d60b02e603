"""What is looked at: a batch that a run kept, or a file of responses together with the model that looks at it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from rlent.analysis import dumps
from rlent.errors import DataError, UsageError, did_you_mean
from rlent.policy.policy import Policy
from rlent.ranks.world import World
from rlent.recipe import compose as recipes
from rlent.recipe.aliases import modern_override
from rlent.recipe.compose import Recipe
from rlent.runs import kept as frozen
from rlent.runs.folder import RunFolder, weights_of
from rlent.runs.kept import SavedStep
from rlent.streams import STREAMS
from rlent.train.assemble import loading, make_actor
from rlent.types import Batch, Config, JsonObject

_INNER = frozenset({"problem_key", "prompt_ids", "seed", "policy_logp"})


@dataclass(frozen=True, slots=True)
class Reading:
    """How a batch is read: with which `model` (None: a saved batch needs none), which saved `step`, and how a file of responses is."""

    model: str | None = None
    step: int | None = None
    fields: dumps.Fields = dumps.Fields()
    template: str = "none"
    correct_above: float = 0.0
    limit: int | None = None


@dataclass
class Source:
    """A batch to replay. `config` is that of the run it is from, None for a file of responses; `given` says that its rewards are a file's."""

    batch: Batch
    label: str
    config: JsonObject | None = None
    overrides: list[str] = field(default_factory=list)
    config_dirs: list[str] = field(default_factory=list)
    name: str = ""
    given: bool = False
    saved: SavedStep = field(default_factory=lambda: SavedStep(Batch({"mask": torch.zeros(0, 0)})))

    @property
    def kept(self) -> bool:
        """Whether it holds what the updates of its step saw."""
        return bool(self.saved.updates)


def open_kept(place: str | Path, step: int | None = None) -> Source:
    """A kept batch: its file, or a run folder with the step (the last one kept, if None).

    Raises:
        UsageError: the run kept no batch, or not that step.
        DataError: not a frozen batch.
    """
    path = Path(place)
    if path.is_dir():
        found = frozen.steps(path)
        if not found:
            raise UsageError(
                f"'{path}' has kept no batch; train with track.save_batches=N to keep every N-th step's. Or look at its samples with its model: "
                f"rlent measure {path} {path}/samples.jsonl --keep samples.safetensors"
            )
        if step is not None and step not in found:
            raise UsageError(f"'{path}' has not kept step {step}; it has {', '.join(map(str, found))} (track.save_batches chooses)")
        path = found[step if step is not None else max(found)]
    elif step is not None:
        raise UsageError(f"--step chooses among the batches of a run folder, and '{place}' is one batch")
    step_saved = SavedStep.of(frozen.load(path))
    batch, folder = step_saved.batch, RunFolder(path.parent.parent)
    if not (folder.path / "recipe.yaml").is_file():
        return Source(batch, str(path), given=bool(batch.get("given")), saved=step_saved)
    about = folder.about
    dirs = list(about.get("config_dirs") or [])
    return Source(batch, str(path), folder.config, list(about["overrides"]), dirs, str(about["name"]), saved=step_saved)


def before_credit(batch: Batch, models: Sequence[str] = (), *, given: bool = False) -> Batch:
    """The batch as it was before rewards: what was sampled, what was looked back on, what updates saw."""
    frozen_models = {f"{m}_{k}" for m in models for k in ("logp", "entropy")}
    keep = {
        k
        for k in batch
        if k in _INNER
        or (k in STREAMS and STREAMS[k].when in ("sample", "look", "run"))
        or k.startswith("old_")
        or k in frozen_models
        or (given and k == "reward")
    }
    return Batch({k: batch[k] for k in keep}, batch.row)


def load_model(path: str, config: Config | None = None) -> Policy:
    """A model to look at a batch with: a path, a name on the hub, `tiny`, a run's folder (its exported model).

    `config` holds the blocks `model` and `scale`: a run's, or those of `settings_for`.

    Raises:
        ModelError: it cannot be loaded.
        UsageError: a run without an exported model.
    """
    blocks = config or settings_for(path).config
    return Policy.load(**loading({**blocks["model"], "path": weights_of(path)}, {**blocks["scale"], "shard": False}))


def settings_for(model: str, overrides: Sequence[str] = (), config_dirs: Sequence[str] = ()) -> Recipe:
    """How a model looks at responses that are not of a run: in float32 on the CPU, unless overrides (`scale=gpu model.dtype=bfloat16`) say otherwise."""
    kept = ("model.", "scale", "sampler.temperature", "seed", "trainer.max_tokens_per_microbatch")
    mine = [o for o in (modern_override(o)[0] for o in overrides) if o.lstrip("+").startswith(kept)]
    menu = recipes.groups(config_dirs)["model"]
    picks = [f"model={model}"] if model in menu else ["model=hf", f"model.path={json.dumps(model)}"]
    return recipes.load([*picks, "model.dtype=float32", *mine], config_dirs)


def read_source(place: str, reading: Reading, overrides: Sequence[str] = ()) -> tuple[Source, Policy | None]:
    """What BATCH names: a kept batch, or a file of responses with the model that looks at it.

    Raises:
        UsageError: a file of responses without a model.
    """
    path = Path(place)
    if path.is_dir() or path.suffix == ".safetensors" or not path.exists():
        if not path.exists():
            near = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
            raise DataError(
                f"'{place}' does not exist{did_you_mean(path.name, near)}; a run folder, a kept batch or a file of responses is wanted"
            )
        source = open_kept(place, reading.step)
        return source, None if reading.model is None else load_model(reading.model, source.config)
    rows = dumps.read(path, reading.fields, reading.limit, say=lambda text: print(text, file=sys.stderr))
    if reading.model is None:
        raise UsageError(f"'{place}' holds texts; give --model to compute their log-probs and entropies")
    settings = settings_for(reading.model, overrides)
    policy = load_model(reading.model, settings.config)
    scalars = {
        "step": 1, "steps": 1, "seed": int(settings["seed"]), "vocab": int(policy.model.config.get_text_config().vocab_size),
        "max_tokens": 0, "temperature": float(settings["sampler"]["temperature"]),
    }  # fmt: skip
    batch = dumps.to_batch(rows, policy.tokenizer, scalars, template=reading.template, correct_above=reading.correct_above)
    batch["max_tokens"] = batch.width
    actor = make_actor(settings, settings.plan, policy, {}, World())
    streams = {f"old_{k}": v for k, v in actor.measure(batch).items()}
    pieces = [
        [policy.tokenizer.decode([t]) for t in ids[:n]] for ids, n in zip(batch["tokens"].tolist(), batch["length"].tolist(), strict=True)
    ]
    return Source(batch.with_(**streams, pieces=pieces, given=True), place, given=True), policy
