r"""Rules by the shapes of answer and gold (step 4): tuples in order, lists and sets in any order, matrices, ratios, unions.

In the examples `verdict(answer, gold)` is the verdict, or "question" where a worker decides.
"""

from __future__ import annotations

import re
from typing import Any

from rlent.grading.comparer import NO_STRUCTURE, Comparer, Comparison, Decision, Outcome, Pair, Rule, compare_values
from rlent.grading.expression import parse
from rlent.grading.normalise import normalise
from rlent.grading.relation import name_of, named_one_by_one, span
from rlent.grading.relation_rules import RELATION_RULES
from rlent.grading.structure import (
    Described,
    Matrix,
    Plain,
    Ratio,
    Relation,
    Series,
    Shape,
    Tuple_,
    Union_,
    is_name,
    is_set,
    structure,
)

_CLAUSE = re.compile(
    r"\s*,?\s*(?:\\text\{\s*,?\s*(?:for|where|with|when|if)\b.*|\b(?:for|where|when)\s+(?:all|some|any|every|[a-z]\b).*|,\s*[a-z]\s*\\in\s*\\mathbb\{[ZN]\}.*)$"
)
_ALTERNATIVE = re.compile(r"\b(?:if|otherwise|else|or)\b")
_CLAUSE_DEPTH = 2
"""How deep inside an answer a clause may stand; leaving one out counts as this much."""

# --- clauses and conditions -------------------------------------------------------------------------------------------


def clause_on_one_side(c: Comparer, p: Pair[Shape, Shape]) -> Decision:
    r"""A clause at the end of one side alone (`where k is a whole number`) is left out; a case distinction of the answer is not.

    >>> verdict(r"k\pi", r"k\pi, k\in\mathbb{Z}"), verdict(r"42 \text{ if } x>0, 43 \text{ otherwise}", "42")
    (True, False)
    """
    answer, gold = _CLAUSE.search(p.a.text), _CLAUSE.search(p.g.text)
    if (answer is None) == (gold is None) or p.depth >= _CLAUSE_DEPTH:
        return None
    if answer and _ALTERNATIVE.search(answer[0]):
        return NO_STRUCTURE
    short_answer = p.a.text[: answer.start()] if answer else p.a.text
    short_gold = p.g.text[: gold.start()] if gold else p.g.text
    return c.texts(short_answer, short_gold, p.depth + _CLAUSE_DEPTH) if short_answer and short_gold else None


def two_conditions(c: Comparer, p: Pair[Described, Described]) -> Decision:
    r"""Two sets by a condition on one unknown: the conditions.

    >>> verdict(r"\{x : x > 1\}", r"\{x \mid x > 1\}"), verdict(r"\{x : x > 2\}", r"\{x \mid x > 1\}")
    (True, False)
    """
    return c.texts(p.answer.condition, p.gold.condition, p.depth + 1) if p.answer.name == p.gold.name else NO_STRUCTURE


def relation_for_condition(c: Comparer, p: Pair[Relation, Described]) -> Decision:
    r"""The condition alone.

    >>> verdict("x > 1", r"\{x \mid x > 1\}"), verdict("x > 2", r"\{x \mid x > 1\}")
    (True, False)
    """
    return c.texts(p.a.text, p.gold.condition, p.depth + 1)


def set_for_condition(c: Comparer, p: Pair[Shape, Described]) -> Decision:
    r"""The set that the condition solves to.

    >>> verdict(r"(1,\infty)", r"\{x \mid x > 1\}"), verdict(r"[1,\infty)", r"\{x \mid x > 1\}")
    (True, False)
    """
    if not is_set(p.answer):
        return NO_STRUCTURE
    solved = _solved(p.gold)
    return c.ask(p.a.text, p.g.text) if solved is None else c.texts(p.a.text, solved, p.depth + 1)


def condition_for_set(c: Comparer, p: Pair[Described, Shape]) -> Decision:
    r"""The set that the condition solves to, for a set or an inequality.

    >>> verdict(r"\{x \mid x > 1\}", r"(1,\infty)"), verdict(r"\{x \mid x \ge 1\}", r"(1,\infty)")
    (True, False)
    """
    if not is_set(p.gold) and not isinstance(p.gold, Relation):
        return NO_STRUCTURE
    solved = _solved(p.answer)
    return c.ask(p.a.text, p.g.text) if solved is None else c.texts(solved, p.g.text, p.depth + 1)


