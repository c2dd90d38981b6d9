"""Pages that stand alone: one file, no script, nothing from a network, readable in light and dark.

Entries, problems and completions are untrusted text. Templates escape everything, and the content policy of the page
allows its own style sheet, by its checksum, and nothing else: no script, no style in an element, no image, no request.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

FOLDER = Path(__file__).parent / "templates"
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(template: str, values: Mapping[str, object]) -> str:
    """A page. The style sheet is ours and is put in as it is."""
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return TEMPLATES.get_template(template).render({"style": Markup(style), "policy": policy, **values})


def write(path: Path, html: str) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        # Half a character cannot be written: it is shown as what is missing.
        part.write_text(html, encoding="utf-8", errors="replace")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
