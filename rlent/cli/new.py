"""`rlent new`: the four files of a method, with a function that runs and a test that fails until it means something.

Inside a checkout they go where methods live; elsewhere into a folder of your own, which `--config-dir` then names.
"""

from __future__ import annotations

import importlib.util
import keyword
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template
from textwrap import dedent, indent

from rlent.errors import UsageError, did_you_mean
from rlent.seats import SEATS
from rlent.streams import STREAMS
from rlent.system.paths import checkout, recipes_dir

_NAME = re.compile(r"[a-z][a-z0-9_]*")


@dataclass(frozen=True)
class Sketch:
    """What is written for a seat. `body` is the function, `options` its YAML, `test` ends with a tensor or number `found`."""

    when: str
    imports: str
    body: str
    options: str
    test: str
    stateful: bool = False


@dataclass(frozen=True)
class Made:
    """The files that were written, and what to do next."""

    files: list[Path]
    steps: list[str]


SKETCHES: dict[str, Sketch] = {
    "reward": Sketch(
        when="It reads what was sampled and graded, so it runs once a step, on all rows.",
        imports="""
            from collections.abc import Mapping, Sequence
            from typing import Any

            import torch
            from jaxtyping import Float
            from torch import Tensor
        """,
        body='''
            def $symbol(
                prompt: Sequence[str], response: Sequence[str], gold: Sequence[Any], meta: Sequence[Mapping[str, Any]], *, bonus: float
            ) -> Float[Tensor, " N"]:
                """One number per response, added to the other rewards times `coef`: here `bonus` for a response without spaces."""
                return torch.tensor([0.0 if " " in text else bonus for text in response])
        ''',
        options="""
            bonus: 0.1   # reward of a response that earns it
            coef: 1.0    # weight in the sum of the rewards
        """,
        test="""
            found = $symbol(["1,2:3?", "1,2:3?"], ["1+2", "2 + 1"], ["3", "3"], [{}, {}], bonus=0.5)
        """,
    ),
    "advantage": Sketch(
        when="It reads the rewards, so it runs once a step, on all rows.",
        imports="""
            from jaxtyping import Float, Int
            from torch import Tensor

            from rlent.math.group import group_mean
            from rlent.options import NonNegative
        """,
        body='''
            def $symbol(reward: Float[Tensor, " N"], group: Int[Tensor, " N"], *, scale: NonNegative) -> Float[Tensor, " N"]:
                """One number per response [N]: here `scale` times the reward above the mean of its group."""
                return scale * (reward - group_mean(reward, group))
        ''',
        options="""
            scale: 1.0   # multiplies every advantage
        """,
        test="""
            reward = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64)
            found = $symbol(reward, torch.tensor([0, 0, 1, 1]), scale=2.0)
        """,
    ),
    "shape": Sketch(
        when="It reads the entropy as it was when the step began, so it runs once a step. With `now_entropy` it would run\n"
        "before each update, with `entropy` inside it.",
        imports="""
            from jaxtyping import Bool, Float
            from torch import Tensor

            from rlent.options import NonNegative
        """,
        body='''
            def $symbol(
                adv: Float[Tensor, "N T"], old_entropy: Float[Tensor, "N T"], mask: Bool[Tensor, "N T"], *, floor: NonNegative
            ) -> dict[str, Tensor]:
                """A factor on each token's loss [N, T]: here 0 where the entropy (nats) is below `floor`, 1 elsewhere."""
                dropped = mask & (old_entropy < floor)
                return {"weight": (~dropped).to(adv.dtype), "selected": dropped}
        ''',
        options="""
            floor: 0.0   # nats; 0 leaves every token in
        """,
        test="""
            adv = torch.tensor([[1.0, 1.0, -1.0]], dtype=torch.float64)
            old_entropy = torch.tensor([[0.2, 0.7, 0.0]], dtype=torch.float64)
            mask = torch.tensor([[True, True, False]])  # the third is padding
            found = $symbol(adv, old_entropy, mask, floor=0.5)["weight"]
        """,
    ),
    "loss": Sketch(
        when="It reads the policy that is being trained (`logp`), so it runs inside the update and must treat each row by itself.",
        imports="""
            import torch
            from jaxtyping import Float
            from torch import Tensor

            from rlent.options import Positive
        """,
        body='''
            def $symbol(
                logp: Float[Tensor, "B T"], old_logp: Float[Tensor, "B T"], adv: Float[Tensor, "B T"], *, clip: Positive
            ) -> Float[Tensor, "B T"]:
                """A loss per token [B, T], not reduced and not masked: here the clipped surrogate."""
                ratio = (logp - old_logp).exp()
                return -torch.minimum(ratio * adv, ratio.clamp(1 - clip, 1 + clip) * adv)
        ''',
        options="""
            clip: 0.2   # the ratio counts up to 1 + clip, and down to 1 - clip
        """,
        test="""
            ratio = torch.tensor([[1.5, 0.5, 1.0]], dtype=torch.float64)
            adv = torch.tensor([[1.0, 1.0, -2.0]], dtype=torch.float64)
            found = $symbol(ratio.log(), torch.zeros_like(ratio), adv, clip=0.2)
        """,
    ),
    "regularize": Sketch(
        when="It reads the policy that is being trained (`entropy`), so it runs inside the update and must treat each row by itself.",
        imports="""
            from jaxtyping import Float
            from torch import Tensor

            from rlent.options import NonNegative
        """,
        body='''
            def $symbol(entropy: Float[Tensor, "B T"], *, target: NonNegative) -> Float[Tensor, "B T"]:
                """A term per token [B, T], added to the loss times `coef` and minimised: here the squared distance (nats) to `target`."""
                return (entropy - target).square()
        ''',
        options="""
            target: 0.5   # nats
            coef: 0.01    # weight of the term beside the loss
        """,
        test="""
            entropy = torch.tensor([[0.5, 1.0, 0.0]], dtype=torch.float64)
            found = $symbol(entropy, target=0.5)
        """,
    ),
    "control": Sketch(
        when="It reads the metrics, so it acts at the end of a step.",
        imports="""
            from collections.abc import Mapping
            from typing import Any

            from rlent.options import NonNegative
        """,
        body='''
            class $symbol:
                """Integral control: the knob moves by `gain` for each nat that entropy/mean is below `target`."""

                def __init__(self, *, knob: str, start: float, gain: NonNegative, target: NonNegative) -> None:
                    self.knob = knob
                    self.gain = gain
                    self.target = target
                    self.value = start

                def __call__(self, metrics: Mapping[str, float]) -> float:
                    """The new value of the knob."""
                    self.value += self.gain * (self.target - metrics["entropy/mean"])
                    return self.value

                def state_dict(self) -> dict[str, Any]:
                    return {"value": self.value}

                def load_state_dict(self, state: dict[str, Any]) -> None:
                    self.value = state["value"]
        ''',
        options="""
            knob: loss.high   # the number it sets, by its name in the recipe
            start: 0.2        # the knob's first value
            gain: 0.0         # change for a step and a nat; 0 changes nothing
            target: 0.5       # nats of entropy/mean
        """,
        test="""
            controller = $symbol(knob="loss.high", start=0.2, gain=0.1, target=0.5)
            controller({"entropy/mean": 0.3})
            found = torch.tensor(controller({"entropy/mean": 0.4}))
        """,
        stateful=True,
    ),
    "decode": Sketch(
        when="It reads the logits of the tokens about to be drawn, so it runs inside the engine and must treat each row by itself. A\n"
        "function that reads `requests` and `generate` would run around it.",
        imports="""
            from jaxtyping import Float
            from torch import Tensor

            from rlent.options import NonNegative
        """,
        body='''
            def $symbol(logits: Float[Tensor, "n V"], temperature: Float[Tensor, " n"], *, lift: NonNegative) -> dict[str, Tensor]:
                """A temperature for each row [n]: here that of the request, raised by `lift` for each unit between the two largest logits."""
                best = logits.topk(2, dim=1).values
                return {"temperature": temperature + lift * (best[:, 0] - best[:, 1])}
        ''',
        options="""
            lift: 0.0   # rise of the temperature for a distance of one
        """,
        test="""
            logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.0, -1.0]], dtype=torch.float64)
            found = $symbol(logits, torch.ones(2, dtype=torch.float64), lift=0.5)["temperature"]
        """,
    ),
    "probe": Sketch(
        when="It reads the logits of some tokens at a time. Its name becomes a stream: name `$name`, `old_$name` or `now_$name`\n"
        "in another function.",
        imports="""
            from jaxtyping import Float, Int
            from torch import Tensor

            from rlent.options import PositiveCount
        """,
        body='''
            def $symbol(logits: Float[Tensor, "t V"], target: Int[Tensor, " t"], *, top: PositiveCount) -> Float[Tensor, " t"]:
                """One number per token [t], with its gradient: here the probability of the `top` most likely tokens together."""
                return logits.softmax(-1).topk(top, dim=-1).values.sum(-1)
        ''',
        options="""
            top: 2   # how many tokens are added up
        """,
        test="""
            logits = torch.tensor([[0.5, 0.25, 0.25], [0.6, 0.3, 0.1]], dtype=torch.float64).log()
            found = $symbol(logits, torch.tensor([0, 1]), top=2)
        """,
    ),
}

