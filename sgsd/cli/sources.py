"""From `--data` to problems; what a file leaves out is told on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgsd.cli.common import note

if TYPE_CHECKING:
    from sgsd.config import DataConfig
    from sgsd.records import Problem


def load_source(config: DataConfig) -> list[Problem]:
    """See `sgsd.arena.sources.load_source`."""
    from sgsd.arena import sources

    return sources.load_source(config, say=note)
