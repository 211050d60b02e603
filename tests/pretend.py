"""A CUDA device where there is none: tensors that say they are on `cuda:0` and whose numbers are on the CPU.

What a real device refuses is refused: an operation on tensors of both places, an index on the device into a tensor of the host, a look
at the memory from the host. What makes the host wait is counted by place: moves, single numbers, sizes that depend on values.

    with device() as waits: ...                              in a test
    python -m pytest -p pretend -m gpu tests/test_gpu.py     the tests for a GPU, as far as they need no kernels of one

It knows no CUDA kernels, streams, autocast or collectives: a real device remains the proof of those, and of speed and memory.
"""

from __future__ import annotations

import collections
import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

import rlent

CUDA = torch.device("cuda", 0)
PACKAGE = str(Path(rlent.__file__).parent) + "/"
aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
SIZED_BY_VALUES = {"nonzero", "masked_select", "unique_consecutive", "_unique2", "equal", "_local_scalar_dense"}

KERNELS: dict[Any, Callable[..., Any]] = {  # operations that only CUDA has
    aten.mm.dtype: lambda a, b, dtype: a.to(dtype) @ b.to(dtype),
}

Waits = collections.Counter[tuple[str, str]]
"""How often the host waited for the device or sent it something, by what and where (`move to cpu`, `rlent/policy/policy.py`)."""

_waits: Waits = collections.Counter()


def _note(what: str) -> None:
    files = [frame.filename for frame in traceback.extract_stack()]
    ours = next((name for name in reversed(files) if name.startswith(PACKAGE)), None)
    _waits[what, "a test" if ours is None else f"rlent/{ours.removeprefix(PACKAGE)}"] += 1


class Pretend(Tensor):
    """A tensor of the device; `held` has the numbers."""

    held: Tensor
    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretend:
        shape = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, device="cpu", requires_grad=False, **shape
        )  # autograd has no guard for cuda here
        made.held = held
        return made

    def __repr__(self) -> str:
        return f"Pretend({self.held})"

    def numpy(self, *arguments: Any, **named: Any) -> Any:
        raise TypeError("can't convert a cuda:0 tensor to numpy; copy it to host memory first")

    def __tensor_flatten__(self) -> tuple[list[str], None]:  # with it, Module.to swaps parameters and leaves ties as they are
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: Mapping[str, Tensor], meta: None, size: Any, stride: Any) -> Pretend:
        return Pretend(inner["held"])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        _check(func, args, kwargs)
        name = func._schema.name.removeprefix("aten::")
        if name in SIZED_BY_VALUES or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            _note(name)
        out = KERNELS.get(func, func)(*tree_map(_held, tuple(args)), **tree_map(_held, kwargs))
        wrapped = tree_map(lambda x: Pretend(x) if isinstance(x, Tensor) else x, out)
        return return_and_correct_aliasing(func, args, kwargs, wrapped)


def _held(x: Any) -> Any:
    return x.held if isinstance(x, Pretend) else x


