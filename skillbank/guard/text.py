"""What a text looks like to a reader, and which of its characters deceive one.

Invisible characters, letters of other scripts that look like Latin ones, and the views of a text in which disguises are
taken off. Mathematics keeps its Greek letters, symbols, superscripts and single letters of the mathematical alphabets.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache

# ------------------------------------------------------------------------------------------------ invisible characters

_BLANK_LETTERS = frozenset("\u115f\u1160\u3164\uffa0\u2800\u034f\u17b4\u17b5\u180b\u180c\u180d\u180f")
"""Fillers that count as letters, marks or symbols and print nothing."""
_JOINERS = frozenset("\u200c\u200d")
_JOINING_SCRIPTS = frozenset(
    [
        "ARABIC",
        "DEVANAGARI",
        "BENGALI",
        "GURMUKHI",
        "GUJARATI",
        "ORIYA",
        "TAMIL",
        "TELUGU",
        "KANNADA",
        "MALAYALAM",
        "SINHALA",
        "KHMER",
        "MYANMAR",
    ]
)
"""Scripts whose spelling needs the zero-width joiners."""
_VARIATION = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")
_SUSPECT = re.compile(
    "[\x00-\x08\x0b-\x0c\x0e-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ue000-\uf8ff\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U0010ffff]"
)


def invisible(text: str) -> Iterator[tuple[int, str]]:
    """(place, character) of everything that prints nothing and is not ordinary white space."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return
    for match in _SUSPECT.finditer(text):
        place, character = match.start(), match.group()
        before = text[place - 1] if place else ""
        if character in _JOINERS and before and script(before) in _JOINING_SCRIPTS:
            continue
        if _VARIATION.match(character) and before and unicodedata.category(before) in ("So", "Sm", "Po"):
            continue  # asks for a symbol's emoji or text form
        yield place, character


def name_of(character: str) -> str:
    """`U+200B ZERO WIDTH SPACE`."""
    default = "TAG" if 0xE0000 <= ord(character) <= 0xE007F else unicodedata.category(character)
    return f"U+{ord(character):04X} {unicodedata.name(character, default)}"


def hidden_message(text: str) -> str:
    """The ASCII that a text spells in tag characters; empty when there are none."""
    return "".join(chr(ord(c) - 0xE0000) for c in text if 0xE0020 <= ord(c) <= 0xE007E)


# -------------------------------------------------------------------------------------------------------------- scripts

_ALIASES = {"FULLWIDTH": "LATIN", "HALFWIDTH": "KATAKANA", "MICRO": "GREEK", "OHM": "GREEK", "KELVIN": "LATIN"}
_NO_SCRIPT = frozenset(
    [
        "MATHEMATICAL",
        "DOUBLE-STRUCK",
        "SCRIPT",
        "BLACK-LETTER",
        "MODIFIER",
        "SUPERSCRIPT",
        "SUBSCRIPT",
        "FEMININE",
        "MASCULINE",
        "CIRCLED",
        "PARENTHESIZED",
        "SQUARED",
        "NEGATIVE",
        "REGIONAL",
        "PLANCK",
        "ANGSTROM",
        "ALEF",
        "BET",
        "GIMEL",
        "DALET",
        "INFORMATION",
        "TURNED",
        "REVERSED",
    ]
)


@lru_cache(maxsize=8192)
def script(letter: str) -> str:
    """The script of a letter, by the first word of its name; empty for symbols that belong to none."""
    if letter.isascii():
        return "LATIN" if letter.isalpha() else ""
    if not (letter.isalpha() or unicodedata.category(letter).startswith("M")):
        return ""
    first = unicodedata.name(letter, "").split(" ", 1)[0]
    return "" if first in _NO_SCRIPT else _ALIASES.get(first, first)


def script_shares(text: str) -> Counter[str]:
    """How many letters of each script a text has."""
    if text.isascii():
        return Counter({"LATIN": sum(map(str.isalpha, text))})
    return Counter(name for character in text if (name := script(character)))


