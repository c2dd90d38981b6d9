"""The store: a bank's entries in one SQLite file, with everything that ever happened to them.

bank            Bank, the one door to it
query           selecting entries; `matching` their words
change          one transaction, one revision: the plain changes of entries
lineage         merging, splitting, retracting, and what is settled after a change
past            undo, checkout, what differs between revisions
mined           known words gain evidence, new ones become entries
places, flags   what entries rest on; what keeps them from retrieval
sources, usage  what was read and what became of it; what training measured
events, schema, database    the rows underneath
"""

from __future__ import annotations

from skillbank.store.bank import ANY, FILE, Bank, BankStats, Revision
from skillbank.store.change import Change
from skillbank.store.events import Event
from skillbank.store.query import Query
from skillbank.store.usage import Usage, UsageRow

__all__ = ["ANY", "FILE", "Bank", "BankStats", "Change", "Event", "Query", "Revision", "Usage", "UsageRow"]
