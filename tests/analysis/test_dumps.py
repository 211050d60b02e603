"""Files that other trainers wrote, read as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as arrow
import pytest
import torch
from pyarrow import parquet

from rlent.analysis import dumps
from rlent.cli import commands
from rlent.errors import DataError, UsageError

ASKED = ["3,5,2:10?", "9,4,7:64?"]
SAID = [["(3-2)*5", "3*5-2", "5*2"], ["9*7+4", "9*4+7", "64"]]
SCORES = [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


class Letters:
    """A tokenizer with one token for each character."""

    eos_token_id = 99
    unk_token_id = None

    def __call__(self, text, add_special_tokens=True):
        return type("Ids", (), {"input_ids": [ord(c) for c in text]})

    def decode(self, ids, skip_special_tokens=False):
        return "".join(chr(i) for i in ids if i != 99)


def lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def verl(folder: Path) -> Path:
    rows = [
        {"input": q, "output": a, "gts": "x", "score": s, "step": 7, "acc": bool(s)}
        for q, answers, scores in zip(ASKED, SAID, SCORES, strict=True)
        for a, s in zip(answers, scores, strict=True)
    ]
    return lines(folder / "7.jsonl", rows)


def trl(folder: Path) -> Path:
    table = {
        "step": ["3"] * 6,
        "prompt": [q for q in ASKED for _ in range(3)],
        "completion": [a for answers in SAID for a in answers],
        "accuracy_reward": [s for scores in SCORES for s in scores],
        "format_reward": [0.5] * 6,
        "advantage": [-0.577, -0.577, 1.155, 0.0, 0.0, 0.0],
        "reward_source": ["table"] * 6,
        "used_tool": [True] * 6,
    }
    parquet.write_table(arrow.table(table), folder / "completions_00003.parquet")
    return folder / "completions_00003.parquet"


def prime_rl(folder: Path) -> Path:
    rows = [
        {
            "example_id": i,
            "prompt": [{"role": "user", "content": q}],
            "completion": [{"role": "assistant", "content": a}],
            "reward": s,
            "is_truncated": j == 2,
            "metrics": {},
            "task": "countdown",
            "trajectory": [{"tokens": {"prompt_ids": [7, 19, 4], "completion_ids": [3, 4, 5], "completion_logprobs": [-0.1, -0.2, -0.3]}}],
        }
        for i, (q, answers, scores) in enumerate(zip(ASKED, SAID, SCORES, strict=True))
        for j, (a, s) in enumerate(zip(answers, scores, strict=True))
    ]
    return lines(folder / "train_rollouts.jsonl", rows)


def trace(q: str, a: str, s: float, **more) -> dict:
    """One agent's trace of one turn: two tokens of prompt, one of scaffold on the sampled message, three that were sampled."""
    return {
        "version": 1, "id": f"{q}{a}", "agent": {"name": "solver", "trainable": True}, "task": {"type": "T", "data": {"prompt": q, "answer": "x"}, "hash": q},
        "nodes": [
            {"parent": None, "message": {"role": "system", "content": "Count."}, "sampled": False, "token_ids": [7], "mask": [False], "logprobs": []},
            {"parent": 0, "message": {"role": "user", "content": [{"type": "text", "text": q}]}, "sampled": False, "token_ids": [19], "mask": [False], "logprobs": []},
            {"parent": 1, "message": {"role": "assistant", "content": a}, "sampled": True, "token_ids": [4, 3, 4, 5], "mask": [False, True, True, True], "logprobs": [-0.1, -0.2, -0.3]},
        ],
        "calls": [{"node": 2, "finish_reason": "length" if a in ("5*2", "64") else "stop"}],
        "rewards": {"right": {"score": 2 * s, "weight": 0.5}, "style": {"score": 1.0, "weight": 0.0}, "late": None}, "ok": True, "errors": [], **more,
    }  # fmt: skip


def prime_rl_traces(folder: Path) -> Path:
    return lines(folder / "train_rollouts.jsonl", [trace(q, a, s) for q, answers, scores in zip(ASKED, SAID, SCORES, strict=True) for a, s in zip(answers, scores, strict=True)])  # fmt: skip


def prime_rl_episodes(folder: Path) -> Path:
    """Beside them a judge's trace in every episode, one that failed, and an episode that broke before its trace."""
    rows = [
        {
            "id": f"e{i}{j}", "env": {"id": "countdown"}, "task": {"type": "T", "data": {"prompt": q}}, "group": {"id": f"g{i}"}, "ok": True,
            "run": {"type": "train", "id": "r", "work": {"type": "train", "step": 5 + j}},
            "traces": [trace(q, a, s), trace(q, "judged", 1.0, agent={"name": "judge", "trainable": False})],
        }
        for i, (q, answers, scores) in enumerate(zip(ASKED, SAID, SCORES, strict=True))
        for j, (a, s) in enumerate(zip(answers, scores, strict=True))
    ]  # fmt: skip
    failed = {**rows[0], "ok": False, "traces": [trace("1,1:2?", "1+1", 1.0, ok=False, errors=[{"type": "T", "message": "m"}])]}
    return lines(folder / "train.jsonl", [*rows, failed, {**failed, "traces": []}])


