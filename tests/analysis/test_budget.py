"""The account of a run's entropy: its parts add up, and it says where entropy went."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import rows, train

from rlent.analysis.budget import account
from rlent.cli import commands
from rlent.errors import DataError, UsageError
from rlent.math import attribution
from rlent.runs import kept as frozen
from rlent.train.ledger import TERMS, token_terms
from rlent.train.ledger import account as entry
from rlent.types import Batch

STEPS = 6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("budget") / "run"
    more = [
        "sampler.n=16",
        "sampler.max_tokens=16",
        "track.ledger.rows=24",
        "optim.lr=5e-4",
        "checkpoint.every=3",
        "checkpoint.keep=9",
        "track.save_batches=6",
    ]
    return train(folder, "recipe=grpo", f"trainer.steps={STEPS}", *more)


def test_every_division_adds_up_to_what_the_ledger_measured_and_predicted(run: Path) -> None:
    budget, logged = account(run), rows(run)
    assert budget.steps == list(range(1, STEPS + 1))
    assert budget.series["measured"] == pytest.approx([r["ledger/measured"] for r in logged], rel=1e-4)
    assert budget.series["d1"] == pytest.approx([budget.slope["d1"] * r["ledger/d1"] for r in logged], rel=1e-4)
    assert budget.slope["d1"] == pytest.approx(logged[-1]["ledger/slope1"], rel=1e-3) and budget.slope["d2"] == pytest.approx(
        logged[-1]["ledger/slope2"], rel=1e-3
    )
    for way, parts in budget.parts.items():
        columns = np.array(list(parts.values())).sum(0)
        assert columns[0] == budget.parts["advantage"]["negative"][0] + sum(
            v[0] for k, v in budget.parts["advantage"].items() if k != "negative"
        ), way
        for i, term in enumerate(TERMS, 1):
            assert columns[i] == pytest.approx(budget.total[term], rel=1e-3, abs=2e-6), (way, term)


def test_the_parts_are_the_sums_of_their_tokens(run: Path) -> None:
    """The last step once more from its kept batch: all rows of the ledger's draw, token by token."""
    from rlent.train.ledger import sample_rows

    batch = frozen.load(run / "batches" / "step_000006.safetensors")
    picked = batch.select(sample_rows(len(batch), 24, int(batch["seed"]), 6))
    mask, change = picked["mask"], (picked["after_entropy"] - picked["old_entropy"]).double()
    logged = [json.loads(line) for line in (run / "budget.jsonl").read_text().splitlines()][-1]
    n = int(mask.sum())
    for name, chosen in (("negative", picked["adv"] < 0), ("zero", picked["adv"] == 0), ("positive", picked["adv"] > 0)):
        if bool((mask & chosen).any()):
            tokens, measured = logged["by"]["advantage"][name][:2]
            assert tokens == int((mask & chosen).sum()) and measured == pytest.approx(float(change[mask & chosen].sum()) / n, rel=1e-4)
    for token, numbers in logged["by"]["token"].items():
        here = mask & (picked["tokens"] == int(token))
        assert numbers[0] == int(here.sum()) and numbers[1] == pytest.approx(float(change[here].sum()) / n, rel=1e-3, abs=1e-8)
        assert logged["texts"][token] in {piece for row in picked["pieces"] for piece in row}


def test_a_resumed_run_has_the_account_of_one_never_stopped(run: Path, tmp_path: Path) -> None:
    import shutil

    again = tmp_path / "again"
    shutil.copytree(run, again)
    shutil.rmtree(again / "checkpoints" / "step_000006")
    assert commands.train([], resume=str(again)) == 0
    assert (again / "budget.jsonl").read_bytes() == (run / "budget.jsonl").read_bytes()


