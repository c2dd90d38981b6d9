"""A completion as steps: the spans of its lines and sentences, their words, their calculation.

Three kinds of step matter to a contrast. A *rule* says something in words alone ("zorp means doubled sum"); a
*calculation* has an expression and its value ("so 3 + 4 = <<3+4=7>>7 eggs are used"); *figures* are numbers in words
without an expression that can be read. An *answer* ("A: 18", a box) is never the lesson.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

StepKind = Literal["rule", "calculation", "figures", "answer"]


def _word_set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Words that carry no content of their own. Words that can turn a meaning round (not, from, first, more, each, per ...)
# are deliberately absent: two texts that differ in them are different texts.
STOP_WORDS = _word_set(
    "a an the of to is are was were be been being it its this that these those he she they him them his her their i we "
    "you our your so then thus therefore hence and now in on at for with by as has have had having will would do does "
    "did can could there here also just which who s let us means mean meaning"
)
# Too common in problems to say what a problem is about.
GENERAL_WORDS = _word_set(
    "each per every many much how what when if from total number all one two three four five six seven eight nine ten "
    "first second third left right after before more less than out up into or not but only get gets got per "
    "other another same some any find amount would want wants need needs take takes use uses used make makes making "
    "enough couldn't give gives put go goes over through times way finds starts start number numbers"
)

NUMBER = r"(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_NUMBER = re.compile(r"[\d.](?:(?<=\d)[\d,]*(?:\.\d+)?|(?<=\.)\d+)")
"""`NUMBER`, begun with the characters that may begin one: the search leaps from one of them to the next."""
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_ASCII_WORD = re.compile(r"[a-zA-Z]+(?:'[a-zA-Z]+)?")
_MARK = re.compile(rf"<<([^<>=]*)=([^<>=]*)>>\s*[$€£]?(-?{NUMBER})?")
_ANY_MARK = re.compile(r"<<[^<>]*>>")
_VARIABLE = re.compile(r"(?<!['’.])\b[b-zB-HJ-Z]\b(?!['’.])")  # "Let x be ..." is algebra, not a rule in words
_LINE = re.compile(r"[^\n]+")
# The abbreviations are looked for behind the mark: to begin with the mark lets the search skip from mark to mark.
_SENTENCE_END = re.compile(r"[.!?;](?<!\bMr.)(?<!\bMs.)(?<!\bDr.)(?<!\bMrs.)(?<!\bSt.)(?<!\bvs.)\s+(?=[A-Z\"“(\\$])")
_BULLET = re.compile(r"^(?:[#>*\-•]+\s+|\(?\d{1,2}[.)]\s+|step\s+\d+\s*[:.)-]\s*)+", re.IGNORECASE)
_ANSWER = re.compile(
    r"\W*(?:a|answer|final answer|(?:so |thus |therefore,? )?the (?:final )?answer)\W*(?::|is\b|=)|\s*####", re.I
)
_BOX = re.compile(r"\\boxed", re.I)
_OPERATOR = r"(?:[-+*/×÷·−–x]|\\times|\\cdot|\\div)"
# Possessive, and no unit is an x: a text is read in one way only. Tried in all ways, "2 x 2 x 2 x ..." takes for ever.
_OPERAND = rf"[(\s]*+[$€£]?+\s*+(?>{NUMBER})\s*+%?+[)\s]*+"
_UNIT = r"(?:(?!x\s)/?[a-zA-Z]+\s+){0,2}+"
EXPRESSION = rf"(?:{_OPERAND}{_UNIT}{_OPERATOR})+{_OPERAND}{_UNIT}"
_PLAIN = re.compile(rf"({EXPRESSION})=\s*[$€£]?\s*(-?{NUMBER})")
_TOKEN = re.compile(rf"{NUMBER}|{_OPERATOR}|[()%]")
_SIGN = {"×": "*", "·": "*", "x": "*", "\\times": "*", "\\cdot": "*", "÷": "/", "\\div": "/", "−": "-", "–": "-"}


@dataclass(frozen=True, slots=True)
class Calculation:
    """One expression and its value, numbers in normal form."""

    expression: str
    """Normal form: operands of a pure sum or product are sorted."""
    operands: tuple[str, ...]
    operators: tuple[str, ...]
    value: str
    sound: bool
    """The value that is written down is that of the expression, as far as its decimals go."""
    fraction: bool = False
    """A literal fraction such as 1/4 is among the operands; its bar is not among the operators."""


class Step(NamedTuple):
    """One step of a completion. `completion[start:end] == quote`."""

    kind: StepKind
    quote: str
    start: int
    end: int
    text: str
    """The quote made readable: calculator marks, bullets and the full stop are gone."""
    key: tuple[str, ...]
    """Stems of the content words in order (and the numbers, unless it is a rule): equal steps have equal keys."""
    words: frozenset[str]
    """Stems of the content words."""
    calculations: tuple[Calculation, ...]


def split_steps(completion: str) -> list[Step]:
    """The steps of a completion in order: every line, and the sentences within a line."""
    steps = []
    for line in _LINE.finditer(completion):
        at = line.start()
        for kind, quote, start, end, text, key, words, calculations in _steps_of(line.group()):
            steps.append(Step(kind, quote, at + start, at + end, text, key, words, calculations))
    return steps


@lru_cache(maxsize=4096)
def _steps_of(line: str) -> tuple[Step, ...]:
    """The steps of one line: attempts at a problem have many lines in common."""
    return tuple(_step(line, start, end) for start, end in _spans(line))


def _spans(line: str) -> Iterator[tuple[int, int]]:
    start = 0
    for end in [*(match.start() + 1 for match in _SENTENCE_END.finditer(line)), len(line)]:
        piece = line[start:end]
        left = start + len(piece) - len(piece.lstrip())
        right = start + len(piece.rstrip())
        if right > left and _WORD_OR_DIGIT.search(line, left, right):
            yield left, right
        start = end


_WORD_OR_DIGIT = re.compile(r"\w")


def _step(line: str, start: int, end: int) -> Step:
    quote = line[start:end]
    text = readable(quote)
    key, words, numeric = _normal(text)
    if _ANSWER.match(text) or ("\\" in text and _BOX.search(text)):
        return Step("answer", quote, start, end, text, key, words, ())
    calculations = read_calculations(quote, text)
    kind: StepKind = "calculation" if calculations else "figures" if numeric or _VARIABLE.search(text) else "rule"
    return Step(kind, quote, start, end, text, key, words, calculations)


def readable(quote: str) -> str:
    text = _ANY_MARK.sub("", quote) if "<<" in quote else quote
    text = text.replace("**", "").strip()
    if not text[:1].isalpha() or text[0] in "sSſ":  # "step 1:"
        text = _BULLET.sub("", text)
    return " ".join(text.split()).rstrip(".;,: ")


# --------------------------------------------------------------------------------------------------------------- words


@lru_cache(maxsize=8192)
def stem(word: str) -> str:
    """A word without its inflection: enough to see `eggs` as `egg` and `doubled` as `double`."""
    word = word.lower().replace("’", "'").removesuffix("'s").removesuffix("'")
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 3 and not word.endswith("ss"):
            word = word.removesuffix(ending)
            break
    return word.removesuffix("e") if len(word) > 3 else word


def words_in(text: str) -> list[str]:
    """The words of a text, in order."""
    return (_ASCII_WORD if text.isascii() else _WORD).findall(text)


def content_stems(text: str) -> tuple[str, ...]:
    """Stems of the content words of a text, in order."""
    return tuple(filter(None, map(_content_stem, words_in(text))))


@lru_cache(maxsize=8192)
def _content_stem(word: str) -> str | None:
    return None if word.lower() in STOP_WORDS else stem(word)


@lru_cache(maxsize=4096)
def _normal(text: str) -> tuple[tuple[str, ...], frozenset[str], bool]:
    stems, numbers = content_stems(text), numbers_in(text)
    return stems + numbers, frozenset(stems), bool(numbers)


def terms(step: str, problem: str, limit: int = 3) -> list[str]:
    """Content words that a step shares with the problem, in the step's order, names of people and places left out."""
    shown = _problem_words(problem)
    found: list[str] = []
    stems: set[str] = set()
    for word in words_in(step):
        low = word.lower()
        if low in STOP_WORDS or low in GENERAL_WORDS or len(low) < 2:
            continue
        forms = shown.get(stem(low))
        is_name = forms is not None and word[0].isupper() and all(form[0].isupper() for form in forms)
        if forms is not None and not is_name and stem(low) not in stems:
            stems.add(stem(low))
            found.append(low)
    return found[:limit]