_METHOD = '''\
"""$title: what it changes, in one sentence.

Paper: none yet.
Seat:  $seat.
Checked against: nothing yet.

$when
"""

$imports


$body
'''

_CARD = """\
# @package _global_
# $title: what it changes, in one sentence.
# Title of the paper, arXiv number
#
# Differs from grpo in one seat: $seat.
# You should see: what entropy/mean and the reward should do, and what failure looks like.
defaults:
  - override /$seat: $pick

card:
  name: $title
  paper: none
  state: draft
  proof: none      # authors: vectors of the authors' code pass; formula: vectors of the paper's formula; none
  watch: [entropy/mean, reward/mean]
  golden: {}
"""

_TEST = '''\
"""$title, by hand."""

import torch

from $module import $symbol


def test_by_hand() -> None:
$setup
    want = None  # work the numbers out in a comment, and write them here
    assert want is not None, "write down what $symbol should return here, then make it so"
    torch.testing.assert_close(found, torch.tensor(want, dtype=found.dtype))
'''


def make(name: str, seat: str, folder: Path | None = None) -> Made:
    """Write the files of a method.

    Raises:
        UsageError: a bad name or seat, a name that is taken, or no folder to write to. Nothing is written then.
    """
    if seat not in SKETCHES:
        raise UsageError(
            f"--seat: '{seat}' is not a seat that a function fills{did_you_mean(seat, SKETCHES)} (seats: {', '.join(SKETCHES)})"
        )
    _check_name(name)
    inside = folder is None
    if folder is None:
        root = checkout()
        if root is None or not Path.cwd().resolve().is_relative_to(root):
            raise UsageError("this is not a checkout of rlent; say where the files should go: --dir my/")
        folder = root
    recipe = name.replace("_", "") if inside else name
    module = f"rlent.methods.{name}" if inside else name
    places = {
        "method": folder / (f"rlent/methods/{name}.py" if inside else f"{name}.py"),
        "option": folder / ("recipes" if inside else "") / seat / f"{name}.yaml",
        "card": folder / ("recipes" if inside else "") / "recipe" / f"{recipe}.yaml",
        "test": folder / (f"tests/methods/test_{name}.py" if inside else f"test_{name}.py"),
    }
    _check_free(name, seat, recipe, places, inside)
    for kind, text in _texts(name, seat, module).items():
        places[kind].parent.mkdir(parents=True, exist_ok=True)
        with places[kind].open("x", encoding="utf-8") as file:
            file.write(text)
    shown = {k: _short(p) for k, p in places.items()}
    with_dir = "" if inside else f"--config-dir {_short(folder)} "
    last = f"rlent check {with_dir}recipe={recipe} && rlent train {with_dir}recipe={recipe}"
    if inside:
        last += "; then make table, make check, and a line in CHANGELOG.md"
    return Made(
        files=[Path(s) for s in shown.values()],
        steps=[
            f"say what it is and fill in the function: {shown['method']} (its numbers: {shown['option']}, its card: {shown['card']})",
            f"work out a case by hand and make the test pass: pytest {shown['test']}",
            last,
        ],
    )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise UsageError(f"'{name}' cannot be a method's name; write a Python name in lower case, like entropy_floor")
    if name in STREAMS or name in SEATS or name in ("none", "recipe", "rlent", "test"):
        raise UsageError(f"'{name}' already names a part of a run; choose another name for the method")


