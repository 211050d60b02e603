"""Which sets an evaluation goes through, and how each of them is sampled.

A suite is an option of `eval` that names data cards in `sets`; each set is sampled under the `protocol` of its card (n, temperature,
top_p, max_tokens) where the suite and the command line leave a value open. Without `sets` the recipe's own held-out problems are
the one set. `eval.paths.NAME=FILE` reads a set from a file instead of the hub; a set that is only a file needs no card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from rlent.data.problems import Problems
from rlent.data.templates import check_template
from rlent.errors import RecipeError, RlentError, UsageError, did_you_mean
from rlent.eval.result import ladder
from rlent.recipe import compose as recipes
from rlent.recipe.compose import Recipe, build
from rlent.sampling.draw import Decoding
from rlent.types import Grader, JsonObject

SAMPLED = 0.6
"""Temperature where several samples are asked for and nothing but greedy is said: that of the sampled sets in the paper's protocol."""


@dataclass(frozen=True)
class Ask:
    """What the command line asks for; None leaves it to the recipe's eval block, and that to the set's protocol."""

    pass_at_k: int | None = None
    n: int | None = None
    greedy: bool = False
    temperature: float | None = None
    problems: int | None = None
    seed: int | None = None
    all_problems: bool = False  # eval.problems=null in so many words

    def with_overrides(self, overrides: Sequence[str]) -> Ask:
        """The same, with the `eval.problems=` and `eval.n=` of a command's overrides where its options leave them open.

        The rest of a run's eval block is for evaluations made while training, and is no answer to what is asked for now.

        Raises:
            UsageError: an override that contradicts another option.
        """
        found = {o.key_or_group: o.value() for o in recipes.parse([o for o in overrides if o.lstrip("+").startswith("eval.")])}
        given = {k: v for k, v in found.items() if isinstance(v, int)}
        n, problems = given.get("eval.n"), given.get("eval.problems")
        if self.n is None and n is not None:
            if self.pass_at_k is not None and self.pass_at_k > n:
                raise UsageError(
                    f"--pass-at-k {self.pass_at_k} needs at least as many samples, and eval.n={n}; leave eval.n out or raise it"
                )
            if self.greedy and n > 1:
                raise UsageError(f"--greedy gives one response to each problem, and eval.n={n}")
        if self.pass_at_k is not None and "eval.ks" in found:
            raise UsageError(f"--pass-at-k {self.pass_at_k} chooses the k, and so does eval.ks; give one of them")
        whole = self.problems is None and "eval.problems" in found and problems is None
        return replace(
            self, n=n if self.n is None else self.n, problems=problems if self.problems is None else self.problems, all_problems=whole
        )


class Source(Protocol):
    """What a data block makes, as far as an evaluation uses it: see `rlent.data.source.LoadedData`."""

    @property
    def held_out(self) -> Problems: ...
    @property
    def template(self) -> str: ...
    @property
    def grader(self) -> Grader: ...


@dataclass(frozen=True)
class Bench:
    """One set of problems, its grader, and how it is sampled. `block` is the data block it was made from."""

    name: str
    problems: Problems
    whole: int  # problems in the set, of which `problems` may be the first few
    source: Source
    block: Mapping[str, Any]
    template: str
    n: int
    ks: tuple[int, ...]
    decoding: Decoding

    @property
    def grader(self) -> Grader:
        return self.source.grader

    @property
    def note(self) -> str:
        """What the set's card says a reader of its numbers should know."""
        return str((self.block.get("card") or {}).get("note") or "")


def samples_for(pass_at_k: int, n: int | None = None) -> tuple[int, list[int]]:
    """n and ks when pass@k up to `pass_at_k` is asked for: at least that many samples, more if `n` says so."""
    return max(pass_at_k, n or 1), ladder(pass_at_k)


