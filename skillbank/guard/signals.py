"""The rule against sentences that talk to a model about itself, in whatever words.

Set phrases (`phrases.py`) are easily reworded. What an order to a model can hardly do without is its vocabulary:
orders, prompts, messages, who is addressed, what is cancelled, what is new.
Each of these is common in lessons by itself; three kinds of them in one sentence, of the right kinds, are not
(docs/guard.md has the counts).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from skillbank.guard.context import Content, Context
from skillbank.guard.text import excerpt
from skillbank.records import Flag

_KINDS = {
    "address": r"you|your|yours|yourself|please|kindly",
    "self": r"i|i'm|i've|i'll|me|my",
    "orders": r"instructions?|directives?|orders|commands?|guidelines?|guidance|rules?|polic(?:y|ies)|protocols?"
    r"|restrictions?|checks|safeguards?|prohibitions?|task",
    "machine": r"prompts?|developers?|admin|administrator|assistants?|chatbots?|ai|bots?|llms?|language models?|filters"
    r"|persona|override|configuration|user (?:only|input|instructions?|messages?|commands?)|programmed|programming"
    r"|wrapper|system (?:messages?|prompts?|rules|instructions?)",
    "talk": r"messages?|conversation|chat|respond|response|responses|reply|output|outputs|say|said|told|print"
    "|words|context"
    r"|contents|tell|reveal|repeat|translate|paragraph|preamble|verbatim",
    "cancel": r"ignor(?:e|es)|disregard(?:s|ing)?|forget|erase|deletes?|cancel|void|deprecated|revoked?|invalid"
    "|overrides?"
    r"|bypass(?:es)?|neglecting|never mind|overruled?|superseded?|abide|comply|obey|refuse|lifted|precedence|disables?"
    r"|authori[sz]\w+|confines|unlock\w*",
    "earlier": r"previous|previously|prior|earlier|above|before|initial|original|preceding|hidden|everything",
    "new": r"new|now|instead|henceforth|fresh|actually|following|from here",
    "goods": r"passwords?|credentials?|api|secrets?|database|e-?mails?|text message|tool|accounts?|confidential"
    "|phishing",
}
_SIGNALS = {kind: re.compile(rf"\b(?:{words})\b") for kind, words in _KINDS.items()}
_ABOUT = ("orders", "machine", "talk")
_WANTED = re.compile(rf"\b(?:{'|'.join(_KINDS[kind] for kind in _ABOUT)})\b")
"""Looked for first: most sentences have none."""
_WANTED_WORDS = frozenset(
    word
    for line in (
        "instruction instructions directive directives orders command commands guideline guidelines guidance",
        "rule rules policy policies protocol protocols restriction restrictions checks safeguard safeguards",
        "prohibition prohibitions task",
        "prompt prompts developer developers admin administrator assistant assistants chatbot chatbots ai bot bots",
        "llm llms language filters persona override configuration user programmed programming wrapper system",
        "message messages conversation chat respond response responses reply output outputs say said told print words",
        "context contents tell reveal repeat translate paragraph preamble verbatim",
    )
    for word in line.split()
)
"""One of these is in all that `_WANTED` matches."""
_ALONE = re.compile(
    r"\b(?:unrestricted|uncensored|unfiltered) (?:ai|mode|model|assistant|bot|chatbot|agent|testing|context|version)\b"
    r"|\b(?:jail ?break\w*|chatgpt|llms?|chatbot|backdoor|prompt injection)\b"
    r"|\b(?:developer|admin|debug|maintenance|god|dan) (?:\w+ )?mode\b"
    r"|\brm -rf\b|\bsudo \w|\bcat /etc/|\bos\.system\b|\bchild_process\b|\bdrop table\b|\bsend_\w+ tool\b"
    r"|\b(?:curl|wget) \S+/"
)
"""What a lesson has no use for."""
_ALONE_WORDS = frozenset(
    word
    for line in (
        "unrestricted uncensored unfiltered chatgpt llm llms chatbot backdoor prompt mode",
        "rm sudo cat os child drop send curl wget",
    )
    for word in line.split()
)
"""One of these, or `jail`, is in all that `_ALONE` matches: looked for first, as most texts have none."""
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")


def addresses_model(content: Content, context: Context) -> Iterator[Flag]:
    """A sentence with the vocabulary of an order to a model."""
    view = context.plain
    machines = "jail" in view or not context.words.isdisjoint(_ALONE_WORDS)
    if machines and (match := _ALONE.search(view)):
        yield Flag(rule="addresses_model", reason=f"words for machines: '{excerpt(view, *match.span())}'")
        return
    if context.words.isdisjoint(_WANTED_WORDS):
        return
    for match in _SENTENCE.finditer(view):
        sentence = match.group()
        if not _WANTED.search(sentence):
            continue
        kinds = {kind: hit for kind, signal in _SIGNALS.items() if (hit := signal.search(sentence))}
        if _is_order(set(kinds)):
            words = ", ".join(dict.fromkeys(hit.group() for hit in kinds.values()))
            yield Flag(rule="addresses_model", reason=f"speaks to the model about its orders: {words}")
            return


def _is_order(kinds: set[str]) -> bool:
    about = kinds.intersection(_ABOUT)
    if not about:
        return False
    if len(about) >= 2 and ("address" in kinds or about >= {"machine", "orders"}):
        return True
    if len(kinds) < 3:
        return False
    if kinds & {"cancel", "goods"}:
        return len(kinds) >= 4 or bool(about & {"machine", "orders"})
    return ("address" in kinds and bool(kinds & {"new", "earlier"})) or (
        len(about) >= 2 and bool(kinds & {"self", "new"})
    )
