"""Rules against what points out of the bank: addresses on the web, markup and scripts, secrets, people's addresses.

Mathematics is full of look-alikes of all four (`f.x`, `a<b and c>d`, `A@B`, long rows of digits), so each rule asks for
a sign that mathematics does not have: a known top-level domain, a tag with attributes, a prefix, a country code.
"""

from __future__ import annotations

import html
import math
import re
from collections import Counter
from collections.abc import Iterator

from skillbank.guard.context import Content, Context
from skillbank.guard.text import excerpt
from skillbank.records import Flag

# ------------------------------------------------------------------------------------------------------------ addresses

_SURE = r"(?:com|org|net|edu|gov|mil|int|example|invalid|onion|(?:co|ac|gov|org|com|net)\.[a-z]{2})"
"""Top-level domains that are nothing else."""
_WORDY = (
    r"(?:io|ai|dev|app|info|biz|xyz|site|online|tech|cloud|shop|link|club|live|top|wiki|blog|page|pro|zone|me|tv"
    r"|cc|ly|gg"
    r"|sh|so|to|co|us|uk|de|fr|es|it|nl|pl|ru|cn|jp|kr|br|in|eu|ch|at|be|se|ca|au|gl|am|fm|im|is|li|pw|tk|ws"
    r"|local|corp)"
)
"""Those that also are words, names of modules or abbreviations: they need a path, a port or two dots more."""
_LABEL = r"[a-z0-9](?:[a-z0-9\-]{0,40}[a-z0-9])?"
_URL = re.compile(
    r"\b(?:h[tx]{2}ps?|ftps?|sftp|wss?|file|ssh|git|telnet|ldap|jdbc|postgres(?:ql)?|mysql|mongodb(?:\+srv)?"
    r"|redis|s3|gs)"
    r"\s?:\s?/\s?/\s?\S+"
    r"|\b(?:javascript|vbscript|data:[a-z]+/[a-z0-9.+\-]+)\s?[:,;]\s?\S+"
    rf"|\bwww\s?\.\s?{_LABEL}\.\S+"
    rf"|(?<![\w.@])(?:{_LABEL}\.)+{_SURE}\b(?!\()(?:[:/]\S*)?"
    rf"|(?<![\w.@])(?:{_LABEL}\.)+{_WORDY}(?::\d{{2,5}}|/)\S*"
    rf"|(?<![\w.@])(?:{_LABEL}\.){{2,}}{_WORDY}\b(?![(.\w])"
    rf"|//(?:{_LABEL}\.)+[a-z]{{2,}}/\S*"
    r"|(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?::\d{2,5}|/[a-z])\S*|\blocalhost:\d+"
    r"|\[?\b(?:[0-9a-f]{1,4}:){5,7}[0-9a-f]{1,4}\b"
)
_SPELT = re.compile(
    rf"\b[a-z0-9][a-z0-9\-]{{2,40}} ?(?:\[ ?\. ?\]|\( ?\. ?\)|\{{ ?\. ?\}}|\[ ?dot ?\]|\( ?dot ?\)| dot )"
    rf" ?(?:{_SURE}|{_WORDY})\b"
)

_SIGNS = (
    *("//", ": /", "www", "localhost", "script:", "script :", "data:", " dot ", "[dot", "(dot", "{dot"),
    *("[ dot", "( dot", "[.", "(.", "{.", "[ .", "( ."),
)
"""One of these, or a dot within a word, is in every address: looked for first, as most texts have none."""
_DOTTED = re.compile(r"\.(?:[a-z]{2}|\d+\.\d)")


def url(content: Content, context: Context) -> Iterator[Flag]:
    """Addresses on the web, however they are spelt."""
    view = context.plain
    if _DOTTED.search(view) or view.count(":") > 4 or any(map(view.__contains__, _SIGNS)):
        for pattern in (_URL, _SPELT):
            for match in pattern.finditer(view):
                if "@" not in view[max(0, match.start() - 1) : match.end()]:  # e-mail is another rule's
                    yield Flag(rule="url", reason=f"an address on the web: '{excerpt(view, *match.span())}'")