@lru_cache(maxsize=256)
def _problem_words(problem: str) -> dict[str, frozenset[str]]:
    forms: dict[str, set[str]] = {}
    for word in words_in(problem):
        forms.setdefault(stem(word), set()).add(word)
    return {key: frozenset(value) for key, value in forms.items()}


# ------------------------------------------------------------------------------------------------------------- numbers


@lru_cache(maxsize=8192)
def normal_number(text: str) -> str:
    """`80,000`, `80000` and `80000.0` are one number. Texts that are no number come back as they are."""
    plain = text.replace(",", "").replace("$", "").strip().rstrip("%.")
    try:
        return f"{float(plain):.6g}"
    except ValueError:
        return plain


@lru_cache(maxsize=4096)
def numbers_in(text: str) -> tuple[str, ...]:
    """Normal forms of the numbers in a text, in order."""
    return tuple(map(normal_number, _NUMBER.findall(text)))


def read_calculations(quote: str, text: str) -> tuple[Calculation, ...]:
    """The calculations of a step: its calculator marks when it has any, else `expression = number` in the text."""
    if "<<" in quote:
        read = [_calculation(expression, value, shown) for expression, value, shown in _MARK.findall(quote)]
    elif "=" in text:
        read = [_calculation(expression, value, value) for expression, value in _PLAIN.findall(text)]
    else:
        return ()
    return tuple(calculation for calculation in read if calculation is not None)


