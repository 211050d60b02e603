"""Rollouts as prime-rl keeps them: traces of its environments, a graph of messages of which each knows the tokens that it adds.

Two files hold them. `traces/step_N/train.jsonl` has an episode a line, with the traces of its agents; `rollouts/step_N/train_rollouts.jsonl`,
which it had before, and the `traces.jsonl` of an evaluation have a trace a line. What is read was taken from
PrimeIntellect-ai/verifiers verifiers/v1/trace.py at 00eee6c and episode.py at 11eb4d6, and from PrimeIntellect-ai/prime-rl
src/prime_rl/utils/trace_updates.py at 0b77f23 with the file monitor of that time. Facts worth knowing:

* the tokens of a path's nodes, one after the other, are what the model saw; `mask` says which of them it sampled;
* `logprobs` are those of the sampled tokens only, and are rounded to four decimals in files;
* a reward is a sum of named scores with weights; a score that was not computed is null;
* the trainer's own numbers come later, in files beside (`annotations/`), and are not read: the model that is named gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlent.data.rows import BadRowError
from rlent.types import Json, JsonObject

LIMITS = frozenset({"max_turns", "max_input_tokens", "max_output_tokens", "max_total_tokens", "length"})
"""Stop conditions that cut a response."""


class LeftOutError(Exception):
    """Why a trace is no response to look at, although nothing is wrong with the file."""


@dataclass(frozen=True, slots=True)
class Said:
    """The one response of a trace. `prompt` is the conversation before it; ids and log-probs are empty where the file has none."""

    prompt: list[dict[str, str]]
    response: str
    prompt_ids: list[int]
    response_ids: list[int]
    logp: list[float]
    cut: bool


def traces(raw: Mapping[str, Json]) -> list[Mapping[str, Json]] | None:
    """The traces of a line, each with its episode under `episode` if it has one. None for rows of other trainers."""
    if not isinstance(raw.get("task"), Mapping):
        return None
    if isinstance(raw.get("nodes"), list):
        return [raw]
    if not isinstance(raw.get("traces"), list):
        return None
    episode = {k: v for k, v in raw.items() if k != "traces"}
    return [{**trace, "episode": episode} for trace in raw["traces"] if isinstance(trace, Mapping)]


def text_of(content: object) -> str | None:
    """A message's text: a string, nothing, or parts that are all texts. None if it is something else, such as an image."""
    if isinstance(content, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in content):
        return "".join(p["text"] for p in content)
    return "" if content is None else content if isinstance(content, str) else None


def said(trace: Mapping[str, Json]) -> Said:
    """What a trace's policy said, once.

    Raises:
        LeftOutError: it failed, or is of an agent that is not trained.
        BadRowError: several turns or none, or nodes that do not fit together.
    """
    agent = trace.get("agent")
    if isinstance(agent, Mapping) and agent.get("trainable") is False:
        raise LeftOutError("of an agent that is not trained")
    if not trace["ok"] if "ok" in trace else trace.get("errors") or trace.get("error"):
        raise LeftOutError("failed")
    nodes = trace.get("nodes") or []
    turns = [i for i, node in enumerate(nodes) if isinstance(node, Mapping) and node.get("sampled")]
    if len(turns) != 1:
        raise BadRowError(f"the response has {len(turns)} turns of the assistant, and one is wanted")
    path = _path(nodes, turns[0])
    messages = [_message(node) for node in path]
    node, before = path[-1], path[:-1]
    prompt_ids, response_ids = _tokens(node, before)
    thought = node["message"].get("reasoning_content")
    if thought and not response_ids:
        raise BadRowError("the response has its reasoning beside its text, and no token ids that say how the model wrote it")
    logp = node.get("logprobs") or []
    calls = [c for c in trace.get("calls") or [] if isinstance(c, Mapping) and c.get("node") in (turns[0], None)]
    ends = {node.get("finish_reason"), trace.get("stop_condition"), *(c.get("finish_reason") for c in calls)}
    return Said(
        messages[:-1],
        (thought or "") + messages[-1]["content"],
        prompt_ids,
        response_ids,
        list(logp) if len(logp) == len(response_ids) else [],
        bool(ends & LIMITS),
    )


def _path(nodes: Sequence[object], leaf: int) -> list[Mapping[str, Json]]:
    """A node and those before it, from the first message on."""
    found = []
    at: int | None = leaf
    while at is not None:
        node = nodes[at]
        if not isinstance(node, Mapping) or not isinstance(node.get("message"), Mapping):
            raise BadRowError(f"node {at} has no message")
        found.append(node)
        parent = node.get("parent")
        if parent is not None and not (isinstance(parent, int) and 0 <= parent < at):
            raise BadRowError(f"the parent of node {at} is {parent!r}, and an earlier node is wanted")
        at = parent
    return found[::-1]


def _message(node: Mapping[str, Json]) -> dict[str, str]:
    role, text = node["message"].get("role"), text_of(node["message"].get("content"))
    if not isinstance(role, str) or text is None:
        raise BadRowError("a message without a role, or with more than text in it")
    return {"role": role, "content": text}


def _tokens(node: Mapping[str, Json], before: Sequence[JsonObject]) -> tuple[list[int], list[int]]:
    """Token ids of the prompt and of what was sampled; two empty lists where a message has none."""
    own, mask = node.get("token_ids") or [], node.get("mask") or []
    if not own or not all(n.get("token_ids") for n in before):
        return [], []
    if len(mask) != len(own) or True not in mask:
        raise BadRowError(f"the sampled message has {len(own)} tokens, and a mask of {len(mask)} with {sum(map(bool, mask))} set")
    first, last = mask.index(True), len(mask) - mask[::-1].index(True)
    if not all(mask[first:last]):
        raise BadRowError("tokens that were not sampled stand inside the response")
    return [t for n in before for t in n["token_ids"]] + own[:first], own[first:last]


def reward_of(trace: Mapping[str, Json]) -> float | None:
    """The sum of scores times weights; None if nothing was scored."""
    rewards = trace.get("rewards")
    values = list(rewards.values()) if isinstance(rewards, Mapping) else []
    scored = [(r["score"], r.get("weight")) if isinstance(r, Mapping) else (r, 1.0) for r in values if r is not None]
    if not scored or not all(isinstance(x, int | float) for score, w in scored for x in (score, 1.0 if w is None else w)):
        return None
    return float(sum(score * (1.0 if w is None else w) for score, w in scored))


def task_of(trace: Mapping[str, Json]) -> Mapping[str, Json]:
    """The problem's own fields."""
    task = trace.get("task") or {}
    data = task.get("data")
    return data if isinstance(data, Mapping) else task


def group_of(trace: Mapping[str, Json]) -> str | None:
    """What says which traces answer the same prompt for one update: the group, else the task."""
    episode, stamp = trace.get("episode") or {}, (trace.get("info") or {}).get("prime_rl") or {}
    group = episode.get("group")
    found = (group or {}).get("id") or stamp.get("group_id")
    if found is not None:
        return str(found)
    task, name = trace.get("task") or {}, (episode.get("env") or {}).get("id") or stamp.get("env_name") or ""
    own = next((v for v in (task.get("key"), task.get("hash"), task_of(trace).get("idx")) if v is not None), None)
    return None if own is None else f"{name}|{own}"