# --------------------------------------------------------------------------------------------------------------- markup

_MARKUP = re.compile(
    r"</?\s?(?:script|style|iframe|frame|object|embed|applet|svg|math|img|image|video|audio|source|link|meta|base"
    r"|form|input"
    r"|button|textarea|select|div|span|table|body|html|head|title|marquee|template|details|portal|font|center|br"
    r"|hr)\b[^<>]*>"
    r"|<[a-z][a-z0-9]*\s[^<>]{0,80}?[a-z\-]+\s?=\s?[\"'][^<>]*>|<([a-z])>.{0,200}?</\1>"
    r"|<!--|-->|<!\[cdata|<!doctype|<\?(?:php|xml)|<%=?"
    r"|\bon(?:error|load|click|mouse\w+|focus|submit|toggle|begin)\s?=|\bjavascript\s?:"
    r"|\{\{\s?[a-z_]{2,}\w*(?:\.[a-z_]|\(|\[|\s?\|)|\{%\s?\w+"
    r"|!\[[^\]\n]{0,80}\]\s?\(|\[[^\]\n]{1,80}\]\((?:#|/|[a-z]+:|www\.)"
    r"|\\(?:href|url|input|include|write18|immediate|openin|openout|includegraphics|usepackage|catcode)\b"
)

_MARKS = ("<", "-->", "&", "{{", "{%", "](", "\\", "script")


def markup(content: Content, context: Context) -> Iterator[Flag]:
    """HTML, scripts, templates, Markdown images and links, and the LaTeX commands that read or open something."""
    view = context.plain
    if not any(map(view.__contains__, _MARKS)):
        return
    if "&" in view:
        view = html.unescape(html.unescape(view))
    for match in _MARKUP.finditer(view):
        yield Flag(rule="markup", reason=f"markup: '{excerpt(view, *match.span())}'")


# -------------------------------------------------------------------------------------------------------------- secrets

_SECRET = re.compile(
    r"\b(?:sk|pk|rk)[-_](?:live|test|proj|ant|or)?[-_]?[A-Za-z0-9_\-]{20,}|\b(?:AKIA|ASIA|AGPA|AIDA"
    r"|AROA)[A-Z0-9]{12,}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}|\bglpat-[\w\-]{16,}|\bxox[abeoprs]-[\w\-]{10,}"
    r"|\bAIza[\w\-]{30,}|\bya29\.[\w\-]{20,}|\bhf_[A-Za-z0-9]{20,}|\bnpm_[A-Za-z0-9]{30,}|\bpypi-[\w\-]{30,}"
    r"|\bSG\.[\w\-]{16,}\.[\w\-]{16,}|\bdop_v1_[0-9a-f]{30,}|\bkey-[0-9a-f]{30,}\b"
    r"|-----\s?BEGIN [A-Z ]*(?:PRIVATE KEY|CERTIFICATE)|\bssh-(?:rsa|ed25519) AAAA[\w+/]{16,}"
    r"|\beyJ[\w\-]{8,}\.[\w\-]{8,}\.[\w\-]*"
    r"|\b[a-z][a-z0-9+]{2,12}://[^\s/:@]+:[^\s/@]+@"
)
_NAMED = re.compile(
    r"\b(?:pass(?:word|wd|phrase|code)?|pwd|secret(?: key)?|api[ _\-]?key|access[ _\-]?key|auth(?:orization)?"
    r"|(?:access |api |auth )?token|bearer|credentials?|private key)\b[\"']?(?:\s?(?:[:=]+|is)\s?"
    r"|\s)(?:bearer\s)?[\"']?"
    r"([^\s\"',;]{8,})",
    re.IGNORECASE,
)
_DIGIT = re.compile(r"\d")
_KEY_WORDS = frozenset(
    ("password", "passwd", "passphrase", "passcode", "pass", "pwd", "secret", "key", "token", "bearer", "auth", "api")
)
_TOKEN = re.compile(r"(?<![\w\\/+=\-])[A-Za-z0-9_+/\-]{20,}={0,2}(?![\w/+\-])")
_HEX_TOKEN = re.compile(r"\b(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{32,}\b", re.IGNORECASE)
RANDOM_BITS = 3.7
"""Entropy of a token's characters, in bits each, above which its letters and digits look drawn at random."""


