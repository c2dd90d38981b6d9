"""From `--data` to problems: files and hub names are read, `arena:LEVEL` is made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sgsd.cli.common import note

if TYPE_CHECKING:
    from sgsd.config import DataConfig
    from sgsd.records import Problem


def load_source(config: DataConfig) -> list[Problem]:
    """The problems of a source. What a file leaves out is told on stderr.

    Raises DataNotFound or DataInvalid, in one line.
    """
    scheme, colon, level = config.source.partition(":")
    if colon and scheme == "arena":
        from sgsd.arena import tasks

        return tasks.load_problems(level, split=config.split, limit=config.limit)

    from sgsd.data import load_problems

    found = load_problems(config.source, split=config.split, limit=config.limit)
    if found.left_out:
        note(found.describe())
    return list(found)
