"""Rules about the text as a whole: its length, its language and script, characters that hide in it.

A language is told by its commonest words, a script by its letters: cheap and explainable. Where a text is too short to
tell, the rule says nothing. Languages without a list are told by the absence of the bank's own words.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from skillbank.guard.context import Content, Context
from skillbank.guard.text import excerpt, hidden_message, invisible, look_alikes, name_of, script_shares
from skillbank.records import Flag

MAX_CHARACTERS = 2500
"""Of an entry. The longest of the released banks has under 1,000."""
MIN_WORDS = 3
MIN_LETTERS = 10
MAX_REPEATS = 0.25
"""Share of different words below which a text of `REPEAT_WORDS` or more repeats itself."""
REPEAT_WORDS = 40
_WORD = re.compile(r"[^\W\d_]+")


def length(content: Content, context: Context) -> Iterator[Flag]:
    """Too little to be a lesson, too much to be guidance, or the same words again and again."""
    text = context.text
    if len(text) > MAX_CHARACTERS:
        yield Flag(rule="length", reason=f"{len(text):,} characters, more than {MAX_CHARACTERS:,}")
    words = context.word_list
    letters = sum(map(len, words))
    wide = 0 if text.isascii() else sum(n for name, n in script_shares(text).items() if name in _UNSPACED)
    if wide < MIN_LETTERS and (len(words) < MIN_WORDS or letters < MIN_LETTERS):
        yield Flag(rule="length", reason=f"{len(words)} words of {letters} letters say too little to be a lesson")
    if len(words) >= REPEAT_WORDS and len(set(words)) < MAX_REPEATS * len(words):
        yield Flag(rule="length", reason=f"repeats itself: {len(words)} words, only {len(set(words))} different ones")


# ------------------------------------------------------------------------------------------------------------- language

_UNSPACED = frozenset({"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "THAI", "LAO", "KHMER", "MYANMAR"})
_COMMON = {
    "English": "the of and to is in that for it with as are be this by from or an which when not each use find"
    " then if at on"
    " can has before after into only all any one two its than both between where how what but instead does",
    "Spanish": "el la los las de que y en un una para con por se del es al lo como más su cuando si no sin esta"
    " este donde"
    " entre sobre hay luego cada",
    "German": "der die das und ist ein eine einen zu den von mit für auf man nicht auch sich dem des im als"
    " werden wenn aus"
    " alle oder bei nach wird kann um",
    "French": "le la les des et un une est que pour dans en du il on qui au ce pas par sur avec sont plus où se"
    " si cette"
    " elle ses ou puis",
    "Italian": "il la lo gli le di che e un una per con si in è del della dei non sono come più nel cui quando se"
    " da i ed"
    " questo essa",
    "Portuguese": "o a os as de que e um uma para com por se do da em no na é ao não mais como quando todas todos"
    " seu sua"
    " apenas",
    "Dutch": "de het een en van is dat op te in voor met niet zijn aan door als om bij ook naar er wordt uit alle"
    " of dan men",
    "Polish": "i w na z jest się nie do to że aby jak po od za przez dla lub oraz są ich czy gdzie które który należy",
    "Turkish": "ve bir bu için ile da de olarak olan her çok daha gibi en ki kadar sonra ise önce tüm",
    "Swedish": "och att det som en är av för på med den till inte om ett har de sig man så",
    "Indonesian": "yang dan di untuk dengan pada dari ini adalah ke dalam itu tidak akan atau semua",
    "Vietnamese": "và của là có cho một các được trong với không để này khi những",
}
COMMON_WORDS = {  # letters alone stand in formulas of any language
    language: frozenset(word for word in words.split() if len(word) > 1) for language, words in _COMMON.items()
}
_TELLING = {own: frozenset().union(*COMMON_WORDS.values()) - COMMON_WORDS[own] for own in COMMON_WORDS}
"""The common words of all other languages."""
_BY_SCRIPT = {
    "CYRILLIC": "Cyrillic", "CJK": "Chinese", "HIRAGANA": "Japanese", "KATAKANA": "Japanese", "HANGUL": "Korean",
    "ARABIC": "Arabic", "DEVANAGARI": "Devanagari", "HEBREW": "Hebrew", "THAI": "Thai", "GREEK": "Greek",
}  # fmt: skip
_SEGMENT = re.compile(r"[^.!?;\n。！？]+")
MIN_FOREIGN = 3
"""Common words of another language, in one sentence, that make it that language's."""
MIN_LETTERS_OF_SCRIPT = {True: 2, False: 4}
"""Letters in a row of another script that make a word (True: of scripts whose letters are words or syllables)."""
UNCOMMON_WORDS = 18
"""A text of so many words without one of the bank's commonest is not in its language."""


