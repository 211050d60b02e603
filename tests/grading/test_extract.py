r"""Finding the answer: which box, which marker, and what a hack must not reach."""

from __future__ import annotations

import time

import pytest

from rlent.grading.base import Mode
from rlent.grading.extract import boxes, extract, find, prepare

BOX = [
    # (response, answer, why)
    (r"so $x = \boxed{\frac{1}{2}}$.", r"\frac{1}{2}", "nested braces"),
    (r"\fbox{7}", "7", "another kind of box"),
    (r"\boxed 7.", "7", "a box without braces"),
    (r"\boxed {7}", "7", "a space before the brace"),
    (r"\\boxed{-3}", "-3", "a doubled backslash"),
    (r"\boxed{\boxed{5}}", "5", "a box in a box"),
    (r"\boxed{1} and later \boxed{2}", "2", "the last box counts"),
    (r"\boxed{42}. Put it in \boxed{}.", "42", "an empty box is skipped"),
    (r"\boxed{42}. Put it in \boxed{...}.", "42", "a placeholder is skipped"),
    (r"\boxed{28}\%", r"28\%", "a percent sign after the box"),
    (r"\boxed{90}^\circ", r"90^\circ", "degrees after the box"),
    (r"\boxed{1}<|im_end|> user \boxed{2}", "1", "the next turn does not count"),
    (r"\boxed{1}</s>\boxed{2}", "1", "nor what follows the end of the text"),
    (r"\boxed{5}. Final Answer: The final answer is $6$. I hope it is correct.", "$6$", "the few-shot sentence after a box wins"),
    (r"The final answer is $6$. I hope it is correct. \boxed{5}", "5", "the same sentence before a box does not"),
    ("\\boxed{4\x00\u200b2}", "42", "control and zero-width characters"),
    (r"\boxed{42" + " and so on", None, "a box that never closes"),
    ("the answer is 42", None, "no box"),
    ("", None, "nothing"),
    (r"The \boxed method gives 7", None, "a command in the text"),
    (r"\boxed{42} \boxed{\text{...}}", "42", "dots as text are a placeholder"),
    (r"\boxed{42}. Write it as \boxed{answer}.", "42", "so is the word answer"),
    (r"\boxed{185\}", "185\\", "a brace that was escaped by mistake"),
    (r"\boxed{\{1,2\}", None, "a set whose box never closes"),
]

MARKER = [
    ("<answer> 42 </answer>", "42", "a tag"),
    ("<answer>1</answer> no: <answer>2</answer>", "2", "the last tag"),
    ("3 * 4 = 12\n#### 12", "12", "GSM8K"),
    ("work\nAnswer: $34$", "$34$", "a line"),
    ("Answer: 1\nAnswer: 2", "2", "the last line"),
    ("**Final Answer:** **73**", "73", "markdown"),
    ("The answer is 5.5.", "5.5", "a full stop that ends the sentence, and one that does not"),
    ("Final Answer: The largest $n$ is 34.", "34", "the value of a sentence"),
    ("Final Answer: The final answer is $(0, 0)$. I hope it is correct.", "$(0, 0)$", "the few-shot sentence"),
    (r"Answer: \boxed{3} or 4", "3", "a box comes first"),
    ("I got 42", None, "no marker"),
    ("<think>Answer: 41</think>Answer: 42", "42", "the last of two on one line"),
    ("Answer:\n\n42", "42", "a line below"),
    ("Answer:\n\\[\n\\frac{1}{2}\n\\]", "\\[\n\\frac{1}{2}\n\\]", "a display below"),
    ("### Final Answer\n\n42", "42", "a heading"),
    ("**Final Answer**\n\\(42\\)", r"\(42\)", "a bold heading"),
    ("Answer = 42", "42", "an equals sign"),
    ("the answer to the question is 42", "42", "what it answers"),
    ("The answer must be 42.", "42", "another verb"),
    ("So the answer is 42, as desired.", "42", "a remark after a comma"),
    ("Answer: 42 (since 6*7=42)", "42", "a remark in parentheses"),
    ("The answer is B because of this.", "B", "a reason"),
    ("The final answer is therefore 42.", "42", "an adverb"),
    ("The answer is 10 dollars and it is final.", "10", "a second clause"),
    ("The answer is $41$; the wrong answer would be $42$.", "41", "a second sentence"),
    ("Answer: 5!", "5!", "a factorial"),
]

