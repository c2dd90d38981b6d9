"""A bank of any size for measuring: made-up words, clustered vectors, no model. The same one on every machine.

`entries` skills and mistakes, half of each, with a pair entry for every two of them, one place of evidence each, and
the events of their addition. Words are drawn by Zipf's law: some are in half of the texts, most in few. Vectors
lie in clusters. The rows are written past `Bank.change`, a hundred times faster, and are the rows that it writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from skillbank.index.embed import Fingerprint
from skillbank.records import Mistake, Pair, Skill, content_hash
from skillbank.store import Bank
from skillbank.store.events import to_json
from skillbank.store.places import digest_of

VOCABULARY = 60_000
PER_CLUSTER = 200
"""Entries around one centre."""
SPREAD = 1.0
"""Length of an entry's own part of its vector, against 1 for its cluster's."""
CHUNK = 20_000
Array = np.ndarray[Any, Any]


class NoEmbedder:
    """Stands where an embedder would: the vectors are in the bank already, and queries come as vectors."""

    name = "synthetic"

    def __init__(self, dim: int) -> None:
        self.fingerprint = Fingerprint(model="synthetic", pooling="none", dim=dim, dtype="float32")

    def encode_documents(self, texts: list[str]) -> Array:
        raise AssertionError(f"{len(texts)} texts of the synthetic bank have no vector")


def words() -> list[str]:
    """The vocabulary, commonest first: short words of syllables, then longer ones made of two of those."""
    syllables = [f"{consonant}{vowel}" for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    short = [*syllables, *(f"{one}{other}" for one in syllables for other in syllables)]
    long = (f"{one}{other}" for one in short[-200:] for other in short)
    return list(islice(dict.fromkeys([*short, *long]), VOCABULARY))


def frequencies() -> Array:
    weights = 1 / np.arange(1, VOCABULARY + 1) ** 1.05
    return np.asarray(weights / weights.sum())


def texts(rng: np.random.Generator, vocabulary: Array, cumulated: Array, count: int, length: int) -> list[str]:
    drawn = np.searchsorted(cumulated, rng.random((count, length)))
    return [" ".join(row) for row in vocabulary[drawn.clip(max=VOCABULARY - 1)].tolist()]


def vectors(entries: int, dim: int, seed: int = 0) -> Iterator[Array]:
    """Unit vectors in clusters, float32, CHUNK at a time."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((max(1, entries // PER_CLUSTER), dim), dtype=np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    for start in range(0, entries, CHUNK):
        count = min(CHUNK, entries - start)
        own = rng.standard_normal((count, dim), dtype=np.float32)
        own *= SPREAD / np.linalg.norm(own, axis=1, keepdims=True)
        found = centres[rng.integers(len(centres), size=count)] + own
        yield found / np.linalg.norm(found, axis=1, keepdims=True)


def queries(entries: int, dim: int, count: int) -> Array:
    """Unit vectors as problems are: in the same clusters, none of them an entry's."""
    scale = next(vectors(entries, dim, seed=7))
    return np.ascontiguousarray(np.resize(scale, (count, dim)))


def make(path: Path, entries: int, dim: int) -> None:
    """Writes the bank, with vectors and without an index."""
    embedder = NoEmbedder(dim)
    with Bank.create(path) as bank:
        bank.set_meta("embedder", embedder.name)
        bank.set_meta("fingerprint", embedder.fingerprint.model_dump_json())
        rng = np.random.default_rng(1)
        vocabulary, cumulated = np.array(words()), np.cumsum(frequencies())
        entry_id = 0
        for revision, chunk in enumerate(vectors(entries, dim), start=1):
            half = len(chunk) // 2
            skills = texts(rng, vocabulary, cumulated, half, 28)
            mistakes = texts(rng, vocabulary, cumulated, half, 28)
            with bank.db.transaction():
                bank.db.run(
                    "INSERT INTO revisions (revision, actor, reason, retrieval) VALUES (?, 'synthetic', 'made up', 1)",
                    (revision,),
                )
                rows = _Rows(revision, embedder.fingerprint.digest)
                for n, (skill, mistake) in enumerate(zip(skills, mistakes, strict=True)):
                    rows.pair(entry_id, skill.split(), mistake.split(), chunk[2 * n], chunk[2 * n + 1])
                    entry_id += 3
                rows.write(bank)
        bank.db.run("INSERT INTO entry_text (entry_text) VALUES ('optimize')")  # as a build leaves a new bank
        bank.db.run("PRAGMA wal_checkpoint(TRUNCATE)")


