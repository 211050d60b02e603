"""Vectors of the authors' own functions, and the reduction that turns a loss matrix into the number they state.

A module names its methods in `VECTORS`; a test that takes `vector` runs once for each of their files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[1] / "golden"
STREAMS = {"log_prob": "logp", "old_log_prob": "old_logp", "ref_log_prob": "ref_logp", "advantages": "adv", "rewards": "reward"}


@dataclass
class Vector:
    """One file. `streams` are its inputs under this project's names, in float64."""

    method: str
    kind: str
    config: dict[str, Any]
    streams: dict[str, Tensor]
    outputs: dict[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return self.streams[name]

    def out(self, name: str) -> Tensor:
        return torch.tensor(self.outputs[name], dtype=torch.float64)

    def leaf(self, name: str) -> Tensor:
        """The stream as a variable to differentiate by."""
        return self[name].clone().requires_grad_(True)


def _stream(name: str, value: Any) -> Tensor:
    kind = torch.bool if name == "mask" else torch.long if name in ("group", "labels", "length") else torch.float64
    return torch.tensor(float("nan") if value is None else value, dtype=torch.float64).to(kind)


def load(path: Path) -> Vector:
    raw = json.loads(path.read_text())
    streams = {STREAMS.get(k, k): _stream(k, v) for k, v in raw["inputs"].items()}
    return Vector(raw["method"], raw["kind"], raw["config"], streams, raw["outputs"])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "vector" in metafunc.fixturenames:
        files = [f for method in metafunc.module.VECTORS for f in sorted(GOLDEN.glob(f"{method}_[0-9]*.json"))]
        assert files, f"no vectors for {metafunc.module.VECTORS}"
        metafunc.parametrize("vector", [load(f) for f in files], ids=[f.stem for f in files])


def reduce(matrix: Tensor, mask: Tensor, how: str, norm: float | None = None) -> Tensor:
    """The references' aggregations, as verl's newest version has them: rows without tokens do not count."""
    count = mask.sum(1)
    rows = count > 0
    total = torch.where(mask, matrix, torch.zeros_like(matrix)).sum(1)
    match how:
        case "token-mean":
            return total.sum() / count.sum()
        case "seq-mean-token-mean":
            return (total[rows] / count[rows]).mean()
        case "seq-mean-token-sum":
            return total[rows].mean()
        case "seq-mean-token-sum-norm":
            return total.sum() / (norm or mask.shape[1])
    raise ValueError(how)


@pytest.fixture
def agree() -> Callable[..., None]:
    """Compare as the vectors ask: rtol 1e-6, atol 1e-8."""

    def check(found: Tensor, want: Tensor | float) -> None:
        want = torch.as_tensor(want, dtype=torch.float64).expand_as(found)
        torch.testing.assert_close(found.detach().double(), want, rtol=1e-6, atol=1e-8)

    return check


@pytest.fixture
def objective(agree: Callable[..., None]) -> Callable[..., None]:
    """Reduce a loss matrix as the vector says and compare value and gradient by `leaf`.

    `gate` closes gradients, `extra` is a term that is reduced already.
    """

    def check(vector: Vector, matrix: Tensor, leaf: Tensor, *, gate: Tensor | None = None, extra: Tensor | float = 0.0) -> None:
        if gate is not None:
            matrix = torch.where(gate, matrix, matrix.detach())
        loss = reduce(matrix, vector["mask"], vector.config["agg_mode"], vector.config.get("agg_norm")) + extra
        agree(loss, vector.outputs["loss"])
        name = "grad_logits" if "grad_logits" in vector.outputs else "grad_log_prob"
        (grad,) = torch.autograd.grad(loss, leaf)
        agree(grad, vector.out(name))

    return check


@pytest.fixture
def aggregate() -> Callable[..., Tensor]:
    return reduce
