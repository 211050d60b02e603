"""The `golden:` blocks of method cards: which option, stream and result each name of a vector file is.

    golden:
      method:                                     the `method` of the vector files
        with: [loss=ppo_clip, loss.dual=null]     overrides of the recipe
        option_of_file: seat.node.option          its value is given to this option
        option_of_file: {option: [path, path]}    its value is given to several
        option_of_file: {option: path, values: {theirs: ours}}
        option_of_file: {values: {theirs: [overrides]}}
        option_of_file: {option: path, shift: number}   its value plus the number
        option_of_file: {stream: name}            its value is a stream (with `option`: an option as well)
        option_of_file: {argument: name}          its value is an argument of `call` or `method`
        inputs: {name_in_file: stream}            where the usual names do not fit; a list feeds several streams
        inputs: {name_in_file: {stream: name, values: {theirs: ours}}}   the same, translated value by value
        inputs: {name_in_file: {option: path}}    its value is given to an option
        outputs: {name_in_file: stream}           results to compare beside the usual ones; names may be dotted (`trl.reward`)
        rename: {loss: name_in_file}              where a file states a second loss or gradient
        skip: [name_in_file, ...]                 inputs this block does not need
        ignore: {option_of_file: reason}          options that change nothing here

What a block runs. Without any of these it is the recipe's objective or advantage, by the `kind` of the vector (`as: loss` says otherwise):

        node: regularize.kl                       one function that the recipe mounts
        node: decode.edt                          on `logits`, after the recipe's controllers have read their streams; `tempered` is
                                                  logits / temperature. A function around the engine gets one request, and a model made
                                                  of the file's logit tables
        node: reward.rent                         one reward: `outputs` names `reward`, `token_reward`, `adv`, what the function returns
                                                  (`value`), or a number of the step (`metric:vote/ratio`)
        node: control.aent                        a controller: called for each element of its inputs, from step `first_step` (1) on
        call: package.module.function             a function by its path; options and inputs become its arguments by name
        method: name                              with `node` or a class under `call`: this method (`state.follow`: of an object that
                                                  it holds) is called for each element of the inputs (numbers, or mappings of
                                                  arguments); `each` among `outputs` is the list of answers, and
                                                  `state: {name_in_file: attribute}` what the object holds at the end
        adapter: package.module.Class             an `Adapter`, which puts the file's inputs into the shape that the mounted function
                                                  takes; with `node` it also makes the calls
        gradients: {name_in_file: {of: result, by: input}}   of `call`, or of the objective; perhaps `abs_sum: true` or a `column`

How inputs are read:

        one_group: true                           all rows of the file answer one prompt
        equal: exact | casefold                   makes the stream `same`: answers are equal when their texts are, or when the ordered
                                                  pair (earlier, later) is in the file's `extra_pairs`; no answer equals none
        at_start: true                            `old_logp` and `old_entropy` are made from the file's logits and labels

A block may be a list of blocks; each checks its share of the outputs, and an option is known if one of them knows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from rlent.errors import RecipeError
from rlent.recipe.compose import groups
from rlent.seats import SEATS

if TYPE_CHECKING:
    from rlent.types import Config


def key(value: object) -> str:
    """A value of a file as the key of a table: true, false and null as YAML writes them."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


Table = Annotated[
    dict[str, Any], BeforeValidator(lambda given: {key(k): v for k, v in given.items()} if isinstance(given, dict) else given)
]


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OptionRule(_Rule):
    """What an option of the file means here."""

    option: str | list[str] | None = None
    stream: str | None = None
    argument: str | None = None
    values: Table = Field(default_factory=dict)
    shift: float | None = None

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        if not (self.option or self.stream or self.argument or self.values):
            raise ValueError("one of option, stream, argument or values is expected")
        return self

    @property
    def paths(self) -> list[str]:
        """The options that take the value."""
        return [self.option] if isinstance(self.option, str) else list(self.option or ())


class InputRule(_Rule):
    """What an input of the file means here: streams, or the value of an option."""

    streams: list[str] = Field(default_factory=list)
    option: str | None = None
    values: Table = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: object) -> object:
        if isinstance(given, str):
            return {"streams": [given]}
        if isinstance(given, list):
            return {"streams": given}
        if isinstance(given, dict) and "stream" in given:
            return {**{k: v for k, v in given.items() if k != "stream"}, "streams": [given["stream"]]}
        return given

    @model_validator(mode="after")
    def _leads_somewhere(self) -> Self:
        if not (self.streams or self.option):
            raise ValueError("a stream, a list of streams, or an option is expected")
        return self