def _check(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Refuse an operation whose tensors are in both places, as CUDA does."""
    if func is aten.copy_.default:
        if not all(isinstance(x, Pretend) for x in args[:2]):
            _note("copy")
        return
    asked: Any = (args, kwargs)
    if func in INDEXING and isinstance(args[0], Pretend):  # indices may be of the host, and are then sent
        indices = [i for i in args[1] if i is not None]
        if any(i.dtype == torch.bool for i in indices):
            _note("mask as index")
        if not all(isinstance(i, Pretend) for i in indices):
            _note("index of the host")
        asked = (args[0], args[2:], kwargs)
    strange = [x for x in tree_leaves(asked) if isinstance(x, Tensor) and not isinstance(x, Pretend) and x.ndim]
    if strange:
        raise RuntimeError(f"{func}: all tensors are expected on one device; on the CPU: shapes {[tuple(x.shape) for x in strange]}")


class _Send(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return Pretend(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return g.held.clone()


class _Fetch(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Tensor:
        return x.held.detach().clone()

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        return Pretend(g.clone())


def _is_cuda(device: Any) -> bool:
    return isinstance(device, str | torch.device) and torch.device(device).type == "cuda"


def _move(x: Tensor, device: Any) -> Tensor:
    if device is None or _is_cuda(device) == isinstance(x, Pretend):
        return x
    _note("move to cuda" if _is_cuda(device) else "move to cpu")
    moved: Tensor = (_Send if _is_cuda(device) else _Fetch).apply(x)
    return moved


class _Mode(TorchFunctionMode):
    """What asks for a place gets it: moves, and tensors made on the device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func is Tensor.to:
            return _to(*args, **named)
        if func in (Tensor.cuda, Tensor.cpu):
            return _move(args[0], CUDA if func is Tensor.cuda else "cpu")
        if func is Tensor.tolist:
            return func(_move(args[0], "cpu"))
        if func is Tensor.new_tensor and isinstance(args[0], Pretend):
            return Pretend(func(args[0].held, *args[1:], **named))
        if "device" not in named:
            return func(*args, **named)
        device = named.pop("device")
        if func is torch.as_tensor:
            return _move(func(*args, **named), device)
        if not _is_cuda(device):
            made = func(*args, **named, device=device)
            return _move(made, device) if device is not None else made
        grad = named.pop("requires_grad", False)
        if func is torch.tensor:
            _note("move to cuda")
        made = func(*args, **named, device="cpu")
        return (made if isinstance(made, Pretend) else Pretend(made)).requires_grad_(grad)


def _to(x: Tensor, *rest: Any, device: Any = None, dtype: torch.dtype | None = None, copy: bool = False, **_: Any) -> Tensor:
    for given in rest:
        if isinstance(given, Tensor):
            device, dtype = given.device, given.dtype
        elif isinstance(given, torch.dtype):
            dtype = given
        elif isinstance(given, str | torch.device):
            device = given
    moved = _move(x, device)
    if dtype is not None and dtype != moved.dtype:
        return moved.type(dtype) if not isinstance(moved, Pretend) else aten._to_copy(moved, dtype=dtype)
    return moved.clone() if copy and moved is x else moved


class _Stream:
    def __init__(self, *arguments: Any, **named: Any) -> None: ...
    def wait_stream(self, other: Any) -> None: ...
    def synchronize(self) -> None: ...


_MODULE: dict[str, Any] = {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "get_device_name": lambda *device: "a device that is not there",
    "get_device_capability": lambda *device: (7, 0),  # too old for the attention kernels that are not here
    "is_current_stream_capturing": lambda: False,
    "synchronize": lambda *device: None,
    "empty_cache": lambda: None,
    "memory_allocated": lambda *device: 0,
    "max_memory_allocated": lambda *device: 0,
    "reset_peak_memory_stats": lambda *device: None,
    "mem_get_info": lambda *device: (2**33, 2**34),
    "Stream": _Stream,
    "stream": lambda stream: contextlib.nullcontext(),
    "current_stream": lambda *device: _Stream(),
}


@contextlib.contextmanager
def device() -> Iterator[Waits]:
    """Inside, `cuda` is a device; yields what waits are counted in."""
    run: Callable[..., Any] = torch.autograd._engine_run_backward

    def backward(*arguments: Any, **named: Any) -> Any:
        with _Mode():  # the mode is off while a function that it has seen runs
            return run(*arguments, **named)

    from rlent.policy.policy import Policy

    def export(self: Policy, folder: Any, weights: Any = None) -> Any:
        """safetensors asks for the address of the memory; the model is written from the host."""
        held = {k: _held(v.detach()).clone() for k, v in (weights or self.model.state_dict()).items()}
        with mock.patch("transformers.modeling_utils.remove_tied_weights_from_state_dict", lambda state, model: state):
            return original(self, folder, held)

    original = Policy.export
    _waits.clear()
    with contextlib.ExitStack() as stack:
        for name, value in _MODULE.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        stack.enter_context(mock.patch("torch.inference_mode", torch.no_grad))  # torch 2.11 makes no views of such tensors that hold others
        stack.enter_context(mock.patch("torch.backends.cuda.matmul", mock.Mock(allow_tf32=False)))
        stack.enter_context(mock.patch("torch.autograd._engine_run_backward", backward))
        stack.enter_context(mock.patch.object(Policy, "export", export))
        stack.enter_context(
            mock.patch("rlent.engine.auto.choice", lambda: ("native", "vLLM has no kernels for a device that is not there"))
        )
        stack.enter_context(_Mode())
        yield _waits


_session = contextlib.ExitStack()


def pytest_configure(config: Any) -> None:
    """As a plugin: the whole session has the device. (Imported by a test, this function is not a plugin's, and is not called.)"""
    _session.enter_context(device())


def pytest_unconfigure(config: Any) -> None:
    _session.close()
