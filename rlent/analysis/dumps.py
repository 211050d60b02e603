"""Responses that somebody else sampled: files of prompts, responses and rewards, read as they are.

A row is recognised by its fields (dotted paths reach inside):

    verl        trainer.rollout_data_dir: input, output, gts, score, step, and what the reward function gave besides (acc, request_id, ...)
    TRL         completions/*.parquet of log_completions: step, prompt, completion, a column for each reward function, extra columns, advantage
    prime-rl    traces/step_N/train.jsonl: episodes, or a trace a line (rlent/analysis/traces.py); before that rollouts with example_id, prompt,
                completion (texts or messages), reward, trajectory[0].tokens with ids and log-probs
    rlent       eval's responses.jsonl, samples.jsonl: prompt, response, correct or reward

Anything else is read once its fields are named. Texts are encoded again, so token boundaries may differ from those that were sampled;
where token ids are in the file, they are used. A response that is not marked as cut gets the end-of-text token if it has none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rlent.analysis import traces
from rlent.data.readers import read_rows
from rlent.data.rows import MISSING, BadRowError, field_at
from rlent.data.templates import encode_prompt
from rlent.errors import DataError, did_you_mean
from rlent.sampling.draw import problem_key
from rlent.types import Batch, Json, JsonObject, Problem, Stream, Tokenizer

PROMPT = ("prompt", "input", "problem", "question", "query")
RESPONSE = ("response", "completion", "output", "generation", "text")
REWARD = ("reward", "score", "correct", "acc", "accuracy")
GROUP = ("example_id", "prompt_id", "problem_id", "problem", "uid")
GOLD = ("gold", "gts", "answer", "ground_truth", "reward_model.ground_truth", "solution")
CUT = ("is_truncated", "truncated")
_SHOWN = 5
_NUMBERS = frozenset({"step", "advantage", "advantages", "length", "tokens", "nll", "entropy", "sample", "index", "seconds"})
"""Numeric columns of a TRL table that are no rewards."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields (dotted paths); None where they are to be found."""

    prompt: str | None = None
    response: str | None = None
    reward: str | None = None
    group: str | None = None


@dataclass(slots=True)
class Row:
    """One response. `prompt_ids` and `response_ids` where the file has them; `logp` those of the sampler.

    `summed` names the columns that the reward is the sum of, where it is one, and `advantage` is what the trainer then gave.
    """

    prompt: str
    response: str
    reward: float
    group: str
    messages: list[JsonObject] = field(default_factory=list)
    gold: Json = None
    prompt_ids: list[int] | None = None
    response_ids: list[int] | None = None
    logp: list[float] | None = None
    cut: bool = False
    advantage: float | None = None
    summed: list[str] = field(default_factory=list)


