"""Every recipe does what its card claims: its own effect is there in a short run, and has the sign that the card gives it.

The grammar of the claims is in `claims.py`. Runs of the embedded model are shared, so that a recipe costs one run of two steps, and one
more for each condition that a claim has to make.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from claims import COMMON, OTHER_MODEL, STEPS, Claim, Runs, claims_of, holds, value
from runs import rows, train

from rlent.errors import RlentError
from rlent.recipe.compose import groups
from rlent.runs import kept
from rlent.types import Batch

NAMES = sorted(groups()["recipe"])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Trains each set of overrides once."""
    made: dict[tuple[str, ...], Path] = {}

    def folder(overrides: tuple[str, ...]) -> Path:
        if overrides not in made:
            given = overrides
            if any(OTHER_MODEL in o for o in overrides):  # a step on random rewards makes one
                other = folder(("recipe=randomreward",)) / "model"
                given = tuple(o.replace(OTHER_MODEL, str(other)) for o in overrides)
            made[overrides] = train(tmp_path_factory.mktemp("run") / "run", *given, small=COMMON)
        return made[overrides]

    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_does_what_its_card_claims(name: str, runs: Runs) -> None:
    claims = claims_of(name)
    assert claims, "the card has no `claims:`"
    found = [(claim, value(claim, name, runs)) for claim in claims]
    wrong = [f"{claim}: found {number:.4g}" for claim, number in found if not holds(claim, number)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "grpo"])
def test_plain_grpo_does_not_do_what_another_card_claims(name: str, runs: Runs) -> None:
    def does(claim: Claim) -> bool:
        try:
            return holds(claim, value(claim, "grpo", runs))
        except (AssertionError, KeyError, RlentError):  # no such token, no such metric, no such node
            return False

    assert not all(does(claim) for claim in claims_of(name))


# ---- the reader of claims --------------------------------------------------------------------------------------------


def test_a_claim_with_an_unknown_key_or_without_its_reason_is_refused() -> None:
    with pytest.raises(TypeError, match="siign"):
        Claim.read({"stream": "adv", "siign": "positive"})
    with pytest.raises(ValueError, match="'up' is not one of positive, negative, zero"):
        Claim.read({"stream": "adv", "sign": "up"})
    with pytest.raises(ValueError, match="given and because come together"):
        Claim.read({"stream": "adv", "sign": "positive", "given": ["seed=1"]})
    with pytest.raises(ValueError, match="of a metric or of a stream"):
        Claim.read({"stream": "adv", "metric": "adv/mean", "sign": "positive"})


def test_numbers_of_a_saved_batch_worked_out_by_hand(tmp_path: Path) -> None:
    def recorded(overrides: tuple[str, ...]) -> Path:
        folder = tmp_path / "".join(overrides).replace("=", "-")
        (folder / "batches").mkdir(parents=True, exist_ok=True)
        adv = torch.tensor([[1.0, 1.0, 9.0], [-2.0, -2.0, -2.0], [5.0, 5.0, 5.0]])
        streams = {
            "mask": torch.tensor([[True, True, False], [True, True, True], [True, True, True]]),
            "train": torch.tensor([True, True, False]),
            "adv": adv * (3 if overrides == ("recipe=tripled",) else 1),
            "old_logp": torch.tensor([[-1.0, -2.0, 0.0], [-1.0, -3.0, -5.0], [0.0, 0.0, 0.0]]),
            "correct": torch.tensor([True, False, True]),
            "update0:logp": torch.zeros(3, 3),
        }
        kept.save(Batch(streams, torch.arange(3)), folder / "batches" / kept.file_name(1))
        (folder / "metrics.jsonl").write_text('{"step": 1, "a": 3.0, "b": 1.5}\n')
        return folder

    def number(**claim: object) -> float:
        return value(Claim.read({"sign": "positive", **claim}), "plain", recorded)

    # the third response is not trained on, and the third position of the first one is padding
    assert number(stream="adv") == pytest.approx((1 + 1 - 2 - 2 - 2) / 5)
    assert number(stream="adv", where={"correct": True}) == 1
    assert number(stream="adv", where={"old_logp": "below -2.5"}) == -2
    assert number(stream="adv", where={"old_logp": "-2.5 to -1.5"}) == 1
    assert number(stream="old_logp", where={"adv": "negative"}, sign="zero") == 5  # the largest
    # means -0.8 and -2.4: (1.8)(1.4) + (1.8)(.4) + (-1.2)(1.4) + (-1.2)(-.6) + (-1.2)(-2.6), over 5
    assert number(stream="adv", covaries_with="old_logp") == pytest.approx((2.52 + 0.72 - 1.68 + 0.72 + 3.12) / 5)
    assert number(stream="adv", where={"correct": True}, compared_with="tripled") == -2
    assert number(metric="a") == 3 and number(metric="a - b") == 1.5 and number(metric="a - 2") == 1
    with pytest.raises(AssertionError, match="no token"):
        number(stream="adv", where={"adv": "above 100"})


def test_a_sign_is_more_than_rounding() -> None:
    up, down, none = (Claim(stream="adv", sign=sign) for sign in ("positive", "negative", "zero"))
    assert [holds(up, x) for x in (1e-3, 1e-9, -1e-3)] == [True, False, False]
    assert [holds(down, x) for x in (1e-3, -1e-9, -1e-3)] == [False, False, True]
    assert [holds(none, x) for x in (1e-3, 1e-9, -1e-3)] == [False, True, False]


def test_the_runs_have_something_to_learn_from(runs: Runs) -> None:
    first, second = rows(runs(("recipe=grpo",)))
    assert len(rows(runs(("recipe=grpo",)))) == STEPS
    assert first["group/zero"] == 0.25 and first["correct/mean"] > 0.1 and second["group/zero"] < 1