class GradientRule(_Rule):
    """The gradient of a result by an input; `column` takes one column, `abs_sum` sums absolute values over the last dimension."""

    of: str
    by: str
    column: int | None = None
    abs_sum: bool = False


class Block(_Rule):
    """One block of a card, checked."""

    with_: list[str] = Field(default_factory=list, alias="with")
    options: dict[str, OptionRule] = Field(default_factory=dict)
    inputs: dict[str, InputRule] = Field(default_factory=dict)
    outputs: dict[str, str] = Field(default_factory=dict)
    rename: dict[str, str] = Field(default_factory=dict)
    skip: list[str] = Field(default_factory=list)
    ignore: dict[str, str] = Field(default_factory=dict)
    as_: str | None = Field(default=None, alias="as")
    node: str | None = None
    call: str | None = None
    method: str | None = None
    adapter: str | None = None
    state: dict[str, str] = Field(default_factory=dict)
    gradients: dict[str, GradientRule] = Field(default_factory=dict)
    first_step: int = 1
    one_group: bool = False
    equal: Literal["exact", "casefold"] | None = None
    at_start: bool = False

    @model_validator(mode="before")
    @classmethod
    def _with_options(cls, given: object) -> object:
        """Put what is not a word of the grammar under `options`."""
        if not isinstance(given, Mapping):
            return given
        short = "argument" if given.get("call") else "option"
        rules = {k: {short: v} if isinstance(v, str | list) else v for k, v in given.items() if k not in WORDS}
        return {**{k: v for k, v in given.items() if k in WORDS}, "options": rules}

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        seat = (self.node or "").partition(".")[0]
        wrong = {
            "node and call exclude each other": bool(self.node and self.call),
            "adapter and call exclude each other": bool(self.adapter and self.call),
            f"node: there is no seat '{seat}' ({', '.join(SEATS)})": bool(self.node) and seat not in SEATS,
            "method needs node or call": bool(self.method) and not (self.node or self.call),
            "state needs method": bool(self.state) and not self.method,
            "first_step is read by a controller alone": self.first_step != 1 and seat != "control",
        }
        if any(wrong.values()):
            raise ValueError("; ".join(text for text, holds in wrong.items() if holds))
        return self


WORDS = frozenset(f.alias or name for name, f in Block.model_fields.items()) - {"options"}
"""The words of the grammar; every other key of a block is an option of the file."""


@dataclass(frozen=True)
class Golden:
    """A card's blocks for one method of the vectors."""

    recipe: str
    blocks: Sequence[Block]

    @property
    def known(self) -> set[str]:
        """Options of the file that some block maps or ignores."""
        return {name for block in self.blocks for name in (*block.options, *block.ignore)}

    @property
    def mounted(self) -> bool:
        """Whether some block runs what the recipe mounts, and not a function by its path."""
        return any(not block.call for block in self.blocks)


def read(recipe: str, raw: Config | None, problems: list[str]) -> dict[str, Golden]:
    """A card's `golden:` by method. What is wrong is appended to `problems`, a line for each place."""
    found: dict[str, Golden] = {}
    for method, given in (raw or {}).items():
        checked = []
        for i, block in enumerate(given if isinstance(given, list) else [given or {}]):
            place = f"recipe {recipe}: golden.{method}" + (f"[{i}]" if isinstance(given, list) else "")
            try:
                checked.append(Block.model_validate(block))
            except ValidationError as error:
                for wrong in error.errors(include_url=False):
                    at = ".".join(str(x) for x in wrong["loc"] if x != "options")
                    problems.append(f"{place}{'.' if at else ''}{at}: {wrong['msg'].removeprefix('Value error, ')}")
        found[method] = Golden(recipe, checked)
    return found


def goldens(config_dirs: Sequence[str] = ()) -> dict[str, list[Golden]]:
    """By method of the vectors, every card that maps it.

    Raises:
        RecipeError: naming everything that is wrong in the blocks of all cards.
    """
    found: dict[str, list[Golden]] = {}
    problems: list[str] = []
    for name, file in groups(config_dirs).get("recipe", {}).items():
        card = (yaml.safe_load(file.read_text()) or {}).get("card") or {}
        for method, golden in read(name, card.get("golden"), problems).items():
            found.setdefault(method, []).append(golden)
    if problems:
        raise RecipeError(problems)
    return found