def secret(content: Content, context: Context) -> Iterator[Flag]:
    """Keys of known shapes, private keys, named passwords, tokens that look drawn at random. Reasons show a head."""
    text = context.text
    if context.words & _KEY_WORDS:
        for match in _NAMED.finditer(text):
            if _mixed(match[1]):
                yield _secret(match[1])
    if "-----" not in text and not any(map(_DIGIT.search, context.long_words)):
        return
    for match in _SECRET.finditer(text):
        yield _secret(match.group())
    for pattern in (_TOKEN, _HEX_TOKEN):
        for match in pattern.finditer(text):
            if _drawn_at_random(match.group()) and not _SECRET.search(match.group()):
                yield _secret(match.group())


def _mixed(token: str) -> bool:
    return any(map(str.isdigit, token)) and any(map(str.isalpha, token)) and not re.search(r"[\\${}()^]", token)


def _drawn_at_random(token: str) -> bool:
    if _HEX_TOKEN.fullmatch(token):
        return True
    kinds = (sum(map(str.isdigit, token)), sum(map(str.islower, token)), sum(map(str.isupper, token)))
    if min(kinds) < 2 or re.search(r"[/_+\-]{2}", token):
        return False
    counts = Counter(token)
    return -sum(n / len(token) * math.log2(n / len(token)) for n in counts.values()) > RANDOM_BITS


def _secret(token: str) -> Flag:
    return Flag(rule="secret", reason=f"looks like a secret of {len(token)} characters: '{excerpt(token, 0, 6)}…'")


# ------------------------------------------------------------------------------------------------------------- contacts

_MAIL = re.compile(
    rf"\bmailto:\S+|\b[a-z0-9._%+\-]{{2,}}@(?:[a-z0-9\-]{{2,}}\.)+(?:{_SURE}|{_WORDY}|test|[a-z]{{3,}})\b(?!\()"
    r"|\b[a-z0-9._%+\-]{2,} ?(?:\[at\]|\(at\)|\{at\}|<at>| at |@) ?[a-z0-9\-]{2,}"
    rf" ?(?:\[dot\]|\(dot\)|\{{dot\}}|<dot>|\[\.\]| dot ) ?(?:{_SURE}|{_WORDY})\b"
)
_PHONE = re.compile(
    r"(?<![\w)\]}$+\-*/^.])(?<![\d)\]}$] )\+\d{1,3}[ .\-]?(?:\(\d{1,4}\)[ .\-]?)?"
    r"\d{2,4}(?:[ .\-]?\d{2,8}){1,4}(?![\d+*/^=])"
    r"|\(\d{3}\) ?\d{3}-\d{4}\b"
    r"|\b(?:tel|phone|telephone|mobile|cell|fax|whatsapp|hotline|sms|call (?:me|us)(?: at)?|text me(?:"
    r" at)?)\b[.:]? ?(?:at |on |no\.? )?"
    r"\+?\(?\d[\d ()./\-]{5,18}\d"
)

_ATS = ("@", " at ", "at]", "at)", "at}", "mailto")
_DIALLED = re.compile(r"\+\d|\(\d{3}\)")
_CALLING = frozenset(
    ("tel", "phone", "telephone", "mobile", "cell", "fax", "whatsapp", "hotline", "sms", "call", "text")
)


def contact(content: Content, context: Context) -> Iterator[Flag]:
    """E-mail addresses and, where they are sure to be such, telephone numbers."""
    view = context.plain
    if any(map(view.__contains__, _ATS)):
        for match in _MAIL.finditer(view):
            yield Flag(rule="contact", reason=f"an e-mail address: '{excerpt(view, *match.span())}'")
    if context.words.isdisjoint(_CALLING) and not _DIALLED.search(view):
        return
    for match in _PHONE.finditer(view):
        if sum(map(str.isdigit, match.group())) >= 7:
            yield Flag(rule="contact", reason=f"a telephone number: '{excerpt(view, *match.span())}'")