def sampling(settings: Mapping[str, Any], protocol: Mapping[str, Any], ask: Ask, budget: int) -> tuple[int, list[int], Decoding]:
    """n, the k and the decoding of one set. The command line comes first, then the settings, then the protocol; last, greedy.

    `budget` is the number of response tokens where neither settings nor protocol give one.

    Raises:
        UsageError: k above n, or several greedy samples.
    """

    def first(key: str, default: float) -> Any:
        given = settings.get(key)
        return given if given is not None else protocol.get(key, default)

    if ask.n is not None and ask.pass_at_k is not None and ask.pass_at_k > ask.n:
        raise UsageError(f"--pass-at-k {ask.pass_at_k} needs at least as many samples, and --n is {ask.n}; leave --n out or raise it")
    if ask.greedy and ask.pass_at_k not in (None, 1):
        raise UsageError(f"--greedy gives one response to each problem; pass@{ask.pass_at_k} needs samples")
    if ask.greedy and (ask.n or 1) > 1:
        raise UsageError(f"--greedy gives one response to each problem; --n is {ask.n}")
    n = int(ask.n or first("n", 1))
    ks = sorted({k for k in settings["ks"] if k <= n} or {1})
    if ask.pass_at_k is not None:
        more = ask.n if ask.n is not None else (n if settings.get("n") is None else None)
        n, ks = samples_for(ask.pass_at_k, more)
    temperature = ask.temperature if ask.temperature is not None else settings.get("temperature")
    if temperature is None:
        temperature = protocol.get("temperature", 0.0)
        temperature = SAMPLED if n > 1 and temperature == 0 else temperature
    if ask.greedy:
        n, ks, temperature = 1, [1], 0.0
    return n, ks, Decoding(float(temperature), float(first("top_p", 1.0)), int(settings["top_k"]), int(first("max_tokens", budget)))


def benches(recipe: Recipe, ask: Ask, default_problems: int | None = None, made: dict[str, Source] | None = None) -> list[Bench]:
    """The sets of a recipe's evaluation, read and checked.

    `default_problems` bounds the recipe's own held-out problems where neither the command line nor the data's protocol says. `made`
    keeps sources between calls, so that several targets share problems and graders.

    Raises:
        RecipeError: with every set that cannot be read, and every path without a set.
        UsageError: see `sampling`.
    """
    settings, made = recipe["eval"], {} if made is None else made
    budget = int((recipe["sampler"] or {}).get("max_tokens") or 1024)
    if not settings.get("sets"):
        limit = ask.problems or (settings["problems"] if recipe["data"].get("protocol") else None)
        if limit is None and not ask.all_problems:
            limit = default_problems
        return [_bench("", recipe["data"], recipe, ask, budget, limit, made)]
    paths, names = dict(settings.get("paths") or {}), [str(name) for name in settings["sets"]]
    problems = [
        f"eval.paths.{p}: there is no such set{did_you_mean(p, names)} (eval.sets: {', '.join(names)})" for p in paths if p not in names
    ]
    problems += [f"eval.sets: '{name}' is named twice" for name in sorted({n for n in names if names.count(n) > 1})]
    found = []
    for name in dict.fromkeys(names):
        try:
            block = _block(name, paths.get(name), recipe)
            found.append(_bench(name, block, recipe, ask, budget, ask.problems or settings["problems"], made))
        except UsageError:
            raise
        except RecipeError as error:
            problems += [f"eval.sets: {name}: {p}" for p in error.problems]
        except RlentError as error:
            problems.append(f"eval.sets: {name}: {error}; or read it from a file, eval.paths.{name}=FILE, or leave it out of eval.sets")
    if problems:
        raise RecipeError(problems, where="this evaluation cannot be made:")
    return found


def _block(name: str, path: str | None, recipe: Recipe) -> JsonObject:
    """The data block of a set: its card, read from the file if there is one."""
    card = name if path is None or name in recipes.groups(recipe.config_dirs)["data"] else "file"
    values = {} if path is None else {"path": path, "use": "evaluate"}
    return recipes.option("data", card, values, recipe.config, recipe.config_dirs)


def _bench(name: str, block: Mapping[str, Any], recipe: Recipe, ask: Ask, budget: int, limit: int | None, made: dict[str, Source]) -> Bench:
    settings = recipe["eval"]
    n, ks, decoding = sampling(settings, block.get("protocol") or {}, ask, budget)
    template = settings.get("template")
    if name and not template and recipe["data"].get("template") not in (None, "none"):
        template = recipe["data"]["template"]  # as the model was trained
    if template and "template" in block:
        block = {**block, "template": template}  # of the source too: its grader reads what responses to that template are
    key = repr(block)
    if key not in made:
        made[key] = build(block)
    source = made[key]
    problems = source.held_out
    template = template or source.template
    check_template(template)
    return Bench(name or problems.name, problems[:limit], len(problems), source, block, template, n, tuple(ks), decoding)