class _Rows:
    """The rows of one revision, table by table."""

    def __init__(self, revision: int, digest: str) -> None:
        self.revision, self.digest = revision, digest
        self.entries: list[tuple[Any, ...]] = []
        self.wordings: list[tuple[Any, ...]] = []
        self.events: list[tuple[Any, ...]] = []
        self.evidence: list[tuple[Any, ...]] = []
        self.vectors: list[tuple[Any, ...]] = []

    def pair(self, last_id: int, skill: list[str], mistake: list[str], skill_D: Array, mistake_D: Array) -> None:
        """A skill, a mistake and the pair of both, under the next three ids."""
        self._side(
            last_id + 1,
            "skill",
            Skill(title=" ".join(skill[:5]), principle=" ".join(skill[5:20]), when_to_apply=" ".join(skill[20:])),
            skill_D,
        )
        self._side(
            last_id + 2,
            "mistake",
            Mistake(
                description=" ".join(mistake[:12]),
                why_it_happens=" ".join(mistake[12:18]),
                how_to_avoid=" ".join(mistake[18:]),
            ),
            mistake_D,
        )
        pair = Pair(skill_id=last_id + 1, mistake_id=last_id + 2)
        self._entry(last_id + 3, "pair", to_json(pair.model_dump()), content_hash(pair), None, last_id + 1)

    def _side(self, entry_id: int, kind: str, content: Skill | Mistake, vector_D: Array) -> None:
        chash = content_hash(content)
        self._entry(entry_id, kind, to_json(content.model_dump()), chash, content.text(), None)
        self.vectors.append((self.digest, chash, vector_D.astype("<f4").tobytes()))
        outcome, quote = "correct" if kind == "skill" else "wrong", content.text()[:20]
        rollout, problem = f"r{entry_id}", f"p{entry_id // 12}"
        place = digest_of(outcome, quote, (0, 20))
        self.evidence.append((entry_id, rollout, problem, outcome, quote, 0, 20, "made up", place))

    def _entry(self, entry_id: int, kind: str, body: str, chash: str, text: str | None, skill_id: int | None) -> None:
        mistake_id = None if skill_id is None else skill_id + 1
        places = 1 if skill_id is None else 2
        retrievable = int(skill_id is None)
        self.entries.append(
            (
                entry_id,
                kind,
                "active",
                "mined",
                body,
                chash,
                text,
                self.revision,
                places,
                retrievable,
                skill_id,
                mistake_id,
            )
        )
        self.wordings.append((kind, chash, entry_id))
        self.events.append((self.revision, entry_id, f'{{"content":{body},"status":"active","version":1}}'))

    def write(self, bank: Bank) -> None:
        bank.db.run_many(
            "INSERT INTO entries (id, kind, status, origin, content, content_hash, text, revision, evidence_count,"
            f" retrievable, skill_id, mistake_id) VALUES ({', '.join('?' * 12)})",
            self.entries,
        )
        bank.db.run_many("INSERT INTO wordings VALUES (?, ?, ?)", self.wordings)
        bank.db.run_many("INSERT INTO events (revision, entry_id, op, after) VALUES (?, ?, 'add', ?)", self.events)
        bank.db.run_many(
            "INSERT INTO evidence (entry_id, rollout_id, problem_id, outcome, quote, span_start, span_end, source,"
            " digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            self.evidence,
        )
        bank.db.run_many("INSERT INTO vectors VALUES (?, ?, ?)", sorted(self.vectors))