@pytest.mark.parametrize("write", [verl, trl, prime_rl, prime_rl_traces, prime_rl_episodes])
def test_prompts_responses_rewards_and_groups_are_found(write, tmp_path: Path) -> None:
    rows = dumps.read(write(tmp_path))
    assert [r.prompt for r in rows] == [q for q in ASKED for _ in range(3)]
    assert [r.response for r in rows] == [a for answers in SAID for a in answers]
    extra = 0.5 if write is trl else 0.0  # both of TRL's reward columns count, its advantage does not
    assert [r.reward for r in rows] == [s + extra for scores in SCORES for s in scores]
    assert len({r.group for r in rows}) == 2
    assert [r.cut for r in rows] == ([False] * 6 if write in (verl, trl) else [False, False, True] * 2)


def test_what_a_traces_file_holds_besides_responses_is_counted(tmp_path: Path) -> None:
    said: list[str] = []
    assert len(dumps.read(prime_rl_episodes(tmp_path), say=said.append)) == 6
    assert said[0].endswith("left out 1 episodes without a trace, 1 traces failed, 6 traces of an agent that is not trained")
    with pytest.raises(DataError, match=r"there are no rows but what is left out \(1 traces failed\)"):
        dumps.read(lines(tmp_path / "f.jsonl", [trace("1,1:2?", "1+1", 1.0, ok=False)]))


def test_episodes_of_two_groups_are_two_groups_though_the_prompt_is_one(tmp_path: Path) -> None:
    rows = [{"task": {"data": {}}, "group": {"id": g}, "traces": [trace("1,1:2?", "1+1", 1.0)]} for g in ("a", "b", "a")]
    found = [r.group for r in dumps.read(lines(tmp_path / "e.jsonl", rows))]
    assert found[0] == found[2] != found[1]


def test_a_trace_that_is_no_single_turn_or_does_not_fit_together_is_named(tmp_path: Path) -> None:
    def refused(change, fields: dumps.Fields | None = None) -> str:
        row = trace("1,1:2?", "1+1", 1.0)
        change(row, row["nodes"])
        with pytest.raises(DataError) as caught:
            dumps.read(lines(tmp_path / "t.jsonl", [row]), fields)
        return str(caught.value)

    assert "row 1: the response has 2 turns of the assistant" in refused(lambda row, nodes: nodes.append({**nodes[2], "parent": 2}))
    assert "the response has 0 turns" in refused(lambda row, nodes: nodes.pop())
    assert "the parent of node 2 is 2, and an earlier node is wanted" in refused(lambda row, nodes: nodes[2].update(parent=2))
    assert "has 4 tokens, and a mask of 3" in refused(lambda row, nodes: nodes[2].update(mask=[False, True, True]))
    assert "not sampled stand inside" in refused(lambda row, nodes: nodes[2].update(mask=[True, False, True, True]))
    assert "more than text" in refused(lambda row, nodes: nodes[1]["message"].update(content=[{"type": "image_url", "image_url": {}}]))
    assert "no reward: a number is wanted in the sum of its rewards" in refused(lambda row, nodes: row.update(rewards={"right": None}))
    thinking = lambda row, nodes: (nodes[2]["message"].update(reasoning_content="hm"), nodes[2].update(token_ids=[], mask=[]))  # noqa: E731
    assert "reasoning beside its text, and no token ids" in refused(thinking)
    assert "no field 'rewards.wright.score'" in refused(lambda row, nodes: None, dumps.Fields(reward="rewards.wright.score"))


def test_named_fields_of_a_trace_replace_what_it_holds_in_their_place(tmp_path: Path) -> None:
    file = lines(tmp_path / "t.jsonl", [trace("1,1:2?", "1+1", 1.0, metrics={"chars": 7.0}, other="2")])
    (row,) = dumps.read(file, dumps.Fields(reward="metrics.chars", response="other"))
    assert (row.reward, row.response, row.response_ids, row.prompt_ids) == (7.0, "2", None, [7, 19, 4])
    (row,) = dumps.read(file, dumps.Fields(prompt="task.data.prompt", group="id"))
    assert (row.prompt, row.prompt_ids, row.messages) == ("1,1:2?", None, []) and row.group.startswith("1,1:2?1+1|")


