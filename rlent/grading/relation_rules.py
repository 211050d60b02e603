r"""Rules for pairs in which one side at least is an equation or inequality (step 5).

In the examples `verdict(answer, gold)` is the verdict, or "question" where a worker decides.
"""

from __future__ import annotations

from typing import Any

from rlent.grading.comparer import Attempt, Comparer, Comparison, Decision, Outcome, Pair, Rule
from rlent.grading.expression import parse, proportional
from rlent.grading.normalise import normalise
from rlent.grading.relation import (
    ascending,
    difference,
    is_equation,
    name_of_relation,
    rename_argument,
    span,
    values,
)
from rlent.grading.structure import Relation, Shape, is_function_name, is_set

_NO = Outcome(False, "equation")

Relations = Pair[Relation, Relation]

# --- two equations ----------------------------------------------------------------------------------------------------


def _both_equations(p: Relations) -> bool:
    return is_equation(p.answer) and is_equation(p.gold)


def _two_sided(p: Relations) -> bool:
    return _both_equations(p) and p.answer.ops == p.gold.ops == ("=",)


def same_name(c: Comparer, p: Relations) -> Decision:
    """Two equations that name one thing, or a function each: their values. Another name of the argument is no difference.

    >>> verdict("x = 0.5", "x = 1/2"), verdict("f(t) = t^2", "f(x) = x^2"), verdict("x = 0.6", "x = 1/2")
    (True, True, False)
    """
    name, wanted = name_of_relation(p.answer), name_of_relation(p.gold)
    if not name or not wanted:
        return None
    same = normalise(name).compact == normalise(wanted).compact
    if not same and not (is_function_name(name) and is_function_name(wanted)):
        return None
    answers, golds = values(p.answer, loose=False), values(p.gold, loose=False)
    if not answers or not golds:
        return None
    renamed = None if same else rename_argument(answers[0], name, wanted)
    return c.texts(answers[0] if renamed is None else renamed, golds[0], p.depth + 1)


def same_solutions(c: Comparer, p: Relations) -> Decision:
    """An equation and a multiple of it.

    >>> verdict("4x+6y=12", "2x+3y=6"), verdict("4x+6y=11", "2x+3y=6")
    (True, False)
    """
    x, y = difference(p.answer), difference(p.gold)
    if x is not None and y is not None and (ratio := proportional(x, y)) is not None:
        return Outcome(ratio is not False and ratio != 0, "equation")
    return c.ask(" = ".join(p.answer.parts), " = ".join(p.gold.parts))


def other_names(c: Comparer, p: Relations) -> Decision:
    r"""Two chains with names are equal by `same_name` or not at all.

    >>> verdict("x = 2 = 2", "y = 2 = 2")
    False
    """
    return _NO if name_of_relation(p.answer) and name_of_relation(p.gold) else None


def two_calculations(c: Comparer, p: Relations) -> Decision:
    r"""Two calculations without a name: what they come to.

    >>> verdict("1+1=2=2", "3-1=2=2"), verdict("1+1=2=2", "3-2=1=1")
    (True, False)
    """
    answers, golds = values(p.answer, loose=False), values(p.gold, loose=False)
    if not answers or not golds or name_of_relation(p.answer) or name_of_relation(p.gold):
        return None
    return c.texts(answers[0], golds[0], p.depth + 1)


# --- two inequalities -------------------------------------------------------------------------------------------------


def _both_inequalities(p: Relations) -> bool:
    return not is_equation(p.answer) and not is_equation(p.gold)


def _short_chains(p: Relations) -> bool:
    return _both_inequalities(p) and len(p.answer.parts) == len(p.gold.parts) == 2


def same_chain(c: Comparer, p: Relations) -> Attempt:
    """Chains of the same signs, part by part, from whichever side they are read; longer ones are equal so or not at all.

    >>> verdict("3 > x > -2", "-2 < x < 3"), verdict("4 > x > -2", "-2 < x < 3")
    (True, False)
    """
    answer, gold = ascending(p.answer), ascending(p.gold)
    if answer.ops != gold.ops or len(answer.parts) < 2:
        return None
    outcome: Outcome = yield from c.ordered(answer.parts, gold.parts, p.depth)
    if outcome.correct:
        return Outcome(True, "equation")
    return Outcome(False, "equation", outcome.status) if len(answer.parts) > 2 else None


def same_half_plane(c: Comparer, p: Relations) -> Decision:
    r"""An inequality and a positive multiple of it; with `\ne` also a negative one.

    >>> verdict("-x > -1", "x < 1"), verdict("-x > 1", "x < 1"), verdict("x < 5", r"x \le 5")
    (True, False, False)
    """
    answer, gold = ascending(p.answer), ascending(p.gold)
    if answer.ops != gold.ops:
        return _NO
    x, y = difference(answer), difference(gold)
    if x is None or y is None or (ratio := proportional(x, y)) is None:
        return None
    real = ratio is not False and getattr(ratio, "imag", 0) == 0
    return Outcome(bool(real and (ratio != 0 if answer.ops == ("!=",) else ratio.real > 0)), "equation")


def same_span(c: Comparer, p: Relations) -> Decision:
    """Inequalities that describe a set each.

    >>> verdict("-2<x<2", "|x|<2"), verdict("-2<x<3", "|x|<2")
    (True, False)
    """
    answer, gold = span(p.answer), span(p.gold)
    return None if answer is None or gold is None else c.texts(answer, gold, p.depth + 1)


