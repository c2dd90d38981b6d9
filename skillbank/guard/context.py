"""What a rule gets to see besides an entry's words: what the entry rests on, and what the bank is like.

Rules are pure: a `Context` is filled beforehand, and the same content and context give the same flags anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from skillbank.guard.numbers import Number, find_numbers
from skillbank.guard.text import squeezed, undisguised, words_of
from skillbank.records import Evidence, Flag, Mistake, Skill

if TYPE_CHECKING:
    from skillbank.guard.contamination import EvaluationIndex

Content = Skill | Mistake
LONG = 14


class Source(NamedTuple):
    """A problem that an entry was mined from."""

    problem_id: str
    problem: str | None = None
    """None when its text is not in the bank."""
    answers: tuple[str, ...] = ()
    """Its reference answer, or where there is none the final answers of right attempts at it."""
    quotes: tuple[str, ...] = ()
    """What entries quote from attempts at it: the right step that a mistake is held against is its skill's evidence."""


class Neighbour(NamedTuple):
    """An evaluation problem near an entry or its source problem, by the embedder."""

    problem: str
    """Which: `AIME24.parquet, problem 3`."""
    cosine: float
    what: str
    """`entry` or `source problem`."""


@dataclass(frozen=True)
class Context:
    """An entry's surroundings. Made by `Guard`, one an entry."""

    content: Content
    evidence: tuple[Evidence, ...] = ()
    sources: tuple[Source, ...] = ()
    guided: frozenset[str] = frozenset()
    """Ids of rollouts whose prompt contained skills already."""
    evaluations: EvaluationIndex | None = None
    """The registered evaluation problems; None when there are none."""
    neighbours: tuple[Neighbour, ...] = ()
    language: str | None = None
    """The bank's, as `language.py` names it; None when it is not known."""
    text: str = field(default="")

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", self.content.text())

    @cached_property
    def plain(self) -> str:
        """The text as it reads, disguises taken off, in lower case."""
        return " ".join(self.lines.split())

    @cached_property
    def lines(self) -> str:
        """As `plain`, line by line: a field of the entry begins a line."""
        return undisguised(self.text)

    @cached_property
    def word_list(self) -> list[str]:
        """The words of `plain`, in order."""
        return words_of(self.plain)

    @cached_property
    def words(self) -> frozenset[str]:
        """The words of `plain`: rules look here first, as most texts have none of those that they are about."""
        return frozenset(self.word_list)

    @cached_property
    def long_words(self) -> list[str]:
        """Runs of `LONG` or more characters without white space: where keys and encodings are."""
        return [word for word in self.text.split() if len(word) >= LONG]

    @cached_property
    def numbers(self) -> list[Number]:
        """The numbers of `text`, where they stand."""
        return find_numbers(self.text)

    @cached_property
    def squeezed(self) -> str:
        """The letters of `plain` and nothing else."""
        return squeezed(self.plain)


Rule = Callable[[Content, Context], Iterator[Flag]]