def test_trls_columns_are_summed_only_if_its_advantage_follows_from_the_sum(tmp_path: Path) -> None:
    def table(**columns) -> Path:
        rows = {"step": [1] * 3, "prompt": ["a"] * 3, "completion": ["x", "y", "z"], **columns, "advantage": [1.155, -0.577, -0.577]}
        parquet.write_table(arrow.table(rows), tmp_path / "c.parquet")
        return tmp_path / "c.parquet"

    right = [1.0, 0.0, 0.0]
    assert [r.reward for r in dumps.read(table(right=right, maybe=[None, 0.5, 0.5]))] == [
        1.0,
        0.5,
        0.5,
    ]  # an empty place counts for nothing
    logged = table(right=right, seconds_used=[1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="sum of right, seconds_used, but in 1 of 1 groups 'advantage' does not follow .* --reward-field"):
        dumps.read(logged)
    assert [r.reward for r in dumps.read(logged, dumps.Fields(reward="right"))] == right


@pytest.mark.parametrize("write", [prime_rl, prime_rl_traces, prime_rl_episodes])
def test_token_ids_and_log_probs_of_a_rollout_are_used(write, tmp_path: Path) -> None:
    rows = dumps.read(write(tmp_path))
    assert rows[0].prompt_ids == [7, 19, 4] and rows[0].response_ids == [3, 4, 5] and rows[0].logp == [-0.1, -0.2, -0.3]
    rows[1].response_ids, rows[1].logp = [3, 4], [-0.1, -0.2]
    batch = dumps.to_batch(rows, Letters(), {"step": 1})
    assert torch.equal(batch["sampler_logp"][:2], torch.tensor([[-0.1, -0.2, -0.3], [-0.1, -0.2, 0.0]]))
    rows[1].logp = [-0.1] * 9  # not one for each token: whose they are is not known
    assert "sampler_logp" not in dumps.to_batch(rows, Letters(), {"step": 1})


def test_a_group_is_put_together_wherever_its_rows_stand(tmp_path: Path) -> None:
    rows = dumps.read(
        lines(tmp_path / "a.jsonl", [{"prompt": p, "response": "1", "reward": r} for p, r in (("1,2:3?", 1), ("2,2:4?", 2), ("1,2:3?", 3))])
    )
    batch = dumps.to_batch(rows, Letters(), {"step": 1}, correct_above=1.5)
    assert batch["group"].tolist() == [0, 0, 1] and batch["sample"].tolist() == [0, 1, 0]
    assert batch["reward"].tolist() == [1, 3, 2] and batch["correct"].tolist() == [False, True, True]
    assert batch["tokens"].tolist() == [[49, 99]] * 3 and batch["mask"].all()  # the end of text is added
    assert torch.equal(batch["length"], torch.tensor([2, 2, 2]))


def test_rows_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    file = lines(tmp_path / "odd.jsonl", [{"prompt": "a", "answer_text": "b", "points": 1}])
    with pytest.raises(DataError, match=r"row 1: no response: .* name it with --response-field"):
        dumps.read(file)
    with pytest.raises(DataError, match=r"no reward: a number is wanted .* --reward-field"):
        dumps.read(file, dumps.Fields(response="answer_text"))
    with pytest.raises(DataError, match="no field 'answer_txet'; did you mean 'answer_text'"):
        dumps.read(file, dumps.Fields(response="answer_txet"))
    assert dumps.read(file, dumps.Fields(response="answer_text", reward="points"))[0].reward == 1.0


@pytest.mark.parametrize("write", [verl, trl, prime_rl_episodes])
def test_a_dump_is_replayed_with_the_model_that_is_named(write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(write(tmp_path))
    with pytest.raises(UsageError, match="give --model"):
        commands.replay(file, ["recipe=clipcov"])
    recipe = [
        "recipe=clipcov,siren,klcov,dapo,entropybonus",
        "regularize.entropy.coef=0.1",
        "shape.clip_cov.fraction=0.1",
        "shape.clip_cov.low=0.0",
    ]
    assert commands.replay(file, recipe, model="tiny", as_json=True) == 0
    found = json.loads(capsys.readouterr().out)
    row = {r["method"]: r for r in found["methods"]}
    assert found["rows"] == 6 and all("reason" not in r for r in row.values())
    assert row["clipcov"]["selected"] == pytest.approx(max(1, int(0.1 * found["tokens"])) / found["tokens"])
    assert row["entropybonus"]["parameter_cosine"] < 0.999 and row["grpo"]["parameter_cosine"] == pytest.approx(1)
    assert row["klcov"]["differs"] == 0  # on policy KL-Cov is inert
    assert row["dapo"]["notes"][0].startswith("rewards are the file's: overlong")


def test_text_that_the_tokenizer_cannot_spell_is_refused(tmp_path: Path) -> None:
    file = lines(tmp_path / "words.jsonl", [{"prompt": "What is two plus two?", "response": "four", "reward": 1}])
    with pytest.raises(DataError, match="tokenizer has no tokens for most of the"):
        commands.replay(str(file), ["recipe=clipcov"], model="tiny")
