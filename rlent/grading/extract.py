r"""Finding the answer in a response.

Three modes, each a superset of the one before:

* `box`: the last balanced `\boxed{...}`. What training should use: nothing else in the text can score.
* `marker`: else `<answer>`, `####`, `Answer:`, `the answer is`, the last occurrence of the first kind present.
* `any`: else the last formula or number. For base models and few-shot evaluation; a stray number can hit.

Work is bounded: one linear pass over all boxes (a cap would let a flood of boxes hide the last one), markers in the
last `TAIL` characters only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlent.grading.base import Mode
from rlent.grading.characters import printable, to_latex
from rlent.grading.expression import parse
from rlent.grading.normalise import MAX_ANSWER, normalise

TAIL = 20_000

_END_OF_TURN = re.compile(
    r"<\|(?:im_end|endoftext|eot_id|end_of_text|end|return|eom_id)\|>|</s>|<end_of_turn>|<eos>|<｜end▁of▁sentence｜>|<｜User｜>"
)
_START_OF_TURN = re.compile(r"<\|(?:im_start|start_header_id)\|>|<start_of_turn>")

_BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])\s*")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE_CONTENT = re.compile(r"-?(?:\d[\d.,]*\d|\d|[A-Za-z](?![A-Za-z]))")
_ESCAPED_CLOSE = re.compile(r"[^{}\n]{1,200}?\\\}")
_PLACEHOLDER = re.compile(
    r"^\s*(?:\\text\s*\{)?(?:[\s.…_?$]|\\(?:ldots|dots|cdots|quad)(?![A-Za-z]))*\}?\s*$|^\s*(?:ldots|dots|cdots|quad)\s*$"
    r"|^\s*(?:\\text\s*\{)?\s*(?:your |the |final |correct )*answer(?: here)?\s*\}?\s*$",
    re.IGNORECASE,
)
_MINERVA = re.compile(r"final answer is:?\s*(.{1,2000}?)\.?\s*I hope (?:it|this) is correct", re.IGNORECASE | re.DOTALL)
_BETWEEN = re.compile(r"^(?:[\s,;&.$]|\\[()\[\],;:! ]|\\q?quad\b|\\(?:text|mathrm)\s*\{[^{}]{0,10}\}|\band\b|\bor\b)*$")
_NAME_BEFORE = re.compile(r"(?:[A-Za-z](?:_\{?\w{1,6}\}?)?(?:\([A-Za-z]\))?|\\[a-z]{2,7})\s*=\s*(?:\\[(\[]|\$)?\s*$")
_AFTER_BOX = re.compile(r"[\s$]{0,4}(?:\\[)\]])?[\s$]{0,4}(\\?%|percent\b|\^\s*\{?\s*\\circ\s*\}?)")

_ANSWER_TAG = re.compile(r"<answer>((?:(?!<answer>|</answer>).)*)</answer>", re.IGNORECASE | re.DOTALL)
_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_ANSWER_HERE = re.compile(
    r"answer\b[ \t]{0,4}\*{0,3}[ \t]{0,4}[:：=][ \t]{0,4}\*{0,3}[ \t]{0,4}(?:\n[ \t]{0,4}){0,3}"
    r"|(?<![^\n])[#*_> \t]{0,8}(?:the )?(?:final )?answer[*_ \t]{0,6}(?:\n[ \t]{0,4}){1,3}",
    re.IGNORECASE,
)
_ANSWER_IS = re.compile(
    r"answer(?: to [^.\n]{1,80}?)?\s{1,4}(?:is|was|equals|(?:would|must|should|will) be)\b\s{0,4}:?\s{0,4}([^\n]{1,2000}(?:\n[^\n]{1,200})?)",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"\s*(?:\s(?:because|since)\b|[,;:]\s*(?:as|since|because|which|where|when|if|so|given|thus|hence|after|by)\b|\(\s*(?:as|since|because|by|see|note|i\.e|e\.g|rounded|which|where|approx)).*$",
    re.IGNORECASE | re.DOTALL,
)
_VERB = re.compile(r"(?<![A-Za-z\\])(?:is|are|equals|be|was)(?![A-Za-z])\s*:?")
_ADVERB = re.compile(
    r"^(?:(?:therefore|thus|hence|simply|just|exactly|indeed|clearly|actually|then|now|approximately|about|equal to|given by)\b\s*,?\s*)+",
    re.IGNORECASE,
)
# Words that make a number in a sentence something else than its answer.
_HEDGE = re.compile(
    r"(?<![\\A-Za-z])(?:not|no|neither|nor|or|either|maybe|perhaps|possibly|unknown|unsure|guess|wrong|incorrect|such as|except|unless)(?![A-Za-z])|n't\b"
    r"|(?:at least|at most|between|over|under|above|below|any|(?:more|less|fewer|greater|larger|smaller|bigger|higher|lower) than)\s+(?:[-$\\(\d]|$)",
    re.IGNORECASE,
)


_FORMULA = re.compile(
    r"\$\$((?:[^$\\]|\\.){1,2000}?)\$\$|\$((?:[^$\\\n]|\\.|\n(?!\n)){1,2000}?)\$|\\\[((?:[^\\]|\\[^\]]){1,2000}?)\\\]|\\\(((?:[^\\]|\\[^)]){1,2000}?)\\\)",
    re.DOTALL,
)
_NUMBER = re.compile(
    r"(?<![\w.\\^_])-?\$?(?:\\frac\s*\{\s*-?\d{1,20}\s*\}\s*\{\s*\d{1,20}\s*\}|\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,]*\d)|\d{1,200}(?!\d)(?:\.\d{1,200})?(?:[eE][-+]?\d{1,3})?(?:\s*/\s*\d{1,20}(?!\d))?)"
    r"(?:\s*(?:\\?%|percent(?:age)?\b))?"
)
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}(?![A-Za-z])")
_CODE = re.compile(
    r"__|(?<!\\)\blambda\b|\bimport\b|\bexec\s*\(|\beval\s*\(|\bopen\s*\(|\bgetattr\s*\(|\bcompile\s*\(|\bos\.\w|\bsys\.\w|\bsubprocess\b|\bglobals\s*\(|\.write\s*\("
)


@dataclass(frozen=True, slots=True)
class Found:
    """An extracted answer; `run` is the union of the neighbouring boxes that end with it (None when it stands alone)."""

    answer: str
    kind: str
    run: str | None = None


def prepare(response: str, *, strip_think: bool = False) -> str:
    """The part of a response that may hold its answer, cleaned. Empty when thinking was opened and never closed.

    The text is cut at the first end-of-turn token that survived decoding, so that a model that goes on to write the
    next turn cannot answer there.
    """
    if cut := _END_OF_TURN.search(response):
        response = response[: cut.start()]
    for cut in _START_OF_TURN.finditer(response):
        if response[: cut.start()].strip():
            response = response[: cut.start()]
            break
    if strip_think:
        head, closed, tail = response.rpartition("</think>")
        if closed:
            response = tail
            if "<think>" in tail:
                return ""
        elif "<think>" in response:
            return ""
    return to_latex(printable(response))


def code_shaped(text: str) -> bool:
    """Whether a text is shaped like Python code."""
    return _CODE.search(text) is not None


@dataclass(frozen=True, slots=True)
class _Box:
    start: int
    end: int
    content: str


def boxes(text: str) -> list[_Box]:
    r"""Every complete, non-empty box, left to right, in one pass. Of a box in a box only the inner one counts."""
    closes = _closing_braces(text)
    found = [box for m in _BOX.finditer(text) if (box := _box(text, m, closes)) is not None and not _PLACEHOLDER.match(box.content)]
    return [box for i, box in enumerate(found) if i + 1 == len(found) or found[i + 1].start >= box.end]


def _closing_braces(text: str) -> dict[int, int]:
    """For every brace that opens from the first box on: where it closes."""
    closes: dict[int, int] = {}
    stack: list[int] = []
    first = text.find("\\boxed") if "\\fbox" not in text else 0
    for m in _BRACE.finditer(text, max(first, 0)):
        if m[0] == "{":
            stack.append(m.start())
        elif m[0] == "}" and stack:
            closes[stack.pop()] = m.start()
    return closes


def _box(text: str, command: re.Match[str], closes: dict[int, int]) -> _Box | None:
    r"""The box that a `\boxed` begins: `\boxed{7}`, `\boxed 7` or, closed by mistake, `\boxed{7\}`."""
    start, at = command.start(), command.end()
    if text[at : at + 1] == "{":
        end = closes.get(at, -1)
        if end < 0 and (closed := _ESCAPED_CLOSE.match(text, at + 1)):
            end = closed.end() - 1
        return _Box(start, end + 1, text[at + 1 : end]) if end >= 0 else None
    bare = _BARE_CONTENT.match(text, at)
    spaced = at > start + len(command[0].rstrip())
    return _Box(start, bare.end(), bare[0]) if bare and spaced else None


def _from_boxes(text: str, found: list[_Box]) -> Found:
    def dressed(box: _Box) -> str:
        tail = _AFTER_BOX.match(text, box.end)
        return box.content + (tail[1] if tail else "")

    last = len(found) - 1
    first = last
    while first > 0:
        between = text[found[first - 1].end : found[first].start].rstrip("\\")
        if len(between) > 60 or not _BETWEEN.match(_NAME_BEFORE.sub("", between)):
            break
        first -= 1
    run = None
    if first < last:
        run = " , ".join(dict.fromkeys(box.content for box in found[first:]))
    return Found(dressed(found[last]), "box", run)


def _tidy(text: str) -> str:
    """Marker text without markdown, tags, a trailing remark or full stop."""
    text = re.sub(r"\s*I hope (?:it|this) is correct.*$", "", text, flags=re.DOTALL | re.IGNORECASE)
    text = re.sub(r"</?[a-z]{1,12}>", " ", text).strip().strip("*`").strip()
    return _ADVERB.sub("", text.rstrip(".").strip().strip("*`").strip())


def _hedged(text: str) -> bool:
    """Whether a sentence takes its number back, bounds it, or offers several; words inside formulas do not count."""
    return _HEDGE.search(_FORMULA.sub(" $ ", text)) is not None


def _formulas(text: str) -> list[str]:
    """The contents of all formulas between dollars or `\\(`."""
    return [next(filter(None, m.groups())).strip() for m in _FORMULA.finditer(text)]


def _reduce(text: str) -> str:
    """The value inside a sentence: `The largest $n$ is 34` to `34`; text without prose stays as it is."""
    text = _tidy(text)
    if len(text) > 2000 or code_shaped(text):
        return text
    if (shorter := _tidy(_REMARK.sub("", text))) and not _hedged(shorter):
        text = shorter
    for _ in range(4):
        if len(_PROSE.findall(_FORMULA.sub(" ", text))) < 2:
            break
        if (first := _FORMULA.match(text)) and text[first.end() : first.end() + 1] in (";", ".", "!"):
            return _formulas(text)[0]
        shorter = _after_verb(text)
        if shorter == text:
            return _only_value(text)
        text = shorter
    formulas = _formulas(text)
    if len(formulas) == 1 and _PROSE.search(_FORMULA.sub(" ", text)) and not _hedged(text):
        return formulas[0]
    return text


def _after_verb(text: str) -> str:
    """What stands behind the last `is`; the sentence itself when it begins with a value and ends without one."""
    parts = _VERB.split(text)
    begins = re.match(r"[-+$\\(\d]", text) is not None
    if len(parts) > 1 and parts[-1].strip(" .:") and (not begins or re.search(r"[\d$\\]", parts[-1])):
        return _tidy(parts[-1])
    return text


def _only_value(text: str) -> str:
    """The last formula or the only number of a sentence that stands by its value, else the sentence."""
    if _hedged(text):
        return text
    if formulas := _formulas(text):
        return formulas[-1]
    numbers = [m[0].strip() for m in _NUMBER.finditer(text)]
    return numbers[0] if len(numbers) == 1 else text


def _sentence(text: str) -> str:
    """Up to the end of the first sentence; a full stop inside a number or a formula does not end one."""
    depth = 0
    for i, ch in enumerate(text):
        if ch == "$":
            depth ^= 1
        elif ch in "{":
            depth += 2
        elif ch == "}":
            depth = max(0, depth - 2)
        elif ch in ".!\n" and depth == 0 and (i + 1 == len(text) or text[i + 1].isspace() or text[i + 1] == "*"):
            if ch == "\n" and not text[:i].strip(" :*"):
                continue
            if ch == "\n" and text[:i].count("\\[") > text[:i].count("\\]"):
                continue
            return text[:i]
    return text


def _line(text: str) -> str:
    """To the end of the line, or of the formula that begins it."""
    if text.startswith(("\\[", "$$", "\\(")) and (formula := _FORMULA.match(text)):
        return formula[0] + text[formula.end() :].partition("\n")[0]
    return text.partition("\n")[0]


def _marker(text: str) -> str | None:
    tags = [m[1] for m in _ANSWER_TAG.finditer(text)]
    for content in reversed(tags):
        if not _PLACEHOLDER.match(content):
            return _reduce(content)
    hashes = [m[1] for m in _HASHES.finditer(text)]
    lines = (_line(text[m.end() : m.end() + MAX_ANSWER + 1]) for m in reversed(list(_ANSWER_HERE.finditer(text))))
    for hits in (reversed(hashes), lines):
        for hit in hits:
            if (tidy := _tidy(hit)) and not _PLACEHOLDER.match(tidy):
                return _reduce(hit)
    sentences = [m[1] for m in _ANSWER_IS.finditer(text)]
    return _reduce(_sentence(sentences[-1])) if sentences else None


def _anything(text: str) -> str | None:
    """The formula or the number that ends last. Refuses text that is shaped like code."""
    if code_shaped(text):
        return None
    stripped = text.strip()
    if _is_answer(stripped):
        return stripped
    spans: list[tuple[int, str]] = []
    covered: list[tuple[int, int]] = []
    for m in _FORMULA.finditer(text):
        content = next(filter(None, m.groups()))
        if _may_be_answer(content):
            spans.append((m.end(), content.strip()))
            covered.append((m.start(), m.end()))
    for m in _NUMBER.finditer(text):
        if not any(a <= m.start() < b for a, b in covered[-50:]):
            spans.append((m.end(), m[0].replace("$", "").strip()))
    if not spans:
        return stripped if 0 < len(stripped) <= 40 and "\n" not in stripped else None
    return max(spans, key=lambda span: span[0])[1]


def _is_answer(text: str) -> bool:
    """Whether a whole response is a value and nothing else."""
    one_line = "$" not in text and "\n" not in text
    if len(text) <= 200 and not _PROSE.search(text) and re.match(r"^[-+]?[\d.\\({\[|]", text) and one_line:
        return True
    return len(text) <= 80 and (value := parse(normalise(text).text)) is not None and not value.symbols


def _may_be_answer(formula: str) -> bool:
    """Whether a formula can hold an answer: not a word among others, not a calculator's mark."""
    prose = len(_PROSE.findall(re.sub(r"\\[a-z]+\{[^{}]*\}", " ", formula)))
    if prose >= 3 or "<<" in formula:
        return False
    lone_word = re.fullmatch(r"\s*[A-Za-z]+\s*", formula) is not None
    return prose == 0 or lone_word or re.search(r"[=<>\\]", formula) is not None