@lru_cache(maxsize=4096)
def _calculation(expression: str, value: str, shown: str) -> Calculation | None:
    tokens = [_SIGN.get(token, token) for token in _TOKEN.findall(expression)]
    normal = [normal_number(token) if _is_number(token) else token for token in tokens]
    operands = tuple(token for token in normal if _is_number(token))
    bars = _fraction_bars(normal)
    operators = tuple(token for place, token in enumerate(normal) if token in _OPERATIONS and place not in bars)
    if len(operands) < 2 or not operators:
        return None
    pure = set(normal) - set(operands) in ({"+"}, {"*"})
    shape = operators[0].join(sorted(operands)) if pure else "".join(normal)
    return Calculation(shape, operands, operators, normal_number(value), _sound(normal, shown or value), bool(bars))


_OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


def _is_number(token: str) -> bool:
    return token[0].isdigit() or token[0] == "."


def _fraction_bars(tokens: Sequence[str]) -> frozenset[int]:
    """Places of the bars of literal fractions: as in `1/4*20`, not in `60/100*5` (a percentage), nor `1/4` alone."""
    if sum(token in _OPERATIONS for token in tokens) < 2:
        return frozenset()
    bars = set()
    for place in range(1, len(tokens) - 1):
        above, below = tokens[place - 1], tokens[place + 1]
        if tokens[place] == "/" and above.isdigit() and below.isdigit() and int(above) < int(below) < 100:
            bars.add(place)
    return frozenset(bars)


def _sound(tokens: Sequence[str], shown: str) -> bool:
    """Whether an expression has the value that is shown; what cannot be calculated is taken on trust."""
    try:
        value, end = _sum([token for token in tokens if token != "%"], 0)
        written = float(shown.replace(",", ""))
    except (ValueError, IndexError, ZeroDivisionError, OverflowError, RecursionError):
        return True
    if end != len([token for token in tokens if token != "%"]) or "%" in tokens:
        return True
    decimals = len(shown.partition(".")[2])
    return abs(value - written) < 10.0**-decimals + 1e-6 * abs(value)


def _sum(tokens: Sequence[str], at: int) -> tuple[float, int]:
    value, at = _product(tokens, at)
    while at < len(tokens) and tokens[at] in "+-":
        right, end = _product(tokens, at + 1)
        value, at = _OPERATIONS[tokens[at]](value, right), end
    return value, at


def _product(tokens: Sequence[str], at: int) -> tuple[float, int]:
    value, at = _factor(tokens, at)
    while at < len(tokens) and tokens[at] in "*/":
        right, end = _factor(tokens, at + 1)
        value, at = _OPERATIONS[tokens[at]](value, right), end
    return value, at


def _factor(tokens: Sequence[str], at: int) -> tuple[float, int]:
    if tokens[at] == "-":
        value, end = _factor(tokens, at + 1)
        return -value, end
    if tokens[at] == "(":
        value, end = _sum(tokens, at + 1)
        return value, end + 1
    return float(tokens[at]), at + 1
