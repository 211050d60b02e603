r"""Every rule of the grader carries an example that it accepts and one that it refuses; both must reach that rule."""

from __future__ import annotations

import doctest
from collections.abc import Generator
from dataclasses import replace
from inspect import isfunction
from types import ModuleType
from typing import Any

import pytest

from rlent.grading import arithmetic, braces, equality, limits, relation, relation_rules, shape_rules, structure, units, word_rules
from rlent.grading.base import GradePolicy
from rlent.grading.comparer import Comparer, Pair, Question, Reply, Rule
from rlent.grading.equality import compare, settle
from rlent.grading.normalise import Form
from rlent.grading.relation import SPAN_RULES, SpanRule
from rlent.grading.shape_rules import RULES
from rlent.grading.structure import READERS, Relation
from rlent.grading.word_rules import WORD_RULES, WordRule


def verdict(answer: str, gold: str, **policy: bool) -> bool | str:
    """Whether an answer equals a gold, or `question` where a worker must decide."""
    asked = []

    def ask(question: Question) -> Reply:
        asked.append(question)
        return "different"

    correct = settle(compare(answer, gold, GradePolicy(**policy)), ask).correct
    return "question" if asked and not correct else correct


SHAPES = [rule.decide for rule in RULES]
WORDS = [rule.decide for rule in WORD_RULES]
SPANS = [rule.write for rule in SPAN_RULES]
ASK = {"asked_inequalities", "two_sets", "value_for_matrix", "matrix_for_value"}
"""Rules that accept nothing themselves, but may put the question to a worker."""
REFUSE = {"equation_for_inequality", "words_for_mathematics", "other_names"}
"""Rules that accept nothing."""


def examples(function: Any) -> doctest.DocTest:
    (found,) = doctest.DocTestFinder(recurse=False).find(function, function.__name__, globs={**function.__globals__, "verdict": verdict})
    assert found.examples, f"{function.__name__} has no example"
    return found


def check(test: doctest.DocTest) -> None:
    complaints: list[str] = []
    failed = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=complaints.append).failed
    assert not failed, "".join(complaints)


@pytest.mark.parametrize("rule", [*SHAPES, *WORDS, *SPANS], ids=lambda rule: rule.__name__)
def test_the_examples_of_a_rule_hold_and_show_what_it_accepts_and_refuses(rule: Any) -> None:
    test = examples(rule)
    check(test)
    wanted = " ".join(example.want for example in test.examples)
    assert ("True" in wanted) == (rule.__name__ not in ASK | REFUSE)
    assert "False" in wanted or "question" in wanted


def noting(rule: Rule[Any, Any], seen: list[str]) -> Rule[Any, Any]:
    """The rule, with its name in `seen` whenever it decides."""

    def decide(comparer: Comparer, pair: Pair[Any, Any]) -> Any:
        found = rule.decide(comparer, pair)
        if isinstance(found, Generator):
            found = yield from found
        if found is not None:
            seen.append(rule.decide.__name__)
        return found

    return replace(rule, decide=decide)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.decide.__name__)
def test_each_example_of_a_rule_by_shape_is_decided_by_it(rule: Rule[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(equality, "RULES", tuple(noting(one, seen) for one in RULES))
    test = examples(rule.decide)
    check(test)
    assert seen.count(rule.decide.__name__) >= sum(example.source.count("verdict(") for example in test.examples)


@pytest.mark.parametrize("rule", WORD_RULES, ids=lambda rule: rule.decide.__name__)
def test_each_example_of_a_rule_for_words_reaches_it(rule: WordRule, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def decide(a: Form, g: Form) -> bool | None:
        seen.append(g.text)
        return rule.decide(a, g)

    monkeypatch.setattr(word_rules, "WORD_RULES", tuple(replace(one, decide=decide) if one is rule else one for one in WORD_RULES))
    test = examples(rule.decide)
    check(test)
    assert len(seen) == sum(example.source.count("verdict(") for example in test.examples)


@pytest.mark.parametrize("rule", SPAN_RULES, ids=lambda rule: rule.write.__name__)
def test_each_example_of_a_set_of_an_inequality_is_written_by_it(rule: SpanRule, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Relation] = []

    def write(chain: Relation) -> str | None:
        seen.append(chain)
        return rule.write(chain)

    monkeypatch.setattr(relation, "SPAN_RULES", tuple(replace(one, write=write) if one is rule else one for one in SPAN_RULES))
    check(examples(rule.write))
    assert seen


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_a_reader_reads_its_shape_and_leaves_another(reader: Any) -> None:
    test = examples(reader)
    check(test)
    assert any(example.want for example in test.examples) and any(not example.want for example in test.examples)


@pytest.mark.parametrize("module", [arithmetic, braces, limits, relation, structure, units], ids=lambda module: module.__name__)
def test_the_examples_of_a_module_hold(module: ModuleType) -> None:
    tests = [test for test in doctest.DocTestFinder().find(module, extraglobs={"verdict": verdict}) if test.examples]
    assert tests
    for test in tests:
        check(test)


def test_rules_have_names_of_their_own() -> None:
    names = [rule.__name__ for rule in [*SHAPES, *WORDS, *SPANS]]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("modules", "table"),
    [((shape_rules, relation_rules), SHAPES), ((word_rules,), WORDS), ((relation,), SPANS)],
    ids=["shapes", "words", "sets"],
)
def test_a_function_with_an_example_of_verdicts_is_a_row_of_the_table(modules: tuple[ModuleType, ...], table: list[Any]) -> None:
    written = {
        name
        for module in modules
        for name, one in vars(module).items()
        if isfunction(one) and one.__module__ == module.__name__ and "verdict(" in (one.__doc__ or "")
    }
    assert written == {rule.__name__ for rule in table}
