"""Checks of what a function is given: shapes, dtypes and values that would give a wrong number in silence.

Where everything is as it should be, a check compares a dtype and a shape, and looks at no value.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rlent.errors import UsageError


def require_binary(reward: Float[Tensor, " N"], method: str) -> None:
    """Check that every reward is 0 or 1.

    Raises:
        UsageError: naming the method and the first other value.
    """
    odd = reward[(reward != 0) & (reward != 1)]
    if len(odd):
        raise UsageError(
            f"{method} needs rewards of exactly 0 and 1, and found {float(odd[0]):g}; use reward=[correct] with right 1 and wrong 0, "
            "without terms for length or format"
        )


def require_float(**tensors: Tensor) -> None:
    """Check that each tensor, by name, is of a floating-point dtype.

    Raises:
        UsageError: naming the first that is not.
    """
    for name, value in tensors.items():
        if not value.is_floating_point():
            raise UsageError(f"{name} is {_dtype(value)}; a floating-point tensor is needed")


def require_same_shape(**tensors: Tensor) -> None:
    """Check that all tensors, by name, have the shape of the first.

    Raises:
        UsageError: naming the first two that differ.
    """
    (first, expected), *rest = tensors.items()
    for name, value in rest:
        if value.shape != expected.shape:
            raise UsageError(f"{name} has shape {_shape(value)} and {first} {_shape(expected)}; both need the same shape")


def as_mask(mask: Tensor, like: Tensor, *, name: str = "mask") -> Tensor:
    """The mask as bool, of the shape of `like`. Numbers are accepted where every one is 0 or 1.

    Raises:
        UsageError: another shape, or another value.
    """
    if mask.shape != like.shape:
        raise UsageError(f"{name} has shape {_shape(mask)} and the values {_shape(like)}; both need the same shape")
    if mask.dtype is torch.bool:
        return mask
    odd = mask[(mask != 0) & (mask != 1)]
    if odd.numel():
        raise UsageError(
            f"{name} is {_dtype(mask)} and has {odd.reshape(-1)[0].item():g} in it; a mask is bool, or numbers that are 0 and 1"
        )
    return mask.bool()


def _shape(value: Tensor) -> str:
    return str(list(value.shape))


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
