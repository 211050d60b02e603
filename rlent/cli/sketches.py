"""Templates of a method's files, one sketch for each seat: the function runs, its test fails until it is filled in."""

from __future__ import annotations

from dataclasses import dataclass
from string import Template
from textwrap import dedent, indent

from rlent.seats import SEATS


@dataclass(frozen=True)
class Sketch:
    """What is written for a seat. `body` is the function, `options` its YAML, `test` ends with a tensor or number `found`."""

    when: str
    imports: str
    body: str
    options: str
    test: str
    stateful: bool = False


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


def texts(name: str, seat: str, module: str) -> dict[str, str]:
    """The text of each file (method, option, card, test) of a method `name` in a seat, whose function is in `module`."""
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
