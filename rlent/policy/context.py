"""What a custom autograd function keeps between its forward and its backward pass."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Context(Protocol):
    """`ctx` of a `torch.autograd.Function`; each function adds the type of its `saved_tensors` and of what else it keeps."""

    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...
