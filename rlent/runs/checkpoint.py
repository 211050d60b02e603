"""Checkpoints that a kill at any moment cannot spoil.

A checkpoint is written under a temporary name, synced, and renamed, so a folder with its final name is whole. Tensors are
in torch's distributed checkpoint format (they load on another number of ranks); everything else is one JSON file.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch.distributed.checkpoint as dcp

from rlent.errors import CheckpointError
from rlent.ranks.world import World
from rlent.runs.state import TrainingState
from rlent.system.write import sync_one, sync_tree

_PREFIX = "step_"


def name(step: int) -> str:
    return f"{_PREFIX}{step:06d}"


def steps(folder: Path) -> list[int]:
    """Steps of the whole checkpoints in a folder, ascending."""
    if not folder.is_dir():
        return []
    return sorted(
        int(p.name.removeprefix(_PREFIX)) for p in folder.iterdir() if p.name.startswith(_PREFIX) and p.name[len(_PREFIX) :].isdigit()
    )


def save(folder: Path, step: int, tensors: Mapping[str, object], state: TrainingState, world: World, keep: int) -> Path:
    """Write a checkpoint atomically and drop the oldest beyond `keep`.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; earlier checkpoints are untouched.
    """
    final, temporary = folder / name(step), folder / f".{name(step)}.partial"
    try:
        if world.leads:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
        world.broadcast(None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.save(tensors, checkpoint_id=str(temporary / "tensors"), no_dist=world.size == 1)
        if world.leads:
            (temporary / "state.json").write_text(json.dumps(state.to_dict(), indent=1))
            sync_tree(temporary)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
            sync_one(folder)
            for old in steps(folder)[:-keep]:
                shutil.rmtree(folder / name(old), ignore_errors=True)
    except (OSError, dcp.api.CheckpointException) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        reason = str(error).splitlines()[-1]
        raise CheckpointError(
            f"checkpoint of step {step} could not be written to {final} ({reason}); earlier checkpoints are whole. "
            "Free some space and continue with --resume"
        ) from error
    world.broadcast(None)
    return final


def read_state(folder: Path, step: int) -> TrainingState:
    """The plain part of a checkpoint.

    Raises:
        CheckpointError: the file is missing or broken.
    """
    file = folder / name(step) / "state.json"
    try:
        return TrainingState.from_dict(json.loads(file.read_text()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be read ({error})") from error


def read_tensors(folder: Path, step: int, tensors: Mapping[str, object], world: World) -> Mapping[str, object]:
    """Load a checkpoint's tensors into `tensors`, in place.

    Raises:
        CheckpointError: shapes or names do not fit this recipe's model.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dcp.load(tensors, checkpoint_id=str(folder / name(step) / "tensors"), no_dist=world.size == 1)
    except Exception as error:
        raise CheckpointError(f"{folder / name(step)} does not fit this recipe's model: {str(error).splitlines()[-1]}") from error
    return tensors
