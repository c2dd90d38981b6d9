"""From a configured source to problems: files and hub names are read, `arena:LEVEL` is made; some may be selected."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sgsd.config import DataConfig
    from sgsd.records import Problem


def load_source(config: DataConfig, say: Callable[[str], None] = lambda text: None) -> list[Problem]:
    """The problems of a source that its configuration selects. What is left out is said in a line each.

    Raises DataNotFound or DataInvalid, in one line.
    """
    if config.select == "all":
        return _read(config, config.limit, say)
    from sgsd.selection import select

    selection = select(_read(config, None, say), config)
    say(selection.describe())
    return list(selection.problems[: config.limit])


def _read(config: DataConfig, limit: int | None, say: Callable[[str], None]) -> list[Problem]:
    scheme, colon, level = config.source.partition(":")
    if colon and scheme == "arena":
        from sgsd.arena import tasks

        return tasks.load_problems(level, split=config.split, limit=limit)

    from sgsd.data import load_problems

    found = load_problems(config.source, split=config.split, limit=limit)
    if found.left_out:
        say(found.describe())
    return list(found)