def asked_inequalities(c: Comparer, p: Relations) -> Decision:
    """Other inequalities are a question for a worker.

    >>> verdict("x^2 < 4", "-2 < x < 2")
    'question'
    """
    return c.ask(p.a.text, p.g.text)


# --- an equation and an inequality ------------------------------------------------------------------------------------


def _answer_is_member(p: Relations) -> bool:
    return p.answer.ops == ("in",)


def _gold_is_member(p: Relations) -> bool:
    return p.gold.ops == ("in",)


def inequality_for_membership(c: Comparer, p: Relations) -> Decision:
    r"""An inequality answers `x \in S` by its set.

    >>> verdict("1<x<2", r"x \in (1,2)"), verdict("1<x<3", r"x \in (1,2)")
    (True, False)
    """
    found = None if is_equation(p.answer) else span(p.answer)
    return None if found is None else c.texts(found, p.gold.parts[1], p.depth + 1)


def membership_for_inequality(c: Comparer, p: Relations) -> Decision:
    r"""`x \in S` answers an inequality by its set.

    >>> verdict(r"x \in (1,2)", "1<x<2"), verdict(r"x \in (1,3)", "1<x<2")
    (True, False)
    """
    found = None if is_equation(p.gold) else span(p.gold)
    return None if found is None else c.texts(p.answer.parts[1], found, p.depth + 1)


def equation_for_inequality(c: Comparer, p: Relations) -> Decision:
    """An equation does not answer an inequality, nor the other way.

    >>> verdict("x = 1", "x < 1")
    False
    """
    return _NO


# --- a relation on one side -------------------------------------------------------------------------------------------


def _gold_is_equation(p: Pair[Shape, Relation]) -> bool:
    return is_equation(p.gold)


def _answer_is_equation(p: Pair[Relation, Shape]) -> bool:
    return is_equation(p.answer)


def _first_that_decides(c: Comparer, pairs: list[tuple[str, str]], depth: int) -> Comparison:
    """The first pair that is equal or that could not be decided, else no."""
    for answer, gold in pairs:
        outcome: Outcome = yield from c.texts(answer, gold, depth)
        if outcome.correct or outcome.status != "ok":
            return outcome
    return _NO


def value_for_equation(c: Comparer, p: Pair[Shape, Relation]) -> Decision:
    """The value, where the gold gives it a name, or a rounding that the gold states.

    >>> verdict("5", "x = 5"), verdict("1", "2x + z = 1")
    (True, False)
    """
    return _first_that_decides(c, [(p.a.text, value) for value in values(p.gold, loose=False)], p.depth + 1)


def equation_for_value(c: Comparer, p: Pair[Relation, Shape]) -> Decision:
    """A value with a name, or the end of a calculation; for a number also a sum of letters.

    >>> verdict("5 = x", "5"), verdict("m + n = 42", "42"), verdict("43 = 42 + 1", "42")
    (True, True, False)
    """
    number = (y := parse(p.g.text)) is not None and not y.symbols
    return _first_that_decides(c, [(value, p.g.text) for value in values(p.answer, loose=number)], p.depth + 1)


def set_for_inequality(c: Comparer, p: Pair[Shape, Relation]) -> Decision:
    r"""A set answers an inequality.

    >>> verdict("(1,2)", "1<x<2"), verdict("(1,2]", "1<x<2"), verdict("2", "x<2")
    (True, False, False)
    """
    if not is_set(p.answer):
        return _NO
    found = span(p.gold)
    return c.ask(p.a.text, p.g.text) if found is None else c.texts(p.a.text, found, p.depth + 1)


def inequality_for_set(c: Comparer, p: Pair[Relation, Shape]) -> Decision:
    """An inequality may be the question itself, and answers a set only where the policy has it so.

    >>> verdict("1<x<2", "(1,2)", relation_for_interval=True), verdict("1<x<2", "(1,2)")
    (True, False)
    """
    found = span(p.answer) if c.policy.relation_for_interval and is_set(p.gold) else None
    return _NO if found is None else c.texts(found, p.g.text, p.depth + 1)


RELATION_RULES: tuple[Rule[Any, Any], ...] = (
    # answer    gold      rule
    Rule(Relation, Relation, same_name, _both_equations),
    Rule(Relation, Relation, same_solutions, _two_sided),
    Rule(Relation, Relation, other_names, _both_equations),
    Rule(Relation, Relation, two_calculations, _both_equations),
    Rule(Relation, Relation, same_chain, _both_inequalities),
    Rule(Relation, Relation, same_half_plane, _short_chains),
    Rule(Relation, Relation, same_span, _both_inequalities),
    Rule(Relation, Relation, asked_inequalities, _both_inequalities),
    Rule(Relation, Relation, inequality_for_membership, _gold_is_member),
    Rule(Relation, Relation, membership_for_inequality, _answer_is_member),
    Rule(Relation, Relation, equation_for_inequality),
    Rule(Shape, Relation, value_for_equation, _gold_is_equation),
    Rule(Relation, Shape, equation_for_value, _answer_is_equation),
    Rule(Shape, Relation, set_for_inequality),
    Rule(Relation, Shape, inequality_for_set),
)
