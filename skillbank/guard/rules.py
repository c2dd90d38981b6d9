"""The table of the guard's rules: name, version, function. A rule looks at one entry and yields flags; nothing else.

A rule's version goes up when it may find something else in the same text: a certificate says under which it was made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from skillbank.errors import InvalidOption
from skillbank.guard import contamination, echoes, encodings, injection, language, leaks, outside, signals
from skillbank.guard.context import Context, Rule
from skillbank.records import Flag

MAX_FLAGS = 3
"""Of one rule on one entry; a fourth hit tells a curator nothing more, and is counted in the third's reason."""


class RuleEntry(NamedTuple):
    """A rule as the table lists it."""

    check: Rule
    version: int
    catches: str


RULES: dict[str, RuleEntry] = {
    "evaluation": RuleEntry(contamination.evaluation, 1, "words or problem of a registered evaluation file"),
    "evaluation_near": RuleEntry(
        contamination.evaluation_near, 1, "nearness to an evaluation problem, by the embedder"
    ),
    "answer_value": RuleEntry(leaks.answer_value, 1, "the answer of a source problem"),
    "answer_phrase": RuleEntry(leaks.answer_phrase, 1, "an answer stated as such, talk of the ground truth"),
    "problem_number": RuleEntry(echoes.problem_number, 1, "numbers of the one source problem, outside quotes"),
    "guided": RuleEntry(echoes.guided, 1, "mined only from prompts that contained skills"),
    "chat_template": RuleEntry(injection.chat_template, 1, "tokens of chat templates"),
    "override": RuleEntry(injection.override, 1, "orders to the model that reads it"),
    "addresses_model": RuleEntry(signals.addresses_model, 1, "the vocabulary of an order to a model"),
    "role_claim": RuleEntry(injection.role_claim, 1, "a turn or a role of its own"),
    "encoded": RuleEntry(encodings.encoded, 1, "text hidden in base64 and the like"),
    "url": RuleEntry(outside.url, 1, "addresses on the web"),
    "markup": RuleEntry(outside.markup, 1, "HTML, scripts, templates, links"),
    "secret": RuleEntry(outside.secret, 1, "keys, passwords, random tokens"),
    "contact": RuleEntry(outside.contact, 1, "e-mail addresses and telephone numbers"),
    "invisible": RuleEntry(language.invisible_characters, 1, "characters that nobody sees"),
    "look_alike": RuleEntry(language.look_alike, 1, "letters that look like others"),
    "length": RuleEntry(language.length, 1, "too short, too long, repeating itself"),
    "language": RuleEntry(language.language, 1, "another language or script than the bank's"),
}


def chosen(names: Iterable[str] | None) -> dict[str, RuleEntry]:
    """The rules of these names, in the table's order; all for None. Raises InvalidOption for an unknown name."""
    if names is None:
        return dict(RULES)
    wanted = set(names)
    unknown = sorted(wanted - set(RULES))
    if unknown:
        raise InvalidOption(f"the guard has no rule {unknown[0]!r}: choose of {', '.join(RULES)}")
    return {name: rule for name, rule in RULES.items() if name in wanted}


def flags_of(context: Context, rules: dict[str, RuleEntry]) -> Iterator[Flag]:
    """All that these rules find in an entry, each flag once, at most `MAX_FLAGS` of a rule."""
    for rule in rules.values():
        raised = list(rule.check(context.content, context))
        if not raised:
            continue
        found = list(dict.fromkeys(raised))
        if len(found) > MAX_FLAGS:
            last = found[MAX_FLAGS - 1]
            more = f"{last.reason}, and {len(found) - MAX_FLAGS} more like it"
            found = [*found[: MAX_FLAGS - 1], last.model_copy(update={"reason": more})]
        yield from found
