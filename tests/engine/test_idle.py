"""An engine that gives its memory back is asleep while the policy learns, and awake and up to date whenever it is asked."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from runs import train

from rlent.engine.native import NativeEngine
from rlent.errors import EngineError
from rlent.policy.policy import Policy

EVENTS: list[str] = []


class Sleeper(NativeEngine):
    """Native, but it notes what is asked of it, and cannot sample asleep or from weights it was not given."""

    asleep = stale = False

    @contextlib.contextmanager
    def idle(self):
        EVENTS.append("sleep")
        self.asleep = self.stale = True
        try:
            yield
        finally:
            EVENTS.append("wake")
            self.asleep = False

    def load(self, policy, version):
        assert not self.asleep
        EVENTS.append("load")
        self.stale = False
        super().load(policy, version)

    def generate(self, rows, *, entropy=False):
        assert not self.asleep and not self.stale
        EVENTS.append("generate")
        return super().generate(rows, entropy=entropy)


def test_the_engine_sleeps_during_the_update_only(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    EVENTS.clear()
    step = Policy.step
    monkeypatch.setattr(Policy, "step", lambda self: EVENTS.append("update") or step(self))
    train(
        run_dir,
        "recipe=grpo",
        "engine=native",
        f"engine._target_={__name__}.Sleeper",
        "trainer.steps=2",
        "eval.every=2",
        "eval.n=2",
        "eval.ks=[1]",
        "eval.problems=2",
    )
    learn = ["generate", "sleep", "update", "update", "wake", "load"]
    assert EVENTS == ["load", *learn, *learn, "generate"]


class Deaf(NativeEngine):
    """Takes the first weights it is given, and no others."""

    def load(self, policy, version):
        if self.version < 0:
            super().load(policy, version)


def test_an_engine_with_old_weights_is_not_sampled_from(run_dir: Path) -> None:
    with pytest.raises(EngineError, match="step 2: the engine holds the weights of step 0, and the policy is at step 1"):
        train(run_dir, "recipe=grpo", "engine=native", f"engine._target_={__name__}.Deaf", "trainer.steps=2")