def test_one_token_pushed_up_is_accounted_for_by_hand() -> None:
    """Two rows of two tokens; only the first token of row 0 has a pull, and its entropy fell by 0.3."""
    rows_ = Batch(
        {
            "mask": torch.tensor([[True, True], [True, False]]),
            "adv": torch.tensor([[1.0, 1.0], [-1.0, 0.0]]),
            "gradient": torch.tensor([[2.0, 0.0], [0.0, 9.0]]),
            "logp": torch.tensor([[0.6, 0.005], [0.95, 1.0]]).log(),
            "entropy": torch.tensor([[0.9, 0.4], [0.2, 9.0]]),
            "second": torch.tensor([[0.1, 0.0], [0.0, 9.0]]),
            "after": torch.tensor([[0.6, 0.4], [0.2, 0.0]]),
            "tokens": torch.tensor([[7, 8], [7, 0]]),
            "group": torch.tensor([3, 5]),
        }
    )
    found = entry(rows_, {3: 0.5, 5: 1.0})
    d1 = -2.0 * (0.6 * (np.log(0.6) + 0.9) - 0.1)
    assert found["tokens"] == 3 and found["measured"] == pytest.approx(-0.1, rel=1e-5) and found["d1"] == pytest.approx(d1 / 3, rel=1e-4)
    steer = -(1 - 0.6) * (np.log(0.6) + 0.9)  # on policy p / q = 1
    assert float(token_terms(rows_)["steer"][0]) == pytest.approx(steer, rel=1e-5)
    by = found["by"]
    assert by["advantage"]["positive"][:3] == pytest.approx([2, -0.1, d1 / 3], rel=1e-4)
    assert by["advantage"]["negative"][:2] == pytest.approx([1, 0])
    assert set(by["probability"]) == {"0.5 to 0.9", "below 0.01", "0.9 to 0.99"}
    assert by["probability"]["0.5 to 0.9"][1] == pytest.approx(-0.1, rel=1e-5)
    assert {k: v[0] for k, v in by["position"].items()} == {"first third": 2, "middle third": 1}
    assert {k: v[0] for k, v in by["accuracy"].items()} == {"1/3 to 2/3": 2, "all right": 1}
    assert {k: v[0] for k, v in by["token"].items()} == {"7": 2, "8": 1}


def test_rare_tokens_are_lumped_and_nothing_is_lost() -> None:
    ids, value = np.array([1, 2, 3, 4, 1]), np.array([5.0, 0.1, -4.0, 0.2, 1.0])
    found = attribution.by_token(ids, {"x": value}, keep=2)
    assert set(found) == {"1", "3", "other"} and found["other"] == pytest.approx([2, 0.3 / 5])
    assert sum(v[1] for v in found.values()) == pytest.approx(value.mean())


def test_the_table_the_picture_and_the_json_tell_the_same(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.budget(str(run), out=str(tmp_path / "b")) == 0
    shown = capsys.readouterr().out
    assert f"at step {STEPS} (" in shown  # the entropy after the last step is not known
    assert all(
        word in shown
        for word in (
            "theorem 1",
            "STEER",
            "residual",
            "positive",
            "last third",
            "all right" if "all right" in account(run).parts["accuracy"] else "none right",
        )
    )
    assert commands.budget(str(run), by="advantage", last=4, as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["by"]) == ["advantage"] and found["steps"] == [1, 2, 3, 4]
    start, end = (rows(run)[i]["entropy/mean"] for i in (0, 4))
    assert found["entropy"] == pytest.approx([start, end])
    assert account(run).reach == STEPS - 1
    for term, rest in found["residual"].items():
        assert rest == pytest.approx(found["total"]["measured"] - found["total"][term])
        parts = [v["measured"] - v[term] for v in found["by"]["advantage"].values()]
        assert sum(parts) == pytest.approx(rest, rel=1e-3, abs=2e-6)
    assert found["moved"] == pytest.approx(end - start - found["total"]["measured"])
    assert (tmp_path / "b.png").stat().st_size > 10_000 and (tmp_path / "b.svg").is_file()
    with (tmp_path / "b.csv").open() as file:
        table = list(csv.DictReader(file))
    assert sum(float(r["measured"]) for r in table if r["name"] == "position") == pytest.approx(account(run).total["measured"], rel=1e-4)


def test_wrong_input_is_explained(run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no 'tokne'; did you mean 'token'"):
        commands.budget(str(run), by="tokne")
    with pytest.raises(UsageError, match="not a run folder"):
        commands.budget(str(tmp_path))
    (tmp_path / "recipe.yaml").write_text("a: 1")
    with pytest.raises(DataError, match=r"track\.ledger\.rows above 0"):
        commands.budget(str(tmp_path))