# ---------------------------------------------------------------------------------------------------------- look-alikes

_TWINS = {  # pairs: a letter, and the Latin one that it looks like
    "CYRILLIC": (
        "аa АA вB ВB еe ЕE ёe ЁE зe ЗE іi ІI їi ЇI јj ЈJ кk КK мM МM нH НH оo ОO рp РP сc СC тT ТT уy УY хx ХX ѕs ЅS һh"
        " ԁd ԛq ԚQ ԝw ԜW гr пn ьb ЬB вb ѡw ѵv ѴV үy ҮY ӏl ӀI ԍg ҽe"
    ),
    "GREEK": (
        "αa ΑA ΒB βb γy εe ΕE ΖZ ηn ΗH ιi ΙI κk ΚK μu ΜM νv ΝN οo ΟO ρp ΡP τt ΤT υu ΥY χx ΧX ωw ϲc ϹC ϳj όo ίi άa έe ήn"
        " ύu ώw"
    ),
    "ARMENIAN": "օo ոn սu ցg հh զq ՕO ՍU ԼL ՏS իi յj քp թp եt",
    "CHEROKEE": "ᎠD ᎡR ᎢT ᎥI ᎩY ᎪA ᎫJ ᎬE ᎳW ᎷM ᎻH ᎽY ᏀG ᏃZ ᏆI ᏒR ᏔW ᏕS ᏙV ᏚS ᏞL ᏟC ᏢP ᏦK ᏴB",
    "COPTIC": "ⲟo ⲣp ⲥc ⲭx ⲁa ⲉe ⲓi ⲕk ⲏh ⲙm ⲛn ⲧt ⲩy",
    "LATIN": ("ɑa ɡg ıi ɩi ʟl ɪi ɢg ɴn ᴏo ʀr ᴇe ᴀa ʙb ᴄc ᴅd ꜰf ʜh ᴊj ᴋk ᴍm ᴘp ǫq ꜱs ᴛt ᴜu ᴠv ᴡw ʏy ᴢz ɦh ɾr ʋv ɛe ƽs"),
}
_LOOK_LIKE = {pair[0]: pair[1].lower() for pairs in _TWINS.values() for pair in pairs.split() if len(pair) == 2}
_FOLD = str.maketrans(_LOOK_LIKE)
_SMALL_CAPITALS = frozenset(pair[0] for pair in _TWINS["LATIN"].split())
_FUNCTIONS = re.compile(
    r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|lg|exp|lim|max|min|sup|inf|mod|det|arg|dim|ker|gcd|lcm|deg|var|cov"
)
_WORD = re.compile(r"[^\W\d_]+")
MATHEMATICAL_WORD = 4
"""Letters of a mathematical alphabet in a row that make a word: `𝑠𝑖𝑛` is a formula, `𝑠𝑘𝑖𝑝` is not."""


def look_alikes(text: str) -> Iterator[tuple[str, str]]:
    """(word, why) of words whose letters pretend to be others."""
    if text.isascii():
        return
    latin = script_shares(text)["LATIN"]
    for match in _WORD.finditer(text):
        word = match.group()
        if not word.isascii() and (why := _disguise(word, latin)):
            yield word, why


