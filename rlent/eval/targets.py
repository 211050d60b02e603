"""What is to be evaluated: runs, checkpoints of runs, and any models; one or several at once."""

from __future__ import annotations

import gc
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlent.engine.base import Engine
from rlent.engine.make import make_engine
from rlent.errors import UsageError
from rlent.policy.policy import Policy
from rlent.ranks.world import World
from rlent.recipe import compose as recipes
from rlent.recipe.compose import Recipe
from rlent.recipe.knobs import Knobs
from rlent.recipe.mount import Node
from rlent.runs import checkpoint
from rlent.runs.folder import RunFolder
from rlent.sampling.drive import evaluated
from rlent.types import JsonObject

KINDS = ("run", "checkpoint", "model")
_SAMPLED = 1024  # elements of each tensor that go into the fingerprint of the weights
_WHAT = "run=DIR (a training run), checkpoint=DIR/checkpoints/step_000100, or model=PATH (a folder, a Hugging Face id, or tiny)"


@dataclass(frozen=True)
class Target:
    """Weights to evaluate, and the recipe that says how. `place` is the run's folder, None for a model that is no run's; `step` is
    that of a checkpoint, None for an exported model. `suite` is the evaluation option that was chosen by name, if one was.
    """

    label: str
    recipe: Recipe
    place: Path | None = None
    step: int | None = None
    suite: str = ""


def targets(arguments: Sequence[str], config_dirs: Sequence[str] = ()) -> list[Target]:
    """The targets that the arguments name, in their order, each with a label of its own.

    `run=`, `checkpoint=` and `model=` may be repeated; a bare folder is whichever of them it is. Everything else overrides each
    target's recipe.

    Raises:
        UsageError: nothing to evaluate was named, or something that is not there.
    """
    named: list[tuple[str, str]] = []
    step: str | None = None
    rest: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        value = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
        if key == "step" and equals:
            step = value
        elif key in KINDS and equals:
            named.append((key, value))
        elif Path(argument).is_dir():
            named.append((_kind(Path(argument)), argument))
        else:
            rest.append(argument)
    if not named:
        raise UsageError(f"what is to be evaluated? {_WHAT}")
    if step is not None and any(kind == "checkpoint" for kind, _ in named):
        raise UsageError("step= goes with run=DIR; checkpoint=DIR names its step already")
    if step is not None and all(kind == "model" for kind, _ in named):
        raise UsageError("step= goes with run=DIR; a model has no steps")
    found = [_target(kind, value, step, rest, config_dirs) for kind, value in named]
    labels = _labels(found, [value for _, value in named])
    return [Target(label, t.recipe, t.place, t.step, t.suite) for label, t in zip(labels, found, strict=True)]


def _kind(path: Path) -> str:
    if (path / "recipe.yaml").is_file():
        return "run"
    return "checkpoint" if path.name.startswith("step_") and path.parent.name == "checkpoints" else "model"


def _target(kind: str, value: str, step: str | None, rest: Sequence[str], config_dirs: Sequence[str]) -> Target:
    if kind == "model":
        menu = recipes.groups(config_dirs)["model"]
        path = Path(value).expanduser()
        pick = [f"model={value}"] if value in menu else ["model=hf", f"model.path='{path.resolve() if path.exists() else value}'"]
        recipe = recipes.load([*pick, *rest], config_dirs)
        return _protocol(Target(path.name, recipe, suite=_suite(rest)), rest, config_dirs)
    path = Path(value)
    if kind == "checkpoint":
        if not path.name.startswith("step_"):
            raise UsageError(f"checkpoint='{path}': a folder like RUN/checkpoints/step_000100 is expected")
        path, step = path.parent.parent, path.name.removeprefix("step_")
    if kind == "run" and _kind(path) == "checkpoint":
        raise UsageError(f"run='{path}': that is a checkpoint of a run; evaluate it with checkpoint={path}")
    if not (path / "recipe.yaml").is_file():
        raise UsageError(f"run='{path}' is not a run folder (it has no recipe.yaml)")
    folder = RunFolder(path)
    dirs = [*folder.about.get("config_dirs", []), *config_dirs]
    config = recipes.with_values(folder.config, rest, dirs)
    config["trainer"]["old_logprobs"] = "recompute"  # nothing needs old log-probabilities here, so any engine will do
    recipe = recipes.from_config(config, name=folder.about["name"], config_dirs=dirs)
    saved = checkpoint.steps(path / "checkpoints")
    if step is not None:
        if not step.isdigit() or int(step) not in saved:
            raise UsageError(f"step={step}: run '{path}' has checkpoints of steps {', '.join(map(str, saved)) or 'none'}")
        at: int | None = int(step)
    elif (path / "model" / "config.json").is_file() and folder.read_status().get("state") == "finished":
        at = None
    elif saved:
        at = saved[-1]
    else:
        raise UsageError(f"run '{path}' has no checkpoint and no exported model yet")
    label = path.name if at is None else f"{path.name} step {at}"
    return _protocol(Target(label, recipe, path, at, _suite(rest)), rest, dirs)


def _suite(rest: Sequence[str]) -> str:
    return next((o.partition("=")[2] for o in reversed(rest) if o.startswith("eval=")), "")


