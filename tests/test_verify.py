"""`rlent verify` finds what differs, and says so where it could compare nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rlent.verify.compare import Check
from rlent.verify.grammar import goldens
from rlent.verify.run import check_file
from rlent.verify.vectors import default_folder


def checked(tmp_path: Path, **changes: Any) -> Check:
    vector = json.loads((default_folder() / "epo_epoch_weight_1.json").read_text())
    file = tmp_path / "epo_epoch_weight_1.json"
    file.write_text(json.dumps(vector | changes))
    return check_file(file, goldens())


def test_the_vector_passes_as_it_is_and_fails_at_the_number_that_was_changed(tmp_path: Path) -> None:
    assert checked(tmp_path).failures == []
    right = json.loads((default_folder() / "epo_epoch_weight_1.json").read_text())["outputs"]["weight"]
    (failure,) = checked(tmp_path, outputs={"weight": [right[0], right[1] + 1e-4, *right[2:]]}).failures
    assert failure.startswith("weight at [1]: ") and f"(1 of {len(right)} differ)" in failure


def test_a_vector_none_of_whose_outputs_is_known_does_not_pass(tmp_path: Path) -> None:
    (failure,) = checked(tmp_path, outputs={"factor": [1.0]}).failures
    assert failure == "the golden block compares none of the file's outputs (factor)"


def test_an_option_that_the_card_does_not_know_is_named(tmp_path: Path) -> None:
    (failure,) = checked(tmp_path, config={"max_epochs": 10, "warmup": 3}).failures
    assert "the card does not say what warmup means" in failure and "recipe epo" in failure