def language_of(text: str) -> str | None:
    """The language of a text by its letters and commonest words; None when too few tell."""
    shares = script_shares(text)
    shares.pop("GREEK", None) if shares["LATIN"] >= shares["GREEK"] else None
    if not shares:
        return None
    if shares["HIRAGANA"] + shares["KATAKANA"] > 0 and shares["LATIN"] < shares.total() / 2:
        return "Japanese"
    top = shares.most_common(1)[0][0]
    if top != "LATIN":
        return _BY_SCRIPT.get(top, top.title())
    counts = _common_words(_WORD.findall(text.lower()))
    (first, most), (_, second) = counts.most_common(2)
    return first if most >= MIN_FOREIGN and most > second else None


def majority_language(texts: Iterable[str]) -> str | None:
    """The language of most texts that have one; None when no text tells."""
    counts = Counter(language for text in texts if (language := language_of(text)) is not None)
    return counts.most_common(1)[0][0] if counts else None


def _common_words(words: Iterable[str]) -> Counter[str]:
    counts = Counter(dict.fromkeys(COMMON_WORDS, 0))
    for word in words:
        for language, common in COMMON_WORDS.items():
            counts[language] += word in common
    return counts


def language(content: Content, context: Context) -> Iterator[Flag]:
    """Words in a script, or sentences in a language, that are not the bank's (or the rest of the entry's)."""
    text = context.text
    own = context.language or language_of(text)
    if own is None:
        return
    if own in COMMON_WORDS and not text.isascii():
        for run in _foreign_script(text):
            yield Flag(rule="language", reason=f"{run[0]} letters in a bank in {own}: '{excerpt(run[1], 0, 40)}'")
            return
    if own not in COMMON_WORDS:
        other = language_of(text)
        if other is not None and other != own and {own, other} != {"Chinese", "Japanese"}:
            yield Flag(rule="language", reason=f"{other} in a bank in {own}: '{excerpt(text, 0, 40)}'")
        return
    if len(context.words & _TELLING[own]) >= 2:
        yield from _foreign_sentence(text, own)
    words = context.word_list
    if len([word for word in words if len(word) > 1]) >= UNCOMMON_WORDS and not context.words & COMMON_WORDS[own]:
        yield Flag(rule="language", reason=f"none of its {len(words)} words is a common one of {own}")


def _foreign_sentence(text: str, own: str) -> Iterator[Flag]:
    """The first sentence that is another language's."""
    lowered = text.lower()
    for match in _SEGMENT.finditer(lowered):
        words = _WORD.findall(match.group())
        if len(words) < 5 or sum(word in COMMON_WORDS[own] for word in words) * 4 > len(words):
            continue
        counts = _common_words(words)
        other, most = counts.most_common(1)[0]
        if other != own and most >= MIN_FOREIGN and most > 2 * counts[own]:
            start, end = match.span()
            yield Flag(rule="language", reason=f"{other} in a bank in {own}: '{excerpt(text, start, end)}'")
            return


def _foreign_script(text: str) -> Iterator[tuple[str, str]]:
    """(script, words) of runs of letters that are neither Latin nor the Greek of formulas."""
    for match in _WORD.finditer(text):
        word = match.group()
        if word.isascii():
            continue
        shares = script_shares(word)
        del shares["LATIN"]
        if shares["GREEK"] < 6:
            del shares["GREEK"]
        if shares:
            name, count = shares.most_common(1)[0]
            if count >= MIN_LETTERS_OF_SCRIPT[name in _UNSPACED]:
                yield name.title(), text[match.start() : match.start() + 40]


# ----------------------------------------------------------------------------------------------------------- characters


def invisible_characters(content: Content, context: Context) -> Iterator[Flag]:
    """Zero-width, bidirectional, tag, variation and control characters, fillers, private use."""
    counts = Counter(character for _, character in invisible(context.text))
    if not counts:
        return
    shown = ", ".join(f"{name_of(c)} ({n})" for c, n in sorted(counts.items())[:4])
    more = f" and {len(counts) - 4} others" if len(counts) > 4 else ""
    message = hidden_message(context.text)
    spells = f"; they spell '{excerpt(message, 0, len(message))}'" if message else ""
    yield Flag(rule="invisible", reason=f"characters that nobody sees: {shown}{more}{spells}")


def look_alike(content: Content, context: Context) -> Iterator[Flag]:
    """Letters that look like others: mixed scripts within a word, words in letters of another alphabet."""
    for word, why in look_alikes(context.text):
        yield Flag(rule="look_alike", reason=f"'{excerpt(word, 0, 30)}' {why}")
