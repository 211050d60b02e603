"""Data cards: each composes, says what a card must say, and reads a local copy of its set."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import yaml

from rlent.data.files import HubData
from rlent.data.templates import TEMPLATES
from rlent.recipe import compose as recipes
from rlent.recipe.option_types import options_of

RECIPES = Path(__file__).parents[2] / "recipes" / "data"
CARDS = (
    "gsm8k", "math", "math500", "aime24", "aime25", "amc23", "minerva_math", "olympiadbench", "omni_math", "dapo_math_17k", "deepscaler",
    "skywork_or1",
)  # fmt: skip
EVALUATION = {"math500", "aime24", "aime25", "amc23", "minerva_math", "olympiadbench", "omni_math"}


def source(card: str, *overrides: str) -> HubData:
    return recipes.build(recipes.load([f"data={card}", *overrides])["data"])


@pytest.mark.parametrize("card", CARDS)
def test_a_card_names_its_set_its_fields_its_split_its_template_and_its_licence(card):
    raw = yaml.safe_load((RECIPES / f"{card}.yaml").read_text())
    assert {"name", "split", "prompt_field", "answer_field", "template", "card"} <= set(raw)
    assert {"title", "problems", "licence"} <= set(raw["card"])
    assert raw["template"] in TEMPLATES
    config = recipes.load([f"data={card}"])["data"]
    assert set(config) - {"_target_"} == set(options_of(HubData.__init__))


@pytest.mark.parametrize("card", CARDS)
def test_evaluation_sets_have_a_protocol_and_sampled_ones_have_many_samples(card):
    protocol = recipes.load([f"data={card}"])["data"]["protocol"]
    if card in EVALUATION | {"gsm8k", "math"}:
        assert protocol == (
            {"n": 32, "temperature": 0.6, "top_p": 1.0, "max_tokens": 8192}
            if card in ("aime24", "aime25", "amc23")
            else {"n": 1, "temperature": 0.0, "top_p": 1.0, "max_tokens": 8192}
        )
    else:
        assert protocol is None


# One row of each set as the hub has it: field names and kinds of the data set's page, with a made-up problem.
HUB_ROWS = {
    "gsm8k": {"question": "1+1?", "answer": "1+1=<<1+1=2>>2\n#### 2"},
    "math": {"problem": "1+1?", "solution": r"It is $\boxed{2}$.", "answer": "2", "subject": "Algebra", "level": 1, "unique_id": "a/1.json"},
    "math500": {"problem": "1+1?", "solution": r"It is $\boxed{2}$.", "answer": "2", "subject": "Algebra", "level": 1, "unique_id": "a/1"},
    "aime24": {"id": 60, "problem": "1+1?", "solution": r"It is $\boxed{2}$.", "answer": "2", "url": "", "year": "2024"},
    "aime25": {"problem": "1+1?", "answer": "2", "id": "0"},
    "amc23": {"id": 0, "answer": "2.0", "question": "1+1?", "url": ""},
    "minerva_math": {"question": "1+1?", "answer": "2"},
    "olympiadbench": {"id": 1606, "question": "1+1?", "solution": ["So 2."], "final_answer": ["2"], "unit": None, "is_multiple_answer": False},
    "omni_math": {"domain": ["x"], "difficulty": 8.0, "problem": "1+1?", "solution": "So 2.", "answer": "2", "source": "hmmt"},
    "dapo_math_17k": {
        "prompt": "1+1?", "solution": "2", "data_source": "math_dapo", "source_prompt": [{"role": "user", "content": "Solve: 1+1?"}],
        "ability": "MATH", "reward_model": {"ground_truth": "2", "style": "rule-lighteval/MATH_v2"}, "extra_info": {"index": "a"},
    },
    "deepscaler": {"problem": "1+1?", "answer": "2", "solution": ""},
    "skywork_or1": {
        "data_source": "train-math", "prompt": [{"role": "user", "content": "1+1?"}], "ability": "math",
        "reward_model": {"ground_truth": '["2", "\\\\frac{4}{2}"]', "style": "rule"}, "extra_info": {"index": 0, "model_difficulty": {"a": 3}},
    },
}  # fmt: skip


@pytest.mark.parametrize("card", CARDS)
def test_rows_as_the_hub_has_them_are_read_and_graded(card, monkeypatch):
    import datasets

    rows = [{**HUB_ROWS[card], **{k: f"{i}{v}" for k, v in HUB_ROWS[card].items() if k in ("id", "unique_id")}} for i in range(3)]
    asked = []

    def give(name, config, *, split, revision):
        asked.append((name, config, split))
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", give)
    data = source(card)
    with data.grader:
        (problem, *_) = data.all
        assert problem.prompt == "1+1?"
        assert data.grader.grade(r"So $\boxed{2}$.", problem.gold).correct
        assert not data.grader.grade(r"So $\boxed{3}$.", problem.gold).correct
    assert asked[0] == (data.name, data.config, data.split)
    if card == "skywork_or1":
        assert problem.gold == ["2", r"\frac{4}{2}"]


LOCAL = {
    "gsm8k": ("gsm8k_train.jsonl.gz", 7473), "math": ("math_train_8k.jsonl.gz", 8521), "math500": ("math500.jsonl", 500),
    "aime24": ("aime24.jsonl", 30), "aime25": ("aime25.jsonl", 30), "amc23": ("amc23.jsonl", 40), "minerva_math": ("minerva_math.jsonl", 272),
    "olympiadbench": ("olympiadbench_maths_en.jsonl", 675), "dapo_math_17k": ("dapo_math_17k.jsonl.gz", 17398),
}  # fmt: skip
BAD_GOLDS = {"minerva_math": ["minerva-5"], "olympiadbench": ["olympiad-2045"]}


@pytest.mark.parametrize("card", LOCAL)
def test_a_local_copy_is_read_and_its_golds_are_answers_to_themselves(card, shared_data):
    file, count = LOCAL[card]
    data = source(card, f"data.path={shared_data / file}")
    data.check()
    assert len(data.all) == count
    assert len(data.held_out) == (count if card in EVALUATION else 64)
    with data.grader:
        assert list(data.examine().bad_golds) == BAD_GOLDS.get(card, [])


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet"])
@pytest.mark.parametrize("card", sorted(set(CARDS) - set(LOCAL)))
def test_sets_that_are_not_at_hand_are_read_from_a_file_of_any_kind(card, suffix, tmp_path):
    from pyarrow import Table, parquet

    path, rows = tmp_path / f"set{suffix}", [{"prompt": f"{i}+1?", "answer": str(i + 1)} for i in range(20)]
    if card == "skywork_or1":
        rows = [
            {"prompt": [{"role": "user", "content": r["prompt"]}], "reward_model": {"ground_truth": f'["{r["answer"]}"]'}} for r in rows
        ]
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if suffix == ".parquet":
        parquet.write_table(Table.from_pylist(rows), path)
    else:
        path.write_bytes(gzip.compress(text) if suffix.endswith(".gz") else text)
    data = source(card, f"data.path={path}")
    data.check()
    assert [(p.prompt, p.gold) for p in data.all][:2] == [
        ("0+1?", ["1"] if card == "skywork_or1" else "1"),
        ("1+1?", ["2"] if card == "skywork_or1" else "2"),
    ]
