"""Recomputed layers: the same gradients and the same names, without the layers' inner activations."""

import torch

from rlent.policy.policy import Policy
from rlent.types import Batch


def part() -> Batch:
    tokens = torch.tensor([[5, 7, 9], [8, 6, 1]])
    return Batch({"prompt_ids": [[6, 19, 8], [3, 4]], "tokens": tokens, "mask": torch.ones_like(tokens, dtype=torch.bool)}, torch.arange(2))


def held(policy: Policy) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients, and bytes kept for the backward pass."""
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.nbytes if not isinstance(tensor, torch.nn.Parameter) else 0
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        out = policy(part())
    (out["logp"].sum() + out["entropy"].square().sum()).backward()
    return {name: p.grad for name, p in policy.model.named_parameters()}, kept


def test_recomputed_layers_give_the_same_gradients_under_the_same_names_and_keep_less():
    plain, full = held(Policy(Policy.load("tiny", dtype="float64").model, lean=False))
    again, less = held(Policy.load("tiny", dtype="float64", recompute=True))
    assert plain.keys() == again.keys() and less < full / 3
    for name, grad in plain.items():
        torch.testing.assert_close(again[name], grad, rtol=1e-9, atol=1e-12)
