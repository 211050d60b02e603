"""Models on disk and on the hub: loading one with its tokenizer, and writing one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from rlent.errors import CheckpointError, ModelError
from rlent.policy.forward import Model, position_limit
from rlent.policy.shard import Sharding
from rlent.system.write import atomic
from rlent.types import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Which model, in which precision and where, and how it is run. `rlent.policy.policy.Policy` describes the last four.

    `path`: a folder, a name on the hub, or `tiny`, the embedded model. `revision`: branch, tag or commit on the hub.
    `attn`: the attention of transformers (`sdpa`, `eager`, ...).
    """

    path: str | Path
    dtype: str | torch.dtype = "float32"
    attn: str = "sdpa"
    revision: str | None = None
    trust_remote_code: bool = False
    device: str | torch.device = "cpu"
    recompute: bool = False
    packing: str = "auto"
    compile: bool = False
    sharding: Sharding | None = None


class ModelTokenizer(Tokenizer, Protocol):
    """The tokenizer of a model, which is written with it."""

    pad_token_id: int | None

    def save_pretrained(self, folder: str | Path, /) -> object: ...


def load_model(spec: ModelSpec) -> tuple[Model, ModelTokenizer]:
    """The model on its device, and its tokenizer.

    Raises:
        ModelError: nothing there, no network, weights that are not safetensors, an unknown dtype or attention.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    dtype = str(spec.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ModelError(f"model.dtype is {spec.dtype!r}; one of {', '.join(DTYPES)} is accepted")
    place = _locate(spec.path)
    common: dict[str, str | bool | None] = {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(place, **common)
        model: Any = AutoModelForCausalLM.from_pretrained(
            place, dtype=DTYPES[dtype], attn_implementation=spec.attn, use_safetensors=True, **common
        )
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise ModelError(_why(spec.path, place, error)) from error
    return model.to(spec.device), tokenizer


def load_tokenizer(path: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> tuple[ModelTokenizer, int | None]:
    """A model's tokenizer and its number of positions (None: no limit), without its weights.

    Raises:
        ModelError: nothing there, or no network.
    """
    from transformers import AutoConfig, AutoTokenizer

    place = _locate(path)
    common: dict[str, str | bool | None] = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(place, **common)
        tokenizer: Any = AutoTokenizer.from_pretrained(place, **common)
        return tokenizer, position_limit(config)
    except (OSError, ValueError, ImportError, KeyError, RuntimeError) as error:
        raise ModelError(_why(path, place, error)) from error


def write_model(model: Model, tokenizer: ModelTokenizer | None, folder: str | Path, weights: Mapping[str, Tensor] | None = None) -> Path:
    """Write a model as safetensors with its tokenizer (None: without), whole or not at all; `weights` stand in for the model's own.

    Raises:
        CheckpointError: the folder exists, or cannot be written.
    """
    final = Path(folder)
    if final.exists():
        raise CheckpointError(f"{final} exists, and nothing is overwritten; remove it or choose another folder")
    try:
        with atomic(final, sync=True) as temporary:
            model.save_pretrained(temporary, **({} if weights is None else {"state_dict": dict(weights)}))
            if tokenizer is not None:
                tokenizer.save_pretrained(temporary)
    except OSError as error:
        raise CheckpointError(f"the model could not be written to {final} ({error})") from error
    return final


def _locate(path: str | Path) -> str:
    """`tiny`, a folder, or a name on the hub.

    Raises:
        ModelError: a path that looks like a folder and is none, or a folder without safetensors.
    """
    if str(path) == "tiny":
        from rlent.system.paths import tiny_path

        return str(tiny_path())
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not any(folder.glob("*.safetensors")):
            pickled = sorted(p.name for p in [*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")])
            found = f"only pickled weights ({', '.join(pickled[:3])}), which can run code when loaded" if pickled else "no weights"
            raise ModelError(f"model.path '{path}' has {found}; *.safetensors is accepted (convert it with save_pretrained)")
        return str(folder)
    if folder.exists() or folder.is_absolute() or str(path).startswith((".", "~")) or str(path).count("/") > 1:
        raise ModelError(f"model.path '{path}' is no folder; a folder, a name on the hub (owner/name) or tiny is accepted")
    return str(path)


def _why(path: str | Path, place: str, error: Exception) -> str:
    """The reason a model did not load, as a sentence."""
    reason = " ".join(str(error).split())
    low = reason.lower()
    if Path(place).is_dir():
        return f"model.path '{path}' could not be loaded: {reason[:300]}"
    if "safetensors" in low and "connect" not in low:
        return f"model.path '{path}' has no safetensors on the hub; pickled weights are refused because they can run code. {reason[:200]}"
    if any(word in low for word in ("connect", "offline", "couldn't reach", "timed out", "resolve", "proxy", "max retries")):
        return f"model.path '{path}' is no folder here, and the hub cannot be reached to look for it; give a folder or tiny, or go online. ({reason[:160]})"
    return f"model.path '{path}' could not be loaded: {reason[:300]}"
