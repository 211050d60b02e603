"""The streams: everything a function may ask for by naming it.

One table. `when` is the earliest moment a stream exists, and decides when a function that names it runs:

    sample    after sampling and grading           -> once per step, all rows
    look      after the old-logprob pass           -> once per step, all rows
    credit    after reward and advantage           -> once per step, all rows
    now       before each update, no gradient      -> once per minibatch, all its rows
    live      inside the update, with gradient     -> part by part; the function must be row-wise
    run       a plain number, any time

Public interface: names and shapes here do not change without an entry in the changelog.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

When = Literal["sample", "look", "credit", "now", "live", "run"]


@dataclass(frozen=True, slots=True)
class Stream:
    name: str
    shape: str
    when: When
    meaning: str


STREAMS: dict[str, Stream] = {
    s.name: s
    for s in [
        # per row, known after sampling and grading
        Stream("correct", "[N] bool", "sample", "the grader accepts the answer"),
        Stream("answer", "N strings or None", "sample", "the extracted answer"),
        Stream("answer_id", "[N] int", "sample", "equivalence class of the answer within its group, -1 for none"),
        Stream("same", "N lists of bool", "sample", "whether the grader takes the row's answer for that of each sample of its group"),
        Stream("gold", "N values", "sample", "the accepted answer"),
        Stream("prompt", "N strings", "sample", "the problem's text"),
        Stream("response", "N strings", "sample", "what the model wrote"),
        Stream("meta", "N mappings", "sample", "other fields of the data row"),
        Stream("finish", "N strings", "sample", "why sampling ended: stop or length"),
        Stream("status", "N strings", "sample", "the grader's status: ok, no_answer, timeout, ..."),
        Stream("length", "[N] int", "sample", "response tokens"),
        Stream("group", "[N] int", "sample", "index of the row's prompt within the step"),
        Stream("sample", "[N] int", "sample", "index of the response among those to its prompt"),
        Stream("turn", "[N] int", "sample", "index of the environment step that produced the row; 0 in a task of one turn"),
        Stream("pieces", "N lists of strings", "sample", "the text of each response token; made only if some function reads it"),
        Stream("source", "N strings", "sample", "policy, tempered, reference, demo or replay"),
        Stream("own", "[N] bool", "sample", "the row brings the log-probabilities it was drawn with; only some samplers make it"),
        Stream("own_logp", "[N,T]", "sample", "those log-probabilities: old_logp of such a row"),
        Stream(
            "replay_adv", "[N]", "sample", "advantage of a replayed response against what groups have earned since; sampler=replay makes it"
        ),
        Stream("data_source", "N strings", "sample", "the data set a problem comes from"),
        Stream("train", "[N] bool", "sample", "False: graded and counted, but without loss"),
        Stream("row_noise", "[N] in [0, 1)", "sample", "a uniform number per row and node"),
        # per token, known after sampling
        Stream("tokens", "[N,T] int", "sample", "response token ids"),
        Stream("mask", "[N,T] bool", "sample", "True on response tokens; decides denominators"),
        Stream("sampler_logp", "[N,T]", "sample", "log-probability as the engine sampled it"),
        Stream("sampler_entropy", "[N,T]", "sample", "entropy of the distribution the engine sampled from, nats"),
        Stream("noise", "[N,T] in [0, 1)", "sample", "a uniform number per token and node; a draw never depends on layout"),
        # old-logprob pass: the policy as it was when the step began
        Stream("old_logp", "[N,T]", "look", "log-probability of the sampled token when the step began"),
        Stream("old_entropy", "[N,T]", "look", "exact entropy in nats when the step began"),
        # credit
        Stream("reward", "[N]", "credit", "total reward of the response"),
        Stream("token_reward", "[N,T]", "credit", "reward by position; an outcome falls on the last response token"),
        Stream("adv", "[N,T]", "credit", "advantage"),
        Stream("weight", "[N,T]", "credit", "product of the shapes' weights so far"),
        Stream("loss_mask", "[N,T] bool", "credit", "tokens that the shapes so far have left in the loss; decides its denominator"),
        # now: the current policy, before the update
        Stream("now_logp", "[N,T]", "now", "log-probability under the current policy, before this update"),
        Stream("now_entropy", "[N,T]", "now", "exact entropy under the current policy, before this update"),
        Stream("now_pull", "[N,T]", "now", "-d(loss)/d(logp) of each token before shapes; 0 where the loss has clipped it"),
        # live: inside the update
        Stream("logp", "[B,T] with gradient", "live", "log-probability of the sampled token"),
        Stream("entropy", "[B,T] with gradient", "live", "exact entropy, full vocabulary, nats"),
        # plain numbers
        Stream("step", "int", "run", "the step, from 1"),
        Stream("steps", "int", "run", "trainer.steps"),
        Stream("vocab", "int", "run", "V"),
        Stream("max_tokens", "int", "run", "sampler.max_tokens, the response budget"),
        Stream("temperature", "float", "run", "sampler.temperature"),
    ]
}

RULE: dict[str, str] = {
    "logits": "[n,V] float: the model's, as the rules before have left them; untempered",
    "temperature": "[n]: of the request, as the rules before have left it; 0 is greedy",
    "position": "[n] int: response position about to be drawn, from 0, prefix included",
    "memory": "[n, ...]: what this function returned as `memory` at the row's last token; None at the first",
    "<model>_logits": "[n,V]: of a named model at the same text (engine=native)",
}
"""What a decode function that names `logits` may read: it runs inside the engine, at every token, and must be row-wise."""

DRIVER: dict[str, str] = {
    "requests": "list of requests: prompt, prefix, key, max_tokens, temperature, stop",
    "generate": "function of requests, and of a row-wise `measure` on the logits if one is wanted, that returns rollouts",
    "grow": "function of requests, initial, segment, measure, decide: responses as trees (rlent.sampling.tree)",
    "noise": "function of a request and counters that returns a uniform number in [0, 1)",
    "encode": "function from text to token ids",
    "decode": "function from token ids to text",
    "vocab": "V",
}
"""What a decode function that names `requests` may read: it runs around the engine, and returns rollouts."""

PATTERNS: dict[str, Stream] = {
    "reward_<name>": Stream("reward_<name>", "[N] or [N,T]", "credit", "one reward, before its coefficient"),
    "<model>_logp": Stream("<model>_logp", "[N,T]", "look", "log-probability under a named model, for example ref_logp"),
    "<model>_reward": Stream(
        "<model>_reward", "[N]", "sample", "reward of a named model's response to the same prompt (sampler=reference)"
    ),
    "<model>_entropy": Stream("<model>_entropy", "[N,T]", "look", "entropy under a named model"),
    "<probe>": Stream("<probe>", "[B,T] with gradient", "live", "a probe of the recipe"),
    "old_<probe>": Stream("old_<probe>", "[N,T]", "look", "a probe when the step began"),
    "old_<probe>_<key>": Stream("old_<probe>_<key>", "[N,T] or [N]", "look", "what a probe returned under <key> when the step began"),
    "now_<probe>": Stream("now_<probe>", "[N,T]", "now", "a probe before this update"),
    "<node>_<key>": Stream("<node>_<key>", "[N] or [N,T]", "credit", "what another node of the recipe returned under <key>"),
}

NAME = re.compile(r"^[a-z][a-z0-9_]*$")
