"""Rules against answers in entries: phrases that state one, the source problem's answer, numbers of the source problem.

Two cases differ. An imported entry comes without its problem, and only phrases can tell ("the correct answer (125)").
A mined one has its problem and reference answer in the bank, and the value itself is looked for: where it stands as a
result (after `=`, in a box, as "the answer is"), or anywhere if it is neither a number that the problem gives nor one
that any text may hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

from skillbank.guard.context import Content, Context
from skillbank.guard.numbers import NUMBER, is_general, normal_number, numbers_of
from skillbank.guard.text import excerpt
from skillbank.records import Flag

_VALUE = (
    rf"(?:\\boxed\s?\{{[^{{}}]*\d[^{{}}]*\}}|\$[^$\n]{{0,60}}?\d[^$\n]{{0,60}}?\$|\\d?frac\{{[^{{}}]+\}}\{{[^{{}}]+\}}"
    rf"|\(?[$€£-]?(?:{NUMBER})(?!\d))"
)
_TRUE_WORDS = (
    *("correct", "right", "true", "actual", "expected", "reference", "official", "intended", "golden", "gold"),
    *("target", "final", "real", "proper", "accepted"),
)
_TRUE = f"(?:{'|'.join(_TRUE_WORDS)})"
_RESULTS = "answer|result|value|solution|output|count|total|outcome|label"
_RESULT = rf"(?:{_RESULTS})"
_IS = (
    r"(?:\s?(?:\(|=|:|,)|\s(?:is|was|are|of|being|equals|equal to|to be|should be|should have been|must be|has to"
    r" be|would be"
    r"|turns out to be|comes to|ends in|which (?:is|ends in|equals)|yields|gives|in fact|simply|actually|exactly"
    r"|just))*\s?"
)
_STATED = tuple(
    # Words of which one is in all that it matches, parts of an ASCII text of which one is in it too, and the pattern:
    # looked for in this order, as words are quick and patterns slow.
    (frozenset(words.split("|")), parts, re.compile(pattern, re.IGNORECASE))
    for words, parts, pattern in (
        (_RESULTS, _TRUE_WORDS, rf"\b{_TRUE} {_RESULT}\b{_IS}{_VALUE}"),
        (
            "answer",
            ("answer",),
            rf"\banswer\b(?:\s?[:=(]|\s(?:is|was|must be|equals|should be|should have been|would be|has to be)\b)"
            rf"(?:\s(?:e\.g\.,?|i\.e\.,?|simply|exactly|just|indeed))?\s?{_VALUE}",
        ),
        (
            "answer",
            ("answer (",),
            rf"\banswer \((?:e\.g\.,?|i\.e\.,?|namely|that is,?)\s?[^()]{{0,40}}?=\s?{_VALUE}",
        ),
        ("instead", ("instead of",), rf"\binstead of (?:the )?{_TRUE}\b[^.;\n]{{0,12}}?{_VALUE}"),
        (
            "instead",
            ("instead of",),
            rf"(?:{NUMBER})(?:\s[a-z]+){{0,2}},? instead of (?:the )?(?:\d{{3,}}|\d+[.,/]\d+)",
        ),
        (
            "one|number|figure|expression",
            _TRUE_WORDS,
            rf"\b{_TRUE} (?:one|number|figure|expression)\b(?:\s(?:is|was|should be|equals)|\s?[:=(])\s?{_VALUE}",
        ),
        ("boxed", ("\\boxed",), r"\\boxed\s?\{[^{}]*\w[^{}]*\}"),
        (
            "gold|target|reference|truth",
            (":", "="),
            rf"\b(?:gold|target|reference|truth) ?(?:label|answer|value)?\s?[:=]\s?{_VALUE}",
        ),
    )
)
_KNOWN = re.compile(
    r"\bground[ -]?truths?\b|\b(?:answer|solution|marking|grading|grader'?s?|teacher'?s?) (?:key|sheet|scheme)\b"
    r"|\b(?:reference|gold(?:en)?|official|published|expected|desired|hidden) (?:answer|solution|label|output)s?\b"
    r"|\bexpected (?:final )?results?\b(?= (?:of|is|was)\b)|\b(?:gold|truth|target) label\b"
)
_KNOWN_WORDS = frozenset(
    word
    for line in (
        "truth truths groundtruth key sheet scheme answer answers solution solutions",
        "label labels output outputs result results",
    )
    for word in line.split()
)


def answer_phrase(content: Content, context: Context) -> Iterator[Flag]:
    """An answer stated as such, or talk of one that only a grader knows."""
    text, view = context.text, context.plain
    for words, parts, pattern in _STATED:
        if context.words.isdisjoint(words) or (text.isascii() and not any(map(view.__contains__, parts))):
            continue
        if match := pattern.search(text):
            yield Flag(rule="answer_phrase", reason=f"states an answer: '{excerpt(text, *match.span())}'")
            break
    if context.words & _KNOWN_WORDS and (match := _KNOWN.search(view)):
        yield Flag(
            rule="answer_phrase", reason=f"leans on an answer that no solver has: '{excerpt(view, *match.span())}'"
        )


# ----------------------------------------------------------------------------------------------------- the known answer

_NUMBER_WORDS = dict(
    zip(
        [
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "twenty",
            "hundred",
        ],
        ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "20", "100"],
        strict=True,
    )
)


def answer_value(content: Content, context: Context) -> Iterator[Flag]:
    """The answer of a source problem, as a value."""
    text = context.text
    for source in context.sources:
        for answer in sorted({_bare(answer) for answer in source.answers} - {""}):
            if match := _stands(answer, context, source.problem or ""):
                words = excerpt(text, max(0, match[0] - 20), match[1])
                reason = f"holds the answer {excerpt(answer, 0, 30)} of problem {source.problem_id}: '{words}'"
                yield Flag(rule="answer_value", reason=reason)


@lru_cache(maxsize=65536)
def _bare(answer: str) -> str:
    """An answer without the box, dollar signs and unit words around it."""
    text = answer.strip().strip("$").strip()
    if boxed := re.fullmatch(r"\\boxed\s?\{(.*)\}", text, re.DOTALL):
        text = boxed[1]
    text = re.sub(r"\\(?:text|mathrm)\{[^{}]*\}|\\[,!;% ]|\s+", " ", text).strip().rstrip(".")
    number = re.fullmatch(rf"[$€£]?\s?-?(?:{NUMBER})\s?%?", text)
    return normal_number(text.rstrip("% ").replace(" ", "")) if number else text


def _stands(answer: str, context: Context, problem: str) -> tuple[int, int] | None:
    """Where an answer stands in an entry's text as an answer does."""
    if not _NUMERIC.fullmatch(answer):
        return _stands_as_text(answer, context.text)
    magnitude = answer.lstrip("-")
    places = [(start, end) for value, start, end in context.numbers if value == magnitude]
    if not places:
        return None
    given = magnitude in numbers_of(problem) or magnitude in _number_words(problem)
    if not given and not is_general(magnitude):
        return places[0]
    return next((place for place in places if _as_result(context.text, *place, given)), None)


