"""Every recipe, one set of tests: it trains on the embedded model, survives a resume in the middle, and logs only explained names."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from runs import SMALL, rows, train

from rlent import metrics
from rlent.cli import commands
from rlent.recipe.compose import groups
from rlent.runs import kept as frozen

NAMES = sorted(groups()["recipe"])
LEARNING = ["seed=14", "sampler.n=8", "sampler.max_tokens=16", "data.train_size=200"]
"""With groups that have right and wrong responses, so that there are gradients; and a small data set, which is made for every run."""


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_trains_resumes_in_the_middle_and_explains_what_it_logs(name: str, tmp_path: Path) -> None:
    overrides = [f"recipe={name}", "eval.every=3", "eval.n=2", "eval.ks=[1,2]", "eval.problems=4", *LEARNING]
    whole = train(tmp_path / "whole", *overrides, "trainer.steps=3", "checkpoint.every=0", "track.save_batches=3")
    cut = train(tmp_path / "cut", *overrides, "trainer.steps=3", "checkpoint.every=2")
    (cut / "checkpoints" / "step_000003").rename(cut / "gone")  # as if killed after step 2's checkpoint
    assert commands.train([], resume=str(cut)) == 0
    assert (whole / "metrics.jsonl").read_bytes() == (cut / "metrics.jsonl").read_bytes()
    assert (whole / "model" / "model.safetensors").read_bytes() == (cut / "model" / "model.safetensors").read_bytes()
    for row in rows(whole):
        unknown = [key for key in row if metrics.explain(key) is None]
        assert not unknown, f"logged without a definition: {unknown}"
        bad = [k for k, v in row.items() if v is None or not math.isfinite(v)]
        assert not bad, f"not finite: {bad}"
    assert rows(whole)[0]["update/grad_norm"] >= 0
    kept = frozen.load(whole / "batches" / "step_000003.safetensors")
    assert len(kept) == len(kept["mask"]) and {"tokens", "adv", "reward"} <= kept.streams.keys()


PAIRS = [
    ["recipe=clipcov", "control=[siren]", "regularize=[siren]", "probe=[nucleus_entropy]"],
    ["recipe=klcov", "+shape=erc"],
    ["recipe=qae", "+shape=clip_cov"],
    ["recipe=erc", "loss=ce_gppo", "regularize=[entropy]"],
    ["recipe=erc", "loss=gppo", "regularize=[positive_nll]"],
    ["recipe=aer", "advantage=rloo", "+shape=clip_cov"],
    ["recipe=kl", "loss=pg_ratio", "+regularize=kl_cov"],
    ["recipe=clipcov", "decode=[edt,think_just_enough]", "+shape=truncated_importance"],
    ["recipe=hapo", "decode=[hapo_temperature]", "control=[hapo_temperature]", "+shape=truncated_importance"],
    ["recipe=clipcov", "objective.aggregate=seq_mean", "trainer.epochs=2"],
    ["recipe=grpo", "loss=none", "regularize=[entropy]"],
    ["recipe=clipcov", "+shape.clip_cov.scope=microbatch", "trainer.max_tokens_per_microbatch=60"],
    ["recipe=grpo", "trainer.minibatches=1", "objective.aggregate=constant"],
    ["recipe=clipcov", "regularize=[entropic]", "control=[entropic]"],
    ["recipe=aepo", "loss=ce_gppo", "+shape=erc"],
    ["recipe=ttrl", "+shape=clip_cov", "regularize=[entropy]", "control=[adaptive_entropy]"],
    ["recipe=rent", "reward=[rent,format]", "loss=gspo"],
    ["recipe=bupo", "reward=[empo]", "shape=[ettrl_reshaping]"],
    ["recipe=srft", "loss=clip_higher", "shape=[overlong_filter,clip_cov,srft]", "sampler.most=2"],
    ["recipe=clipcov", "sampler=demonstrations", "regularize=[demonstration_nll,entropy]", "advantage=dr_grpo"],
]


@pytest.mark.parametrize("overrides", PAIRS, ids=lambda o: " ".join(o))
def test_methods_of_different_seats_train_together(overrides: list[str], run_dir: Path) -> None:
    train(run_dir, *overrides, "trainer.steps=2")
    assert all(math.isfinite(v) for row in rows(run_dir) for v in row.values())
    assert all("entropy/mean" in row for row in rows(run_dir))


def test_a_step_of_one_update_measures_its_entropy_in_it(tmp_path: Path) -> None:
    one, two = (rows(train(tmp_path / f"{m}", f"trainer.minibatches={m}", "trainer.steps=1"))[0] for m in (1, 2))
    for name in ("entropy/mean", "entropy/seq_mean", "cov/mean"):
        assert one[name] == pytest.approx(two[name], rel=1e-5), name
    assert one["entropy/mean"] > 0.1


def test_at_coefficient_zero_a_method_is_its_baseline_bit_for_bit(tmp_path: Path) -> None:
    base = train(tmp_path / "base", "recipe=grpo", "trainer.steps=2")
    zero = train(tmp_path / "zero", "recipe=entropybonus", "regularize.entropy.coef=0", "trainer.steps=2")
    assert (base / "model" / "model.safetensors").read_bytes() == (zero / "model" / "model.safetensors").read_bytes()


def test_the_cut_into_parts_changes_the_model_by_no_more_than_rounding(tmp_path: Path) -> None:
    common = ["recipe=clipcov", "shape.clip_cov.fraction=0.1", "shape.clip_cov.low=0", "model.dtype=float64", "trainer.steps=3"]
    whole = train(tmp_path / "whole", *common)
    cut = train(tmp_path / "cut", *common, "trainer.max_tokens_per_microbatch=45")
    for ours, theirs in zip(rows(whole), rows(cut), strict=True):
        for key, value in ours.items():
            if key.startswith(("group/", "length/", "correct/")) or key.endswith("/share"):
                assert theirs[key] == value, key
            assert theirs[key] == pytest.approx(value, rel=1e-7, abs=1e-9), key


def test_a_method_without_effect_is_reported_once(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quiet = [o for o in SMALL if not o.startswith("track.console")]
    small = ["sampler.prompts=2", "sampler.n=2", "sampler.max_tokens=4", "trainer.minibatches=1", "track.console=plain"]
    commands.train(
        [*quiet, *small, "recipe=clipcov", "shape.clip_cov.low=1000", "shape.clip_cov.high=1001", "trainer.steps=22", f"run.dir={run_dir}"]
    )
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("shape.clip_cov has changed no token's gradient for 20 steps") == 1
    assert rows(run_dir)[-1]["effect/clip_cov"] == 0


def test_out_of_memory_halves_the_part_counts_it_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from rlent.train.actor import Actor

    common = ["recipe=grpo", "model.dtype=float64", "trainer.steps=1"]
    plain = train(tmp_path / "plain", *common)
    call, failed = Actor.__call__, []

    def short_of_memory(self: Actor, part):  # the first part that is larger than two rows does not fit
        if len(part) > 2 and len(failed) < 2:
            failed.append(len(part))
            raise torch.OutOfMemoryError("no memory")
        return call(self, part)

    monkeypatch.setattr(Actor, "__call__", short_of_memory)
    halved = train(tmp_path / "halved", *common)
    assert len(failed) == 2 and rows(halved)[0]["update/halved"] == 2
    for key, value in rows(plain)[0].items():
        assert rows(halved)[0][key] == pytest.approx(value, rel=1e-9, abs=1e-12), key
