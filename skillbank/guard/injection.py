"""Rules against words that want to command the model that reads them: orders to drop its instructions, claims to a
role, tokens of chat templates.

Skills are shown to a teacher as guidance, so an entry that says "ignore the above" speaks with the prompt's authority.
English families are matched by verb, scope and object rather than by sentence; other languages by their set phrases.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator

from skillbank.guard.context import Content, Context
from skillbank.guard.foreign import CYRILLIC, FOREIGN, STEMS
from skillbank.guard.phrases import NOT_ORDERED, OVERRIDE_PATTERNS, OVERRIDE_WORDS, ROLE_WORDS, ROLES, SQUEEZED
from skillbank.guard.text import excerpt
from skillbank.records import Flag

# ------------------------------------------------------------------------------------------------------- chat templates

_TEMPLATE = re.compile(
    r"<\s?[|｜]\s?/?[a-z_▁][a-z_▁ 0-9]{2,30}\s?(?:[|｜]\s?>)?|[a-z_▁]{3,}[|｜]>"
    r"|\[/?(?:inst|sys(?:tem)?_prompt|available_tools|tool_calls?|tool_results?|cls|sep|mask|bos|eos)\]"
    r"|<</?sys>>|</?s>|</?(?:bos|eos|pad|unk|mask|cls|sep)>|<(?:start|end)_of_[a-z_]+>"
    r"|</?(?:think(?:ing)?|scratchpad|tool_calls?|tool_response|function_calls?|system|assistant|user|human"
    r"|instructions?)>"
    r"|#{2,}\s?(?:instructions?|response|human|assistant|system|user|input|prompt)\s?:"
    r"|</?\s?[a-z_]*(?:prompt|message|instruction|untrusted|document|web_?page|context"
    r"|override)[a-z_]*(?:\s[^<>]{0,40})?>"
    r"|\"?\brole\"?\s?[:=]\s?\"(?:system|assistant|user|developer|tool)\""
)


def chat_template(content: Content, context: Context) -> Iterator[Flag]:
    """Tokens that open or close a turn in some model's chat template."""
    view = context.plain
    if not ("<" in view or "[" in view or "|" in view or "##" in view or "role" in view):
        return
    for match in _TEMPLATE.finditer(view):
        yield Flag(rule="chat_template", reason=f"token of a chat template: '{excerpt(view, *match.span())}'")


_BACKWARDS, _ROT13 = "written backwards", "in rot13"
_DROPPED = ("ignore", "disregard", "forget", "override", "bypass", "reveal", "print", "repeat", "show")
_SPELT = {
    "with its letters spaced or swapped": _DROPPED,
    _BACKWARDS: tuple(word[::-1] for word in _DROPPED),
    _ROT13: tuple(codecs.encode(word, "rot13") for word in _DROPPED),
}


def override(content: Content, context: Context) -> Iterator[Flag]:
    """Orders to the model: to drop its instructions, to take new ones, to answer in a set way, to show its prompt."""
    view = context.plain
    here = 0
    for word in context.words & OVERRIDE_WORDS.keys():
        here |= OVERRIDE_WORDS[word]
    for wanted, pattern in OVERRIDE_PATTERNS:
        if here & wanted != wanted:
            continue
        for match in pattern.finditer(view):
            if not NOT_ORDERED.search(view, max(0, match.start() - 25), match.start()):
                yield _ordered(excerpt(view, *match.span()))
                return
    if not context.text.isascii() or any(map(view.__contains__, STEMS)):
        for pattern, where in ((FOREIGN, view), (FOREIGN, context.text.lower()), (CYRILLIC, context.text)):
            if found := pattern.search(where):
                yield _ordered(excerpt(where, *found.span()))
                return
    for how, letters_read in _readings(context.squeezed):
        if found := SQUEEZED.search(letters_read):
            yield _ordered(excerpt(letters_read, *found.span()), f", {how}")
            return


def _readings(letters: str) -> Iterator[tuple[str, str]]:
    """(how it was hidden, letters) for each way in which the letters of a text may spell an order."""
    for how, words in _SPELT.items():
        if any(map(letters.__contains__, words)):
            if how == _BACKWARDS:
                yield how, letters[::-1]
            else:
                yield how, codecs.encode(letters, "rot13") if how == _ROT13 else letters


def _ordered(words: str, how: str = "") -> Flag:
    return Flag(rule="override", reason=f"gives the model an order: '{words}'{how}")


def role_claim(content: Content, context: Context) -> Iterator[Flag]:
    """Text that opens a turn of its own, or tells the model who it is."""
    if not context.words & ROLE_WORDS:
        return
    for pattern in ROLES:
        if match := pattern.search(context.lines):
            yield Flag(rule="role_claim", reason=f"claims a role: '{excerpt(context.lines, *match.span())}'")
            return
