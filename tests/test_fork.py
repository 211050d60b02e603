"""Branches from a checkpoint: the parent's own recipe is the parent again, and other methods differ only from there on."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from runs import lines, rlent, rows, started, train, wait_for

from rlent.cli import commands
from rlent.errors import CheckpointError, RecipeError, RunExists, UsageError
from rlent.runs import checkpoint
from rlent.studies import fork, microbatch
from rlent.studies.fork import Parent
from rlent.train.objective import Objective

AT, STEPS = 4, 7


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a controller and its knob, a random selection and the ledger: everything that has state."""
    folder = tmp_path_factory.mktemp("parent") / "run"
    options = ["recipe=aer", "shape=[aer,clip_cov]", "optim.schedule=linear", "sampler.n=8", "checkpoint.every=2", "checkpoint.keep=9"]
    return train(folder, *options, f"trainer.steps={STEPS}")


def branch(parent: Path, home: Path, *overrides: str, at: int = AT, **options: object) -> Path:
    """One branch, made and trained in this process."""
    (one,) = fork.plan(Parent.read(str(parent)), at, overrides, home, **options)  # type: ignore[arg-type]
    fork.make(one, Parent.read(str(parent)), at)
    assert commands.train([], resume=str(one.folder)) == 0
    return one.folder


def test_a_branch_with_the_parents_recipe_is_the_parent_bit_for_bit(parent: Path, tmp_path: Path) -> None:
    made = branch(parent, tmp_path)
    for name in ("metrics.jsonl", "model/model.safetensors"):
        assert (made / name).read_bytes() == (parent / name).read_bytes()
    about = json.loads((made / "run.json").read_text())
    assert about["fork"]["step"] == AT and about["fork"]["run"] == str(parent) and about["fork"]["changed"] == []


def test_another_method_starts_from_the_same_weights_prompts_and_noise(parent: Path, tmp_path: Path) -> None:
    made = branch(parent, tmp_path, "recipe=entropybonus", "regularize.entropy.coef=1")
    ours, theirs = rows(made), rows(parent)
    assert ours[:AT] == theirs[:AT]
    sampled = ("tokens/step", "entropy/mean", "correct/mean", "length/mean", "nll/mean", "adv/std")  # of the first step's batch
    assert [ours[AT][k] for k in sampled] == [theirs[AT][k] for k in sampled]
    assert ours[AT]["update/lr"] == theirs[AT]["update/lr"]  # the optimizer's schedule goes on
    assert ours[AT]["entropy/after"] != theirs[AT]["entropy/after"]
    assert "knob/regularize.aer.coef" in theirs[-1] and "knob/regularize.aer.coef" not in ours[-1]


def test_a_branch_has_the_learning_rate_of_its_own_recipe_at_its_own_number_of_updates(parent: Path, tmp_path: Path) -> None:
    own = "optim.lr=1e-4", "trainer.minibatches=1", "trainer.epochs=3"
    made = rows(branch(parent, tmp_path, *own))
    alone = rows(train(tmp_path / "alone", "optim.schedule=linear", *own, f"trainer.steps={STEPS}"))
    assert made[AT - 1]["update/lr"] == rows(parent)[AT - 1]["update/lr"]
    assert [r["update/lr"] for r in made[AT:]] == [r["update/lr"] for r in alone[AT:]]


