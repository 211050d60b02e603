"""Settings of every test: one thread, no network, no account, and shapes checked at run time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("WANDB_API_KEY", None)

from jaxtyping import install_import_hook  # noqa: E402

install_import_hook(["rlent.methods", "rlent.math"], "beartype.beartype")

import pytest  # noqa: E402
import torch  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent))

torch.set_num_threads(1)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real benchmark rows beside the checkout; tests that need it are skipped without it."""
    folder = Path(__file__).parent.parent.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no benchmark files beside this checkout (../shared/data)")
    return folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Where a test's run is kept."""
    return tmp_path / "run"
