r"""When an answer equals a gold. The first step that applies decides.

0. an empty side: no
1. the same text
2. letters and words: compared as words, never as mathematics (`rlent.grading.word_rules`)
3. numbers: exact rationals, then constants to many digits, then expressions at fixed points (`rlent.grading.expression`)
4. structure: tuples and intervals in order, sets and lists in any order, matrices by shape, element by element
   (`rlent.grading.shape_rules`)
5. equations and inequalities (`rlent.grading.relation_rules`)
6. symbolic: a question for a worker

Steps 0 to 5 run here. Step 6 is a question: `compare` is a generator that yields `Question`s and is sent `Reply`s, so that one caller can
keep many comparisons open and many workers busy. `settle` runs one comparison to its end.

Where both readings are possible the answer is no: a false negative costs one sample, a false positive is found and repeated by the policy.
"""

from __future__ import annotations

from collections.abc import Callable

from rlent.grading.base import GradePolicy
from rlent.grading.comparer import Comparer, Comparison, Outcome, Question, Reply, TooMany
from rlent.grading.normalise import MAX_ANSWER
from rlent.grading.shape_rules import RULES

MAX_QUESTIONS = 64  # of one comparison


def compare(answer: str, gold: str, policy: GradePolicy = GradePolicy(), *, read: bool = False) -> Comparison:
    """Compare an extracted answer with one accepted answer. Yields questions, returns an `Outcome`.

    read: leave out the first step for the whole answer, so that the mathematics must be read (to check golds).
    """
    if answer.strip() and answer.strip() == gold.strip() and not read:
        return Outcome(True, "string")
    if len(answer) > MAX_ANSWER or len(gold) > MAX_ANSWER:
        return Outcome(False, "none", "limit")
    comparer = Comparer(policy, RULES)
    try:
        outcome = yield from _at_most(comparer, comparer.forms(comparer.normal(answer), comparer.normal(gold), 0, read=read))
    except (TooMany, RecursionError):
        return Outcome(False, "none", "limit")
    if not outcome.correct and outcome.status == "ok" and comparer.unclear:
        return Outcome(False, outcome.method, comparer.unclear)
    return outcome


def _at_most(comparer: Comparer, inner: Comparison) -> Comparison:
    """The comparison, ended by a reply that is no verdict; raises `TooMany` after `MAX_QUESTIONS`. Unreadable sides are noted."""
    try:
        question = next(inner)
        for _ in range(MAX_QUESTIONS):
            reply = yield question
            if reply in ("timeout", "crash"):
                return Outcome(False, "symbolic", reply)
            if reply in ("unparsed", "gold_unparsed"):
                comparer.unclear = comparer.unclear or reply
            question = inner.send(reply)
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome
    raise TooMany


def settle(comparison: Comparison, ask: Callable[[Question], Reply]) -> Outcome:
    """Run one comparison to its end; `ask` answers its questions."""
    try:
        question = next(comparison)
        while True:
            question = comparison.send(ask(question))
    except StopIteration as stop:
        outcome: Outcome = stop.value
        return outcome


__all__ = ["Comparison", "Outcome", "Question", "Reply", "compare", "settle"]