def test_what_a_branch_takes_and_what_begins_anew_is_said(parent: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.fork(str(parent), AT, ["recipe=siren,aer"], out=str(tmp_path / "f"), dry_run=True) == 0
    siren, aer = capsys.readouterr().out.split("recipe=aer  new")
    assert "without shape.aer, shape.clip_cov, regularize.aer, control.aer" in siren
    assert "begins without memory, because the parent had none to give: control.siren" in siren
    assert "not taken from the parent, because they belong to its method: shape=[aer,clip_cov]" in siren
    assert "the parent's own recipe" in aer and not (tmp_path / "f").exists()


def test_the_memory_of_a_function_that_stays_is_kept_and_that_of_another_is_not(parent: Path, tmp_path: Path) -> None:
    place = Parent.read(str(parent))
    state = checkpoint.read_state(parent / "checkpoints", AT)
    assert state.functions and state.knobs
    (same,) = fork.plan(place, AT, ["regularize.aer.aggregate=seq_mean"], tmp_path)
    (other,) = fork.plan(place, AT, ["recipe=entropybonus"], tmp_path)
    assert fork.state_for(same, place, state).functions == state.functions
    assert fork.state_for(same, place, state).knobs == state.knobs
    assert fork.state_for(other, place, state).functions == {} == fork.state_for(other, place, state).knobs


def test_a_step_without_checkpoint_lists_those_there_are(parent: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 5; it has 2, 4, 6, 7\..*checkpoint.keep=1000"):
        commands.fork(str(parent), 5, ["recipe=grpo"])
    with pytest.raises(UsageError, match="not a run folder"):
        commands.fork(str(parent.parent), 2, [])


def test_a_branch_that_could_not_go_on_is_refused_before_any_starts(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        commands.fork(str(parent), 6, ["recipe=grpo,klcov", "model.path=other", "trainer.steps=6"], out=str(tmp_path / "f"))
    text = str(caught.value)
    assert "recipe=klcov,model.path=other: model.path: a branch goes on with its parent's (tiny), found other" in text
    assert "recipe=grpo,model.path=other: trainer.steps: 6 is not after step 6" in text and not (tmp_path / "f").exists()


def test_a_folder_with_another_branch_is_not_overwritten(parent: Path, tmp_path: Path) -> None:
    place = Parent.read(str(parent))
    (one,) = fork.plan(place, AT, ["recipe=grpo"], tmp_path)
    fork.make(one, place, AT)
    with pytest.raises(RunExists, match=rf"holds a branch of {parent} at step {AT}; nothing was overwritten"):
        commands.fork(str(parent), 2, ["recipe=grpo"], out=str(tmp_path))
    (tmp_path / "recipe=grpo,optim.lr=1e-05").mkdir()
    with pytest.raises(RunExists, match="is no branch"):
        commands.fork(str(parent), AT, ["recipe=grpo", "optim.lr=1e-05"], out=str(tmp_path))


def test_a_longer_parent_hands_its_length_on(parent: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(parent, copy)
    config = (copy / "recipe.yaml").read_text().replace(f"steps: {STEPS}\n", "steps: 9\n")
    (copy / "recipe.yaml").write_text(config)
    (one,) = fork.plan(Parent.read(str(copy)), AT, ["recipe=grpo"], tmp_path)
    assert one.recipe["trainer"]["steps"] == 9


@pytest.mark.slow
def test_a_fork_that_was_stopped_is_continued_by_the_same_command(parent: Path, tmp_path: Path) -> None:
    command = ["fork", str(parent), "--at", str(AT), "recipe=aer,grpo", "trainer.steps=12", "--out", str(tmp_path / "f")]
    process = started(*command)
    wait_for(lambda: lines(tmp_path / "f" / "recipe=aer") > AT, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    done = rlent(*command)
    assert "recipe=aer  finished" in done.stdout and "recipe=grpo  finished" in done.stdout
    assert [len(rows(tmp_path / "f" / f"recipe={r}")) for r in ("aer", "grpo")] == [12, 12]
    assert rows(tmp_path / "f" / "recipe=aer")[:AT] == rows(parent)[:AT]


# --- the artefact meter ----------------------------------------------------------------------------------------------


def test_part_by_part_a_selection_is_rounded_more_often_and_the_meter_says_so(
    parent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80/20 rounds up each time it is called: with parts of one or two rows it keeps more, and leaves out less, than over a minibatch."""
    monkeypatch.setattr(fork.launch, "child", lambda arguments: commands.train([], resume=arguments[-1]))
    assert commands.fork(str(parent), 6, ["recipe=forking"], by_microbatch="40", out=str(tmp_path)) == 0
    (pair,) = json.loads((tmp_path / "artefact.json").read_text())
    assert (pair["method"], pair["tokens"], pair["noise"]) == ("recipe=forking", 40, None)
    assert pair["acts"][0] == pytest.approx(0.8, abs=0.02) and pair["acts"][1] < pair["acts"][0] - 0.005


@pytest.mark.parametrize("method", ["clipcov", "klcov", "steer", "hapo", "forking"])
def test_the_meter_knows_what_to_call_part_by_part(parent: Path, tmp_path: Path, method: str) -> None:
    whole, parts = fork.plan(Parent.read(str(parent)), AT, [f"recipe={method}"], tmp_path, by_part=[64])
    assert not [n for members in whole.recipe.plan.nodes.values() for n in members if n.scope == "microbatch"]
    called = [n.path for members in parts.recipe.plan.nodes.values() for n in members if n.scope == "microbatch"]
    assert called == [n.path for seat in ("shape", "regularize") for n in whole.recipe.plan.nodes[seat]]
    assert "now_" not in " ".join(line for line in parts.recipe.plan.lines() if line.startswith("before"))
    Objective(parts.recipe.plan, aggregate="token_mean", length=1)


def test_a_method_that_never_looks_at_a_minibatch_has_no_artefact(parent: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a micro-batch cannot change it"):
        fork.plan(Parent.read(str(parent)), AT, ["recipe=grpo"], tmp_path, by_part=[64])
    with pytest.raises(UsageError, match="numbers of tokens"):
        commands.fork(str(parent), AT, ["recipe=klcov"], by_microbatch="64,x")


def test_pairs_and_noise_are_worked_out_from_the_records(tmp_path: Path) -> None:
    def run(name: str, entropy: float, effect: float) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        rows = [{"step": s, "entropy/mean": entropy, "effect/x": effect, "pull/abs": 1.0} for s in (1, 2, 3)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return folder

    runs = {
        ("m", 64, "minibatch"): run("a", 0.50, 0.1),
        ("m", 64, "part"): run("b", 0.40, 0.3),
        ("m", 128, "minibatch"): run("c", 0.52, 0.1),
    }
    (pair,) = microbatch.measure(runs, at=1)
    assert pair.acts == (0.1, 0.3) and pair.entropy == pytest.approx((0.5, 0.4)) and pair.noise == pytest.approx(0.02)
    assert "0.500 -> 0.400  -0.100  0.020" in "\n".join(microbatch.lines([pair]))


@pytest.mark.parametrize(
    "options, metric, moves",
    [
        (["recipe=bapo", "+loss.scope=microbatch", "loss.target=2", "trainer.epochs=2", "optim.lr=1e-3"], "pull/abs", None),
        (["recipe=ettrlear", "+shape.ettrl_reshaping.scope=microbatch"], "effect/ettrl_reshaping", "update/grad_norm"),
    ],
)
def test_losses_and_step_functions_can_be_called_part_by_part_too(
    tmp_path: Path, options: list[str], metric: str, moves: str | None
) -> None:
    """As often as there are parts, each time with that part's rows alone; with one part it is what the minibatch gives."""
    given = [*options, "seed=14", "sampler.n=8", "sampler.max_tokens=16", "trainer.minibatches=1", "model.dtype=float64", "trainer.steps=1"]
    cut, one = (rows(train(tmp_path / f"{size}", *given, f"trainer.max_tokens_per_microbatch={size}"))[0] for size in (100, 16384))
    plain = rows(train(tmp_path / "plain", *given[:1], *given[2:], "trainer.max_tokens_per_microbatch=16384"))[0]
    assert one[metric] == pytest.approx(plain[metric], rel=1e-9) and one[metric] > 0
    assert cut[metric] > 0
    if moves is not None:
        assert cut[moves] != pytest.approx(one[moves], rel=1e-3), "what a part alone gives is another number"