def _solved(described: Described) -> str | None:
    shape = structure(normalise(described.condition).text)
    return span(shape) if isinstance(shape, Relation) else None


# --- lists and tuples -------------------------------------------------------------------------------------------------


def _named_tuple(relation: Relation) -> Series | None:
    """`(a, b) = (1, 2)` as `a = 1, b = 2`, else None."""
    if relation.ops != ("=",):
        return None
    names, given = structure(relation.parts[0]), structure(relation.parts[1])
    if not isinstance(names, Tuple_) or not isinstance(given, Tuple_) or len(names.items) != len(given.items):
        return None
    if not is_name(relation.parts[0]):
        return None
    return Series(tuple(f"{name} = {value}" for name, value in zip(names.items, given.items, strict=True)))


def _lists(c: Comparer, answer: Series, gold: Series, depth: int) -> Comparison:
    """In any order; values without names answer values with names in that order."""
    if not any(name_of(item) for item in answer.items) and named_one_by_one(gold.items):
        return c.ordered(answer.items, gold.items, depth)
    return c.unordered(answer.items, gold.items, depth)


def list_for_named_tuple(c: Comparer, p: Pair[Series, Relation]) -> Decision:
    """Names and values apart in the gold, together in the answer.

    >>> verdict("b=2, a=1", "(a,b)=(1,2)"), verdict("b=1, a=2", "(a,b)=(1,2)")
    (True, False)
    """
    gold = _named_tuple(p.gold)
    return None if gold is None else _lists(c, p.answer, gold, p.depth)


def named_tuple_for_list(c: Comparer, p: Pair[Relation, Series]) -> Decision:
    """Names and values apart in the answer, together in the gold.

    >>> verdict("(a,b)=(1,2)", "a=1, b=2"), verdict("(a,b)=(2,1)", "a=1, b=2")
    (True, False)
    """
    answer = _named_tuple(p.answer)
    return None if answer is None else _lists(c, answer, p.gold, p.depth)


def tuple_for_named_values(c: Comparer, p: Pair[Tuple_, Series]) -> Decision:
    """The values alone, as a tuple in the order of the names.

    >>> verdict("(1,2)", "a=1, b=2"), verdict("(2,1)", "a=1, b=2")
    (True, False)
    """
    if (p.answer.open, p.answer.close) != ("(", ")") or not named_one_by_one(p.gold.items):
        return None
    return c.ordered(p.answer.items, p.gold.items, p.depth)


def two_lists(c: Comparer, p: Pair[Series, Series]) -> Decision:
    r"""Lists and sets in any order, except that values answer names in their order.

    >>> verdict(r"\{3, 1, 2\}", "1, 2, 3"), verdict("4, 5", "AB=4, CD=5")
    (True, True)
    >>> verdict("1, 2", "1, 2, 3"), verdict("5, 4", "AB=4, CD=5")
    (False, False)
    """
    return _lists(c, p.answer, p.gold, p.depth)


def two_tuples(c: Comparer, p: Pair[Tuple_, Tuple_]) -> Decision:
    """Tuples and intervals: the same brackets, the items in order.

    >>> verdict("[2, 6/2)", "[2,3)"), verdict("(2,3)", "[2,3)"), verdict("(2,1)", "(1,2)")
    (True, False, False)
    """
    if (p.answer.open, p.answer.close) != (p.gold.open, p.gold.close):
        return NO_STRUCTURE
    return c.ordered(p.answer.items, p.gold.items, p.depth)


def list_for_tuple(c: Comparer, p: Pair[Series, Tuple_]) -> Decision:
    r"""A bare list may stand for a tuple of three or more in the same order; of two it could be an interval.

    >>> verdict("1, 2, 3", "(1,2,3)"), verdict("1, 2", "(1,2)"), verdict(r"\{1, 2, 3\}", "(1,2,3)")
    (True, False, False)
    """
    if p.answer.bare and len(p.gold.items) > 2 and (p.gold.open, p.gold.close) == ("(", ")"):
        return c.ordered(p.answer.items, p.gold.items, p.depth)
    return NO_STRUCTURE


