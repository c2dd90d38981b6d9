"""The phrases by which a text commands the model that reads it, as patterns over plain text (`text.plain`).

Families are matched by verb, scope and object within a clause. Words that mathematics uses too (ignore, rule,
condition, assume) count only with an object or a place that mathematics does not give them. `foreign.py` has other
languages.
"""

from __future__ import annotations

import re

# ------------------------------------------------------------------------------------------------------------ overrides

_DROP = (
    r"(?:ignore|disregard|forget|override|overrule|bypass|circumvent|neglect|dismiss|discard|abandon|skip|violate|erase"
    r"|(?:set|put|lay|leave|cast) aside|(?:pay|give) no (?:attention|heed) to|never mind|break (?:out of|free from)"
    r"|(?:do not|don't|never|no longer|stop|cease|quit|refrain from) (?:follow|obey|heed|respect|observ|apply"
    r"|listen)\w*"
    r"(?: to)?|take no notice of|turn off|disable|throw (?:away|out)|unlearn)"
)
_ORDERS = (
    r"(?:instructions?|prompts?|guidelines?|guidance|directives?|directions|orders|commands?|polic(?:y|ies)|guard"
    r" ?rails?"
    r"|safety|safeguards?|system message|developer|programming|training|persona|configuration|(?:was|were|been) told"
    r"|(?:had|have) been (?:given|told)|told you|taught you)"
)
_RULES = (
    r"(?:rules?|constraints?|restrictions?|limits|limitations|messages?|context|conditions|text|everything|anything)"
)
_BEFORE = (
    r"(?:previous(?:ly)?|prior|earlier|preceding|foregoing|above|before|beforehand|so far|existing|original|initial"
    r"|system|developer|hidden|at the top|came before|up to now|until now)"
)
_YOURS = r"(?:your|you were|you have|you had|you've|told you|gave you|set for you|bind you|given to you|the user)"
_WITHIN = r"[^.!?;:\n]{0,60}?"
_START = (
    r"(?:^|[.!?;:,(\"'*\-] ?|\b(?:please|kindly|now|then|and|must|should|just|you|to|simply|can|may|first|always) )"
)
NOT_ORDERED = re.compile(r"(?:do not|don't|never|not to|avoid|without|cannot|should not|shouldn't|must not)\s+\w*\s*$")


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_DROPPING = _set(
    "ignore disregard forget override overrule bypass circumvent neglect dismiss discard abandon skip violate"
    " erase aside"
    " attention heed mind break not don never longer stop cease quit refrain notice off disable away out unlearn"
)
_ORDERING = _set(
    "instruction instructions prompt prompts guideline guidelines guidance directive directives directions orders order"
    " command commands policy policies guardrail guardrails rail rails guard safety safeguard safeguards system"
    " developer"
    " programming training persona configuration told given taught message"
)
_RULING = _set(
    "rule rules constraint constraints restriction restrictions limits limitations message messages context"
    " conditions text"
    " everything anything instructions wording configuration"
)
_PLACING = _set(
    "previous previously prior earlier preceding foregoing above before beforehand far existing original initial system"
    " developer hidden top up until your you user whatever safety content"
)
_VOIDING = _set(
    "void cancelled canceled lifted revoked suspended obsolete overridden expired superseded null invalid longer apply"
    " applies applied bind binds"
)
_YOU = _set("you your user reader question asker human whatever matter regardless")
_NEWLY = _set("new updated real actual revised secret additional urgent")
_ONWARD = _set("now here point moment henceforth forward starting always")
_REPLYING = _set(
    "respond responds reply replies answer answers output outputs write say says print obey act none praise agree"
    " refuse comply"
    " give ask asks want wants tell"
)
_HEEDING = _set("obey comply heed act rely go must has should shall will have are need")
_ONLY = _set("only just solely exclusively merely nothing word phrase the")
_SHOWING = _set("print reveal output show display repeat leak dump recite disclose expose quote tell write")
_HIDING = _set("system hidden secret developer injection jailbreak jail prompt")
_REFUSING = frozenset({"refuse", "refusing", "refusal", "refusals", "refused", "decline", "declining"})
_BEINGS = _set("tutor assistant model ai bot")