def read(path: Path, fields: Fields | None = None, limit: int | None = None, say: Callable[[str], None] = lambda text: None) -> list[Row]:
    """The rows of a .jsonl, .jsonl.gz, .json or .parquet file; `limit` reads the first lines only. What was left out goes to `say`.

    Raises:
        DataError: there is no such file, or rows cannot be used: which, why, and the option that names a field.
    """
    fields = fields or Fields()
    rows: list[Row] = []
    bad: list[str] = []
    left: Counter[str] = Counter()
    count = 0
    for number, raw in read_rows(path):
        if limit is not None and count == limit:
            break
        count += 1
        try:
            found = traces.traces(raw) if isinstance(raw, Mapping) else None
            if found is None:
                rows.append(_row(raw, fields))
                continue
            left["episodes without a trace"] += not found
            for trace in found:
                try:
                    rows.append(_traced(trace, fields))
                except traces.LeftOutError as reason:
                    left[f"traces {reason}"] += 1
        except BadRowError as reason:
            bad.append(f"row {number}: {reason}")
    if bad:
        more = [f"and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
        raise DataError(f"{path}: {len(bad)} of {count} rows cannot be used" + "".join(f"\n  {line}" for line in [*bad[:_SHOWN], *more]))
    out = ", ".join(f"{n} {what}" for what, n in sorted(left.items()) if n)
    if not rows:
        raise DataError(f"{path}: there are no rows" + (f" but what is left out ({out})" if out else ""))
    if out:
        say(f"{path}: left out {out}")
    _check_credit(path, rows)
    return rows


def _check_credit(path: Path, rows: Sequence[Row]) -> None:
    """Whether TRL's columns add up to what it trained on: inside a group its advantage is a rising line in the reward.

    Columns that a reward function logged for people to read stand among the rewards, and weights are not in the file.
    """
    groups: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if row.advantage is not None:
            groups.setdefault(row.group, []).append((row.reward, row.advantage))
    varied = [g for g in groups.values() if any(max(v) - min(v) > 1e-6 for v in zip(*g, strict=True))]
    astray = sum(not _rising_line(g) for g in varied)
    if 2 * astray > len(varied):
        names = ", ".join(dict.fromkeys(n for row in rows for n in row.summed))
        raise DataError(
            f"{path}: the reward was taken to be the sum of {names}, but in {astray} of {len(varied)} groups 'advantage' does not follow from it: "
            "a column is no reward, or rewards have weights. Name the one to use with --reward-field"
        )


def _rising_line(pairs: Sequence[tuple[float, float]]) -> bool:
    """Whether the second numbers are a line with a positive slope in the first, to a thousandth of their spread."""
    x, y = torch.tensor(pairs, dtype=torch.float64).T
    x, y = x - x.mean(), y - y.mean()
    slope = (x * y).sum() / (x * x).sum().clamp(min=1e-12)
    return bool(slope > 0) and bool((y - slope * x).abs().max() <= 1e-3 * y.abs().max())


def _traced(trace: Mapping[str, Json], fields: Fields) -> Row:
    """The row of a trace; a field that is named replaces what the trace holds in its place."""
    found = traces.said(trace)
    prompt, response, messages = found.prompt[-1]["content"] if found.prompt else "", found.response, found.prompt
    asked = [m["content"] for m in messages if m["role"] == "user"]
    prompt = asked[-1] if asked else prompt
    prompt_ids, response_ids, logp = found.prompt_ids, found.response_ids, found.logp
    if fields.prompt:
        prompt, messages, prompt_ids = _text(trace, fields.prompt, "prompt"), [], []
    if fields.response:
        response, response_ids, logp = _text(trace, fields.response, "response"), [], []
    if not prompt:
        raise BadRowError("the trace begins with the response; name the prompt with --prompt-field")
    reward = _take(trace, fields.reward, (), "reward")[1] if fields.reward else traces.reward_of(trace)
    key = _take(trace, fields.group, (), "group")[1] if fields.group else traces.group_of(trace)
    return Row(
        prompt=prompt,
        response=response,
        reward=_number(reward, f"the sum of its rewards (fields: {', '.join(map(str, trace))})"),
        group=f"{prompt if key is None else key}|{prompt}",
        messages=messages,
        gold=_optional(traces.task_of(trace), None, GOLD, "gold"),
        prompt_ids=prompt_ids or None,
        response_ids=response_ids or None,
        logp=logp or None,
        cut=found.cut,
    )


def _text(raw: Mapping[str, Json], name: str, what: str) -> str:
    value = _take(raw, name, (), what)[1]
    if not isinstance(value, str):
        raise BadRowError(f"the {what} is a {type(value).__name__}, and a text is wanted")
    return value


def _row(raw: object, fields: Fields) -> Row:
    if isinstance(raw, BadRowError):
        raise raw
    if not isinstance(raw, Mapping):
        raise BadRowError(f"a {type(raw).__name__}, and an object with fields is wanted")
    prompt_name, prompt = _take(raw, fields.prompt, PROMPT, "prompt")
    _, response = _take(raw, fields.response, RESPONSE, "response")
    messages = _messages(prompt) if isinstance(prompt, list) else []
    if messages:
        asked = [m["content"] for m in messages if m["role"] == "user"]
        prompt = asked[-1] if asked else ""
    if isinstance(response, list):
        said = [m["content"] for m in _messages(response) if m["role"] == "assistant"]
        if len(said) != 1:
            raise BadRowError(f"the response has {len(said)} turns of the assistant, and one is wanted")
        response = said[0]
    for name, value in (("prompt", prompt), ("response", response)):
        if not isinstance(value, str):
            raise BadRowError(f"the {name} is a {type(value).__name__}, and a text or messages are wanted")
    key = _optional(raw, fields.group, tuple(g for g in GROUP if g != prompt_name), "group")
    tokens = _tokens(raw)
    reward, summed = _reward(raw, fields.reward)
    advantage = raw.get("advantage")
    return Row(
        prompt=prompt,
        response=response,
        reward=reward,
        group=f"{raw.get('step', '')}|{prompt if key is None else key}|{prompt}",
        messages=messages,
        gold=_optional(raw, None, GOLD, "gold"),
        prompt_ids=tokens.get("prompt_ids"),
        response_ids=tokens.get("completion_ids"),
        logp=tokens.get("completion_logprobs"),
        cut=bool(_optional(raw, None, CUT, "cut") or raw.get("finish") == "length" or raw.get("finish_reason") == "length"),
        advantage=float(advantage) if summed and isinstance(advantage, int | float) else None,
        summed=summed,
    )


def _at(raw: Mapping[str, Json], name: str) -> object:
    value = field_at(raw, name)
    return None if value is MISSING else value


def _take(raw: Mapping[str, Json], name: str | None, usual: Sequence[str], what: str) -> tuple[str, Any]:
    for candidate in (name,) if name else usual:
        value = _at(raw, candidate)
        if value is not None:
            return candidate, value
    there = ", ".join(map(str, raw)) or "none"
    if name:
        raise BadRowError(f"no field '{name}'{did_you_mean(name, map(str, raw))} (fields: {there})")
    raise BadRowError(f"no {what}: none of {', '.join(usual)} is a field (fields: {there}); name it with --{what}-field")


def _optional(raw: Mapping[str, Json], name: str | None, usual: Sequence[str], what: str) -> Any:
    if name:
        return _take(raw, name, usual, what)[1]
    return next((v for v in (_at(raw, u) for u in usual) if v is not None), None)


def _reward(raw: Mapping[str, Json], name: str | None) -> tuple[float, list[str]]:
    """The reward of a row: a field, or the sum of the columns that TRL makes of its reward functions, whose names come with it.

    Those are floats; a function that had nothing to say of a row left it empty, and counts for nothing, as in TRL.
    """
    found = _optional(raw, name, REWARD, "reward")
    summed: list[str] = []
    if found is None and "completion" in raw:
        summed = [k for k, v in raw.items() if k not in _NUMBERS and isinstance(v, float) and math.isfinite(v)]
        found = math.fsum(raw[k] for k in summed) if summed else None
    return _number(found, f"{', '.join(REWARD)} (fields: {', '.join(map(str, raw))})"), summed


def _number(value: object, where: str) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        why = "no reward" if value is None else f"the reward is {value!r}"
        raise BadRowError(f"{why}: a number is wanted in {where}; name it with --reward-field")
    return float(value)


def _messages(value: list[Any]) -> list[JsonObject]:
    turns = []
    for turn in value:
        text = traces.text_of(turn.get("content")) if isinstance(turn, Mapping) else None
        if text is None or not isinstance(turn.get("role"), str):
            raise BadRowError("a list, but not of messages with a role and a text content")
        turns.append({"role": turn["role"], "content": text})
    return turns


def _tokens(raw: Mapping[str, Json]) -> JsonObject:
    """Token ids and log-probs of a rollout with one turn, as verifiers keeps them."""
    steps = raw.get("trajectory")
    if not isinstance(steps, list) or len(steps) != 1 or not isinstance(steps[0], Mapping):
        return {}
    tokens = steps[0].get("tokens")
    if not isinstance(tokens, Mapping) or not tokens.get("prompt_ids") or not tokens.get("completion_ids"):
        return {}
    return {k: list(tokens[k]) for k in ("prompt_ids", "completion_ids", "completion_logprobs") if tokens.get(k)}


def to_batch(
    rows: Sequence[Row], tokenizer: Tokenizer, scalars: Mapping[str, Json], *, template: str = "none", correct_above: float = 0.0
) -> Batch:
    """The rows as a step's batch: the streams that exist after sampling, and `reward` as the file gives it.

    Responses to one prompt are a group, in the order of the file. `correct` is reward above `correct_above`.

    Raises:
        DataError: a prompt or response that the tokenizer cannot spell.
    """
    groups: dict[str, int] = {}
    order = sorted(range(len(rows)), key=lambda i: groups.setdefault(rows[i].group, len(groups)))
    rows = [rows[i] for i in order]
    problems = [Problem(r.group, r.prompt, r.gold, {"messages": r.messages} if r.messages else {}, "file") for r in rows]
    group = [groups[r.group] for r in rows]
    seen: Counter[int] = Counter()
    sample = []
    for g in group:
        sample.append(seen[g])
        seen[g] += 1
    prompts = [r.prompt_ids or encode_prompt(tokenizer, p, template) for r, p in zip(rows, problems, strict=True)]
    tokens = [_response_ids(r, tokenizer) for r in rows]
    for row, ids in zip(rows, tokens, strict=True):
        spelt = len(tokenizer.decode([t for t in ids if t != getattr(tokenizer, "unk_token_id", None)], skip_special_tokens=True))
        if row.response_ids is None and 2 * spelt < len(row.response):
            raise DataError(f"the tokenizer has no tokens for most of the response {row.response[:60]!r}; name the model that wrote it")
    lengths = torch.tensor([len(t) for t in tokens])
    width = max(int(lengths.max()), 1)
    padded = torch.zeros((len(rows), width), dtype=torch.long)
    for i, ids in enumerate(tokens):
        padded[i, : len(ids)] = torch.tensor(ids, dtype=torch.long)
    rewards = torch.tensor([r.reward for r in rows])
    correct = rewards > correct_above
    streams: dict[str, Stream] = {
        "mask": torch.arange(width) < lengths[:, None],
        "tokens": padded,
        "length": lengths,
        "group": torch.tensor(group),
        "sample": torch.tensor(sample),
        "problem_key": torch.tensor([problem_key(p) for p in problems]),
        "correct": correct,
        "reward": rewards,
        "train": torch.ones(len(rows), dtype=torch.bool),
        "answer": [None] * len(rows),
        "status": ["ok"] * len(rows),
        "gold": [r.gold for r in rows],
        "prompt": [r.prompt for r in rows],
        "response": [r.response for r in rows],
        "meta": [p.meta for p in problems],
        "data_source": ["file"] * len(rows),
        "source": ["policy"] * len(rows),
        "finish": ["length" if r.cut else "stop" for r in rows],
        "prompt_ids": prompts,
        **scalars,
    }
    logps = [r.logp or [] for r in rows]
    if [len(p) for p in logps] == lengths.tolist():
        streams["sampler_logp"] = torch.tensor([[*p, *[0.0] * (width - len(p))] for p in logps])
    return Batch(streams)


def _response_ids(row: Row, tokenizer: Tokenizer) -> list[int]:
    if row.response_ids is not None:
        return row.response_ids
    ids = list(tokenizer(row.response, add_special_tokens=False).input_ids)
    end = tokenizer.eos_token_id
    return ids if row.cut or end is None or ids[-1:] == [end] else [*ids, end]