_NUMERIC = re.compile(r"-?[\d.,/]+")
_RESULT_BEFORE = re.compile(r"(?:=|≡|\\equiv)\s*[$€£({]*\s*-?\s*$")
_COMPUTED_BEFORE = re.compile(r"(?:[+\-*/×·÷−]|\bx\b|\\times|\\cdot)[^=]{0,25}=\s*[$€£]?\s*$")
_ANSWER_BEFORE = re.compile(
    r"(?:\b(?:answer|result|total|remainder|solution)\b(?:\s?[:=(]|\s(?:is|was|of|equals|must be|comes to))*\s?[$€£(]*"
    r"|\\boxed\s?\{\s?|\bmust be )$",
    re.IGNORECASE,
)
_GOES_ON = re.compile(r"\s*[$)}]*\s*(?:[+*/^×·÷<]|x \d|-\s*\d|\\times|\\cdot|\\frac)")


def _as_result(text: str, start: int, end: int, given: bool) -> bool:
    """Whether a number stands as an outcome: in a box, as "the answer is", after `=` with the equation at its end.

    One that the problem gives stands after `=` also where it was merely written down: there it must have been computed.
    """
    before = text[max(0, start - 30) : start]
    if _GOES_ON.match(text, end) is not None:
        return False
    after_equals = _COMPUTED_BEFORE if given else _RESULT_BEFORE
    return _ANSWER_BEFORE.search(before) is not None or after_equals.search(before) is not None


def _stands_as_text(answer: str, text: str) -> tuple[int, int] | None:
    """An answer that is no plain number, by its characters without spaces; one of fewer than four tells nothing."""
    wanted = re.sub(r"[\s$]|\\[,!; ]|\\left|\\right", "", answer).replace("dfrac", "frac").replace("tfrac", "frac")
    if len(wanted) < 4 or not re.search(r"\d|\\", wanted) or re.fullmatch(r"\\[a-zA-Z]+", wanted):
        return None
    places = [place for place, c in enumerate(text) if not c.isspace() and c != "$"]
    squeezed = "".join(text[place] for place in places)
    at = squeezed.find(wanted)
    while at >= 0:
        before, after = squeezed[at - 1 : at], squeezed[at + len(wanted) : at + len(wanted) + 1]
        if not (wanted[0].isdigit() and before.isdigit()) and not (wanted[-1].isalnum() and after.isalnum()):
            return places[at], places[at + len(wanted) - 1] + 1
        at = squeezed.find(wanted, at + 1)
    return None


@lru_cache(maxsize=4096)
def _number_words(problem: str) -> frozenset[str]:
    words = set(re.findall(r"[a-z]+", problem.lower()))
    return frozenset(number for word, number in _NUMBER_WORDS.items() if word in words)