def value_for_set_of_one(c: Comparer, p: Pair[Plain, Series]) -> Decision:
    r"""The only member.

    >>> verdict("5", r"\{5\}"), verdict("6", r"\{5\}")
    (True, False)
    """
    return c.texts(p.answer.text, p.gold.items[0], p.depth + 1) if _one_member(p.gold) else None


def set_of_one_for_value(c: Comparer, p: Pair[Series, Plain]) -> Decision:
    r"""The only member.

    >>> verdict(r"\{5\}", "5"), verdict(r"\{6\}", "5")
    (True, False)
    """
    return c.texts(p.answer.items[0], p.gold.text, p.depth + 1) if _one_member(p.answer) else None


def _one_member(series: Series) -> bool:
    return not series.bare and len(series.items) == 1


# --- matrices and ratios ----------------------------------------------------------------------------------------------


def two_matrices(c: Comparer, p: Pair[Matrix, Matrix]) -> Decision:
    r"""The same rows and columns, cell by cell.

    >>> verdict(r"\begin{bmatrix}0.5\\2\end{bmatrix}", r"\begin{pmatrix}1/2\\2\end{pmatrix}")
    True
    >>> verdict(r"\begin{pmatrix}1&2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}")
    False
    """
    if [len(row) for row in p.answer.rows] != [len(row) for row in p.gold.rows]:
        return NO_STRUCTURE
    return c.ordered(_cells(p.answer), _cells(p.gold), p.depth)


def _cells(matrix: Matrix) -> tuple[str, ...]:
    return tuple(cell for row in matrix.rows for cell in row)


def _quotient(ratio: Ratio) -> str:
    return rf"\frac{{{ratio.parts[0]}}}{{{ratio.parts[1]}}}"


def two_ratios(c: Comparer, p: Pair[Ratio, Ratio]) -> Comparison:
    """Part by part; of two parts also in lower terms.

    >>> verdict("6:4", "3:2"), verdict("2:3", "3:2"), verdict("2:4:6", "1:2:3")
    (True, False, False)
    """
    same: Outcome = yield from c.ordered(p.answer.parts, p.gold.parts, p.depth)
    if same.correct or not len(p.answer.parts) == len(p.gold.parts) == 2:
        return same
    return (yield from c.texts(_quotient(p.answer), _quotient(p.gold), p.depth + 1))


def ratio_for_value(c: Comparer, p: Pair[Ratio, Plain]) -> Decision:
    """A ratio of two parts is their quotient.

    >>> verdict("3:2", "1.5"), verdict("3:2", "2/3")
    (True, False)
    """
    return c.texts(_quotient(p.answer), p.g.text, p.depth + 1) if len(p.answer.parts) == 2 else NO_STRUCTURE


def value_for_ratio(c: Comparer, p: Pair[Plain, Ratio]) -> Decision:
    """A ratio of two parts is their quotient.

    >>> verdict("1.5", "3:2"), verdict("2/3", "3:2")
    (True, False)
    """
    return c.texts(p.a.text, _quotient(p.gold), p.depth + 1) if len(p.gold.parts) == 2 else NO_STRUCTURE


# --- sets and the rest ------------------------------------------------------------------------------------------------


def union_for_inequalities(c: Comparer, p: Pair[Union_, Series]) -> Decision:
    r"""Inequalities side by side, answered by the union of their sets.

    >>> verdict(r"(-\infty,-1]\cup[3,\infty)", r"x \le -1 \text{ or } x \ge 3"), verdict(r"(1,2)\cup(3,4)", r"x \le -1 \text{ or } x \ge 3")
    (True, False)
    """
    shapes = [structure(item) for item in p.gold.items]
    spans = [span(shape) if isinstance(shape, Relation) else None for shape in shapes]
    known = tuple(one for one in spans if one is not None)
    return c.unordered(p.answer.parts, known, p.depth) if len(known) == len(spans) else None