def _check_free(name: str, seat: str, recipe: str, places: dict[str, Path], inside: bool) -> None:
    taken = [str(_short(p)) for p in places.values() if p.exists()]
    if taken:
        raise UsageError(f"{', '.join(taken)} exist{'s' if len(taken) == 1 else ''} already; nothing was written")
    if inside:
        return
    shipped = [f"{group}={n}" for group, n in ((seat, name), ("recipe", recipe)) if (recipes_dir() / group / f"{n}.yaml").exists()]
    if shipped:
        raise UsageError(f"rlent ships {' and '.join(shipped)} already; choose another name, nothing was written")
    if importlib.util.find_spec(name) is not None:
        raise UsageError(
            f"'{name}' is also an installed Python module, which would be imported in its place; choose another name, nothing was written"
        )


def _texts(name: str, seat: str, module: str) -> dict[str, str]:
    sketch = SKETCHES[seat]
    symbol = "".join(part.capitalize() for part in name.split("_")) if sketch.stateful else name
    title = name.replace("_", " ").capitalize()
    words = {"name": name, "seat": seat, "module": module, "symbol": symbol, "title": title}

    def fill(text: str) -> str:
        return Template(dedent(text).strip("\n")).safe_substitute(words).rstrip()

    words |= {k: fill(getattr(sketch, k)) for k in ("when", "imports", "body")} | {"setup": indent(fill(sketch.test), "    ")}
    many = SEATS[seat].many
    words["pick"] = f"[correct, {name}]" if seat == "reward" else f"[{name}]" if many else name
    option = f"_target_: {module}.{symbol}\n{fill(sketch.options)}\n"
    if many:
        option = f"{name}:\n{indent(option, '  ')}"
    return {
        "method": fill(_METHOD) + "\n",
        "option": f"# {title}: what it does to a run, in one sentence.\n{option}",
        "card": fill(_CARD) + "\n",
        "test": fill(_TEST) + "\n",
    }


def _short(path: Path) -> Path:
    """Relative to where one stands, if it is below."""
    try:
        return path.resolve().relative_to(Path.cwd().resolve())
    except ValueError:
        return path
