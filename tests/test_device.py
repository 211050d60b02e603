"""Training with the model on a device of its own, where there is none: see `pretend`. What it finds would stop a run on a GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretend import device
from runs import SMALL, environment, rows, train

from rlent.cli import commands
from rlent.policy.packing import PackedForward
from rlent.recipe.compose import groups

TESTS, SCRIPTS = Path(__file__).parent, Path(__file__).parent.parent / "scripts"
GPU = ["scale=gpu", "engine=native", "trainer.max_tokens_per_microbatch=200"]


def test_what_a_device_refuses_is_refused() -> None:
    with device():
        here, there = torch.ones(3, 4), torch.ones(3, 4, device="cuda")
        assert there.device.type == "cuda" and (there + there.new_tensor(2.0) + 1).sum().item() == 48
        for wrong in (
            lambda: here + there,
            lambda: here[torch.tensor([0], device="cuda")],
            lambda: torch.cat((there, here)),
            lambda: there.index_put((torch.tensor([0]),), here[:1]),
            lambda: here * there.sum(),
        ):
            with pytest.raises((RuntimeError, TypeError)):
                wrong()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        layer = torch.nn.Linear(4, 2).to("cuda")
        layer(there).sum().backward()
        assert layer.weight.grad is not None and layer.weight.grad.device.type == "cuda"


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted(groups()["recipe"]))
def test_every_recipe_keeps_the_places_apart(recipe: str, tmp_path: Path) -> None:
    with device():
        run = train(tmp_path / "run", *SMALL, *GPU, f"recipe={recipe}", "trainer.steps=1", "checkpoint.every=0", small=[])
    assert [row["step"] for row in rows(run)] == [1]


MORE = ["model.dtype=bfloat16", "scale.recompute=true", "eval.every=2", "eval.n=2", "eval.ks=[1,2]"]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["trainer.old_logprobs=rollout"]], ids=["policy", "sampler"])
def test_a_run_gives_the_numbers_of_one_without_a_device(options: list[str], tmp_path: Path) -> None:
    """To rounding, of which the mismatch of engine and trainer consists."""
    common = [*SMALL, *GPU, "recipe=clipcov", "shape.clip_cov.fraction=0.05", "trainer.steps=2", "checkpoint.every=1", *options]
    with device():
        there = train(tmp_path / "there", *common, "trainer.steps=1", small=[])
        assert commands.train(["trainer.steps=2"], resume=str(there)) == 0
    here = train(tmp_path / "here", *common, "scale=cpu", small=[])
    for one, other in zip(rows(here), rows(there), strict=True):
        assert one.keys() == other.keys()
        for key in one:
            rel = 0.02 if key.startswith(("mismatch/", "noise/")) else 1e-3
            assert other[key] == pytest.approx(one[key], rel=rel, abs=1e-5), f"step {one['step']}: {key}"


@pytest.mark.slow
def test_the_host_waits_as_often_as_the_plan_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part is sent at once, and its statistics come back; an update asks for one number; no size depends on values."""
    parts = []
    forward = PackedForward.__call__
    monkeypatch.setattr(PackedForward, "__call__", lambda self, *given: parts.append(1) or forward(self, *given))
    with device() as waits:
        run = train(tmp_path / "run", *SMALL, *GPU, "recipe=grpo", "trainer.steps=1", "checkpoint.every=0", small=[])
        waits.clear()
        parts.clear()
        assert commands.train(["trainer.steps=4"], resume=str(run)) == 0
    step = {k: n for k, n in waits.items() if k[1].startswith("rlent/") and not k[1].startswith(("rlent/engine/", "rlent/policy/decode", "rlent/runs/checkpoint"))}
    updates, checks = 3 * 2, {"forward.py": 1, "packing.py": 1, "prepare.py": 2}  # of the model, when it is wrapped
    numbers = {("_local_scalar_dense", f"rlent/policy/{name}"): n for name, n in {**checks, "optim.py": updates}.items()}
    assert {k: n for k, n in step.items() if not k[0].startswith("move")} == numbers
    assert step["move to cuda", "rlent/policy/packing.py"] == len(parts)
    assert step["move to cpu", "rlent/policy/policy.py"] <= 2 * len(parts)


@pytest.mark.slow
def test_verbs_that_read_a_run_use_its_device(tmp_path: Path) -> None:
    with device() as waits:
        run = train(tmp_path / "run", *SMALL, *GPU, *MORE, "recipe=kl", "trainer.steps=2", "track.save_batches=1", small=[])

        def evaluate() -> int:
            return commands.evaluate([f"run={run}", "eval.problems=4", "eval.n=2", "eval.ks=[1,2]"])

        def replay() -> int:
            return commands.replay(str(run), ["recipe=clipcov,siren,erank", "scale=gpu"], model=str(run))

        def measure() -> int:
            return commands.measure(str(run), str(next(run.glob("eval/*/responses.jsonl"))), ["scale=gpu"])

        for verb in (evaluate, replay, measure):
            waits.clear()
            assert verb() == 0
            assert waits["move to cuda", "rlent/policy/load.py"] > 20, verb.__name__  # the model's tensors, to begin with
        assert commands.inspect(str(run), ["scale=gpu"], methods="klcov", out=str(tmp_path / "page.html")) == 0


@pytest.mark.slow
def test_the_tests_for_a_gpu_pass_here_as_far_as_they_need_no_kernels_of_one() -> None:
    ask = [sys.executable, "-m", "pytest", "-p", "pretend", "-q", "-m", "gpu", "-k", "not vllm", "-rs", str(TESTS / "test_gpu.py")]
    done = subprocess.run(ask, env={**environment(), "PYTHONPATH": str(TESTS)}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "7 passed, 4 skipped" in done.stdout, done.stdout[-1000:]  # skipped: flash attention's kernel, two devices


@pytest.mark.slow
def test_the_benchmark_for_a_gpu_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_gpu

    with device():
        bench_gpu.main(["--tiny", "--repeats", "1"])
    assert "rlent is" in capsys.readouterr().out
