r"""The passes that write an answer in one way, in the order in which they run.

A pass is a name, a function from text to text, a text that it changes with the result, and a text that it leaves alone. The order counts: a
pass may rely on what the passes before it have done (names of commands are those of `RENAMED` after the pass `commands`, arguments have
braces after `arguments`, every run of spaces is one space after `one space`). A new rule is a row; `tests/grading/test_passes.py` runs each
row by itself, and all of them together are checked by the tables of `tests/grading/test_equality.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import NamedTuple

from rlent.grading.braces import brace_arguments, closing, each_group, separated
from rlent.grading.vocabulary import FUNCTIONS, PLAIN_WORDS, RENAMED

Rewrite = Callable[[str], str]


class Pass(NamedTuple):
    """One rule. formula_only: left out for an answer that is words marked as text."""

    name: str
    rewrite: Rewrite
    before: str
    after: str
    kept: str
    formula_only: bool = False


def run(passes: Sequence[Pass], text: str, *, quoted: bool = False) -> str:
    """The text after all passes, in order; without those of formulas where it is quoted words."""
    for one in passes:
        if not (quoted and one.formula_only):
            text = one.rewrite(text)
    return text


def _sub(pattern: str, replacement: str | Callable[[re.Match[str]], str], flags: int = 0) -> Rewrite:
    compiled = re.compile(pattern, flags)

    def rewrite(text: str) -> str:
        return compiled.sub(replacement, text)

    return rewrite


def _replace(*pairs: tuple[str, str]) -> Rewrite:
    def rewrite(text: str) -> str:
        for old, new in pairs:
            text = text.replace(old, new)
        return text

    return rewrite


def _both(first: Rewrite, second: Rewrite) -> Rewrite:
    return lambda text: second(first(text))


def strip_end(text: str) -> str:
    """Without the spaces, full stops, commas and backslashes at the end, and stray punctuation in front."""
    text = text.strip()
    while text and (text[-1] in ".,;:\\" or text[-1].isspace()):
        text = text[:-1].rstrip()
    return text.lstrip(",;: ").strip()


# --- dress ------------------------------------------------------------------------------------------------------------

_BOLD = re.compile(r"\*\*(?=\S)(.*?)(?<=\S)\*\*$")
_TEXT = re.compile(
    r"\\(text|textbf|textit|textrm|textsf|textnormal|texttt|mathrm|mathbf|mathit|mathsf|mathtt|mbox|hbox|operatorname\*?|rm|bf|boldsymbol|bm|emph)\s*\{"
)
_JOIN = re.compile(r"^[\s,;]*(?:and|or|und|oder|et|ou)[\s,;]*$", re.IGNORECASE)
_LIST = re.compile(r"(?:[-+\d.,;/\s]|\band\b|\bor\b)+")
_INFIX = re.compile(r"\{([^{}]*)\\(choose|over)(?![A-Za-z])([^{}]*)\}")
_UNDERLINE = re.compile(r"\s*\\underline\s*\{([^{}]*)\}\s*")
_BARE_END = re.compile(r"\\text\{[\s.,;]*\}\s*$")


def _markdown(text: str) -> str:
    return _BOLD.sub(r"\1", text) if text.startswith("**") else text


def _rename(m: re.Match[str]) -> str:
    new = RENAMED.get(m[1], m[1])
    if len(new) == 1 and not new.isalpha():
        return "\\" + new if new in "{}" else new
    return "\\" + new


def _text_group(name: str, content: str) -> str:
    r"""What is left of `\text{content}`: the content where it is mathematics or a letter of a choice, else the group."""
    bare = content.strip()
    if _JOIN.match(content):
        return " , "
    if not bare or bare.isdigit():
        return bare
    if len(bare) == 1:
        return r"\text{" + bare + "}"  # a unit or a letter: the place decides
    if name.startswith("operatorname") or (name == "mathrm" and bare in FUNCTIONS):
        return "\\" + bare + " " if bare in FUNCTIONS else r"\text{" + bare + "}"
    if re.fullmatch(r"\(?[A-J]\)?", bare) or _LIST.fullmatch(bare):
        return bare
    if name in ("mathbf", "boldsymbol", "bm", "mathit") and not re.fullmatch(r"[A-Za-z]{3,}", bare):
        return bare
    return r"\text{" + content + "}"


def _unwrap_text(text: str) -> str:
    for _ in range(3):  # dress over dress: \textbf{\text{A}}
        new = each_group(text, _TEXT, _text_group)
        if new == text:
            break
        text = new
    return text


def _infix(text: str) -> str:
    if "\\choose" not in text and "\\over" not in text:
        return text
    return _INFIX.sub(lambda m: rf"\{'binom' if m[2] == 'choose' else 'frac'}{{{m[1].strip()}}}{{{m[3].strip()}}}", text)


def _underline(text: str) -> str:
    m = _UNDERLINE.fullmatch(text)
    return m[1] if m else text


def _end(text: str) -> str:
    return _BARE_END.sub("", strip_end(text))


DRESS = (
    Pass("lines", _replace(("\n", " "), ("\t", " ")), "1,\n2", "1, 2", "1, 2"),
    Pass(
        "doubled backslashes",
        _sub(r"(?<!\\)\\\\(?=(?:frac|dfrac|tfrac|sqrt|left|right|text|pi|cdot|times|boxed|infty|pm|le|ge)(?![A-Za-z]))", r"\\"),
        r"\\frac12",
        r"\frac12",
        r"1\\2",
    ),
    Pass(
        "environments of formulas",
        _sub(r"\\(?:begin|end)\{(?:equation|align|aligned|gather|gathered|displaymath|math|split)\*?\}", " "),
        r"\begin{align*}x\end{align*}",
        " x ",
        r"\begin{pmatrix}x\end{pmatrix}",
    ),
    Pass("markdown", _markdown, "**7**", "7", "2**7"),
    Pass(
        "sizes of brackets",
        _sub(r"\\(?:left|right|[bB]igg?[lrm]?|middle)(?![A-Za-z])\s*(\.(?!\d))?", ""),
        r"\left(1\right.",
        "(1",
        r"\leftarrow",
    ),
    Pass("groups with a font", _sub(r"\{\s*\\(?:rm|bf|it|sf)\s+([^{}]*)\}", r"\\text{\1}"), r"{\rm cm}", r"\text{cm}", r"\mathrm{cm}"),
    Pass(
        "font switches",
        _sub(
            r"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|boldmath)(?![A-Za-z])|\\(?:bf|rm|it|sf|tt|sl)(?![A-Za-z])(?!\s*\{)",
            " ",
        ),
        r"\bf 42",
        "  42",
        r"\bf{42}",
    ),
    Pass(
        "letters in a font",
        _sub(r"\\(mathbf|mathrm|boldsymbol)\s+([A-Za-z])(?![A-Za-z])", r"\\\1{\2}"),
        r"\mathbf v",
        r"\mathbf{v}",
        r"\mathbf{v}",
    ),
    Pass("escaped quotes", _replace(("\\'", "'")), r"f\'", "f'", "f'"),
    Pass("extrema of sets", _sub(r"\\(max|min)\s*\\\{([^{}]*)\\\}", r"\\\1(\2)"), r"\max\{a,b\}", r"\max(a,b)", r"\max(a,b)"),
    Pass("degree commands", _sub(r"\^?\s*\\degrees?(?![A-Za-z])", r"^\\circ "), r"60\degree", r"60^\circ ", r"60^\circ"),
    Pass("ampersands and colons", _replace(("\\&", " , "), ("{:}", ":")), r"1 \& 2", "1  ,  2", "1 & 2"),
    Pass(
        "sets of numbers",
        _sub(r"\\(?:mathbb|Bbb)\s*([A-Z])(?![A-Za-z])|\\([RZNQC])(?![A-Za-z])", lambda m: rf"\mathbb{{{m[1] or m[2]}}}"),
        r"\R",
        r"\mathbb{R}",
        r"\mathbb{R}",
    ),
    Pass("currency signs", _sub(r"\\\$|\\(?:euro|pounds|yen)(?![A-Za-z])|[€£¥₹]", ""), r"\$5", "5", "$5$"),
    Pass("marks of formulas", _sub(r"\$\$?|\\\(|\\\)|(?<!\\)\\\[|(?<!\\)\\\]", " "), "$5$", " 5 ", "[5]"),
    Pass(
        "what is not shown",
        _sub(r"\\(?:[hv]?phantom|hspace\*?|vspace\*?|label|tag\*?|color|textcolor)\{[^{}]*\}", " "),
        r"5\hspace{1cm}",
        "5 ",
        r"\text{5}",
    ),
    Pass(
        "two kinds of thousands",
        _sub(r"(?<!\d)\d{1,3}\{,\}\d{3}(?:(?:\{,\}|,)\d{3})*(?!\d)", lambda m: m[0].replace("{,}", "").replace(",", "")),
        "1{,}000,000",
        "1000000",
        "1,000",
    ),
    Pass(
        "thin spaces of thousands",
        _sub(r"(?<=\d)(?:,\s*\\!\s*|\{,\}(?:\\!)?\s*|(?<!\\)\\[,;:! ]|~)\s*(?=\d{3}(?!\d))", ""),
        r"11,\! 111",
        "11111",
        "32, 349",
    ),
    Pass("negative spaces", _sub(r"(?<!\\)\\!", ""), r"a\!b", "ab", r"a\\!b"),
    Pass(
        "spaces",
        _sub(
            r"(?<!\\)\\[,;:!> ]|\\q?quad|~|\\(?:thinspace|enspace|hfill|hskip|displaystyle|textstyle|limits|nolimits|strut|allowbreak|nonumber)(?![A-Za-z])",
            " ",
        ),
        r"1\quad 2",
        "1  2",
        r"1\\ 2",
    ),
    Pass("commands", _sub(r"\\([A-Za-z]+)", _rename), r"\dfrac\lvert", r"\frac|", r"\frac|"),
    Pass("text groups", _unwrap_text, r"\textbf{(B) } \mathrm{cm} \text{1 and 2}", r"(B) \text{cm} 1 and 2", r"\text{even}"),
    Pass(
        "quotients of units",
        _sub(r"\\text\{\s*([A-Za-z]+)\s*\}\s*/\s*\\text\{\s*([A-Za-z]+)\s*\}", r"\\text{\1/\2}"),
        r"5\text{m} / \text{s}",
        r"5\text{m/s}",
        r"5\text{m} s",
    ),
    Pass(
        "words before the value",
        _sub(r"^\\text\{[^{}]*(?:\b(?:is|are|equals)|:|=)\s*\}\s*:?\s*(?=[^\s])", ""),
        r"\text{The answer is }42",
        "42",
        r"\text{not }42",
    ),
    Pass("infix commands", _infix, r"{5 \choose 2}", r"\binom{5}{2}", r"\binom{5}{2}"),
    Pass("underline", _underline, r"\underline{7}", "7", r"\underline{7} + 1"),
    Pass(
        "operators of programs",
        _replace(("**", "^"), ("<=", r"\le "), (">=", r"\ge "), ("!=", r"\ne "), ("==", "=")),
        "x**2<=4",
        r"x^2\le 4",
        "x^2<4",
    ),
    Pass("stars", _both(_sub(r"(\d)\s*\*\s*(?=\d)", r"\1\\cdot "), _replace(("*", r"\cdot "))), "2 * 3*x", r"2\cdot 3\cdot x", r"2\cdot 3"),
    Pass("not equal", _sub(r"\\not\s*=", r"\\ne "), r"x\not= 1", r"x\ne  1", r"x\notin A"),
    Pass("a relation sign in front", _sub(r"^\s*(?:=|\\approx(?![A-Za-z]))\s*", ""), r"\approx 8.24", "8.24", r"x \approx 8.24"),
    Pass("end", _end, r"42\text{.}", "42", "0.5"),
    Pass(
        "differences of sets",
        _sub(r"(\\mathbb\{[A-Z]\})\s*-\s*(?=\\\{)", r"\1\\setminus "),
        r"\mathbb{R} - \{1\}",
        r"\mathbb{R}\setminus \{1\}",
        "R - 1",
    ),
    Pass("ratios in words", _sub(r"^(\d+)\s+to\s+(\d+)$", r"\1:\2"), "1 to 2", "1:2", "1 to x"),
    Pass("end again", strip_end, " 42., ", "42", "4.2"),
)
"""What has no meaning, and the many spellings of what has one. Runs first."""

# --- degrees ----------------------------------------------------------------------------------------------------------

_TRIGONOMETRIC = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_LAST_DEGREES = re.compile(r"\^\s*\{?\s*\\circ\s*\}?\s*(?:C|F|\\text\{\s*[CF]\s*\})?\s*$")


def _last_degrees(text: str) -> str:
    return text if _TRIGONOMETRIC.search(text) else _LAST_DEGREES.sub("", text).strip()


DEGREES = (
    Pass("degrees as text", _sub(r"\\text\{\s*(?:degrees?|deg)\s*\}", r"^\\circ "), r"60\text{ degrees}", r"60^\circ ", r"\text{a degree}"),
    Pass(
        "degrees in words",
        _sub(r"(?<=\d)\s*degrees?(?:\s+(?:Celsius|Fahrenheit|centigrade|C|F))?\b", r"^\\circ ", re.IGNORECASE),
        "5 degrees Celsius",
        r"5^\circ ",
        "degree 5",
    ),
    Pass("degrees at the end", _last_degrees, r"90^\circ", "90", r"\tan 30^\circ"),
)
"""Runs between the percent sign and the unit."""

# --- the value --------------------------------------------------------------------------------------------------------

_SCIENTIFIC = re.compile(r"([-+]?[\d.]+)[eE]([-+]?\d{1,3})")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d])(?!,\d)")
_SCRIPT = re.compile(r"([_^])\s*(-?\d+|[A-Za-z])(?![\d}])")
_ZEROS = re.compile(r"(?<![\d.\w])0+(?=\d)")
_FUNCTION = "|".join(FUNCTIONS)
_WORD = "|".join(PLAIN_WORDS)


def _scientific(text: str) -> str:
    m = _SCIENTIFIC.fullmatch(text)
    return rf"{m[1]}\times 10^{{{m[2].lstrip('+')}}}" if m else text


def _repeating(m: re.Match[str]) -> str:
    head, fixed, period = m[1] or "0", m[2], m[3] or m[4]
    value = Fraction(int(head + fixed or "0"), 10 ** len(fixed)) + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def _bracket_depths(text: str) -> list[int]:
    depth, depths = 0, []
    for i, ch in enumerate(text):
        escaped = i > 0 and text[i - 1] == "\\"
        if ch in "([" or (ch == "{" and escaped):
            depth += 1
        elif ch in ")]" or (ch == "}" and escaped):
            depth = max(0, depth - 1)
        depths.append(depth)
    return depths


def _thousands(text: str) -> str:
    """Outside brackets only: inside a tuple or set the comma separates."""
    if not _THOUSANDS.search(text):
        return text
    depths = _bracket_depths(text)

    def join(m: re.Match[str]) -> str:
        return m[0] if depths[m.start()] else m[0].replace(",", "").replace(" ", "")

    return _THOUSANDS.sub(join, text)


def _brace_scripts(text: str) -> str:
    return _SCRIPT.sub(r"\1{\2}", text) if "_" in text or "^" in text else text


def _leading_zeros(text: str) -> str:
    return text if re.search(r"\d_\{", text) else _ZEROS.sub("", text)  # digits of another base keep theirs


def _outer_braces(text: str) -> str:
    while text.startswith("{") and closing(text, 0) == len(text) - 1 and not separated(text[1:-1]):
        text = text[1:-1].strip()
    return text


VALUE = (
    Pass("letters as text", _both(_sub(r"\\text\{([A-Za-z])\}", r" \1 "), str.strip), r"\text{C}", "C", r"\text{cm}"),
    Pass("exponents of programs", _scientific, "1.5e3", r"1.5\times 10^{3}", "2e"),
    Pass(
        "repeating decimals",
        _sub(r"(\d{0,20})\.(\d{0,20})\\(?:overline|bar|dot)\s*(?:\{\s*(\d{1,20})\s*\}|(\d))", _repeating),
        r"0.1\overline{6}",
        r"\frac{1}{6}",
        r"\overline{AB}",
    ),
    Pass("residues", _sub(r"\\pmod\s*\{?\s*(\w+)\s*\}?", r"\\pmod{\1}"), r"3 \pmod 7", r"3 \pmod{7}", r"3 \bmod 7"),
    Pass(
        "words that separate",
        _sub(r"(?<![\\A-Za-z])(?:,\s*)?(?:and|or)(?![A-Za-z])", " , "),
        "1 and 2",
        "1  ,  2",
        "band",
        formula_only=True,
    ),
)
"""Runs when unit and percent sign are taken off."""

THOUSANDS = Pass("thousands", _thousands, "1,234", "1234", "(1,234)")
DECIMAL_COMMA = Pass("decimal comma", _sub(r"(?<=\d),(?=\d)", "."), "3,5", "3.5", "3, 5")
"""One of the two runs after `VALUE`, as the policy has it."""

SPELLING = (
    Pass("arguments", brace_arguments, r"\frac12 + sqrt(3)", r"\frac{1}{2} + \sqrt{3}", r"\frac{1}{2}"),
    Pass(
        "functions without a backslash",
        _sub(r"(?<![\\A-Za-z])(" + _FUNCTION + r")(?=\s*[\(\^_]|\s+[A-Za-z0-9\\]|\\)", r"\\\1 "),
        "sin x",
        r"\sin  x",
        "cosine",
        formula_only=True,
    ),
    Pass(
        "words of constants",
        _sub(r"(?<![\\A-Za-z])(" + _WORD + r")(?![A-Za-z])", lambda m: PLAIN_WORDS[m[1]]),
        "2pi",
        r"2\pi ",
        "pint",
        formula_only=True,
    ),
    Pass(
        "subscripts of text in braces",
        _sub(r"_\s*\{\s*\\text\{\s*([A-Za-z0-9 ]+?)\s*\}\s*\}", r"_{\1}"),
        r"a_{\text{max}}",
        "a_{max}",
        "a_{1}",
    ),
    Pass("subscripts of text", _sub(r"_\s*\\text\{\s*([A-Za-z0-9 ]+?)\s*\}", r"_{\1}"), r"a_\text{max}", "a_{max}", r"a\text{max}"),
    Pass("spaces of subscripts", _sub(r"_\s*\{\s*([A-Za-z0-9]+)\s*\}", r"_{\1}"), "a_ { 1 }", "a_{1}", "a_{1 2}"),
    Pass("mixed numbers", _sub(r"^([-+]?\s*\d+)\s+(\d+)\s*/\s*(\d+)$", r"\1\\frac{\2}{\3}"), "1 1/2", r"1\frac{1}{2}", "1/2"),
    Pass("extrema as subscripts", _sub(r"_\s*\{?\\(max|min)\s*\}?", r"_{\1}"), r"a_{\max}", "a_{max}", r"\max a"),
    Pass("braces of scripts", _brace_scripts, "x^2_a", "x^{2}_{a}", "x^{2}"),
    Pass("order of scripts", _sub(r"\^\s*(\{[^{}]*\}|\w)\s*_\s*(\{[^{}]*\}|\w)", r"_\2^\1"), "x^{2}_{a}", "x_{a}^{2}", "x_{a}^{2}"),
    Pass("leading zeros", _leading_zeros, "042", "42", "0.42"),
    Pass("zero before the point", _sub(r"(?<![\d.])\.(?=\d)", "0."), ".5", "0.5", "1.5"),
    Pass("a plus in front", _both(str.strip, _sub(r"^\+\s*(?=[\d\\.])", "")), "+42", "42", "+x"),
    Pass("one space", _both(_sub(r"\s+", " "), str.strip), "1  +  2 ", "1 + 2", "1 + 2"),
    Pass("outer braces", _outer_braces, "{{42}}", "42", "{1, 2}"),
)
"""Runs last: LaTeX as the parsers read it."""

ALL = (*DRESS, *DEGREES, *VALUE, THOUSANDS, DECIMAL_COMMA, *SPELLING)
