"""Products through oneDNN: torch's numbers up to rounding, the same bits again, and torch itself for what oneDNN is not asked for."""

from __future__ import annotations

import pytest
import torch

from rlent.policy.cpu import products
from rlent.policy.cpu.products import linear, linear_add, outer, times, times_add

needs = pytest.mark.skipif(not products.available(), reason="products go through torch on this processor")


def operands(dtype: torch.dtype = torch.float32, rows: int = 37) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(shape, dtype=torch.float64).to(dtype) for shape in ((rows, 48), (rows, 20), (20, 48), (20,)))


def results(x, g, w, b) -> dict[str, torch.Tensor]:
    return {
        "linear": linear(x, w),
        "linear with bias": linear(x, w, b),
        "linear_add": linear_add(x, w, g),
        "times": times(g, w),
        "times_add": times_add(g, w, x.clone()),
        "outer": outer(g, x),
    }


def exact(x, g, w, b) -> dict[str, torch.Tensor]:
    x, g, w, b = (t.double() for t in (x, g, w, b))
    return {
        "linear": x @ w.T,
        "linear with bias": x @ w.T + b,
        "linear_add": g + x @ w.T,
        "times": g @ w,
        "times_add": x + g @ w,
        "outer": g.T @ x,
    }


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
def test_products_are_those_of_float64_up_to_rounding(dtype, bound):
    given = operands(dtype)
    for name, value in results(*given).items():
        want = exact(*given)[name]
        assert value.dtype is dtype and float((value.double() - want).abs().max()) <= bound * float(want.abs().max()), name


def test_strided_operands_and_operands_without_rows_give_the_same():
    x, g, w, b = operands()
    wide = torch.randn(37, 96)
    wide[:, ::2] = x
    for name, value in results(wide[:, ::2], g.t().contiguous().t(), w.t().contiguous().t(), b).items():
        torch.testing.assert_close(value, results(x, g, w, b)[name], rtol=1e-5, atol=1e-5)
    assert linear(x[:0], w).shape == (0, 20) and float(outer(g[:0], x[:0]).abs().max()) == 0.0


@needs
def test_a_product_repeats_itself_bit_for_bit_and_a_row_does_not_depend_on_the_others():
    x, g, w, b = operands()
    assert all(torch.equal(a, c) for a, c in zip(results(x, g, w, b).values(), results(x, g, w, b).values(), strict=True))
    assert torch.equal(linear(x, w, b)[5:9], linear(x[5:9].contiguous(), w, b))


@needs
def test_float32_on_the_cpu_goes_through_onednn_and_nothing_else_does(monkeypatch):
    seen = []
    onednn = products._onednn
    monkeypatch.setattr(products, "_onednn", lambda *given: seen.append(given[0].dtype) or onednn(*given))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x, _, w, _ = operands(dtype)
        linear(x, w)
    assert seen == [torch.float32]


def test_where_there_is_no_onednn_torch_is_taken(monkeypatch):
    products.available.cache_clear()
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    given = operands()
    try:
        assert not products.available()
        assert torch.equal(linear(*given[::2]), torch.nn.functional.linear(*given[::2]))
    finally:
        products.available.cache_clear()
