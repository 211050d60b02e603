"""Demonstration rows in real runs: in the group of their prompt, trained on, and in no number that is called the policy's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from runs import rows, train

from rlent.cli import commands
from rlent.data.demonstrations import demonstrations
from rlent.data.templates import TEMPLATES, Template
from rlent.errors import DataError
from rlent.metrics import step_metrics, update_metrics
from rlent.policy.load import load_tokenizer
from rlent.runs import kept as frozen
from rlent.sampling.reference import problem_of
from rlent.types import Batch

WIDE = ["sampler.max_tokens=12"]


def kept(folder: Path) -> tuple[Batch, torch.Tensor]:
    """The first kept batch, and which of its rows are demonstrations."""
    batch = frozen.load(next(iter(frozen.steps(folder).values())))
    return batch, torch.tensor([s == "demo" for s in batch["source"]])


def test_every_group_has_the_solution_of_its_problem_as_the_policy_would_write_it(run_dir: Path) -> None:
    batch, demo = kept(train(run_dir, "recipe=srft", *WIDE, "trainer.steps=1", "track.save_batches=1"))
    tokenizer, _ = load_tokenizer("tiny")
    assert batch["group"].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 + [0, 1, 2, 3]
    for i in demo.nonzero()[:, 0].tolist():
        written = batch["tokens"][i, : batch["length"][i]].tolist()
        assert written[-1] == tokenizer.eos_token_id and batch["finish"][i] == "stop"
        assert [tokenizer.decode(written[:-1])] == [batch["response"][i]] == demonstrations(problem_of(batch, i))
        beside = [j for j in range(16) if batch["group"][j] == batch["group"][i]]
        assert {batch["prompt"][j] for j in beside} == {batch["prompt"][i]} and batch["prompt_ids"][i] == batch["prompt_ids"][beside[0]]
        assert {int(batch["problem_key"][j]) for j in beside} == {int(batch["problem_key"][i])} and int(batch["sample"][i]) == 4
    assert bool(batch["correct"][demo].all()) and bool(batch["own"][demo].all()) and not bool(batch["own"][~demo].any())
    assert not batch["old_logp"][demo].any()  # their author's probability is 1 ...
    assert bool((batch["policy_logp"][demo][batch["mask"][demo]] < 0).all())  # ... and the policy has one of its own
    own = batch["adv"][:, 0].view(-1)
    for group in range(4):
        r = batch["reward"][batch["group"] == group]
        want = (r - r.mean()) / (r.std() + 1e-6)
        torch.testing.assert_close(own[batch["group"] == group], want, rtol=1e-5, atol=1e-6)


def test_numbers_of_the_policy_are_those_of_a_run_without_demonstrations(tmp_path: Path) -> None:
    common = ["trainer.steps=1", "trainer.minibatches=1", *WIDE]
    run = train(tmp_path / "demo", "recipe=srft", *common, "track.ledger.rows=100", "track.samples=100", "track.samples_every=1")
    (ours,) = rows(run)
    (theirs,) = rows(train(tmp_path / "plain", "recipe=srft", "sampler=group", *common))
    families = "entropy nll reward correct group length finish grader mismatch tokens sampler ratio kl".split()
    same = [k for k in theirs if k.split("/")[0] in families]
    same = [k for k in same if k not in ("entropy/adv_pos", "entropy/adv_neg", "entropy/after")]  # the group's mean has moved
    assert len(same) > 50
    for key in same:
        assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-5), key
    assert ours["demo/count"] == 4 and not [k for k in theirs if k.startswith("demo/")]
    assert ours["adv/mean"] < theirs["adv/mean"] or ours["adv/std"] != theirs["adv/std"]
    assert json.loads((run / "budget.jsonl").read_text())["tokens"] == ours["tokens/step"]  # the ledger's rows are the policy's
    assert len((run / "samples.jsonl").read_text().splitlines()) == 16
    assert 0 < ours["demo/pull"] < 1 and ours["demo/reward"] == 1 and ours["demo/nll"] > 0


def test_metrics_leave_demonstrations_out_and_say_what_the_policy_makes_of_them() -> None:
    batch = Batch(
        {
            "mask": torch.tensor([[1, 1], [1, 0], [1, 1]]).bool(),
            "source": ["policy", "demo", "policy"],
            "group": torch.tensor([0, 0, 0]),
            "reward": torch.tensor([0.0, 1.0, 0.0]),
            "correct": torch.tensor([False, True, False]),
            "old_entropy": torch.tensor([[1.0, 2.0], [7.0, 0.0], [3.0, 4.0]]),
            "old_logp": torch.tensor([[-1.0, -1.0], [0.0, 0.0], [-2.0, -2.0]]),
            "policy_logp": torch.tensor([[-1.0, -1.0], [-5.0, 0.0], [-2.0, -2.0]]),
            "adv": torch.tensor([[-0.5, -0.5], [1.0, 0.0], [-0.5, -0.5]]),
        }
    )
    found = step_metrics(batch)
    assert found["tokens/step"] == 4 and found["length/mean"] == 2 and found["group/count"] == 1
    assert (found["entropy/mean"], found["nll/mean"], found["adv/mean"]) == (2.5, 1.5, -0.5)
    assert (found["reward/mean"], found["correct/any"], found["group/zero"], found["group/none_correct"]) == (0, 0, 1, 1)
    assert {k: v for k, v in found.items() if k.startswith("demo/")} == {
        "demo/nll": 5, "demo/entropy": 7, "demo/adv": 1, "demo/reward": 1, "demo/length": 1,
    }  # fmt: skip
    record = {"mask": batch["mask"], "source": batch["source"], "old_logp": batch["old_logp"], "logp": batch["policy_logp"]}
    pulls = {"gradient": torch.tensor([[1.0, -1.0], [3.0, 9.0], [0.5, 0.5]]), "pull": torch.ones(3, 2), "adv": batch["adv"]}
    updated = update_metrics([Batch({**record, **pulls})])
    assert updated["ratio/min"] == updated["ratio/max"] == 1 and updated["pull/abs"] == 0.75
    assert updated["demo/pull"] == 3 / (3 + 3)


def test_only_demonstrations_in_a_batch_leave_no_number_of_the_policy() -> None:
    found = step_metrics(
        Batch({"mask": torch.ones(1, 2).bool(), "source": ["demo"], "old_entropy": torch.ones(1, 2), "reward": torch.ones(1)})
    )
    assert found == {"tokens/step": 0, "demo/entropy": 1, "demo/reward": 1, "demo/length": 2}


def lines(file: Path, *problems: dict[str, object]) -> str:
    file.write_text(
        "\n".join(json.dumps({"prompt": f"{i},1,2:{i + 3}?", "answer": f"{i + 3} from {i},1,2", **p}) for i, p in enumerate(problems, 1))
    )
    return str(file)


def test_what_is_too_long_or_refused_or_missing_is_left_out_and_counted(tmp_path: Path) -> None:
    texts = [{"trace": "1+1+2"}, {"trace": "2+2+2"}, {"trace": "(((3)+((1)))+(2))"}, {}]
    path = lines(tmp_path / "set.jsonl", *texts)
    options = ["recipe=srft", f"data.path={path}", "sampler.field=trace", "sampler.missing=skip", "data.held_out_size=0", "trainer.steps=1"]
    run = train(tmp_path / "drop", *options, "track.save_batches=1")
    (found,) = rows(run)
    assert [found[f"demo/{k}"] for k in ("count", "refused", "long", "missing")] == [1, 1, 1, 1]
    batch, demo = kept(run)
    assert [r for r, d in zip(batch["response"], demo.tolist(), strict=True) if d] == ["1+1+2"]
    assert found["demo/reward"] == 1
    (found,) = rows(train(tmp_path / "keep", *options, "sampler.refused=keep"))
    assert [found[f"demo/{k}"] for k in ("count", "refused")] == [2, 0] and found["demo/reward"] == 0.5


def test_a_set_without_demonstrations_stops_before_anything_is_loaded(tmp_path: Path) -> None:
    path = lines(tmp_path / "set.jsonl", {"trace": "1+1+2"}, {})
    options = ["recipe=srft", f"data.path={path}", "sampler.field=trace", "data.held_out_size=0"]
    for go in (lambda: commands.check(options), lambda: train(tmp_path / "run", *options, "model.path=./no-such-model")):
        with pytest.raises(DataError, match=r"1 of 2 problems have no demonstration in a field 'trace' \(set-2;.*sampler.missing=skip"):
            go()
    assert not (tmp_path / "run").exists()


def test_the_filter_judges_the_policy_s_responses_and_only_kept_groups_get_demonstrations(run_dir: Path) -> None:
    keep = "{_target_:rlent.methods.dapo.keep_mixed,tolerance:0.0,keep_single:true}"
    batch, demo = kept(
        train(run_dir, "recipe=srft", f"sampler.keep={keep}", "sampler.n=8", *WIDE, "trainer.steps=1", "track.save_batches=1")
    )
    groups = batch["group"]
    assert len(set(groups[~demo].tolist())) == 4 and sorted(groups[demo].tolist()) == sorted(set(groups[~demo].tolist()))
    assert max(groups.tolist()) > 3  # the filter has left out a group
    assert len(set(batch.row.tolist())) == len(batch)
    for group in set(groups.tolist()):
        assert 0 < int(batch["correct"][(groups == group) & ~demo].sum()) < 8


def test_a_thought_that_the_prompt_has_opened_is_not_opened_again_and_the_answer_ends_where_the_template_says(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(TEMPLATES, "opened", Template(text="{problem}<think>", stop=("Question:",)))
    path = lines(tmp_path / "set.jsonl", {"trace": "<think>1+1+2Question:7"})
    options = [f"data.path={path}", "sampler.field=trace", "data.held_out_size=0", "data.template=opened", "sampler.prompts=1"]
    batch, demo = kept(
        train(run_dir, "recipe=srft", *options, "sampler.max_tokens=24", "trainer.minibatches=1", "trainer.steps=1", "track.save_batches=1")
    )
    assert [r for r, d in zip(batch["response"], demo.tolist(), strict=True) if d] == ["1+1+2"]
    assert bool(batch["correct"][demo].all())


def test_a_page_of_the_step_marks_demonstrations_and_gives_the_entropy_of_what_was_drawn(run_dir: Path, tmp_path: Path) -> None:
    train(run_dir, "recipe=srft", *WIDE, "trainer.steps=1", "track.save_batches=1")
    (found,) = rows(run_dir)
    assert commands.inspect(str(run_dir), out=str(tmp_path / "page.html")) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count('"source":"demo"') == 4 and page.count('"source":"policy"') == 16
    assert f"{found['tokens/step']:.0f} tokens drawn in the step, mean entropy {found['entropy/mean']:.3f} nats" in page


def test_imitation_makes_demonstrations_likelier(run_dir: Path) -> None:
    options = ["sampler=demonstrations", "regularize=[demonstration_nll]", "regularize.demonstration_nll.coef=20", "optim.lr=1e-3"]
    found = [r["demo/nll"] for r in rows(train(run_dir, "recipe=grpo", *options, *WIDE, "sampler.prompts=8", "trainer.steps=12"))]
    assert sum(found[-4:]) < 0.85 * sum(found[:4])