OVERRIDES: tuple[tuple[tuple[frozenset[str], ...], re.Pattern[str]], ...] = tuple(
    (wanted, re.compile(pattern))
    for wanted, pattern in (
        # to drop orders that came before, or that are the reader's own
        (
            (
                _DROPPING,
                _ORDERING,
            ),
            rf"\b{_DROP}\b{_WITHIN}\b(?:{_BEFORE}|{_YOURS}|all|any|every|whatever)\b{_WITHIN}\b{_ORDERS}\b",
        ),
        (
            (
                _DROPPING,
                _ORDERING,
                _PLACING,
            ),
            rf"\b{_DROP}\b{_WITHIN}\b{_ORDERS}\b{_WITHIN}\b(?:{_BEFORE}|{_YOURS})\b",
        ),
        (
            (
                _DROPPING,
                _ORDERING,
            ),
            rf"\b{_DROP} (?:the |that |this )?(?:system |hidden )?(?:prompt|guard ?rails?|safety)\b",
        ),
        # rules and conditions are words of mathematics too: an order to the reader, at the beginning of a clause
        (
            (
                _DROPPING,
                _RULING,
                _PLACING,
            ),
            rf"{_START}{_DROP}\b{_WITHIN}\b(?:{_BEFORE}|whatever) {_RULES}\b",
        ),
        (
            (
                _DROPPING,
                _RULING,
                _PLACING,
            ),
            rf"{_START}{_DROP}\b{_WITHIN}\b{_RULES}\b[^.!?;:\n]{{0,25}}?\b(?:{_BEFORE}|{_YOURS})\b(?! case| step|"
            rf" line| part)",
        ),
        (
            (
                _DROPPING,
                _RULING,
                _PLACING,
            ),
            rf"{_START}{_DROP}\b{_WITHIN}\b(?:{_YOURS}|safety|content) (?:\w+ )?{_RULES}\b",
        ),
        # orders declared void
        (
            (
                _ORDERING,
                _VOIDING,
            ),
            rf"\b{_ORDERS}\b{_WITHIN}\b(?:void|cancell?ed|lifted|revoked|suspended|obsolete|overridden|expired"
            rf"|superseded"
            r"|null|invalid|no longer (?:\w+ )?(?:appl|hold|valid|count|bind|matter|in force)\w*|(?:do|does) not apply"
            r"|not? appl\w+|appl\w+ (?:any ?more|no longer))",
        ),
        (
            (
                _RULING,
                _VOIDING,
            ),
            rf"\b(?:all|your|earlier|previous|prior) (?:\w+ )?{_RULES}\b[^.!?;:\n]{{0,20}}?\b(?:lifted|void"
            rf"|cancell?ed|revoked"
            r"|suspended|no longer (?:bind|apply to you))",
        ),
        (
            (
                _VOIDING,
                _RULING | _YOU,
            ),
            r"\bno longer (?:bind|apply to|bound by)\b[^.!?;:\n]{0,15}\b(?:you|rules?|instructions?)\b",
        ),
        # new ones given
        (
            (
                _NEWLY,
                _ORDERING | {"task"},
            ),
            r"\b(?:new|updated|real|actual|revised|secret|additional|urgent) (?:instructions?|orders?|directives?|task"
            r"|system prompt|commands?) ?[:\-]",
        ),
        (
            (
                _ONWARD,
                _YOU | _REPLYING,
            ),
            r"\b(?:from (?:now|here|this point|this moment) on(?:wards?)?|henceforth|going forward|starting now)\b"
            r"[^.!?\n]{0,40}?\b(?:you (?:must|will|shall|should|are|may|can|always|only|have)|respond|reply|obey"
            r"|act as|answer"
            r" (?:only|with|every|each|all)|none of)",
        ),
        (
            (_HEEDING,),
            r"\b(?:obey|comply with|heed)\b[^.!?\n]{0,15}\b(?:only|every|each|all|any|this|these|my|the user|what"
            r" follows)\b",
        ),
        (
            (_HEEDING,),
            r"\b(?:act|rely|go) only on (?:the text|this|what follows)\b",
        ),
        (
            (
                _YOU,
                _REPLYING,
            ),
            r"\b(?:whatever|no matter what|regardless of what|anything) (?:the )?(?:user|reader|question|asker|human)\b"
            r"[^.!?\n]{0,30}\b(?:say|ask|want|respond|reply|answer|output)\w*",
        ),
        (
            (
                _REPLYING,
                _ONLY,
            ),
            r"\b(?:reply|respond|answer|output)\w*(?: \w+){0,2} (?:only|just|solely|exclusively|merely|nothing"
            r" but|nothing"
            r" except)(?: by| with| using)? (?:the|a|an|one|this|that)? ?(?:single )?(?:word|phrase|number"
            r"|sentence|yes|no|ok)\b",
        ),
        (
            (
                _REPLYING,
                _ONLY,
            ),
            r"\b(?:reply|respond|answer|output|write|say|print)\b(?: \w+){0,2} the (?:single )?(?:word|phrase)\b",
        ),
        # the prompt drawn out of the model, refusals switched off
        (
            (
                _SHOWING,
                _ORDERING | _RULING,
            ),
            r"\b(?:print|reveal|output|show|display|repeat|leak|dump|recite|disclose|expose|quote|tell me|write out)\b"
            r"[^.!?\n]{0,30}\b(?:system|hidden|secret|initial|original|full|your|its|developer)\b[^.!?\n]{0,15}"
            r"\b(?:prompt|instructions?|configuration|message|wording|rules)\b",
        ),
        (
            (_HIDING,),
            r"\b(?:system|hidden|secret|developer) (?:prompt|message|instructions?)\b|\bprompt injection\b|\bjail"
            r" ?break",
        ),
        (
            (_REFUSING,),
            r"\b(?:never|do not|don't|without(?: any)?|no) (?:ever )?(?:refus\w+|declin(?:e|ing) (?:a|any) request)",
        ),
        (
            (
                _YOU,
                _REPLYING | _HEEDING,
            ),
            r"\byou (?:must|shall|will|have to|are to|need to) (?:always |only |never |now )?(?:obey|comply"
            r"|respond|reply|refuse"
            r"|give the (?:opposite|wrong)|agree|praise|say|output|answer (?:with|only|yes|no))",
        ),
        (
            (
                _ONWARD,
                _REPLYING,
            ),
            r"\balways (?:answer|reply|respond|say|agree|output|tell)(?: \w+)? (?:yes|no|zero|the user|the reader"
            r"|with)\b",
        ),
        (
            (
                _HEEDING | _REPLYING,
                _BEINGS,
            ),
            r"\b(?:tutor|assistant|model|ai|bot)\b (?:must|has to|should|shall|will) (?:always )?(?:agree|obey"
            r"|comply|say|praise)",
        ),
    )
)
"""(words of which each set must have one in the text, pattern): the sets are looked at first, as they are quick."""
_SETS = list(dict.fromkeys(words for wanted, _ in OVERRIDES for words in wanted))
OVERRIDE_WORDS = {
    word: sum(1 << place for place, words in enumerate(_SETS) if word in words) for word in frozenset().union(*_SETS)
}
"""Word -> the sets it is in, as bits. A text's words joined by `or` say which of `OVERRIDES` to look for."""
OVERRIDE_PATTERNS = tuple(
    (sum(1 << _SETS.index(words) for words in frozenset(wanted)), pattern) for wanted, pattern in OVERRIDES
)
"""`OVERRIDES` with its sets as bits."""
SQUEEZED = re.compile(
    r"(?:ignore|disregard|forget|override|bypass)(?:all|any|the|every|of|your|my|these|those|each)*"
    r"(?:previous|prior|above|earlier|preceding|foregoing|system|initial|original|safety|your|existing)"
    r"(?:[a-z]{0,12})(?:instruction|prompt|rule|guideline|message|direction|directive|command|polic|guidance)"
    r"|(?:ignore|disregard|forget|override)(?:all|any|the|your|of)*(?:instructions|prompt|guidelines)"
    r"(?:above|before|given|and|so)"
    r"|(?:reveal|print|repeat|show)(?:the|your|me)*(?:system|hidden)prompt"
)


