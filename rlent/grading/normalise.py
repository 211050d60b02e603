r"""One way to write an answer.

`prepare` cleans a whole response, `normalise` rewrites one extracted answer. Both are linear in the length of the
text and use no parser. The result is LaTeX with the dress taken off: `$\dfrac12$`, `\frac{1}{2}` and
`\left.\frac 1 2\right.` all become `\frac{1}{2}`. Rules follow section "Normalisation" that MATH graders share
(Hendrycks et al. 2021, `math_equivalence`; Lewkowycz et al. 2022, Minerva, appendix D.1), with these differences: an
ambiguous comma is a separator, percent and units are kept as facts beside the text instead of being lost, and a base
subscript is part of the number.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

MAX_ANSWER = 4096  # characters of an answer that is worth more than a string comparison

_END_OF_TURN = re.compile(
    r"<\|(?:im_end|endoftext|eot_id|end_of_text|end|return|eom_id)\|>|</s>|<end_of_turn>|<eos>|<｜end▁of▁sentence｜>|<｜User｜>"
)
_START_OF_TURN = re.compile(r"<\|(?:im_start|start_header_id)\|>|<start_of_turn>")

_UNICODE = {
    "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "＋": "+",
    "×": r"\times ", "✕": r"\times ", "⋅": r"\cdot ", "·": r"\cdot ", "∙": r"\cdot ", "÷": r"\div ", "∕": "/", "⁄": "/",
    "π": r"\pi ", "√": r"\sqrt ", "∛": r"\sqrt[3]", "°": r"^\circ ", "º": r"^\circ ", "∞": r"\infty ", "±": r"\pm ", "∓": r"\mp ",
    "≤": r"\le ", "⩽": r"\le ", "≥": r"\ge ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv ", "∈": r"\in ",
    "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∖": r"\setminus ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℚ": r"\mathbb{Q}",
    "ℕ": r"\mathbb{N}", "ℂ": r"\mathbb{C}", "⟨": r"\langle ", "⟩": r"\rangle ", "∠": r"\angle ", "△": r"\triangle ",
    "…": r"\ldots ", "′": "'", "’": "'", "％": "%", "，": ",", "（": "(", "）": ")", "：": ":", "；": ";", "＝": "=",
    "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "ε": r"\epsilon ", "θ": r"\theta ", "λ": r"\lambda ",
    "μ": r"\mu ", "ρ": r"\rho ", "σ": r"\sigma ", "τ": r"\tau ", "φ": r"\phi ", "ω": r"\omega ", "Δ": r"\Delta ", "Ω": r"\Omega ",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}", "⅔": r"\frac{2}{3}",
}  # fmt: skip
_SUPERSCRIPT = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ", "0123456789-+n")
_SUBSCRIPT = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
_UNICODE_RE = re.compile("|".join(map(re.escape, _UNICODE)))


_ODD_ASCII = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def _printable_character(m: re.Match[str]) -> str:
    kind = unicodedata.category(m[0])
    if kind in ("Zs", "Zl", "Zp"):
        return " "
    return "" if kind in ("Cc", "Cf", "Cs", "Co", "Cn") else m[0]


def printable(text: str) -> str:
    """Without control characters, lone surrogates and zero-width characters; every kind of space is a space."""
    text = _ODD_ASCII.sub("", text)
    return text if text.isascii() else _NOT_ASCII.sub(_printable_character, text)


def to_latex(text: str) -> str:
    """Unicode mathematics as LaTeX; digits of other scripts as ASCII digits."""
    if text.isascii():
        return text
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ]+", lambda m: "^{" + m[0].translate(_SUPERSCRIPT) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉]+", lambda m: "_{" + m[0].translate(_SUBSCRIPT) + "}", text)
    text = re.sub(r"√\s*(\d+(?:\.\d+)?|[A-Za-zπ])", r"\\sqrt{\1}", text)
    text = _UNICODE_RE.sub(lambda m: _UNICODE[m[0]], text)
    return "".join(str(unicodedata.decimal(ch)) if not ch.isascii() and unicodedata.decimal(ch, None) is not None else ch for ch in text)


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


# --- braces ---------------------------------------------------------------------------------------------------------


def closing(text: str, start: int) -> int:
    """Index of the brace that closes the one at `start`, or -1. `\\{` and `\\}` are not braces."""
    depth, i = 0, start
    while i < len(text):
        ch = text[i]
        if ch == "\\":
            i += 2
            continue
        if ch == "{":
            depth += 1
        elif ch == "}":
            depth -= 1
            if depth == 0:
                return i
        i += 1
    return -1


def _each_group(text: str, command: re.Pattern[str], rewrite) -> str:  # type: ignore[no-untyped-def]
    """Replace `\\command{content}` by rewrite(name, content), left to right; unbalanced groups stay."""
    out, at = [], 0
    for m in command.finditer(text):
        if m.start() < at:
            continue
        end = closing(text, m.end() - 1)
        if end < 0:
            break
        out.append(text[at : m.start()])
        out.append(rewrite(m[1], text[m.end() : end]))
        at = end + 1
    out.append(text[at:])
    return "".join(out)


# --- one answer -----------------------------------------------------------------------------------------------------

_SPACES = re.compile(
    r"(?<!\\)\\[,;:!> ]|\\q?quad|~|\\(?:thinspace|enspace|hfill|hskip|displaystyle|textstyle|limits|nolimits|strut|allowbreak|nonumber)(?![A-Za-z])"
)
_THIN_GROUP = re.compile(r"(?<=\d)(?:,\s*\\!\s*|\{,\}(?:\\!)?\s*|(?<!\\)\\[,;:! ]|~)\s*(?=\d{3}(?!\d))")
_SIZES = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|middle)(?![A-Za-z])\s*(\.(?!\d))?")
_FONT = re.compile(
    r"\\(?:tiny|small|normalsize|large|Large|LARGE|huge|Huge|boldmath)(?![A-Za-z])|\\(?:bf|rm|it|sf|tt|sl)(?![A-Za-z])(?!\s*\{)"
)
_FONT_GROUP = re.compile(r"\{\s*\\(?:rm|bf|it|sf)\s+([^{}]*)\}")
_MIXED_GROUPS = re.compile(r"(?<!\d)\d{1,3}\{,\}\d{3}(?:(?:\{,\}|,)\d{3})*(?!\d)")
_INFIX = re.compile(r"\{([^{}]*)\\(choose|over)(?![A-Za-z])([^{}]*)\}")
_CURRENCY = re.compile(r"^(?:US|USD|EUR|GBP|INR|Rs\.?)\s*(?=\d)")
_UNIT_QUOTIENT = re.compile(r"\\text\{\s*([A-Za-z]+)\s*\}\s*/\s*\\text\{\s*([A-Za-z]+)\s*\}")
_LEAD = re.compile(r"^\\text\{[^{}]*(?:\b(?:is|are|equals)|:|=)\s*\}\s*:?\s*(?=[^\s])")
_PHANTOM = re.compile(r"\\(?:[hv]?phantom|hspace\*?|vspace\*?|label|tag\*?|color|textcolor)\{[^{}]*\}")
_RENAME = {
    "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "dbinom": "binom", "tbinom": "binom", "leq": "le", "geq": "ge", "neq": "ne",
    "leqslant": "le", "geqslant": "ge", "lt": "<", "gt": ">", "lbrace": "{", "rbrace": "}", "lbrack": "[", "rbrack": "]",
    "lvert": "|", "rvert": "|", "vert": "|", "mid": "|", "ast": "cdot", "colon": ":", "varnothing": "emptyset",
    "dots": "ldots", "cdots": "ldots", "dotsc": "ldots", "dotsb": "ldots", "land": "wedge", "lor": "vee", "to": "to", "rightarrow": "to",
    "lg": "log", "isin": "in", "arctg": "arctan", "tg": "tan", "ctg": "cot", "cosec": "csc", "infin": "infty", "backslash": "setminus", "simeq": "approx",
}  # fmt: skip
_TEXT = re.compile(
    r"\\(text|textbf|textit|textrm|textsf|textnormal|texttt|mathrm|mathbf|mathit|mathsf|mathtt|mbox|hbox|operatorname\*?|rm|bf|boldsymbol|bm|emph)\s*\{"
)
_FUNCTIONS = (
    "arcsin",
    "arccos",
    "arctan",
    "arccot",
    "sinh",
    "cosh",
    "tanh",
    "sin",
    "cos",
    "tan",
    "cot",
    "sec",
    "csc",
    "log",
    "ln",
    "exp",
    "max",
    "min",
    "gcd",
    "lcm",
    "det",
)
_PLAIN_FUNCTION = re.compile(r"(?<![\\A-Za-z])(" + "|".join(_FUNCTIONS) + r")(?=\s*[\(\^_]|\s+[A-Za-z0-9\\]|\\)")
_PLAIN_WORDS = {
    "pi": r"\pi ",
    "infinity": r"\infty ",
    "infty": r"\infty ",
    "inf": r"\infty ",
    "oo": r"\infty ",
    "theta": r"\theta ",
    "alpha": r"\alpha ",
    "beta": r"\beta ",
}
_PLAIN_WORD_RE = re.compile(r"(?<![\\A-Za-z])(" + "|".join(_PLAIN_WORDS) + r")(?![A-Za-z])")
_JOIN = re.compile(r"^[\s,;]*(?:and|or|und|oder|et|ou)[\s,;]*$", re.IGNORECASE)
_SEPARATOR_WORD = re.compile(r"(?<![\\A-Za-z])(?:,\s*)?(?:and|or)(?![A-Za-z])")
_PERCENT = re.compile(r"(?:\\?%|(?<![A-Za-z])(?:percentage(?:\s+points?)?|percent|per\s?cent|pct)\b\.?)\s*$", re.IGNORECASE)
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:(?:,\d{3})+|(?: \d{3})+)(?![\d])(?!,\d)")
_NUMBER_WORDS = {
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "twelve": 12,
    "sixteen": 16,
}
_SCALE = {"dozen": 12, "hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_UNITS: dict[str, tuple[str, Fraction]] = {}
for _dimension, _table in {
    "length": "mm .001 millimeter .001 millimetre .001 cm .01 centimeter .01 centimetre .01 dm .1 m 1 meter 1 metre 1 km 1000 kilometer 1000 kilometre 1000 "
    "in .0254 inch .0254 inche .0254 ft .3048 foot .3048 feet .3048 yd .9144 yard .9144 mi 1609.344 mile 1609.344",
    "mass": "mg .000001 milligram .000001 g .001 gram .001 kg 1 kilogram 1",
    "time": "ms .001 s 1 sec 1 second 1 min 60 minute 60 h 3600 hr 3600 hour 3600 day 86400 week 604800",
    "money": "cent .01 dollar 1",
}.items():
    _cells = _table.split()
    _UNITS.update({name: (_dimension, Fraction(factor)) for name, factor in zip(_cells[::2], _cells[1::2], strict=True)})
_OTHER_UNITS = set(
    "degree deg radian rad liter litre l ml gallon gal quart pint ounce oz lb pound ton mph kph kmh kmph hz khz mhz newton n joule j kj watt w kw "
    "volt v amp ampere a ohm pascal pa kpa kelvin k celsius mol mole unit sq square cubic year month yuan euro rupee usd people person student way point "
    "piece apple book card coin ball bps bit byte ev mev gev coulomb c tesla t weber henry farad cal kcal calorie rpm items item times time per".split()
)
_NAMED = {
    "infinity": r"\infty", "positive infinity": r"\infty", "negative infinity": r"-\infty", "empty set": r"\emptyset",
    "the empty set": r"\emptyset", "all real numbers": r"\mathbb{R}", "all reals": r"\mathbb{R}", "the real numbers": r"\mathbb{R}",
}  # fmt: skip
_NOT_UNITS = set(
    "and or if when for not to mod base where otherwise none all except at least most more less than between from in is are no yes true false "
    "undefined infinite infinity impossible only over up with wrong i e any both neither nor but".split()
)
_TRAILING_TEXT = re.compile(r"\\text\{([^{}]*)\}\s*(?:\^\s*(?:\{\s*(-?\d)\s*\}|(\d)))?\s*\.?\s*$")
_POWER = re.compile(r"\^\s*(?:\{\s*(-?\d)\s*\}|(\d))\s*$")
_VALUE_COMMANDS = re.compile(r"\\(?:frac|times|cdot|pi|sqrt)(?![A-Za-z])")


@dataclass(frozen=True, slots=True)
class Form:
    """An answer in one spelling.

    text: LaTeX without dress. compact: the same without spaces; equal compact forms are equal answers. words: the text
    case-folded when the answer is words and not mathematics, else empty. percent: it carried a percent sign.
    unit: (dimension, factor, power) of a known unit, else None. quoted: the words were marked as text.
    """

    text: str
    compact: str
    words: str = ""
    percent: bool = False
    unit: tuple[str, Fraction, int] | None = None
    quoted: bool = False


def _text_group(name: str, content: str) -> str:
    bare = content.strip()
    if _JOIN.match(content):
        return " , "
    if not bare or bare.isdigit():
        return bare
    if len(bare) == 1:
        return r"\text{" + bare + "}"  # a unit or a letter: the place decides
    if name.startswith("operatorname") or (name == "mathrm" and bare in _FUNCTIONS):
        return "\\" + bare + " " if bare in _FUNCTIONS else r"\text{" + bare + "}"
    if re.fullmatch(r"\(?[A-J]\)?", bare):
        return bare
    if re.fullmatch(r"(?:[-+\d.,;/\s]|\band\b|\bor\b)+", bare):
        return bare
    if name in ("mathbf", "boldsymbol", "bm", "mathit") and not re.fullmatch(r"[A-Za-z]{3,}", bare):
        return bare
    return r"\text{" + content + "}"


def _unwrap_text(text: str) -> str:
    for _ in range(3):  # dress over dress: \textbf{\text{A}}
        new = _each_group(text, _TEXT, _text_group)
        if new == text:
            break
        text = new
    return text


def _brace_arguments(text: str) -> str:
    r"""`\frac12` to `\frac{1}{2}`, `\sqrt3` to `\sqrt{3}`, `\sqrt(3)` and `sqrt(3)` to `\sqrt{3}`."""
    text = re.sub(r"(?<![\\A-Za-z])sqrt\s*(?=[\(\{])", r"\\sqrt", text)
    text = re.sub(r"(?<![\\A-Za-z])sqrt(?=\d)", r"\\sqrt", text)
    out, i = [], 0
    for m in re.finditer(r"\\(frac|sqrt|binom)(?![A-Za-z])", text):
        if m.start() < i:
            continue
        out.append(text[i : m.start()])
        out.append(m[0])
        i = m.end()
        if m[1] == "sqrt":
            while i < len(text) and text[i] == " ":
                i += 1
            if i < len(text) and text[i] == "[":
                end = text.find("]", i)
                if end > 0:
                    out.append(text[i : end + 1])
                    i = end + 1
            if i < len(text) and text[i] == "(":
                end = _closing_paren(text, i)
                if end > 0:
                    out.append("{" + _brace_arguments(text[i + 1 : end]) + "}")
                    i = end + 1
                    continue
        for _ in range(1 if m[1] == "sqrt" else 2):
            while i < len(text) and text[i] == " ":
                i += 1
            if i >= len(text) or text[i] in "{}^_&)":
                if i < len(text) and text[i] == "{":
                    end = closing(text, i)
                    if end > 0 and m[1] != "sqrt":
                        out.append("{" + _brace_arguments(text[i + 1 : end]) + "}")
                        i = end + 1
                        continue
                break
            token = re.compile(r"\\[A-Za-z]+|.").match(text, i)
            if token is None or token[0] in ("\\frac", "\\sqrt", "\\binom"):
                break
            out.append("{" + token[0] + "}")
            i = token.end()
    out.append(text[i:])
    return "".join(out)


def _closing_paren(text: str, start: int) -> int:
    depth = 0
    for i in range(start, len(text)):
        if text[i] == "(":
            depth += 1
        elif text[i] == ")":
            depth -= 1
            if depth == 0:
                return i
    return -1


def _thousands(text: str) -> str:
    """`1,234` to `1234`, outside brackets only: inside a tuple or set the comma separates."""
    if not _THOUSANDS.search(text):
        return text
    depth, depths = 0, []
    for i, ch in enumerate(text):
        escaped = i > 0 and text[i - 1] == "\\"
        if ch in "([" or (ch == "{" and escaped):
            depth += 1
        elif ch in ")]" or (ch == "}" and escaped):
            depth = max(0, depth - 1)
        depths.append(depth)

    def join(m: re.Match[str]) -> str:
        return m[0] if depths[m.start()] else m[0].replace(",", "").replace(" ", "")

    return _THOUSANDS.sub(join, text)


def _unit_word(word: str) -> str:
    word = word.strip(" .").lower()
    if word in _UNITS or word in _OTHER_UNITS:
        return word
    return word[:-1] if word.endswith("s") and len(word) > 2 else word


def _is_value(text: str) -> bool:
    """A number or a product, quotient or root of numbers: something that can carry a unit."""
    bare = _VALUE_COMMANDS.sub("", text)
    return any(ch.isdigit() for ch in bare) and all(ch in "0123456789.,{}()+-*/^[] " for ch in bare)


def _trailing_words(text: str) -> tuple[str, str, int]:
    """(head, words, power) of `12 square cm^2`; words may be empty."""
    text = text.rstrip(" .")
    power = 1
    if m := _POWER.search(text):
        head = text[: m.start()].rstrip()
        if head and head[-1].isalpha():
            text, power = head, int(m[1] or m[2])
    at = len(text)
    while at and (text[at - 1].isascii() and (text[at - 1].isalpha() or text[at - 1] in " /.")):
        at -= 1
    if at and text[at - 1] == "\\":  # the words are a command
        return text, "", 1
    return text[:at], text[at:].strip(), power


def _drop_unit(text: str) -> tuple[str, tuple[str, Fraction, int] | None]:
    """A number without the unit after it, and the unit when it is one that can be converted."""
    if quoted := _TRAILING_TEXT.search(text):
        head, words, power = text[: quoted.start()].rstrip(), quoted[1].strip(), int(quoted[2] or quoted[3] or 1)
    else:
        head, words, power = _trailing_words(text)
    head = head.rstrip("\\").rstrip()
    if not words or not _is_value(head) or re.search(r"\d", re.sub(r"[A-Za-z]\^?\{?-?[1-4]\}?", "", words)):
        return text, None
    if (clock := words.replace(".", "").replace(" ", "").lower()) in ("am", "pm"):
        return head, (clock, Fraction(1), 1)
    parts = [w for w in re.split(r"[\s/.^\d{}()-]+", words) if w]
    if not parts or any(w.lower() in _NUMBER_WORDS for w in parts):
        return text, None
    if any(w.lower() in _NOT_UNITS for w in parts) and parts != ["in"]:
        return text, None
    if parts[0].lower() in _SCALE and len(parts) == 1:
        return rf"{head}\cdot {_SCALE[parts[0].lower()]}", None
    if any(w.lower() in _SCALE for w in parts):
        return text, None
    known = [_unit_word(w) for w in parts]
    if not quoted:
        listed = all(w in _UNITS or w in _OTHER_UNITS for w in known)
        speed = listed and len(parts) == 2 and "/" in words and (max(map(len, parts)) > 1 or parts == ["m", "s"])
        if not (listed and all(len(w) > 1 for w in parts)) and not all(len(w) >= 3 for w in parts) and not speed:
            return text, None
        if any(w in _FUNCTIONS or w in _PLAIN_WORDS or w == "sqrt" for w in parts):
            return text, None
    if known[0] in ("sq", "square", "cubic") and len(known) == 2:
        power, known = (3 if known[0] == "cubic" else 2), known[1:]
    if len(known) == 1 and known[0] in _UNITS and "/" not in words:
        return head, (*_UNITS[known[0]], power)
    return head, None


_TRIG = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_REPEATING = re.compile(r"(\d{0,20})\.(\d{0,20})\\(?:overline|bar|dot)\s*(?:\{\s*(\d{1,20})\s*\}|(\d))")


def _repeating(m: re.Match[str]) -> str:
    r"""`0.1\overline{6}` as an exact fraction."""
    head, fixed, period = m[1] or "0", m[2], m[3] or m[4]
    value = Fraction(int(head + fixed or "0"), 10 ** len(fixed)) + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


_BASE = re.compile(r"^(-?[0-9A-F.]+)_\{?\(?(?:base)?(\d+|[a-z]+)\)?\}?$")


@lru_cache(maxsize=16384)
def normalise(text: str, decimal_comma: bool = False) -> Form:
    """The one spelling of an answer. Cached: golds and the answers of a group come again and again."""
    text = to_latex(printable(text)).strip()
    text = text.replace("\n", " ").replace("\t", " ")
    text = re.sub(r"(?<!\\)\\\\(?=(?:frac|dfrac|tfrac|sqrt|left|right|text|pi|cdot|times|boxed|infty|pm|le|ge)(?![A-Za-z]))", r"\\", text)
    text = re.sub(r"\\(?:begin|end)\{(?:equation|align|aligned|gather|gathered|displaymath|math|split)\*?\}", " ", text)
    text = re.sub(r"\*\*(?=\S)(.*?)(?<=\S)\*\*$", r"\1", text) if text.startswith("**") else text
    text = _SIZES.sub("", text)
    text = _FONT.sub(" ", _FONT_GROUP.sub(r"\\text{\1}", text))
    text = re.sub(r"\\(mathbf|mathrm|boldsymbol)\s+([A-Za-z])(?![A-Za-z])", r"\\\1{\2}", text).replace("\\'", "'")
    text = re.sub(r"\\(max|min)\s*\\\{([^{}]*)\\\}", r"\\\1(\2)", text)
    text = re.sub(r"\^?\s*\\degrees?(?![A-Za-z])", r"^\\circ ", text).replace("\\&", " , ").replace("{:}", ":")
    text = re.sub(r"\\(?:mathbb|Bbb)\s*([A-Z])(?![A-Za-z])|\\([RZNQC])(?![A-Za-z])", lambda m: rf"\mathbb{{{m[1] or m[2]}}}", text)
    text = re.sub(r"\\\$|\\(?:euro|pounds|yen)(?![A-Za-z])|[€£¥₹]", "", text)
    text = re.sub(r"\$\$?|\\\(|\\\)|(?<!\\)\\\[|(?<!\\)\\\]", " ", text)
    text = _PHANTOM.sub(" ", text)
    text = _MIXED_GROUPS.sub(lambda m: m[0].replace("{,}", "").replace(",", ""), text)
    text = _THIN_GROUP.sub("", text)
    text = re.sub(r"(?<!\\)\\!", "", text)
    text = _SPACES.sub(" ", text)
    text = re.sub(r"\\([A-Za-z]+)", lambda m: _rename(m[1]), text)
    text = _unwrap_text(text)
    text = _UNIT_QUOTIENT.sub(r"\\text{\1/\2}", text)
    text = _LEAD.sub("", text)
    if "\\choose" in text or "\\over" in text:
        text = _INFIX.sub(lambda m: rf"\{'binom' if m[2] == 'choose' else 'frac'}{{{m[1].strip()}}}{{{m[3].strip()}}}", text)
    if m := re.fullmatch(r"\s*\\underline\s*\{([^{}]*)\}\s*", text):
        text = m[1]
    text = text.replace("**", "^").replace("<=", r"\le ").replace(">=", r"\ge ").replace("!=", r"\ne ").replace("==", "=")
    text = re.sub(r"(\d)\s*\*\s*(?=\d)", r"\1\\cdot ", text).replace("*", r"\cdot ")
    text = re.sub(r"\\not\s*=", r"\\ne ", text)
    text = re.sub(r"^\s*(?:=|\\approx(?![A-Za-z]))\s*", "", text)
    text = re.sub(r"\\text\{[\s.,;]*\}\s*$", "", _strip_end(text))
    text = re.sub(r"(\\mathbb\{[A-Z]\})\s*-\s*(?=\\\{)", r"\1\\setminus ", text)
    text = re.sub(r"^(\d+)\s+to\s+(\d+)$", r"\1:\2", text)
    text = _strip_end(text)

    quoted = False
    if (m := re.fullmatch(r"\\text\{([^{}]*)\}", text)) is not None:
        text, quoted = m[1].strip(), True
        text = _strip_end(text)
    if named := _NAMED.get(text.casefold()):
        text, quoted = named, False
    text = _CURRENCY.sub("", text)

    percent = False
    if m := re.search(r"\\text\{\s*(?:percent|per cent|percentage|%)\s*\}\s*$", text):
        text, percent = text[: m.start()].rstrip(), True
    elif (m := _PERCENT.search(text)) and m.start() > 0:
        text, percent = text[: m.start()].rstrip(), True
    if percent:
        text = _strip_end(text)

    text = re.sub(r"\\text\{\s*(?:degrees?|deg)\s*\}", r"^\\circ ", text)
    text = re.sub(r"(?<=\d)\s*degrees?(?:\s+(?:Celsius|Fahrenheit|centigrade|C|F))?\b", r"^\\circ ", text, flags=re.IGNORECASE)
    if not _TRIG.search(text):
        text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?\s*(?:C|F|\\text\{\s*[CF]\s*\})?\s*$", "", text).strip()
    text, unit = _drop_unit(text)
    text = re.sub(r"\\text\{([A-Za-z])\}", r" \1 ", text).strip()
    if m := re.fullmatch(r"([-+]?[\d.]+)[eE]([-+]?\d{1,3})", text):
        text = rf"{m[1]}\times 10^{{{m[2].lstrip('+')}}}"
    text = _REPEATING.sub(_repeating, text)
    text = re.sub(r"\\pmod\s*\{?\s*(\w+)\s*\}?", r"\\pmod{\1}", text)
    text = _SEPARATOR_WORD.sub(" , ", text) if not quoted else text
    if decimal_comma:
        text = re.sub(r"(?<=\d),(?=\d)", ".", text)
    else:
        text = _thousands(text)
    text = _brace_arguments(text)
    text = _PLAIN_FUNCTION.sub(r"\\\1 ", text) if not quoted else text
    text = _PLAIN_WORD_RE.sub(lambda m: _PLAIN_WORDS[m[1]], text) if not quoted else text
    text = re.sub(r"_\s*\{\s*\\text\{\s*([A-Za-z0-9 ]+?)\s*\}\s*\}", r"_{\1}", text)
    text = re.sub(r"_\s*\\text\{\s*([A-Za-z0-9 ]+?)\s*\}", r"_{\1}", text)
    text = re.sub(r"_\s*\{\s*([A-Za-z0-9]+)\s*\}", r"_{\1}", text)
    text = re.sub(r"^([-+]?\s*\d+)\s+(\d+)\s*/\s*(\d+)$", r"\1\\frac{\2}{\3}", text)
    text = re.sub(r"_\s*\{?\\(max|min)\s*\}?", r"_{\1}", text)
    text = re.sub(r"([_^])\s*(-?\d+|[A-Za-z])(?![\d}])", r"\1{\2}", text) if "_" in text or "^" in text else text
    text = re.sub(r"\^\s*(\{[^{}]*\}|\w)\s*_\s*(\{[^{}]*\}|\w)", r"_\2^\1", text)
    text = re.sub(r"(?<![\d.\w])0+(?=\d)", "", text) if not re.search(r"\d_\{", text) else text
    text = re.sub(r"(?<![\d.])\.(?=\d)", "0.", text)
    text = re.sub(r"^\+\s*(?=[\d\\.])", "", text.strip())
    text = re.sub(r"\s+", " ", text).strip()
    while text.startswith("{") and closing(text, 0) == len(text) - 1 and not _top_comma(text[1:-1]):
        text = text[1:-1].strip()
    plain = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
    words = _words(plain, quoted or r"\text{" in text)
    compact = re.sub(r"(?<!\d)\s+|\s+(?!\d)", "", re.sub(r"\s+", " ", plain))
    compact = re.sub(r"([_^])\{([A-Za-z0-9])\}", r"\1\2", compact)
    return Form(text, compact, words, percent, unit, quoted)


def _rename(name: str) -> str:
    new = _RENAME.get(name, name)
    if len(new) == 1 and not new.isalpha():
        return "\\" + new if new in "{}" else new
    return "\\" + new


def _strip_end(text: str) -> str:
    """Without the spaces, full stops, commas and backslashes at the end, and stray punctuation in front."""
    text = text.strip()
    while text and (text[-1] in ".,;:\\" or text[-1].isspace()):
        text = text[:-1].rstrip()
    return text.lstrip(",;: ").strip()


def _top_comma(text: str) -> bool:
    depth = 0
    for ch in text:
        if ch in "([{":
            depth += 1
        elif ch in ")]}":
            depth -= 1
        elif ch in ",;" and depth == 0:
            return True
    return False


def _words(text: str, quoted: bool) -> str:
    """The case-folded words of an answer that is words, else an empty string."""
    bare = re.sub(r"\s+", " ", text).strip(" .,!?'\"")
    if not re.fullmatch(r"[^\W\d_][\w\s'.,/&()-]*", bare) or not re.search(r"[^\W\d_]", bare):
        return ""
    found = re.findall(r"[^\W\d_]+", bare)
    longest = max(map(len, found))
    if longest >= 3 or (quoted and longest >= 2) or not bare.isascii():
        return bare.casefold()
    return bare.casefold() if bare.lower() in ("no", "yes", "am", "pm") else ""


_GOES_ON = re.compile(r"[+*/^=<>|!_]|-\s|\\(?:cdot|times|div|pm|mp|cup|cap|leq?|geq?|neq?|in|to)(?![a-zA-Z])")
"""What makes a letter in brackets the beginning of a formula instead of a choice: `(C) + 1`, but `(C) -1`."""


def choice(form: Form) -> str:
    """The letter A to J when the answer is one, in any dress: `C`, `(C)`, `\\text{C}`, `(C) 12`; else empty."""
    compact = re.sub(r"^(?:option|choice|answer)(?=[A-J(\[])", "", form.compact, flags=re.IGNORECASE)
    if m := re.fullmatch(r"[\(\[]?([A-Ja-j])[\)\]]?[.:]?", compact):
        return m[1]
    plain = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", form.text).strip()
    if (m := re.match(r"(?:[\(\[]([A-J])[\)\]]|([A-J])[\).:])\s*(?=\S)", plain)) and not _GOES_ON.match(plain[m.end() :]):
        return (m[1] or m[2]) if not re.search(r"[,;]\s*[\(\[]?[A-J]\b", plain) else ""
    return ""


def base_number(form: Form) -> tuple[str, int] | None:
    """(digits, base) of `52_8`, else None."""
    m = _BASE.match(form.compact)
    if not m or not any(ch.isdigit() for ch in m[1]):
        return None
    base = int(m[2]) if m[2].isdigit() and len(m[2]) <= 2 else _NUMBER_WORDS.get(m[2], 0)
    return (m[1].lstrip("0") or "0", base) if 2 <= base <= 36 else None
