"""The words that a writer is asked with: one readable template a kind, package data beside this file.

A template has a part `=== system ===` (may be missing) and a part `=== user ===`. `$name` is filled in: `$problem`,
`$attempts` and `$max_items` for skills, mistakes and pairs, `$members`, `$kind` and `$form` for one wording of several
entries, `$error` for the repair; `$$` is a dollar sign. Files of the same names elsewhere take their place. Left out:
how a problem and its attempts are written down (`calls.py`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from typing import Any, Literal

from skillbank.errors import InvalidOption
from skillbank.mine.model.complete import Message
from skillbank.records import Record

CallKind = Literal["skills", "mistakes", "pairs"]
PLACES: dict[str, frozenset[str]] = {
    "skills": frozenset({"problem", "attempts", "max_items"}),
    "mistakes": frozenset({"problem", "attempts", "max_items"}),
    "pairs": frozenset({"problem", "attempts", "max_items"}),
    "merge": frozenset({"members", "kind", "form"}),
    "repair": frozenset({"error"}),
}
"""Template -> what can be filled in; all but `max_items` must be."""
_PART = re.compile(r"^=== (system|user) ===\s*$", re.MULTILINE)


class Prompt(Record):
    """One template."""

    name: str
    system: str
    user: str

    def messages(self, **values: str) -> tuple[Message, ...]:
        """The turns, with the values in their places."""
        parts = (("system", self.system), ("user", self.user))
        return tuple(
            Message(role="system" if role == "system" else "user", content=Template(text).substitute(values))
            for role, text in parts
            if text
        )


class Prompts(Record):
    """The templates of a build."""

    templates: dict[str, Prompt]

    def __getitem__(self, name: str) -> Prompt:
        return self.templates[name]

    def hash(self, kind: CallKind, schema: Mapping[str, Any]) -> str:
        """Changes with every word that the writer reads for a call of this kind, and with the schema of its reply."""
        read = [self[name].model_dump() for name in (kind, "repair")]
        return hashlib.sha256(json.dumps([read, schema], sort_keys=True).encode()).hexdigest()[:16]


def load_prompts(places: Iterable[Path] = ()) -> Prompts:
    """The package's templates, with those of `places` (files `pairs.md` ..., or folders of such) in their stead.

    Raises InvalidOption when a place holds no template, or a template cannot be used.
    """
    files = {name: Path(__file__).with_name(f"{name}.md") for name in PLACES}
    for place in places:
        named = [place / f"{name}.md" for name in PLACES] if place.is_dir() else [place]
        named = [file for file in named if file.is_file() and file.suffix == ".md" and file.stem in PLACES]
        if not named:
            raise InvalidOption(
                f"no prompt template at {place}: name a file {', '.join(f'{name}.md' for name in PLACES)}, or a folder "
                "with at least one of them"
            )
        files |= {file.stem: file for file in named}
    return Prompts(templates={name: _read(name, file) for name, file in files.items()})


def _read(name: str, file: Path) -> Prompt:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"prompt template {file} cannot be read ({error}): write it as UTF-8 text") from error
    pieces = _PART.split(text)
    parts = {role: words.strip() for role, words in zip(pieces[1::2], pieces[2::2], strict=True)}
    if pieces[0].strip() or not parts.get("user"):
        raise InvalidOption(f"prompt template {file} must consist of `=== system ===` (optional) and `=== user ===`")
    used: set[str] = set()
    for words in parts.values():
        template = Template(words)
        if not template.is_valid():
            raise InvalidOption(f"prompt template {file} has a stray $: write $$ for a dollar sign")
        used |= set(template.get_identifiers())
    if used - PLACES[name]:
        known = ", ".join(f"${place}" for place in sorted(PLACES[name]))
        raise InvalidOption(f"prompt template {file} names ${min(used - PLACES[name])}: only {known} can be filled in")
    if missing := PLACES[name] - used - {"max_items"}:
        raise InvalidOption(f"prompt template {file} lacks ${min(missing)}: the writer would not see it")
    return Prompt(name=name, system=parts.get("system", ""), user=parts["user"])