@lru_cache(maxsize=8192)
def _disguise(word: str, latin_letters: int) -> str:
    """Why a word is a disguise; empty when it is none. `latin_letters`: of the whole text."""
    if unicodedata.normalize("NFC", word).encode("ascii", "replace").count(b"?") == 0:
        return ""
    folded = unicodedata.normalize("NFKC", word)
    changed = [c for c in word if not c.isascii() and unicodedata.normalize("NFKC", c).isascii()]
    mathematical = [c for c in changed if ord(c) >= 0x1D400 or script(c) == ""]
    if len(changed) >= (MATHEMATICAL_WORD if len(mathematical) == len(changed) else 3):
        return f"reads '{folded}' in letters of another alphabet"
    if sum(c in _SMALL_CAPITALS for c in word) >= 3:
        return f"reads '{word.translate(_FOLD)}' in small capitals"
    scripts = {name for c in word if (name := script(c))}
    if "LATIN" in scripts and len(scripts) > 1:
        others = scripts - {"LATIN", "GREEK"}
        if others & {"CJK", "HIRAGANA", "KATAKANA", "HANGUL"}:
            return ""  # written without spaces: `求f的最大值`
        if others:
            return f"mixes Latin with {', '.join(sorted(others)).title()} letters"
        return "mixes Latin with Greek letters that look Latin" if _greek_disguise(word) else ""
    if scripts & {"CYRILLIC", "ARMENIAN", "CHEROKEE", "COPTIC"} and latin_letters > len(word):
        twins = all(c in _LOOK_LIKE for c in word)
        return f"reads '{word.translate(_FOLD)}' in {scripts.pop().title()} letters" if twins else ""
    if scripts == {"GREEK"} and len(word) >= 4 and latin_letters > len(word) and all(c in _LOOK_LIKE for c in word):
        return f"reads '{word.translate(_FOLD)}' in Greek letters"
    return ""


def _greek_disguise(word: str) -> bool:
    """Whether Greek letters stand inside a Latin word: `ignοre`, not `dθ`, `sinαcosβ` or `AΔB`."""
    bare = _FUNCTIONS.sub(" ", word)
    greek = [c for c in bare if script(c) == "GREEK"]
    runs = re.findall(r"[A-Za-z]{2,}", bare)
    if not runs or len(greek) >= sum(map(len, runs)) or not all(c in _LOOK_LIKE for c in greek):
        return False
    return re.search(r"[A-Za-z]{2,}[^\W\d_A-Za-z]|[^\W\d_A-Za-z][A-Za-z]{2,}", bare) is not None


# ---------------------------------------------------------------------------------------------------------------- views

_LEET = str.maketrans("013457@$!", "oieastasi")
_NOT_LETTERS = re.compile(r"[^a-z]+")
_SPACE = re.compile(r"\s+")
_ASCII = list(map(chr, range(128)))
_TO_WORDS = str.maketrans({c: " " for c in _ASCII if not c.isalpha()})
_TO_LETTERS = str.maketrans({c: None for c in _ASCII if not "a" <= c <= "z"}) | _LEET
"""The same in one pass, which is many times faster: nearly every text is ASCII."""


def plain(text: str) -> str:
    """The text as it reads: nothing invisible, look-alikes as the letters they look like, one space, lower case."""
    return _SPACE.sub(" ", undisguised(text))


def undisguised(text: str) -> str:
    """As `plain`, with its lines and spaces as they are."""
    if not text.isascii():
        text = _SUSPECT.sub("", text)
        text = unicodedata.normalize("NFKC", text).translate(_FOLD)
    return text.lower()


def words_of(plain_text: str) -> list[str]:
    """The words of a plain text, in order: runs of letters."""
    if plain_text.isascii():
        return plain_text.translate(_TO_WORDS).split()
    return _WORD.findall(plain_text)


def squeezed(plain_text: str) -> str:
    """Only the letters of a plain text, digits and signs read as the letters they stand for: spelling tricks undone."""
    if plain_text.isascii():
        return plain_text.translate(_TO_LETTERS)
    return _NOT_LETTERS.sub("", plain_text.translate(_LEET))


def excerpt(text: str, start: int, end: int, width: int = 60) -> str:
    """A hit as a reason quotes it: on one line, at most `width` characters, what does not print shown by its number."""
    hit = text[start:end]
    hit = hit if len(hit) <= width else f"{hit[: width - 1]}…"
    shown = "".join(c if c.isprintable() else " " if c.isspace() else f"\\u{ord(c):04x}" for c in hit)
    return " ".join(shown.split())
