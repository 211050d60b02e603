"""The objective gives the same numbers whatever a minibatch is cut into, on however many ranks, with whatever padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runs import own, rows, train
from streams import padded, random_batch

from rlent.errors import NonFinite, RlentError
from rlent.recipe.compose import load
from rlent.recipe.mount import Node
from rlent.runs import kept
from rlent.train.objective import Objective, coefficients
from rlent.train.records import Record
from rlent.types import Batch

RECIPES = {
    "grpo": ["recipe=grpo"],
    "clipcov": ["recipe=clipcov", "shape.clip_cov.fraction=0.1", "shape.clip_cov.low=0.1", "shape.clip_cov.high=2.0"],
    "klcov": ["recipe=klcov", "regularize.kl_cov.fraction=0.1", "regularize.kl_cov.coef=1"],
    "erc": ["recipe=erc"],
    "erc+klcov": ["recipe=klcov", "shape=[erc]", "regularize.kl_cov.fraction=0.1"],
    "entropybonus": ["recipe=entropybonus", "regularize.entropy.coef=0.1"],
    "siren": ["recipe=siren", "control=[]", "regularize.siren.anchor=0.4", "regularize.siren.coef=0.5"],
    "kl": ["recipe=kl", "regularize.kl.coef=0.1"],
    "aer": ["recipe=aer", "control=[]", "regularize.aer.coef=0.1"],
    "steer": ["recipe=steer", "shape.steer.least=0.3"],
    "cispo": ["recipe=cispo"],
    "sapo of responses": ["recipe=sapo", "loss.level=response"],
    "gspo of responses": ["recipe=gspo", "loss.low=0.1", "loss.high=0.1", "loss.gradient=response"],
    "grpos": ["recipe=grpo", "loss=mean_ratio"],
    "gspo": ["recipe=gspo", "loss.low=0.1", "loss.high=0.1"],
    "gmpo": ["recipe=gmpo"],
    "sapo": ["recipe=sapo"],
    "bapo": ["recipe=bapo", "loss.target=3.0"],
    "forking": ["recipe=forking"],
    "forking+entropy": [
        "recipe=forking",
        "shape.forking.denominator=all",
        "regularize=[forking_entropy]",
        "regularize.forking_entropy.coef=0.1",
    ],
    "positivenll": ["recipe=positivenll"],
    "hapo": ["recipe=hapo"],
    "srft": ["recipe=srft"],
    "lpreg": ["recipe=lpreg", "shape.lp_reg.rho_neg=0.3", "shape.lp_reg.rho_pos=0.2"],
    "espo": ["recipe=espo", "shape.espo.alpha=0.5"],
    "era": ["recipe=era", "shape.era.h_high=1.2"],
    "aent": ["recipe=aent", "control=[]", "regularize.aent.coef=0.1"],
    "hapo+redistribute": ["recipe=hapo", "shape=[hapo,hapo_redistribute]"],
    "clipcov+siren": [
        "recipe=clipcov",
        "probe=[nucleus_entropy]",
        "regularize=[siren]",
        "regularize.siren.anchor=0.4",
        "regularize.siren.coef=0.5",
    ],
}
AGGREGATES = ["token_mean", "seq_mean", "seq_sum", "constant"]


def run(
    overrides: list[str], batch: Batch, parts: list[list[int]], aggregate: str = "token_mean"
) -> tuple[float, dict[str, torch.Tensor], Batch]:
    """Loss, gradients by live stream, and the record, for a cut into parts (lists of row positions)."""
    plan = load(overrides).plan
    objective = Objective(plan, aggregate=aggregate, length=16.0)
    live = {k.removeprefix("live_"): v.clone().requires_grad_(True) for k, v in batch.streams.items() if k.startswith("live_")}
    streams = {k: v for k, v in batch.streams.items() if not k.startswith("live_")}
    rows = Batch({**streams, **{f"now_{k}": v.detach() for k, v in live.items()}}, batch.row)
    rows = objective.shape(rows, "step")
    rows = objective.shape(rows, "minibatch", 2)
    rows, scale = objective.prepare(rows, 2)
    total, records = 0.0, []
    for positions in parts:
        part = rows.select(positions)
        out = objective(part, {k: v[positions][:, : part.width] for k, v in live.items()}, scale, 2)
        total += float(out.loss.detach())
        if out.loss.requires_grad:
            out.loss.backward(retain_graph=True)
        records.append(out.record)
    grads = {k: torch.zeros_like(v) if v.grad is None else v.grad for k, v in live.items()}
    merged = Record.merge(records)
    return total, grads, merged.tokens.with_(**{f"effect:{k}": v for k, v in merged.effects.items()})


def cuts(rows: int) -> st.SearchStrategy[list[list[int]]]:
    """Any partition of the rows into ordered parts."""
    return st.lists(st.integers(0, 4), min_size=rows, max_size=rows).map(
        lambda where: [p for p in ([i for i, w in enumerate(where) if w == k] for k in range(5)) if p]
    )


@pytest.mark.parametrize("name", RECIPES)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_cut_into_parts_gives_the_same_selection_loss_and_gradient(name: str, data: st.DataObject) -> None:
    batch = random_batch(data.draw(st.integers(0, 50)), ties=data.draw(st.booleans()))
    aggregate = data.draw(st.sampled_from(AGGREGATES))
    _, whole_grads, whole = run(RECIPES[name], batch, [list(range(len(batch)))], aggregate)
    _, cut_grads, cut = run(RECIPES[name], batch, data.draw(cuts(len(batch))), aggregate)
    for key in whole.streams:
        if key.endswith("_selected"):
            assert torch.equal(whole[key] & whole["mask"], cut[key] & cut["mask"]), key
    for key, grad in whole_grads.items():
        assert torch.equal(grad, cut_grads[key]), f"gradient of {key}"


@pytest.mark.parametrize("name", RECIPES)
def test_padding_and_what_stands_in_it_change_nothing(name: str) -> None:
    batch = random_batch(4)
    rows = [list(range(len(batch)))]
    _, grads, record = run(RECIPES[name], batch, rows)
    _, wide_grads, wide = run(RECIPES[name], padded(batch, 3, junk=-7.5), rows)
    for key, grad in grads.items():
        assert torch.equal(grad, wide_grads[key][:, : batch.width]), key
        assert not wide_grads[key][:, batch.width :].any()
    for key in record.streams:
        if key.endswith("_selected"):
            assert torch.equal(record[key], wide[key][:, : record.width])


@pytest.mark.parametrize("name", ["clipcov", "klcov"])
def test_scope_part_selects_within_each_part(name: str) -> None:
    node = "shape.clip_cov" if name == "clipcov" else "regularize.kl_cov"
    overrides = [*RECIPES[name], f"+{node}.scope=microbatch"]
    batch = random_batch(1)
    halves = [list(range(12)), list(range(12, 24))]
    _, _, whole = run(overrides, batch, [list(range(24))])
    _, _, cut = run(overrides, batch, halves)
    key = "clip_cov_selected" if name == "clipcov" else "kl_cov_selected"
    assert not torch.equal(whole[key], cut[key])
    per_half = [int(cut[key][h].sum()) for h in halves]
    tokens = [int(batch["mask"][h].sum()) for h in halves]
    if name == "klcov":
        assert per_half == [max(1, int(0.1 * t)) for t in tokens]
    default = run(RECIPES[name], batch, [list(range(24))])[2]
    assert torch.equal(default[key], whole[key]), "in one part, both scopes are the same"


def test_clip_cov_gives_selected_tokens_no_gradient_and_leaves_the_denominator() -> None:
    batch = random_batch(2)
    rows = [list(range(len(batch)))]
    _, grads, record = run(RECIPES["clipcov"], batch, rows)
    _, plain, _ = run(["recipe=grpo", "loss=ppo_wide"], batch, rows)
    chosen = record["clip_cov_selected"]
    assert chosen.any()
    assert not grads["logp"][chosen].any()
    assert torch.equal(grads["logp"][~chosen], plain["logp"][~chosen])


def test_kl_cov_shifts_the_gradient_of_selected_tokens_by_the_sign_of_their_drift() -> None:
    batch = random_batch(2)
    rows = [list(range(len(batch)))]
    _, grads, record = run(RECIPES["klcov"], batch, rows)
    _, plain, _ = run(["recipe=grpo", "loss=pg_ratio"], batch, rows)
    chosen = record["kl_cov_selected"]
    drift = (batch["live_logp"] - batch["old_logp"]).sign()
    expected = plain["logp"] + chosen * drift / batch["mask"].sum()
    torch.testing.assert_close(grads["logp"], expected, rtol=1e-12, atol=1e-15)


def test_on_policy_kl_cov_is_exactly_the_plain_loss_and_says_so() -> None:
    batch = random_batch(2, drift=0.0)
    rows = [list(range(len(batch)))]
    _, grads, record = run(RECIPES["klcov"], batch, rows)
    _, plain, _ = run(["recipe=grpo", "loss=pg_ratio"], batch, rows)
    assert torch.equal(grads["logp"], plain["logp"])
    assert not record["effect:kl_cov"].any()


def test_rounding_of_old_log_probabilities_is_no_drift_for_kl_cov() -> None:
    exact = random_batch(2, drift=0.0)
    noisy = exact.with_(old_logp=exact["old_logp"] + 1e-7 * torch.randn_like(exact["old_logp"]) * exact["mask"])
    rows = [list(range(len(exact)))]
    _, grads, _ = run(RECIPES["klcov"], noisy, rows)
    _, plain, _ = run(["recipe=grpo", "loss=pg_ratio"], noisy, rows)
    torch.testing.assert_close(grads["logp"], plain["logp"], rtol=0, atol=0)


def test_a_live_gate_reaches_a_loss_over_the_whole_minibatch(tmp_path) -> None:
    """ERC with a loss of now_ streams: the gate is lifted, and equals the gate on the same loss written live."""
    (tmp_path / "whole_losses.py").write_text(
        "def live(logp, old_logp, adv):\n    return -adv * (logp - old_logp).exp()\n\n"
        "def whole(now_logp, old_logp, adv):\n    return -adv * (now_logp - old_logp).exp()\n"
    )
    (tmp_path / "loss").mkdir()
    for kind in ("live", "whole"):
        (tmp_path / "loss" / f"{kind}.yaml").write_text(f"_target_: whole_losses.{kind}\n")
    batch, rows, grads = random_batch(3), [[i] for i in range(24)], {}
    for kind in ("live", "whole"):
        plan = load(["recipe=erc", f"loss={kind}"], [tmp_path]).plan
        assert plan.lifted == (kind == "whole")
        objective = Objective(plan, aggregate="seq_mean", length=16.0)
        live = {k: batch[f"live_{k}"].clone().requires_grad_(True) for k in ("logp", "entropy")}
        whole = batch.with_(**{f"now_{k}": v.detach() for k, v in live.items()})
        whole, scale = objective.prepare(objective.shape(objective.shape(whole, "step"), "minibatch", 0), 0)
        for positions in rows:
            part = whole.select(positions)
            out = objective(part, {k: v[positions][:, : part.width] for k, v in live.items()}, scale, 0)
            if out.loss.requires_grad:
                out.loss.backward(retain_graph=True)
        grads[kind] = live["logp"].grad
    assert grads["live"].any()
    torch.testing.assert_close(grads["live"], grads["whole"], rtol=1e-12, atol=1e-18)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("token_mean", [[1 / 3, 1 / 3], [1 / 3, 0.0], [0.0, 0.0]]),
        ("seq_mean", [[1 / 4, 1 / 4], [1 / 2, 0.0], [0.0, 0.0]]),
        ("seq_sum", [[1 / 2, 1 / 2], [1 / 2, 0.0], [0.0, 0.0]]),
        ("constant", [[1 / 10, 1 / 10], [1 / 10, 0.0], [0.0, 0.0]]),
    ],
)
def test_coefficients_are_the_aggregation_written_out(how: str, expected: list[list[float]]) -> None:
    # rows of 2, 1 and 0 tokens; the empty row does not count: 2 rows, 3 tokens, constant length 5
    mask = torch.tensor([[True, True], [True, False], [False, False]])
    found = coefficients(mask, how, rows=2, tokens=3, length=5.0, dtype=torch.float64)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    "recipe",
    [
        ["recipe=grpo"],
        ["recipe=entropic", "regularize.entropic.coef=0.5", "regularize.entropic.threshold=0.3"],
    ],
    ids=["loss", "regularizer that counts rows itself"],
)
def test_rows_without_train_get_no_gradient_and_leave_the_denominator(recipe: list[str]) -> None:
    batch = random_batch(0)
    train = torch.arange(len(batch)) % 2 == 0
    _, grads, _ = run(recipe, batch.with_(train=train), [list(range(len(batch)))], "seq_mean")
    kept = [i for i in range(len(batch)) if i % 2 == 0]
    _, alone, _ = run(recipe, batch.select(kept), [list(range(len(kept)))], "seq_mean")
    assert not grads["logp"][~train].any()
    torch.testing.assert_close(grads["logp"][kept][:, : alone["logp"].shape[1]], alone["logp"], rtol=1e-12, atol=0)


def test_noise_of_a_token_does_not_depend_on_its_row_or_padding() -> None:
    from rlent.train.calls import draw

    batch = random_batch(0)
    whole = draw(batch, "shape.clip_cov", 1, tokens=True)
    some = batch.select([5, 2, 9])
    assert torch.equal(draw(some, "shape.clip_cov", 1, tokens=True), whole[[5, 2, 9]][:, : some.width])
    assert not torch.equal(whole, draw(batch, "shape.clip_cov", 2, tokens=True)), "another minibatch draws anew"
    assert not torch.equal(whole, draw(batch, "shape.other", 1, tokens=True)), "another node draws its own"


def test_a_weight_that_is_not_finite_stops_with_node_step_and_rows(tmp_path) -> None:
    (tmp_path / "bad_shape.py").write_text("def bad(old_logp):\n    return old_logp.new_full(old_logp.shape, float('nan'))\n")
    (tmp_path / "shape").mkdir()
    (tmp_path / "shape" / "bad.yaml").write_text("bad:\n  _target_: bad_shape.bad\n")
    plan = load(["shape=[bad]"], [tmp_path]).plan
    with pytest.raises(NonFinite, match=r"step 5: shape.bad has \d+ non-finite values"):
        Objective(plan, aggregate="token_mean", length=1.0).shape(random_batch(0), "step")


def test_a_loss_of_the_wrong_shape_is_refused(tmp_path) -> None:
    (tmp_path / "flat_loss.py").write_text("def flat(logp, adv):\n    return (logp * adv).sum(1)\n")
    (tmp_path / "loss").mkdir()
    (tmp_path / "loss" / "flat.yaml").write_text("_target_: flat_loss.flat\n")
    plan = load(["loss=flat"], [tmp_path]).plan
    objective = Objective(plan, aggregate="token_mean", length=1.0)
    batch = objective.shape(random_batch(0), "step")
    batch, scale = objective.prepare(batch)
    with pytest.raises(RlentError, match="returned shape"):
        objective(batch, {"logp": batch["live_logp"].requires_grad_(True)}, scale)


def test_a_node_reads_its_options_at_every_call() -> None:
    node: Node = load(["recipe=entropybonus"]).plan.nodes["regularize"][0]
    node.turn("coef", 0.5)
    assert node.coef == 0.5


# ---- in a run, with functions of one's own ---------------------------------------------------------------------------


def test_a_reward_per_token_is_summed_over_the_response_and_not_over_padding(run_dir: Path, tmp_path: Path) -> None:
    place = own(tmp_path, "reward", "each", "import torch\n\n\ndef each(mask):\n    return torch.ones(mask.shape)\n")
    train(run_dir, "reward=[each]", "trainer.steps=1", "sampler.max_tokens=16", "track.save_batches=1", config_dirs=[place])
    batch = kept.load(run_dir / "batches" / kept.file_name(1))
    assert len(set(batch["length"].tolist())) > 1, "some rows are padded"
    assert torch.equal(batch["reward"], batch["length"].float())
    assert torch.equal(batch["token_reward"], batch["mask"].float())


def test_a_regularizer_that_is_one_number_counts_once_whatever_the_parts(tmp_path: Path) -> None:
    """The mean over rows of a row's entropy is the same number, and pulls as hard, in one part and in several."""
    place = own(tmp_path, "regularize", "rows", "def rows(entropy, mask):\n    return -(entropy * mask).sum(1).mean()\n")
    common = ["regularize=[rows]", "+regularize.rows.coef=1.0", "model.dtype=float64", "trainer.steps=2", "sampler.max_tokens=16"]
    whole, cut = (
        rows(train(tmp_path / name, *common, *more, config_dirs=[place]))
        for name, more in (("whole", []), ("cut", ["trainer.max_tokens_per_microbatch=60"]))
    )
    for one, other in zip(whole, cut, strict=True):
        for key in ("update/grad_norm", "entropy/after", "entropy/mean"):
            assert other[key] == pytest.approx(one[key], rel=1e-9), key


def test_the_share_of_changed_gradients_is_of_the_rows_that_are_trained(run_dir: Path, tmp_path: Path) -> None:
    """Half of the responses only vote. A weight of 2 everywhere changes every token that has a gradient, and no more than all."""
    place = own(tmp_path, "shape", "double", "def double(mask):\n    return 2.0 * mask\n")
    options = ["recipe=ttrl", "sampler.trained=4", "sampler.n=8", "shape=[double]", "trainer.steps=1"]
    train(run_dir, *options, "track.save_batches=1", config_dirs=[place])
    train_rows = kept.load(run_dir / "batches" / kept.file_name(1))["train"]
    assert train_rows.sum() == len(train_rows) / 2
    assert rows(run_dir)[0]["effect/double"] == 1.0