HEDGED = [
    "The answer is not 42.",
    "The answer is 41, not 42.",
    "The answer is unknown; maybe 42",
    "Answer: I do not know. 42?",
    "Answer: any number such as 42",
    "Answer: more than 42",
    "The answer is at least 42.",
    "The answer is between 41 and 42",
    "The answer is either 41 or 42",
    "The answer is $41$ or maybe $42$",
    "Answer: 41 (not 42)",
]

ANY = [
    ("The speed is 50 km/h", "50", "a number"),
    ("Thus $x = 5$ for all 3.", "3", "what ends last"),
    ("He paid $7.50 and got $1.50 back, so $6", "6", "dollars are not formulas"),
    ("A: -129025", "-129025", "a sign"),
    ("The result is 1,000.", "1,000", "thousands"),
    ("__import__('os').system('x') or 0", None, "code"),
    ("no idea", "no idea", "a short text is its own answer"),
    ("sqrt(2)", "sqrt(2)", "a formula in plain text"),
    ("It grows from 3 people as x^5 does, in the end", "3", "an exponent is not a number of its own"),
]


@pytest.mark.parametrize(("response", "answer", "why"), BOX, ids=[row[2] for row in BOX])
def test_box(response: str, answer: str | None, why: str) -> None:
    assert extract(response, "box") == answer, why


@pytest.mark.parametrize(("response", "answer", "why"), MARKER, ids=[row[2] for row in MARKER])
def test_marker(response: str, answer: str | None, why: str) -> None:
    assert extract(response, "marker") == answer, why
    if answer is None or "boxed" not in response:
        assert extract(response, "box") is None, "a marker does not count in box mode"


@pytest.mark.parametrize("response", HEDGED)
def test_a_number_that_is_taken_back_or_bounded_is_not_the_answer(response: str) -> None:
    assert extract(response, "marker") != "42"


@pytest.mark.parametrize(("response", "answer", "why"), ANY, ids=[row[2] for row in ANY])
def test_any(response: str, answer: str | None, why: str) -> None:
    assert extract(response, "any") == answer, why


def test_neighbouring_boxes_are_offered_as_a_run() -> None:
    found = find(r"The roots are $\boxed{1}$, $\boxed{2}$ and $\boxed{3}$.")
    assert found is not None and (found.answer, found.run) == ("3", "1 , 2 , 3")
    found = find(r"\boxed{10} is wrong, rather \boxed{42}")
    assert found is not None and found.run is None, "prose between boxes ends a run"


def test_thinking_is_left_out_when_asked() -> None:
    response = r"<think>\boxed{1}</think> so \boxed{2}"
    assert extract(response, strip_think=True) == "2"
    assert extract(r"<think>\boxed{1}</think> done", strip_think=True) is None
    assert extract(r"<think>\boxed{1}", strip_think=True) is None, "thinking that never ends is no answer"
    assert extract(r"<think>\boxed{1}</think> done") == "1"


def test_a_flood_of_boxes_does_not_hide_the_last() -> None:
    response = r"\boxed{1} " * 5000 + "after all: " + r"\boxed{2}"
    assert len(boxes(response)) == 5001
    assert extract(response) == "2"


@pytest.mark.parametrize(
    "text",
    [
        "\\" * 200_000,
        r"\boxed{" * 30_000,
        "{" * 200_000,
        "answer:" * 20_000,
        "answer" + " " * 100_000,
        "answer is" + "\n" * 100_000,
        "$" * 100_001,
        r"\[" * 50_000,
        "<answer>" * 20_000,
        "final answer is " * 10_000,
        "9" * 200_000,
        "1," * 100_000,
        r"\boxed{1}" + " " * 200_000,
        "**" * 50_000,
    ],
    ids=range(14),
)
@pytest.mark.parametrize("mode", ["box", "marker", "any"])
def test_work_grows_with_the_text_and_not_faster(text: str, mode: Mode) -> None:
    """A quadratic pattern needs minutes for these; the bound is far above what linear work takes on a crowded machine."""
    begun = time.process_time()
    extract(text, mode)
    assert time.process_time() - begun < 5


def test_prepare_maps_unicode_to_latex() -> None:
    assert prepare("x ≤ 90° − √2 · π") == r"x \le  90^\circ  - \sqrt{2} \cdot  \pi "
    assert prepare("\ud800ok\u202e") == "ok"


def test_a_box_without_braces_needs_a_space() -> None:
    assert [box.content for box in boxes(r"\boxed 7 and \boxed8")] == ["7"]


def test_a_formula_with_a_mark_of_a_calculator_or_a_sentence_is_no_answer() -> None:
    assert extract("5 apples $<<1+2=3>> x$", "any") == "3"
    assert extract("first $x=4$ then $the total number = 9$", "any") == "9"
