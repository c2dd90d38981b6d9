"""From a configured source to problems: files and hub names are read, `arena:LEVEL` is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sgsd.config import DataConfig
    from sgsd.records import Problem


def load_source(config: DataConfig, say: Callable[[str], None] = lambda text: None) -> list[Problem]:
    """The problems of a source. What a file leaves out is said in one line.

    Raises DataNotFound or DataInvalid, in one line.
    """
    scheme, colon, level = config.source.partition(":")
    if colon and scheme == "arena":
        from sgsd.arena import tasks

        return tasks.load_problems(level, split=config.split, limit=config.limit)

    from sgsd.data import load_problems

    found = load_problems(config.source, split=config.split, limit=config.limit)
    if found.left_out:
        say(found.describe())
    return list(found)