# ---------------------------------------------------------------------------------------------------------------- roles

_BEING = r"(?:model|assistant|ai|bot|chat ?bot|agent|dan|tutor|pirate|hacker|admin|administrator|terminal|shell"
_BEING += r"|character|persona|jailbreak|operator|human|person|robot|developer|interpreter|gpt\w*|claude|teacher)"
ROLE_WORDS = _set(
    "system assistant user human ai developer tool you re pretend imagine sorry cannot can won mode anything act"
    " behave respond"
    " speak roleplay role work operate language"
)
"""One of these is in every claim to a role."""
ROLES = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"(?:^|[.!?:>\])*#\"\n] ?|\*\*|\[|\(|#)(?:system|assistant|user|human|ai|developer|tool)(?: (?:message"
        r"|prompt|note))?"
        r"(?:\]|\)|\*\*)? ?:(?!=)",
        r"(?:^|[.!?:\n] ?)\[(?:system|assistant|user|developer)\]",
        rf"\byou(?:'re| are) (?:now|no longer|henceforth|hereby|from now on|actually"
        rf"|secretly)\b(?! left| ready| able| done)[^.!?\n]{{0,30}}?\b{_BEING}\b",
        r"\byou(?:'re| are) (?:now )?(?:in|entering) (?:\w+ )?(?:developer|debug|god|admin|jailbreak|dan"
        r"|unrestricted) mode",
        rf"\b(?:act|behave|respond|speak|roleplay|role-play|work|operate) (?:as|like)\b[^.!?\n]{{0,30}}?\b{_BEING}\b",
        r"\bpretend (?:that )?(?:you|to be)\b|\bimagine (?:that )?you(?:'re| are) (?:a|an|the)\b[^.!?\n]{0,20}\b"
        + _BEING,
        r"\bas an? (?:ai|artificial intelligence|large language|language) (?:language )?(?:model|assistant)\b",
        r"\bi(?:'m| am) sorry,? but i (?:can|am)|\bi (?:cannot|can't|won't) (?:help|assist|comply|do that)",
        r"\bdo anything now\b|\b(?:developer|god|jailbreak) mode\b",
    )
)
