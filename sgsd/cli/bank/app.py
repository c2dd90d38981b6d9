"""The command group `sgsd bank`; each file beside this one registers its commands on it."""

from __future__ import annotations

import typer

app = typer.Typer(help="Build, inspect, curate and ask a bank of skill-mistake pairs.", no_args_is_help=True)
