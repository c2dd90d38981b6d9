"""What one server knows: its bank, who edits, what is allowed. One for all requests, which run on several threads.

SQLite connections belong to one thread. A request opens the bank, does its work in one thread and closes it: half a
millisecond. The embedder and what is built on it live in one thread of their own (`desk.py`).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from starlette.requests import Request

from skillbank.look.facets import Marks, marks
from skillbank.records import RetrievedPair
from skillbank.store import Bank
from skillbank.web.desk import Desk

TeacherPrompts = Callable[[str, Sequence[RetrievedPair]], list[str]]
"""(problem, pairs) -> what each pair's teacher reads."""


class Site:
    """The bank of a server and how it may be used."""

    def __init__(
        self,
        path: str | Path,
        *,
        actor: str,
        readonly: bool = False,
        token: str | None = None,
        names: Sequence[str] = (),
        teacher_prompts: TeacherPrompts | None = None,
    ) -> None:
        """`token`: asked of everybody when given. `names`: hosts by which the server may be called, besides localhost
        and addresses in numbers. Raises BankNotFound, BankCorrupt.
        """
        self.path = Path(path)
        self.actor = actor
        self.readonly = readonly
        self.token = token
        self.names = frozenset(name.lower() for name in names)
        self.teacher_prompts = teacher_prompts
        self.csrf = secrets.token_urlsafe(24)
        """What a form must bring along; only who has read a page of this server knows it."""
        with self.reading():
            pass
        self.desk = Desk(self.path, readonly=readonly)
        self._marks: tuple[int, Marks] | None = None

    @contextmanager
    def reading(self) -> Iterator[Bank]:
        """The bank for this request, in one state: what others commit meanwhile is not seen."""
        with Bank.open(self.path, readonly=True) as bank, bank.db.snapshot():
            yield bank

    @contextmanager
    def writing(self) -> Iterator[Bank]:
        """The bank for a request that changes it."""
        with Bank.open(self.path, readonly=self.readonly) as bank:
            yield bank

    def marks(self, bank: Bank) -> Marks:
        """Flags and tags of the bank, counted once a revision."""
        known, revision = self._marks, bank.revision
        if known is None or known[0] != revision:
            known = self._marks = revision, marks(bank)
        return known[1]

    def close(self) -> None:
        self.desk.close()


def site_of(request: Request) -> Site:
    site = request.app.state.site
    assert isinstance(site, Site)
    return site
