"""Templates: the exact text that reaches the model."""

from __future__ import annotations

import pytest

from rlent.data.templates import TEMPLATES, check_template, encode_prompt, render
from rlent.errors import DataError
from rlent.types import Problem

ADD = Problem("a", "What is {1} + 1?", "2")


class Tokenizer:
    """A tokenizer of characters that marks the start of a text, with or without a chat template."""

    unk_token_id = 0

    def __init__(self, chat: bool) -> None:
        self.chat_template = "yes" if chat else None

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        assert tokenize is False
        text = "".join(f"<{m['role']}>{m['content']}</>" for m in messages)
        return text + ("<assistant>" if add_generation_prompt else "")

    def __call__(self, text, *, add_special_tokens):
        ids = [ord(c) if ord(c) < 128 else 0 for c in text]
        return type("Encoding", (), {"input_ids": [1, *ids] if add_special_tokens else ids})

    def decode(self, ids):
        return "".join(map(chr, ids))


@pytest.mark.parametrize(
    ("template", "with_chat", "without"),
    [
        ("none", "What is {1} + 1?", "What is {1} + 1?"),
        ("chat", "<user>What is {1} + 1?</><assistant>", "What is {1} + 1?"),
        (
            "qwen-math",
            r"<system>Please reason step by step, and put your final answer within \boxed{}.</><user>What is {1} + 1?</><assistant>",
            "Please reason step by step, and put your final answer within \\boxed{}.\n\nWhat is {1} + 1?",
        ),
        (
            "qwen-boxed",
            "<system>You are a helpful assistant.</><user>What is {1} + 1?\n"
            r"Please reason step by step, and put your final answer within \boxed{}.</><assistant>",
            "You are a helpful assistant.\n\nWhat is {1} + 1?\nPlease reason step by step, and put your final answer within \\boxed{}.",
        ),
        (
            "deepseek-math",
            "User: What is {1} + 1?\nPlease reason step by step, and put your final answer within \\boxed{}.\n\nAssistant:",
            "User: What is {1} + 1?\nPlease reason step by step, and put your final answer within \\boxed{}.\n\nAssistant:",
        ),
        (
            "abel",
            "Question:\nWhat is {1} + 1?\nAnswer:\nLet's think step by step.\n",
            "Question:\nWhat is {1} + 1?\nAnswer:\nLet's think step by step.\n",
        ),
    ],
)
def test_text_with_and_without_a_chat_template(template, with_chat, without):
    assert render(template, ADD, Tokenizer(chat=True)) == with_chat
    assert render(template, ADD, Tokenizer(chat=False)) == without


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_holds_the_problem_once(name):
    text = render(name, Problem("x", "{problem} {}", "1"), Tokenizer(chat=True))
    assert text.count("{problem} {}") == 1, "the problem is put in as it is, braces included"


@pytest.mark.parametrize(
    ("name", "asks_for"),
    [
        ("dapo", '\n\nRemember to put your answer on its own line after "Answer:".'),
        ("dapo-boxed", r"\boxed{Answer}"),
        ("nemo", r"inside \boxed{}."),
        ("r1", "Assistant: <think>"),
    ],
)
def test_a_template_asks_for_the_form_that_its_grader_reads(name, asks_for):
    assert asks_for in render(name, ADD, Tokenizer(chat=False))


def test_the_four_shots_end_where_the_model_begins():
    text = render("minerva-4shot", ADD, Tokenizer(chat=False))
    assert text.count("\nSolution:") == 5
    assert text.count("I hope it is correct.") == 4
    assert text.endswith("\n\nProblem:\nWhat is {1} + 1?\n\nSolution:")
    assert "30n&=480\\\\\n\\Rightarrow" in text  # the line break of LaTeX survives
    assert TEMPLATES["minerva-4shot"].stop == ("Problem:",)


def test_a_conversation_of_the_data_is_sent_as_it_is_under_none_and_replaced_under_a_name():
    talk = Problem("a", "1+1?", "2", {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]})
    assert render("none", talk, Tokenizer(chat=True)) == "<system>Be brief.</><user>1+1?</><assistant>"
    assert render("none", talk, Tokenizer(chat=False)) == "Be brief.\n\n1+1?"
    assert render("chat", talk, Tokenizer(chat=True)) == "<user>1+1?</><assistant>"


def test_special_tokens_are_added_once():
    """A chat template writes its own; a plain text gets the tokenizer's."""
    assert encode_prompt(Tokenizer(chat=True), ADD, "chat")[0] == ord("<")
    assert encode_prompt(Tokenizer(chat=True), ADD, "none")[:2] == [1, ord("W")]
    assert encode_prompt(Tokenizer(chat=False), ADD, "chat")[:2] == [1, ord("W")]


def test_a_problem_that_the_tokenizer_cannot_spell_is_refused():
    with pytest.raises(DataError, match="problem 'g': the tokenizer has no tokens for most of the prompt 'αβγδεζ'"):
        encode_prompt(Tokenizer(chat=False), Problem("g", "αβγδεζ", "1"))


def test_an_unknown_template_is_answered_with_the_close_one():
    with pytest.raises(DataError, match=r"no template 'qwen_math'; did you mean 'qwen-math'\? \(templates: none, chat"):
        check_template("qwen_math")