def find(response: str, mode: Mode = "box", *, strip_think: bool = False) -> Found | None:
    """The answer of a response and how it was found, or None. See `extract`."""
    text = prepare(response, strip_think=strip_think)
    tail = text[-TAIL:]
    found = boxes(text)
    sentence = None
    if found or mode != "box":
        for sentence in _MINERVA.finditer(tail):  # noqa: B007 (the last one is wanted)
            pass
    if found:
        if sentence is not None and len(text) - len(tail) + sentence.start() >= found[-1].end:
            return Found(_reduce(sentence[1]), "marker")
        return _from_boxes(text, found)
    if mode == "box":
        return None
    if sentence is not None:
        return Found(_reduce(sentence[1]), "marker")
    if (answer := _marker(tail)) is not None:
        return Found(answer, "marker")
    if mode == "marker":
        return None
    answer = _anything(tail)
    return None if answer is None else Found(answer, "any")


def extract(response: str, mode: Mode = "box", *, strip_think: bool = False) -> str | None:
    r"""The answer of a response as text, or None.

    >>> extract(r"so $x = \boxed{\frac{1}{2}}$.")
    '\\frac{1}{2}'
    >>> extract("The answer is 7.", mode="marker")
    '7'
    """
    found = find(response, mode, strip_think=strip_think)
    return None if found is None else found.answer


def gold_text(gold: str) -> tuple[str, str | None]:
    r"""(answer, union of its neighbouring boxes) of a gold, which may be a worked solution with a box or `####`."""
    if "boxed" in gold or "fbox" in gold:
        text = prepare(gold)
        if found := boxes(text):
            one = _from_boxes(text, found)
            return one.answer, one.run
    if "####" in gold and (hits := _HASHES.findall(gold)):
        return hits[-1].strip(), None
    return gold, None


__all__ = ["Found", "boxes", "code_shaped", "extract", "find", "gold_text", "prepare"]
