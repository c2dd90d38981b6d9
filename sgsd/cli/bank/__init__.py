"""`sgsd bank ...`: build a bank from past rollouts, look into it, curate it, ask it. One file a group of commands."""

from __future__ import annotations

from sgsd.cli.bank import (
    build,
    curate,
    dead_letters,
    dedupe,
    doctor,
    exchange,
    guard,
    history,
    look,
    panels,
    probe,
    retrieve,
    review,
    ui,
    usage,
    words,
)
from sgsd.cli.bank.app import app

__all__ = [
    "app",
    "build",
    "curate",
    "dead_letters",
    "dedupe",
    "doctor",
    "exchange",
    "guard",
    "history",
    "look",
    "probe",
    "retrieve",
    "review",
    "ui",
    "usage",
    "words",
]

panels.arrange(app)