def two_unions(c: Comparer, p: Pair[Union_, Union_]) -> Comparison:
    r"""Unions of the same parts in any order; other parts may have the same union.

    >>> verdict(r"(3,4)\cup(1,2)", r"(1,2)\cup(3,4)"), verdict(r"(1,3)\cup(2,4)", r"(1,2)\cup[2,4)")
    (True, 'question')
    """
    same: Outcome = yield from c.unordered(p.answer.parts, p.gold.parts, p.depth)
    return same if same.correct else (yield from c.ask(p.a.text, p.g.text))


def two_sets(c: Comparer, p: Pair[Shape, Shape]) -> Decision:
    r"""Sets that only algebra can compare; a list is not an interval or a union.

    >>> verdict(r"\mathbb{R}\setminus\{1\}", r"(-\infty,1)\cup(1,\infty)"), verdict(r"\{1,2\}", r"(1,2)\cup(3,4)")
    ('question', False)
    """
    if not is_set(p.answer) or not is_set(p.gold):
        return None
    listed = isinstance(p.answer, Series) or isinstance(p.gold, Series)
    if listed and not isinstance(p.answer, Plain) and not isinstance(p.gold, Plain):
        return NO_STRUCTURE
    return c.ask(p.a.text, p.g.text)


def two_values(c: Comparer, p: Pair[Plain, Plain]) -> Decision:
    r"""Two values, when the parentheses round one of them are gone, as expressions; else a question for a worker.

    >>> verdict(r"\langle 1/2\rangle", "0.5"), verdict(r"\langle 1/2\rangle", "0.6"), verdict(r"\int x", r"\int y")
    (True, False, 'question')
    """
    return compare_values(p.a, p.g, p.answer.text, p.gold.text) or c.ask(p.answer.text, p.gold.text)


def value_for_matrix(c: Comparer, p: Pair[Plain, Matrix]) -> Decision:
    r"""A product or sum of matrices may be one; an expression without a matrix is not.

    >>> verdict(r"2\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\4\end{pmatrix}"), verdict("2", r"\begin{pmatrix}2\\4\end{pmatrix}")
    ('question', False)
    """
    return c.ask(p.a.text, p.g.text) if parse(p.answer.text) is None else NO_STRUCTURE


def matrix_for_value(c: Comparer, p: Pair[Matrix, Plain]) -> Decision:
    r"""A product or sum of matrices may be one; an expression without a matrix is not.

    >>> verdict(r"\begin{pmatrix}2\\4\end{pmatrix}", r"2\begin{pmatrix}1\\2\end{pmatrix}"), verdict(r"\begin{pmatrix}2\\4\end{pmatrix}", "2")
    ('question', False)
    """
    return c.ask(p.a.text, p.g.text) if parse(p.gold.text) is None else NO_STRUCTURE


RULES: tuple[Rule[Any, Any], ...] = (
    # answer    gold      rule
    Rule(Shape, Shape, clause_on_one_side),
    Rule(Described, Described, two_conditions),
    Rule(Relation, Described, relation_for_condition),
    Rule(Shape, Described, set_for_condition),
    Rule(Described, Shape, condition_for_set),
    Rule(Series, Relation, list_for_named_tuple),
    Rule(Relation, Series, named_tuple_for_list),
    Rule(Tuple_, Series, tuple_for_named_values),
    *RELATION_RULES,
    Rule(Series, Series, two_lists),
    Rule(Tuple_, Tuple_, two_tuples),
    Rule(Matrix, Matrix, two_matrices),
    Rule(Ratio, Ratio, two_ratios),
    Rule(Ratio, Plain, ratio_for_value),
    Rule(Plain, Ratio, value_for_ratio),
    Rule(Series, Tuple_, list_for_tuple),
    Rule(Plain, Series, value_for_set_of_one),
    Rule(Series, Plain, set_of_one_for_value),
    Rule(Union_, Series, union_for_inequalities),
    Rule(Union_, Union_, two_unions),
    Rule(Shape, Shape, two_sets),
    Rule(Plain, Plain, two_values),
    Rule(Plain, Matrix, value_for_matrix),
    Rule(Matrix, Plain, matrix_for_value),
)
"""The first row that decides wins; a pair that no row decides is different. Rows of every shape come where they must be seen first."""
