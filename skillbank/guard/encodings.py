"""The rule against text that hides its meaning in an encoding: who writes base64 into a lesson has a reason to hide.

What decodes to bytes that are no words is left alone: it is a number, a hash (which `secret` looks at) or a formula.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from urllib.parse import unquote

from skillbank.guard.context import Content, Context
from skillbank.guard.text import excerpt
from skillbank.records import Flag

_BASE64 = re.compile(r"(?<![A-Za-z0-9+/_\-\\])[A-Za-z0-9+/_\-]{16,}={0,2}(?![A-Za-z0-9+/_\-])")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:0x)?((?:[0-9a-fA-F]{2}[ :]?){8,})(?![0-9A-Za-z])")
_PERCENT = re.compile(r"(?:[\w.\-]*%[0-9a-fA-F]{2}){3,}[\w.\-%]*")
_ESCAPES = re.compile(r"(?:\\x[0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|&#x?[0-9a-fA-F]{2,6};){4,}")
_BINARY = re.compile(r"\b(?:[01]{8}[ ,]?){4,}\b")
# These begin with one character of a set, which lets the search leap from one such character to the next.
_PAIRS = re.compile(r"[0-9a-fA-F](?:[0-9a-fA-F][ :](?:[0-9a-fA-F]{2}[ :]){4}|(?<=[01])[01]{7}[ ,])")
_EIGHT_PAIRS = re.compile(r"[0-9a-fA-F][0-9a-fA-F][ :]?(?:[0-9a-fA-F]{2}[ :]?){7}")
_EIGHT_BITS = re.compile(r"[01][01]{7}")
_WORDS = re.compile(rb"[A-Za-z]{2,}[ ,.:;/?=&]{1,2}[A-Za-z]{2,}|[A-Za-z]{8,}")


def encoded(content: Content, context: Context) -> Iterator[Flag]:
    """Text in base64, hexadecimal, binary, percent or escape notation that reads as words once decoded."""
    for notation, hidden in _decoded(context):
        if _readable(hidden):
            words = hidden.decode("ascii", "replace")
            reason = f"hides text in {notation}: it reads '{excerpt(words, 0, len(words))}'"
            yield Flag(rule="encoded", reason=reason)


def _decoded(context: Context) -> Iterator[tuple[str, bytes]]:
    text = context.text
    if not context.long_words and not _PAIRS.search(text):
        return
    for match in (match for word in context.long_words for match in _BASE64.finditer(word)):
        token = match.group().rstrip("=").replace("-", "+").replace("_", "/")
        if any(c.isupper() for c in token) and len(token) % 4 != 1:
            yield "base64", base64.b64decode(token + "=" * (-len(token) % 4))
    for match in _HEX.finditer(text) if _EIGHT_PAIRS.search(text) else ():
        try:
            yield "hexadecimal", binascii.unhexlify(re.sub(r"[ :]", "", match[1]))
        except binascii.Error:
            continue  # an odd number of digits is no text
    if "%" in text:
        for match in _PERCENT.finditer(text):
            yield "percent notation", unquote(match.group()).encode()
    if "\\x" in text or "\\u" in text or "&#" in text:
        for match in _ESCAPES.finditer(text):
            codes = re.findall(r"[0-9a-fA-F]{2,6}", match.group())
            base = 10 if "&#" in match.group() and "&#x" not in match.group() else 16
            yield (
                "character codes",
                "".join(chr(int(c, base)) for c in codes if int(c, base) < 0x110000).encode("utf-8", "replace"),
            )
    for match in _BINARY.finditer(text) if _EIGHT_BITS.search(text) else ():
        yield "binary", bytes(int(byte, 2) for byte in re.findall(r"[01]{8}", match.group()))


def _readable(data: bytes) -> bool:
    if len(set(data)) < 4:
        return False  # a repeating decimal
    return all(32 <= byte < 127 or byte in b"\n\t" for byte in data) and bool(_WORDS.search(data))