def _protocol(target: Target, rest: Sequence[str], config_dirs: Sequence[str]) -> Target:
    """Data that states its own protocol is evaluated under it, unless another option of `eval` was asked for."""
    if target.suite or not target.recipe["data"].get("protocol"):
        return target
    mine = [o for o in rest if o.startswith("eval.")]
    config = recipes.with_values(target.recipe.config, ["eval=protocol", *mine], config_dirs)
    recipe = recipes.from_config(config, name=target.recipe.name, config_dirs=target.recipe.config_dirs)
    return Target(target.label, recipe, target.place, target.step)


def _labels(found: Sequence[Target], given: Sequence[str]) -> list[str]:
    """Names by which targets can be told apart: the folder's; where those are equal, with as many of its parents as it takes."""
    places = [
        ((t.place or Path(g)).absolute() if t.place or Path(g).exists() else Path(g), t.step) for t, g in zip(found, given, strict=True)
    ]
    if twice := sorted({f"{path}{'' if step is None else f' step {step}'}" for path, step in places if places.count((path, step)) > 1}):
        raise UsageError(f"the same weights are named more than once: {', '.join(twice)}")
    labels = [t.label for t in found]
    for depth in range(2, 1 + max(len(path.parts) for path, _ in places)):
        same = {x for x in labels if labels.count(x) > 1}
        for i, (path, step) in enumerate(places):
            if labels[i] in same:
                labels[i] = "/".join(path.parts[-depth:]) + ("" if step is None else f" step {step}")
    return labels


# --- weights ---------------------------------------------------------------------------------------------------------


def load_policy(target: Target) -> Policy:
    """The weights to evaluate: an exported model, a checkpoint's, or those the recipe names."""
    spec = dict(target.recipe["model"])
    if target.place is not None and target.step is None:
        spec["path"] = str(target.place / "model")
    known = {k: spec[k] for k in ("path", "dtype", "attn", "revision", "trust_remote_code")}
    policy = Policy.load(**known, device=target.recipe["scale"]["device"])
    if target.place is not None and target.step is not None:
        tensors = policy.model_state()
        checkpoint.read_tensors(target.place / "checkpoints", target.step, tensors, World())
        policy.load_model_state(tensors)
    return policy


def about(target: Target, policy: Policy) -> JsonObject:
    """Which weights these are: the model's path, revision and commit on the hub, the checkpoint, and a fingerprint."""
    model = target.recipe["model"]
    return {
        "model": model["path"],
        "revision": model["revision"],
        "commit": getattr(policy.model.config, "_commit_hash", None),
        "checkpoint": target.step,
        "weights": fingerprint(policy),
        **({"decode": {n.name: {"function": n.target, **n.options} for n in decode}} if (decode := decoding(target)) else {}),
    }


def decoding(target: Target) -> list[Node]:
    """The decode functions that hold in this evaluation, their knobs as the run's controllers have left them."""
    if not target.recipe["eval"].get("decode", True):
        return []
    found = evaluated(target.recipe.nodes["decode"])
    saved = checkpoint.steps(target.place / "checkpoints") if target.place is not None else []
    if found and target.place is not None and saved:
        state = checkpoint.read_state(target.place / "checkpoints", saved[-1] if target.step is None else target.step)
        knobs = Knobs(target.recipe.plan.knobs())
        knobs.load_state_dict({k: v for k, v in state.knobs.items() if k.startswith("decode.") and k in knobs})
    return found


def _others(target: Target, decode: Sequence[Node]) -> dict[str, Policy]:
    """The models whose logits the decode functions read."""
    recipe = target.recipe
    names = {stream.removesuffix("_logits") for node in decode for stream in node.reads if stream.endswith("_logits")}
    known = ("path", "dtype", "attn", "revision", "trust_remote_code")
    specs = {name: {**recipe["model"], **recipe["models"][name]} for name in sorted(names)}
    return {name: Policy.load(**{k: spec[k] for k in known}, device=recipe["scale"]["device"]) for name, spec in specs.items()}


def fingerprint(policy: Policy) -> str:
    """A hash of names, shapes and up to 1,024 evenly spaced elements of every tensor: training moves nearly all of them."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in policy.named_weights():
        flat = tensor.detach().reshape(-1)
        some = flat[:: max(1, len(flat) // _SAMPLED)].float().cpu().numpy()
        digest.update(f"{name} {tuple(tensor.shape)} ".encode() + some.tobytes())
    return digest.hexdigest()


def weights(found: Sequence[Target]) -> Iterator[tuple[Target, Policy, Engine, JsonObject]]:
    """Each target with its weights loaded, an engine that samples from them, and what they are (`about`), one at a time.

    Targets with the same architecture and engine share one engine, which takes up the weights of one after the other.
    """
    policy: Policy | None = None
    engine: Engine | None = None
    made: object = None
    for target in found:
        fresh = load_policy(target)
        these = about(target, fresh)
        config = {k: v for k, v in fresh.model.config.to_dict().items() if not k.startswith("_")}
        decode = decoding(target)
        reads = [node.reads for node in decode]
        spec = (target.recipe["engine"], target.recipe["scale"]["device"], target.recipe["model"]["dtype"], config, reads)
        if policy is None or engine is None or made != spec:
            policy = engine = None
            gc.collect()  # an engine's memory is free before the next one asks for it
            policy, made = fresh, spec
            engine = make_engine(target.recipe["engine"], policy, decode, _others(target, decode))
        else:
            policy.load_model_state(fresh.model_state())
            policy.tokenizer = fresh.tokenizer
        del fresh
        engine.load(policy, target.step or 0)
        yield target, policy, engine, these
