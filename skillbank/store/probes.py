"""Probes: what a model does on sample problems with an entry in its prompt and without.

A bank keeps them as they come, and whoever made them says how (`sgsd bank probe`). Writing one is no change of the
bank: it makes no revision. The table is made with the first probe, for banks were written before there were any.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from skillbank.errors import BankCorrupt
from skillbank.records import Pair, Record, content_hash
from skillbank.store.schema import LATER

if TYPE_CHECKING:
    from skillbank.store.bank import Bank


class Probe(Record):
    """One entry on one sample of problems. Draws are compared in pairs: the same number of the same problem, with the
    entry in the prompt and without."""

    entry_id: int
    words: str
    """Hash of what the entry said then (`words_of`)."""
    revision: int
    """Of the bank."""
    at: str
    """UTC, ISO 8601."""
    model: str
    data: str
    """Where the problems came from."""
    draws: int = Field(ge=1)
    """Of each problem, with and without."""
    temperature: float
    seed: int
    problems: int = Field(ge=0)
    """That were drawn."""
    own_problems: int = Field(ge=0)
    """Left out: the entry was mined from them."""
    too_long: int = Field(ge=0)
    """Left out: the prompt with the entry exceeds the limit."""
    pairs: int = Field(ge=0)
    """Of draws that both have a verdict; the numbers below are of these."""
    unverifiable: int = Field(ge=0)
    """Pairs of draws without a verdict on one side or both."""
    right_without: int = Field(ge=0)
    right_with: int = Field(ge=0)
    repairs: int = Field(ge=0)
    """Wrong without the entry, right with it."""
    regressions: int = Field(ge=0)
    """Right without the entry, wrong with it."""
    difference: float = Field(ge=-1, le=1)
    """(repairs - regressions) / pairs: accuracy with the entry less that without."""
    low: float = Field(ge=-1, le=1)
    """Of its 95 % interval, problems taken as the independent ones."""
    high: float = Field(ge=-1, le=1)
    repaired: tuple[str, ...] = ()
    """Ids of problems with a repair, and no more than a few of many."""
    regressed: tuple[str, ...] = ()


def words_of(bank: Bank, entry_id: int) -> str:
    """Hash of what an entry says today; of a pair, of what its two sides say. Raises EntryNotFound."""
    content = bank.get(entry_id).content
    if isinstance(content, Pair):
        return f"{words_of(bank, content.skill_id)}+{words_of(bank, content.mistake_id)}"
    return content_hash(content)


def make_room(bank: Bank) -> None:
    """Makes the table where it is missing. A bank that cannot be written to says so here, before anything is drawn."""
    with bank.db.transaction():
        if not _there(bank):
            bank.db.run(LATER["probes"])
        bank.db.run("UPDATE meta SET value = value WHERE key = 'bank_id'")  # changes nothing; refused like any write


def record(bank: Bank, probe: Probe) -> None:
    """Keeps a probe. Raises EntryNotFound for an entry that the bank does not have."""
    bank.get(probe.entry_id)
    make_room(bank)
    bank.db.run("INSERT INTO probes (entry_id, body) VALUES (?, ?)", (probe.entry_id, probe.model_dump_json()))


def probes(bank: Bank, entry_id: int) -> list[Probe]:
    """The probes of an entry, newest first."""
    if not _there(bank):
        return []
    rows = bank.db.rows("SELECT id, body FROM probes WHERE entry_id = ? ORDER BY id DESC", (entry_id,))
    found = []
    for row in rows:
        try:
            found.append(Probe.model_validate_json(row["body"]))
        except ValueError as error:
            raise BankCorrupt(
                f"probe {row['id']} cannot be read: look the bank over with `sgsd bank doctor`"
            ) from error
    return found


def _there(bank: Bank) -> bool:
    return bank.db.value("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'probes'") is not None
