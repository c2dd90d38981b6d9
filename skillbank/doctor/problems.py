"""What can be wrong with a bank: each problem once, with what is to be done about it.

A problem with a repair hangs on something else in the bank and can be computed again. All others are said and left:
nothing is ever invented.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "note"]
Repair = Literal[
    "schema",
    "reindex",
    "state",
    "retractions",
    "wordings",
    "heads",
    "counts",
    "retrievable",
    "usage",
    "search",
    "vectors",
    "embed",
    "index",
    "leftovers",
]
"""What `fix` does, in this order: each step rests on those before it."""

MEND = "mended by `sgsd bank doctor --fix`"
RESTORE = "cannot be computed again: restore the bank from a copy, or export what can be read and import it anew"


class Problem(NamedTuple):
    """One thing that can be wrong."""

    check: str
    what: str
    repair: Repair | None = None
    severity: Severity = "error"
    advice: str = ""

    @property
    def remedy(self) -> str:
        return self.advice or (MEND if self.repair else RESTORE)


# The file
UNREADABLE = Problem("unreadable", "the database cannot be read")
DAMAGED = Problem("damaged", "SQLite's own check finds the file damaged")
TREE = Problem("damaged-index", "a search tree of the database does not agree with its table", "reindex")
ROW_OR_TREE = Problem("damaged-index", "rows and their search trees differ, and nothing tells which of them is right")
FOREIGN = Problem("foreign-key", "rows name rows that are not there")
TABLE = Problem("table", "tables are missing or have other columns than this version's")
SCHEMA = Problem("schema", "indexes, views or triggers are missing or others than this version's", "schema")
ADDED = Problem("added", "there is more in the database than this version made", None, "note", "left alone")
BANK_ID = Problem("bank-id", "the bank has no id, so that no index can be told to be its own")
SEARCH = Problem("search", "the search index does not agree with the texts", "search")
UNSEARCHED = Problem(
    "search", "the search index was not checked", None, "note", "look again when the bank can be written"
)

# Entries and what they hang on
CONTENT = Problem("content", "what entries say is no skill, mistake or pair")
STATE = Problem("state", "entries are not as their events left them", "state")
DISAGREE = Problem("events", "entries are not as their events left them, and the events do not agree with one another")
HASH = Problem("content-hash", "the hash of entries is not that of their words", "state")
TEXT = Problem("text", "the searched text of entries is not what they say", "state")
CHAIN = Problem("events", "events do not follow from those before them")
EVENTLESS = Problem("eventless", "no event has added these entries")
REVISIONS = Problem("revisions", "revisions are missing, or have no events")
WORDING = Problem("wordings", "the list of all wordings that entries had is not complete", "wordings")
EVIDENCE = Problem("evidence-use", "places are in use that events took out, or the other way round", "state")
QUOTE = Problem("quote", "quoted places are not those that were found")
RETRACTIONS = Problem("retractions", "the list of retracted rollouts is not what the events made it", "retractions")
RETRACTED = Problem(
    "retracted", "entries rest on retracted rollouts", advice="retract these rollouts again: `sgsd bank retract`"
)
SIDES = Problem("pair", "pairs join something else than a skill and a mistake")
SUPERSEDED = Problem("superseded", "entries are superseded by none, or by one of another kind, or not and yet by one")
CYCLE = Problem("cycle", "entries stand for each other in a circle")
HEAD = Problem("head", "the end of the chain that entries were merged along is another than noted", "heads")
COUNT = Problem("evidence-count", "entries rest on another number of places than noted", "counts")
RETRIEVABLE = Problem("retrievable", "it is noted wrongly whether retrieval may return entries", "retrievable")
FLAGGED = Problem("flagged", "entries are active with a flag that nobody released", advice="disable or release them")
WITHDRAWN = Problem("withdrawn", "entries are in use though their addition was undone")

# The ledgers
TOTALS = Problem("usage", "the sums of the usage ledger are not those of its rows", "usage")
UNKNOWN_USAGE = Problem(
    "usage-entry",
    "rows of the usage ledger name entries that the bank does not have, or of the wrong kind",
    None,
    "note",
    "they count for no entry; a run was recorded here that retrieved from another bank, or from a later copy",
)
UNKNOWN_ROLLOUT = Problem(
    "rollout", "places lie in rollouts that the bank does not know", None, "note", "so it is in an imported bank"
)
COMPLETION = Problem("completion", "kept texts of rollouts cannot be unpacked")

# Vectors, embedder, index, folder
FINGERPRINT = Problem(
    "fingerprint", "the bank's embedder cannot be told", advice="embed the bank anew: `sgsd bank build --embedder NAME`"
)
EMBEDDER = Problem(
    "embedder",
    "the bank's own embedder is missing, or has changed since the vectors were made",
    advice="restore the folder from a copy, or embed the bank anew: `sgsd bank build --embedder NAME`",
)
VECTOR = Problem("vector", "vectors have the wrong size or are no unit vectors", "vectors")
OFF_VECTOR = Problem("vector-words", "vectors are not those of the words they stand for", "embed")
NO_VECTOR = Problem(
    "no-vector", "retrievable entries have no vector yet", None, "note", "embedded at the next retrieval"
)
OTHER_VECTORS = Problem(
    "other-vectors",
    "vectors of other embedders are kept",
    None,
    "note",
    "`sgsd bank vacuum --drop-other-vectors` drops them",
)
INDEX = Problem("index", "the index in use is damaged", "index")
INDEX_CONTENT = Problem("index-content", "the index holds other entries or vectors than the bank", "index")
INDEX_OTHER = Problem(
    "index-other",
    "the index is of another embedder than the bank's",
    "index",
    "note",
    "not used, and built again at the next retrieval",
)
LEFTOVER = Problem(
    "leftover",
    "killed processes left files behind",
    "leftovers",
    "note",
    "harmless; removed by `sgsd bank doctor --fix`",
)
BUILDING = Problem(
    "building", "a build of this bank was killed, or is at work", None, "note", "run the build again to finish it"
)
