"""The entries of a kind in the order in which they stand for others, with what decides whether two may become one.

An entry stands before another as the one to keep when, in this order,

1. it is pinned;
2. a person wrote or reworded it;
3. training measured it as more useful: (helpful - harmful) / (uses + 4), so that few uses say little, and what was
   never used stands between what helped and what harmed;
4. it rests on more places;
5. its text comes first in the alphabet, so that nothing hangs on the order in which entries came.

Two that are near stay two when the later one is pinned, when they contradict each other (`contradict.py`), and when one
was mined by contrast and their key words differ (`mine/merge.py`): those texts are worded by template, and where they
differ at all they differ in a word or two.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from skillbank.dedupe.cluster import Clustering, cluster
from skillbank.dedupe.contradict import contradiction
from skillbank.dedupe.neighbours import Progress
from skillbank.errors import BankCorrupt
from skillbank.mine.merge import key_words
from skillbank.records import Kind, Mistake, Skill
from skillbank.store.query import AMONG, json_list, retrievable

if TYPE_CHECKING:
    import numpy as np

    from skillbank.index.embed import Embedder
    from skillbank.index.vectors import Vectors
    from skillbank.store import Bank

PRIOR_USES = 4
"""Neutral uses that every entry is credited with."""


class Row(NamedTuple):
    """What decides about an entry."""

    id: int
    content_hash: str
    head: int | None
    """The entry that took it in before."""
    pinned: bool
    by_hand: bool
    worth: float
    places: int
    by_template: bool


_ROWS = f"""
SELECT e.id, e.content_hash, e.head, e.pinned,
    e.version > 1 OR e.origin = 'manual' OR coalesce(e.provenance ->> 'miner', '') IN ('manual', 'split') AS by_hand,
    coalesce((u.helpful - u.harmful) * 1.0 / (u.used + {PRIOR_USES}), 0) AS worth,
    e.evidence_count AS places,
    coalesce(e.provenance ->> 'miner', CASE e.origin WHEN 'mined' THEN 'contrast' END) IS 'contrast' AS by_template
FROM {{}} LEFT JOIN entry_usage u ON u.id = e.id
WHERE {{}}
ORDER BY e.pinned DESC, by_hand DESC, worth DESC, places DESC, e.text, e.id
"""


class Rows:
    """The retrievable entries of a kind, the best first, each right after those that it took in before."""

    def __init__(self, bank: Bank, embedder: Embedder, kind: Kind, unsaved: Vectors) -> None:
        self.kind = kind
        self._model: type[Skill] | type[Mistake] = Skill if kind == "skill" else Mistake
        self._bank, self._contents = bank, dict[int, Skill | Mistake]()
        source, parameters = retrievable(kind)
        table, where = source.split(" WHERE ")
        absorbed: dict[int, list[Row]] = {}
        under = f"e.head IN (SELECT e.id FROM {source})"
        for values in bank.db.rows(_ROWS.format("entries e", under), parameters):
            row = Row(*values)
            absorbed.setdefault(row.head or 0, []).append(row)
        self.rows = [
            row
            for values in bank.db.rows(_ROWS.format(table, where), parameters)
            for row in (*absorbed.get(values["id"], ()), Row(*values))
        ]
        place = {row.id: n for n, row in enumerate(self.rows)}
        self.absorbed = [(n, place[row.head]) for n, row in enumerate(self.rows) if row.head is not None]
        """(row, row that took it in)"""
        self.vectors_ND = self._vectors(embedder, unsaved)

    def _vectors(self, embedder: Embedder, unsaved: Vectors) -> np.ndarray[Any, Any]:
        """float32 [N, dim], in the order of the rows."""
        import numpy as np

        places: dict[str, list[int]] = {}
        for n, row in enumerate(self.rows):
            places.setdefault(row.content_hash, []).append(n)
        vectors_ND = np.zeros((len(self.rows), embedder.dim), dtype=np.float32)
        found = self._bank.db.stream(
            "SELECT content_hash, vector FROM vectors WHERE fingerprint = ?", (embedder.fingerprint.digest,)
        )
        for source in (found, unsaved.items()):
            for chash, blob in source:
                if chash not in places:
                    continue
                if len(blob) != 4 * embedder.dim:
                    raise BankCorrupt(
                        f"a vector in {self._bank.path}, of content {chash}, has {len(blob)} bytes, "
                        f"not {4 * embedder.dim}"
                    )
                vectors_ND[places.pop(chash)] = np.frombuffer(blob, dtype="<f4")
        # What is left was merged before this embedder was the bank's, or came after the others were embedded.
        if left := sorted(places):
            texts = [self.content(places[chash][0]).text() for chash in left]
            for chash, vector_D in zip(left, embedder.encode_documents(texts), strict=True):
                vectors_ND[places[chash]] = vector_D
        return vectors_ND

    def cluster(self, threshold: float, on_progress: Progress | None = None) -> Clustering:
        return cluster(
            self.vectors_ND, threshold, absorbed=self.absorbed, may_join=self.may_join, on_progress=on_progress
        )

    def read(self, rows: Iterable[int]) -> None:
        """Has the words of these rows at hand, where many are going to be compared."""
        wanted = {self.rows[row].id for row in rows} - self._contents.keys()
        sql = f"SELECT e.id, e.content FROM entries e WHERE {AMONG}"
        for entry_id, body in self._bank.db.rows(sql, (json_list(sorted(wanted)),)):
            self._contents[entry_id] = self._model.model_validate_json(body)

    def content(self, row: int) -> Skill | Mistake:
        entry_id = self.rows[row].id
        if entry_id not in self._contents:
            self.read([row])
        return self._contents[entry_id]

    def may_join(self, row: int, member: int) -> bool:
        return self.against(row, member) is None

    def against(self, row: int, other: int) -> str | None:
        """What keeps a row from joining a better one, whatever their cosine; in words."""
        one, better = self.rows[row], self.rows[other]
        if one.pinned and one.head is None:
            return "both are pinned"
        mine, theirs = self.content(row), self.content(other)
        if (one.by_template or better.by_template) and key_words(mine) != key_words(theirs):
            return "mined by contrast, and their key words differ"
        return contradiction(theirs, mine)

    def why(self, leader: int, second: int) -> str:
        """Why the first row of a cluster is the one to keep, by what sets it apart from the second."""
        best, next_best = self.rows[leader], self.rows[second]
        if best.pinned:
            return "pinned"
        if best.by_hand and not next_best.by_hand:
            return "worded by a person"
        if best.worth != next_best.worth:
            return f"more useful in training ({best.worth:+.2f} against {next_best.worth:+.2f})"
        if best.places != next_best.places:
            return f"rests on {best.places} places, the next on {next_best.places}"
        return "no other has more evidence or use; first in the alphabet"
