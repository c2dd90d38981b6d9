"""The headings under which `sgsd bank --help` lists its commands, so that many of them stay readable."""

from __future__ import annotations

import typer

PANELS: dict[str, tuple[str, ...]] = {
    "Fill": ("build", "import", "dead-letters"),
    "Look": ("ui", "list", "show", "search", "stats", "problems", "usage", "rollout", "probe"),
    "Ask": ("retrieve", "why"),
    "Curate": (
        "review", "edit", "add", "split", "merge", "dedupe", "tag", "untag", "pin", "unpin", "disable", "enable",
        "retire", "release", "prune",
    ),
    "Guard": ("guard", "evaluations", "certify", "retract"),
    "Go back": ("log", "diff", "undo", "checkout"),
    "Keep": ("export", "doctor", "vacuum"),
}  # fmt: skip
"""Heading -> its commands in order; commands that are not named here stand last, under no heading."""


def arrange(app: typer.Typer) -> None:
    """Puts every command under its heading."""
    places = {name: (row, heading) for row, heading in enumerate(PANELS) for name in PANELS[heading]}
    orders = {name: n for n, name in enumerate(name for names in PANELS.values() for name in names)}
    for command in app.registered_commands:
        if (name := _name(command)) in places:
            command.rich_help_panel = places[name][1]
    app.registered_commands.sort(key=lambda command: orders.get(_name(command), len(orders)))


def _name(command: typer.models.CommandInfo) -> str:
    return command.name or (command.callback.__name__.replace("_", "-") if command.callback else "")
