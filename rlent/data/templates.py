r"""Prompt templates: how a bare problem is put to a model.

A template is either a conversation, which the tokenizer's chat template turns into text, or a plain text. The score of a base
model moves by tens of points with the template, so compare runs under one template only, and record its name.

Sources: `qwen-math` and `r1` as in Understanding R1-Zero-Like Training (arXiv:2503.20783), `qwen-boxed` and `abel` as in
SimpleRL-Zoo (arXiv:2503.18892), `dapo` as in DAPO (arXiv:2503.14476), `deepseek-math` as in DeepSeekMath (arXiv:2402.03300),
`minerva-4shot` as in appendix D of Solving Quantitative Reasoning Problems with Language Models (arXiv:2206.14858).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlent.errors import DataError, did_you_mean
from rlent.types import Problem, Tokenizer

SLOT = "{problem}"


@dataclass(frozen=True, slots=True)
class Template:
    """A conversation (`user`, and perhaps `system`) or a plain `text`; `{problem}` marks the place of the problem.

    `stop` are texts at which a response to this template ends.
    """

    user: str = ""
    system: str = ""
    text: str = ""
    stop: tuple[str, ...] = ()

    @property
    def opens_thinking(self) -> bool:
        """Whether the prompt ends inside `<think>`."""
        return self.text.rstrip().endswith("<think>")

    def messages(self, problem: str) -> list[dict[str, str]]:
        """The conversation about one problem; empty for a plain text."""
        turns = [("system", self.system), ("user", self.user)]
        return [{"role": role, "content": content.replace(SLOT, problem)} for role, content in turns if content]


_BOXED = r"Please reason step by step, and put your final answer within \boxed{}."

_FOUR_SHOT = r"""Problem:
Find the domain of the expression  $\frac{\sqrt{x-2}}{\sqrt{5-x}}$.}

Solution:
The expressions inside each square root must be non-negative. Therefore, $x-2 \ge 0$, so $x\ge2$, and $5 - x \ge 0$, so $x \le 5$. Also, the denominator cannot be equal to zero, so $5-x>0$, which gives $x<5$. Therefore, the domain of the expression is $\boxed{[2,5)}$.
Final Answer: The final answer is $[2,5)$. I hope it is correct.

Problem:
If $\det \mathbf{A} = 2$ and $\det \mathbf{B} = 12,$ then find $\det (\mathbf{A} \mathbf{B}).$

Solution:
We have that $\det (\mathbf{A} \mathbf{B}) = (\det \mathbf{A})(\det \mathbf{B}) = (2)(12) = \boxed{24}.$
Final Answer: The final answer is $24$. I hope it is correct.

Problem:
Terrell usually lifts two 20-pound weights 12 times. If he uses two 15-pound weights instead, how many times must Terrell lift them in order to lift the same total weight?

Solution:
If Terrell lifts two 20-pound weights 12 times, he lifts a total of $2\cdot 12\cdot20=480$ pounds of weight.  If he lifts two 15-pound weights instead for $n$ times, he will lift a total of $2\cdot15\cdot n=30n$ pounds of weight.  Equating this to 480 pounds, we can solve for $n$:
\begin{align*}
30n&=480\\
\Rightarrow\qquad n&=480/30=\boxed{16}
\end{align*}
Final Answer: The final answer is $16$. I hope it is correct.

Problem:
If the system of equations

\begin{align*}
6x-4y&=a,\\
6y-9x &=b.
\end{align*}has a solution $(x, y)$ where $x$ and $y$ are both nonzero,
find $\frac{a}{b},$ assuming $b$ is nonzero.

Solution:
If we multiply the first equation by $-\frac{3}{2}$, we obtain

$$6y-9x=-\frac{3}{2}a.$$Since we also know that $6y-9x=b$, we have

$$-\frac{3}{2}a=b\Rightarrow\frac{a}{b}=\boxed{-\frac{2}{3}}.$$
Final Answer: The final answer is $-\frac{2}{3}$. I hope it is correct.

Problem:
{problem}

