"""The chunked head against materialised logits: values, gradients, probes, memory."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from rlent.math.entropy import logp_and_entropy
from rlent.policy import head
from rlent.policy.head import token_statistics

N, V, D = 11, 23, 7


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of a few logits, so that every loop runs more than once and the last tile is a remainder."""
    monkeypatch.setitem(head.TILE, "cpu", 20)
    monkeypatch.setitem(head.ROWS, "cpu", 4)
    monkeypatch.setattr(head, "KEPT", 90)


def inputs(dtype: torch.dtype = torch.float64, n: int = N, size: int = V, width: int = D) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((n, width), (size, width), (size,)))
    target = torch.randint(0, size, (n,), generator=generator)
    return *(x.to(dtype).requires_grad_() for x in (hidden, weight, bias)), target


def materialised(
    hidden: Tensor, weight: Tensor, target: Tensor, *, temperature: float = 1.0, bias: Tensor | None = None, softcap: float | None = None
):
    logits = hidden @ weight.T
    logits = logits if bias is None else logits + bias
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    logp, entropy = logp_and_entropy(logits, target, temperature)
    return logits / temperature, logp, entropy


def upstream(n: int = N, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(3, n, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


def rare_mass(logits: Tensor, target: Tensor, *, below: float = 0.05) -> Tensor:
    """A probe: probability mass of rare tokens other than the target, smooth in the logits."""
    p = logits.softmax(-1)
    rare = p * torch.sigmoid((below - p) / below)
    return rare.sum(-1) - rare.gather(1, target[:, None]).squeeze(1)


OPTIONS = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7, "softcap": 2.0},
    {"temperature": 1.3, "softcap": 1.5, "biased": True},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("probes", [{}, {"rare": rare_mass}], ids=["no probe", "probe"])
def test_values_and_gradients_equal_those_of_materialised_logits(small_tiles, options, probes):
    options = dict(options)
    hidden, weight, bias, target = inputs()
    options["bias"] = bias if options.pop("biased", False) else None
    logits, logp, entropy = materialised(hidden, weight, target, **options)
    found = token_statistics(hidden, weight, target, probes=probes, **options)
    want = [logp, entropy, *(probe(logits, target) for probe in probes.values())]
    leaves = [hidden, weight] + ([bias] if options["bias"] is not None else [])
    g = list(upstream())[: len(want)]
    for value, exact in zip(found.values(), want, strict=True):
        torch.testing.assert_close(value, exact, rtol=1e-12, atol=1e-13)
    for mine, exact in zip(torch.autograd.grad(list(found.values()), leaves, g), torch.autograd.grad(want, leaves, g), strict=True):
        torch.testing.assert_close(mine, exact, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("probed", [False, True])
def test_gradcheck(small_tiles, probed):
    hidden, weight, bias, target = inputs(n=5, size=9, width=4)

    def mixed(logits: Tensor, target: Tensor, hidden: Tensor) -> dict[str, Tensor]:
        return {"collision": logits.softmax(-1).square().sum(-1), "sine": hidden.sin().sum(-1) * logits[:, 0]}

    def call(*leaves: Tensor) -> tuple[Tensor, ...]:
        probes = {"p": mixed} if probed else {}
        return tuple(
            token_statistics(leaves[0], leaves[1], target, bias=leaves[2], temperature=0.8, softcap=3.0, probes=probes, chunk=2).values()
        )

    assert torch.autograd.gradcheck(call, (hidden, weight, bias))


def test_one_upstream_gradient_alone(small_tiles):
    """Only the entropy is differentiated, then only the log-probability: the other takes no part."""
    hidden, weight, _, target = inputs()
    _, logp, entropy = materialised(hidden, weight, target)
    found = token_statistics(hidden, weight, target)
    g = upstream()[0]
    for name, exact in (("logp", logp), ("entropy", entropy)):
        mine = torch.autograd.grad(found[name], (hidden, weight), g, retain_graph=True)
        for a, b in zip(mine, torch.autograd.grad(exact, (hidden, weight), g, retain_graph=True), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_a_frozen_input_gets_no_gradient_and_the_other_its_own(small_tiles, frozen):
    hidden, weight, _, target = inputs()
    kept = weight if frozen == "hidden" else hidden
    (want,) = torch.autograd.grad(sum(x.sum() for x in token_statistics(hidden, weight, target).values()), kept)
    (hidden if frozen == "hidden" else weight).requires_grad_(False)
    sum(x.sum() for x in token_statistics(hidden, weight, target).values()).backward()
    torch.testing.assert_close(kept.grad, want, rtol=0, atol=0)
    assert (hidden if frozen == "hidden" else weight).grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_precision_is_close_to_the_exact_values_of_the_same_inputs(monkeypatch, dtype):
    """Reductions are in float32: with bfloat16 input the error of a value is that of float32, not that of bfloat16."""
    monkeypatch.setitem(head.TILE, "cpu", 5000)
    hidden, weight, _, target = inputs(dtype, n=37, size=3001, width=32)
    exact_in = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    _, logp, entropy = materialised(*exact_in, target, temperature=0.9)
    found = token_statistics(hidden, weight, target, temperature=0.9)
    assert {v.dtype for v in found.values()} == {torch.float32}
    torch.testing.assert_close(found["logp"].double(), logp, rtol=0, atol=1e-4)
    torch.testing.assert_close(found["entropy"].double(), entropy, rtol=0, atol=1e-4)
    g = upstream(37)[:2]
    mine = torch.autograd.grad(list(found.values()), (hidden, weight), [x.float() for x in g])
    bound = 1e-4 if dtype == torch.float32 else 2**-8  # a bfloat16 gradient is rounded once, when it is stored
    for a, b in zip(mine, torch.autograd.grad([logp, entropy], exact_in, list(g)), strict=True):
        assert a.dtype == dtype
        assert float((a.double() - b).norm() / b.norm()) < bound


def test_float32_gradients_equal_materialised_float32():
    hidden, weight, _, target = inputs(torch.float32, n=50, size=997, width=16)
    _, logp, entropy = materialised(hidden, weight, target)
    found = token_statistics(hidden, weight, target)
    g = list(upstream(50, torch.float32)[:2])
    for a, b in zip(
        torch.autograd.grad(list(found.values()), (hidden, weight), g),
        torch.autograd.grad([logp, entropy], (hidden, weight), g),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_token_does_not_depend_on_the_others_or_on_the_tiles(monkeypatch):
    hidden, weight, _, target = inputs()
    whole = token_statistics(hidden, weight, target, probes={"rare": rare_mass})
    monkeypatch.setitem(head.TILE, "cpu", 9)
    for i in range(N):
        one = token_statistics(hidden[i : i + 1], weight, target[i : i + 1], probes={"rare": rare_mass})
        for name in whole:
            torch.testing.assert_close(one[name], whole[name][i : i + 1], rtol=1e-12, atol=1e-13)


def test_without_gradient_the_values_are_the_same_bits(small_tiles):
    hidden, weight, _, target = inputs(torch.float32)
    live = token_statistics(hidden, weight, target, probes={"rare": rare_mass})
    with torch.no_grad():
        look = token_statistics(hidden, weight, target, probes={"rare": rare_mass})
    assert all(torch.equal(live[k], look[k]) for k in live)
    assert all(live[k].requires_grad and not look[k].requires_grad for k in live)


def test_probes_see_the_streams_they_name_and_only_constants_of_them(small_tiles):
    hidden, weight, _, target = inputs()
    seen: list[int] = []

    def weighted(logits: Tensor, old_entropy: Tensor) -> Tensor:
        seen.append(len(old_entropy))
        return logits[:, 0] * old_entropy

    stream = torch.arange(N, dtype=torch.float64)
    found = token_statistics(hidden, weight, target, probes={"w": weighted}, streams={"old_entropy": stream}, chunk=4)
    torch.testing.assert_close(found["w"], (hidden @ weight.T)[:, 0] * stream)
    assert seen == [4, 4, 3]
    (gradient,) = torch.autograd.grad(found["w"].sum(), hidden)
    torch.testing.assert_close(gradient, stream[:, None] * weight[0].detach())


def test_a_probe_that_reduces_over_tokens_is_refused():
    hidden, weight, _, target = inputs()
    with pytest.raises(ValueError, match=r"probe 'mean' returned shape \(\) for 11 tokens"):
        token_statistics(hidden, weight, target, probes={"mean": lambda logits: logits.mean()})


def test_no_tokens_give_no_values_and_a_zero_gradient():
    hidden, weight, _, target = inputs()

    def top(logits: Tensor) -> dict[str, Tensor]:
        return {"first": logits.amax(-1), "second": logits.topk(2).values[:, 1]}

    found = token_statistics(hidden[:0], weight, target[:0], probes={"top": top})
    assert {k: tuple(v.shape) for k, v in found.items()} == {k: (0,) for k in ("logp", "entropy", "top_first", "top_second")}
    sum(v.sum() for v in found.values()).backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1e4, 0.0], [0.0, 0.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    bias = torch.tensor([0.0, 0.0, float("-inf")])  # a token that cannot occur
    found = token_statistics(hidden, weight, torch.tensor([0, 1]), bias=bias)
    # first token: all mass on 0; second: 0 and 1 alike
    torch.testing.assert_close(found["logp"].detach(), torch.tensor([0.0, -0.6931472]))
    torch.testing.assert_close(found["entropy"].detach(), torch.tensor([0.0, 0.6931472]))
    (found["logp"].sum() + found["entropy"].sum()).backward()
    # d logp_2 / d hidden = weight_1 - (weight_0 + weight_1) / 2
    torch.testing.assert_close(hidden.grad, torch.tensor([[0.0, 0.0], [-1.0, 0.0]]))


def test_memory_held_is_a_tile_not_the_logits(monkeypatch):
    """No tensor of the head is larger than the tile, the weight or the hidden states."""
    monkeypatch.setitem(head.TILE, "cpu", 4096)
    hidden, weight, _, target = inputs(torch.float32, n=600, size=900, width=4)
    largest = _largest_tensor(lambda: sum(v.sum() for v in token_statistics(hidden, weight, target).values()).backward())
    assert largest <= 4096 < 600 * 900
    monkeypatch.setattr(head, "KEPT", 20_000)
    probed = {"top": lambda logits: logits.amax(-1)}
    largest = _largest_tensor(lambda: token_statistics(hidden, weight, target, probes=probed))
    assert 900 <= largest <= 20_000


def _largest_tensor(work: Callable[[], object]) -> int:
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out if isinstance(out, tuple | list) else (out,)) if isinstance(x, Tensor))
            return out

    with Watch():
        work()
    return max(sizes)
