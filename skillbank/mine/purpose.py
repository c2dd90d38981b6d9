"""What a calculation finds, in a few words: the title of a mined skill.

Rules over the step's own words, for English; where none fits, the words stay as they are. No model, no grammar.
"""

from __future__ import annotations

import re
from functools import lru_cache

from skillbank.mine.steps import EXPRESSION, NUMBER, STOP_WORDS

MAX_PURPOSE_WORDS = 12

_TO_FIND = re.compile(
    r"\b(?:find|calculate|determine|figure out|compute)\s+(?!\w+\s*$)(.+?)(?=\s+by\b|\s*[:,=]|$)", re.IGNORECASE
)
_VALUE_OF = re.compile(rf"^\s*(?:the result|-?[$€£]?\s*-?{NUMBER})\s*[%$€£]?\s*")
# Atomic: a run of figures that ends in no expression is given up at once, not tried in all its partitions.
_FINAL_EXPRESSION = re.compile(rf"(?>(?:{EXPRESSION}|[\s$€£()%+*/×÷=–−-]|\bx\b|{NUMBER})+)$")
_CLAUSE_END = re.compile(
    # A comma ends a clause unless it stands in a list: "Naomi, Yuri, and Brianna".
    r"(?:,(?!\s+(?:and\b|[^\s,]+(?:\s+[^\s,]+)?,?\s+and\b))|[;:!?]|"
    r"(?<!\bMrs)(?<!\bMr)(?<!\bMs)(?<!\bDr)(?<!\bm)\.)\s+|"  # "a.m." ends nothing
    r"(?<!\bis)(?<!\bwas)(?<!\bare)(?<!\bwere)(?<!\bhe)(?<!\bshe)(?<!\bthey)\s+then\s+|"
    r"\s+(?:so|because|since|which means|which is|meaning|that's|therefore|if|when|but|as)(?:\s+|$)",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"^(?:so|and|then|that|thus|therefore|that means|this (?:would )?means?|means|meaning|which means|in total|in all|"
    r"together|combined|also|first|next|finally|now)\b,?\s*",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"(?:[\s,]+(?:a|an|the|of|for|to|total|and|by|at|in|on|from|only|worth|or|that|another|about|up|with|per|each|every|"
    r"and it takes|more|less|than|who|which))+$",
    re.IGNORECASE,
)
_BE = r"(?:is|are|was|were|will be|would be|equals?|becomes?|(?:comes|came|amounts|amounted)(?: to)?)"
_NAMED = r"^((?:the|his|her|their|its|my|this|total|half|(?:[A-Z][\w.]*\s+)?[A-Z]\w*['’]s?)\b.*{})\s+{}{}"
_NAMED_QUANTITY = [re.compile(_NAMED.format(*parts), re.IGNORECASE) for parts in (("", _BE, "$"), ("?", _BE, r"\b"))]
"""What is named and then said to be a number, "the total cost is", where the clause ends so or anywhere in it."""
_FOR_A_TOTAL = re.compile(
    r"\b(?:for|making|giving|with)\s+(?:\w+\s+)?(?:a|the)\s+(?:grand\s+)?total\s+of\W*$", re.IGNORECASE
)
_POINTS_BACK = re.compile(r"(?:which|that|this)\s+(?:is|was|are|were|means|gives)", re.IGNORECASE)
_LEAVING = re.compile(r"\bleaving\b[^\d.,]{0,24}$", re.IGNORECASE)
_OF = re.compile(r"of\s+[^\W\d_]+(?:\s+[^\W\d_]+(?=\s*$))?\b")
_MORE = re.compile(r"(?:more|fewer|less)\s+(?!than\b)", re.IGNORECASE)
_PREDICATE = re.compile(r"(?:is|are|was|were|will be|would be|remain|have been|has been)\b", re.IGNORECASE)
_HAS_DIGIT = re.compile(r"\d")
_COUNTS = frozenset(["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "dozen"])
_BEFORE_A_NUMBER = STOP_WORDS | {
    "after",
    "every",
    "first",
    "last",
    "next",
    "all",
    "over",
    "from",
    "each",
    "per",
    "other",
}
_BREAK = re.compile(
    r"\b(?:in|on|at|from|for|per|of|to|by|with|after|before|each|every|a|an|the|and|or|more|less|left|over|if|"
    r"is|are|was|were|has|have|had|will|would|can|could|that|than|this|together|total|altogether|when|so|because)\b",
    re.IGNORECASE,
)
_MONEY = re.compile(r"[$€£]|\b(?:dollars?|cents?|euros?|pounds? sterling)\b", re.IGNORECASE)


@lru_cache(maxsize=1024)
def purpose(text: str) -> str:
    """What a calculation finds, to stand after "to find": "the total cost", "how many crates Sam sold".

    It is what the step says it wants to find; else the quantity that it names before the expression; else the unit
    behind the value together with the clause before the expression.
    """
    named = _TO_FIND.search(text)
    if named:
        return _tidy(named[1])
    head, _, tail = text.rpartition("=")
    before = _FINAL_EXPRESSION.sub("", head)
    expression, value = head[len(before) :], _VALUE_OF.match(tail)
    unit, rest = _unit(tail)
    said = value.group() if value else ""
    money = bool(_MONEY.search(said) or _MONEY.search(unit) or (not unit and _MONEY.search(expression)))
    if money:
        asked, rest = "how much", rest if _MONEY.search(unit) else f"{unit} {rest}"
    elif unit:
        asked = f"how many {unit}"
    else:
        asked = "what percentage" if "%" in said else "what"
    if _LEAVING.search(before):
        return _tidy(f"{asked} {'is' if money or not unit else 'are'} left")
    if _FOR_A_TOTAL.search(before) and (money or unit):
        return _tidy("the total amount" if money else f"the total number of {unit}")
    clause = _last_clause(before if head else text)
    quantity = next(filter(None, (named.match(clause) for named in _NAMED_QUANTITY)), None)
    if quantity and not unit.startswith("years old"):
        return _tidy(quantity[1])
    if unit and _PREDICATE.match(rest):  # "7 eggs are used" is a clause of its own
        clause = ""
    words = f"{_without_given_number(clause)} {rest}".strip()
    return _tidy(f"{asked} {words}") if words or unit else _tidy(text)


def _without_given_number(clause: str) -> str:
    """Cut where a quantity begins that the problem gives: "Tara spent 8 packs of 5 bags" is about what Tara spent."""
    words = clause.split()
    for place, word in enumerate(words):
        number = _HAS_DIGIT.match(word.lstrip("$€£")) or word.lower() in _COUNTS
        article = place and words[place - 1].lower() in ("a", "an")
        if place and number and (article or words[place - 1].lower() not in _BEFORE_A_NUMBER):
            return " ".join(words[: place - 1 if article else place])
    return clause


def _last_clause(head: str) -> str:
    """The last clause of two words or more."""
    clauses = [_trim(clause) for clause in _CLAUSE_END.split(head)]
    telling = [clause for clause in clauses if len(clause.split()) >= 2 and not _POINTS_BACK.fullmatch(clause)]
    return re.sub(r"^which\b", "it", telling[-1]) if telling else ""


def _unit(tail: str) -> tuple[str, str]:
    """The noun that a value counts, and what follows it in its clause."""
    after = _CLAUSE_END.split(_VALUE_OF.sub("", tail), maxsplit=1)[0].strip(" .,;:()")
    more = _MORE.match(after)
    stop = _BREAK.search(after, more.end() if more else 0)
    noun = (after[: stop.start()].strip() if stop else after).removesuffix(" now")
    if not noun or len(noun.split()) > 3 or not noun[0].isalpha():
        return "", after if not noun else ""
    rest = after[len(noun) :].strip()
    of = _OF.match(rest)  # "liters of milk a day" counts liters of milk
    return (f"{noun} {of.group()}", rest[of.end() :].strip()) if of else (noun, rest)


def _trim(phrase: str) -> str:
    """Without the little words at its ends; a first word that is no name in lower case."""
    phrase = " ".join(phrase.split()).strip(" .,;:")
    while (shorter := _OPENING.sub("", phrase)) != phrase:
        phrase = shorter
    while (shorter := _CLOSING.sub("", phrase).strip(" .,;:")) != phrase:
        phrase = shorter
    first = phrase.partition(" ")[0]
    return phrase[:1].lower() + phrase[1:] if first.lower() in _LOWERED else phrase


def _tidy(phrase: str) -> str:
    """Trimmed, and short."""
    return _trim(" ".join(_trim(phrase).split()[:MAX_PURPOSE_WORDS]))


_LOWERED = STOP_WORDS | {
    "each",
    "if",
    "from",
    "after",
    "half",
    "both",
    "all",
    "every",
    "another",
    "one",
    "total",
    "twice",
}
