"""From problems to responses: the one place where prompts become requests, in training and in evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlent.data.templates import TEMPLATES, encode_prompt
from rlent.engine.base import Engine
from rlent.errors import ModelError
from rlent.recipe.mount import Node
from rlent.sampling.drive import rollouts
from rlent.types import Problem, Request, Rollouts, Tokenizer


@dataclass(frozen=True, slots=True)
class Decoding:
    """How responses are drawn. `temperature` 0 is greedy; `top_k` 0 is off; `max_tokens` is the response budget."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int = 16


@dataclass(slots=True)
class Responses:
    """Responses to `problems`, `n` each, problem-major: row i answers problem i // n with its sample i % n (+ first)."""

    problems: list[Problem]
    n: int
    prompt_ids: list[list[int]]
    rollouts: Rollouts
    text: list[str]

    def __len__(self) -> int:
        return len(self.text)

    def problem(self, row: int) -> Problem:
        return self.problems[row // self.n]


def problem_key(problem: Problem) -> int:
    """A stable 63-bit number for a problem, from its id, its source and its prompt."""
    digest = hashlib.blake2b(f"{problem.source}\0{problem.id}\0{problem.prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stop_tokens(tokenizer: Tokenizer, model_config: object = None) -> frozenset[int]:
    """The tokens that end a response: the tokenizer's end-of-text and whatever the model's configuration adds."""
    found: set[int] = set()
    for owner in (tokenizer, model_config):
        ids = getattr(owner, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    return frozenset(found)


def until(text: str, stops: Sequence[str]) -> str:
    """The text up to the first of a template's stop texts: what follows is the model writing the next turn itself.

    A closing tag belongs to the response; a heading (`Problem:`) does not.
    """
    found = [(text.find(s), s) for s in stops if s and s in text]
    if not found:
        return text
    at, stop = min(found)
    return text[: at + len(stop)] if stop.startswith("</") else text[:at]


def respond(
    engine: Engine,
    tokenizer: Tokenizer,
    problems: Sequence[Problem],
    *,
    n: int,
    decoding: Decoding,
    key: tuple[int, ...],
    template: str = "none",
    stop: frozenset[int] | None = None,
    first: int = 0,
    entropy: bool = False,
    decode: Sequence[Node] = (),
    max_prompt_tokens: int | None = None,
    progress: Callable[[int], None] | None = None,
    ended: Callable[[str, Problem], None] | None = None,
) -> Responses:
    """Draw `n` responses to each problem.

    Draws depend on (`key`, problem, sample, position) alone, so a problem gets the same responses in any batch,
    whatever the decode functions do, and samples `first ... first + n - 1` continue an earlier call. `ended` gets responses as texts,
    with their problems, while others are still drawn; not necessarily all of them.

    Raises:
        ModelError: a prompt is empty or longer than `max_prompt_tokens`.
    """
    stop = stop_tokens(tokenizer) if stop is None else stop
    prompts = [encode_prompt(tokenizer, p, template) for p in problems]
    for problem, ids in zip(problems, prompts, strict=True):
        if not ids or (max_prompt_tokens is not None and len(ids) > max_prompt_tokens):
            limit = f"at most {max_prompt_tokens}" if max_prompt_tokens else "at least one"
            raise ModelError(f"problem '{problem.id}' of {problem.source or 'the data'} has {len(ids)} prompt tokens; {limit} accepted")
    requests = [
        Request(
            prompt=ids,
            key=(*key, problem_key(problem), first + s),
            max_tokens=decoding.max_tokens,
            temperature=decoding.temperature,
            top_p=decoding.top_p,
            top_k=decoding.top_k,
            stop=stop,
        )
        for problem, ids in zip(problems, prompts, strict=True)
        for s in range(n)
    ]

    def texts(tokens: Sequence[Sequence[int]]) -> list[str]:
        decoded = tokenizer.batch_decode(tokens, skip_special_tokens=True) if tokens else []  # of no rows it makes one text
        return [until(t, TEMPLATES[template].stop) for t in decoded]

    known: dict[int, str] = {}

    def done(rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> None:
        for row, response in zip(rows, texts(tokens), strict=True):
            known[row] = response
            if ended is not None:
                ended(response, problems[row // n])

    found = rollouts(engine, tokenizer, requests, decode, entropy=entropy, done=None if ended is None else done)
    if progress is not None:
        progress(len(requests))
    left = [i for i in range(len(requests)) if i not in known]
    known.update(zip(left, texts([found.tokens[i] for i in left]), strict=True))
    text = [known[i] for i in range(len(requests))]
    contexts = found.contexts or [ids for ids in prompts for _ in range(n)]
    return Responses(list(problems), n, contexts, found, text)
