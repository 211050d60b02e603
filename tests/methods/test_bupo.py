from pathlib import Path

import torch
from runs import rows, train

from rlent.methods.bupo import Phase, internal_logp


def test_the_inner_policy_is_the_head_on_the_inner_state_and_has_its_gradient():
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(5, 3, generator=g, dtype=torch.float64)
    inner, hidden = (torch.randn(2, 3, generator=g, dtype=torch.float64).requires_grad_(True) for _ in range(2))
    target = torch.tensor([1, 4])
    found = internal_logp(inner, hidden, target, lambda h: h @ weight.T / 0.7, share=1.0)
    want = (inner @ weight.T / 0.7).log_softmax(-1)[torch.arange(2), target]
    torch.testing.assert_close(found, want)
    found.sum().backward()
    assert inner.grad.abs().sum() > 0 and hidden.grad is None
    whole = internal_logp(inner, hidden, target, lambda h: h @ weight.T, share=0.0)
    torch.testing.assert_close(whole, (hidden @ weight.T).log_softmax(-1)[torch.arange(2), target])


def test_the_phase_is_set_for_the_step_that_comes():
    phase = Phase(knob="probe.internal_logp.share", steps=3)
    assert [phase({}, s) for s in (1, 2, 3, 4)] == [1.0, 1.0, 0.0, 0.0]  # steps 2 and 3, then 4 and 5


def test_blocks_above_the_layer_stand_still_in_the_first_phase_and_move_in_the_second(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    def weights(name: str, *more: str) -> dict[str, torch.Tensor]:
        folder = train(tmp_path / name, "recipe=bupo", "optim.weight_decay=0", *more)
        assert all(r["update/grad_norm"] > 0 for r in rows(folder))
        return load_file(folder / "model" / "model.safetensors")

    two, three = weights("two", "trainer.steps=2"), weights("three", "trainer.steps=3", "control.bupo.steps=2")
    start = weights("one", "trainer.steps=1")
    upper = [k for k in two if ".layers.2." in k or ".layers.3." in k or k.endswith("model.norm.weight")]
    lower = [k for k in two if ".layers.0." in k and "proj.weight" in k]
    assert upper and lower
    assert all(torch.equal(two[k], start[k]) for k in upper)
    assert all(not torch.equal(two[k], start[k]) for k in lower)
    assert any(not torch.equal(three[k], two[k]) for k in upper)


def test_with_share_zero_it_is_the_clipped_surrogate_of_the_whole_model(tmp_path: Path) -> None:
    common = ["trainer.steps=1", "model.dtype=float64", "trainer.minibatches=1"]
    inner = rows(train(tmp_path / "inner", "recipe=bupo", "probe.internal_logp.share=0", *common))
    plain = rows(train(tmp_path / "plain", "recipe=grpo", "loss.dual=10", *common))
    assert abs(inner[0]["update/grad_norm"] / plain[0]["update/grad_norm"] - 1) < 1e-6