Solution:"""  # noqa: E501

TEMPLATES: dict[str, Template] = {
    "none": Template(text=SLOT),
    "chat": Template(user=SLOT),
    "qwen-math": Template(system=_BOXED, user=SLOT),
    "qwen-boxed": Template(system="You are a helpful assistant.", user=f"{SLOT}\n{_BOXED}"),
    "dapo": Template(
        user="Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer "
        f"(without quotes) where $Answer is the answer to the problem.\n\n{SLOT}\n\n"
        'Remember to put your answer on its own line after "Answer:".'
    ),
    "dapo-boxed": Template(
        user=r"Solve the following math problem step by step. The last line of your response should be of the form \boxed{Answer} "
        f"where Answer is the answer to the problem.\n\n{SLOT}\n\n"
        r"Remember to put your answer in \boxed{...} format on its own line."
    ),
    "deepseek-math": Template(text=f"User: {SLOT}\n{_BOXED}\n\nAssistant:"),
    "r1": Template(
        text="A conversation between User and Assistant. The User asks a question, and the Assistant solves it. The Assistant first "
        "thinks about the reasoning process in the mind and then provides the User with the answer. The reasoning process is enclosed "
        "within <think> </think> and answer is enclosed within <answer> </answer> tags, respectively, i.e., <think> reasoning process "
        f"here </think> <answer> answer here </answer>.\nUser: {SLOT}\nAssistant: <think>",
        stop=("</answer>",),
    ),
    "abel": Template(text=f"Question:\n{SLOT}\nAnswer:\nLet's think step by step.\n", stop=("Question:",)),
    "nemo": Template(
        user=r"Solve the following math problem. Make sure to put the answer (and only answer) inside \boxed{}." + f"\n\n{SLOT}"
    ),
    "minerva-4shot": Template(text=_FOUR_SHOT, stop=("Problem:",)),
}


def check_template(name: str) -> Template:
    """The template of that name.

    Raises:
        DataError: there is none; the names that exist are listed.
    """
    if name not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise DataError(f"data.template: there is no template {name!r}{did_you_mean(str(name), TEMPLATES)} (templates: {known})")
    return TEMPLATES[name]


def _conversation(template: Template, problem: Problem) -> Sequence[Mapping[str, object]]:
    """The messages to send, or an empty list for plain text. A conversation that came with the data is used under `none`."""
    if template is TEMPLATES["none"]:
        return list(problem.meta.get("messages") or [])
    return template.messages(problem.prompt)


def render(template: str, problem: Problem, tokenizer: Tokenizer) -> str:
    """The text of the prompt.

    A conversation goes through the tokenizer's chat template, with the opening of the model's turn; without a chat template its
    contents are joined by empty lines. Under `none` the problem is sent bare, except that a row which came as messages
    (`meta["messages"]`) is sent as that conversation.

    Raises:
        DataError: an unknown template.
    """
    chosen = check_template(template)
    messages = _conversation(chosen, problem)
    if not messages:
        return (chosen.text or chosen.user).replace(SLOT, problem.prompt)
    if _talks(tokenizer):
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
    return "\n\n".join(str(m["content"]) for m in messages)


def encode_prompt(tokenizer: Tokenizer, problem: Problem, template: str = "none") -> list[int]:
    """Token ids of the prompt. Special tokens come from the chat template where one was applied, else from the tokenizer's own rule.

    Raises:
        DataError: an unknown template, or a prompt that the tokenizer can hardly spell.
    """
    from_chat = bool(_conversation(check_template(template), problem)) and _talks(tokenizer)
    text = render(template, problem, tokenizer)
    ids = list(tokenizer(text, add_special_tokens=not from_chat).input_ids)
    unknown = getattr(tokenizer, "unk_token_id", None)
    spelt = tokenizer.decode([i for i in ids if i != unknown])
    if 2 * len(spelt) < len(text):
        raise DataError(
            f"problem {problem.id!r}: the tokenizer has no tokens for most of the prompt {text[:60]!r}; "
            "the embedded tiny model reads countdown problems only, so give model.path a model for this text"
        )
    return ids


def _talks(tokenizer: object) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))
