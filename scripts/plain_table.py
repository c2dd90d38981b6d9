"""Entries in plain sqlite3, beside which a bank is measured: a table and an FTS5 index of its words, and no more."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

PAGE = 20


class PlainTable:
    """What someone would write who needs no more than a table and its words."""

    def __init__(self, file: Path) -> None:
        self.db = sqlite3.connect(file, isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")

    def fill(self, bank: Path) -> None:
        self.db.executescript(
            f"""
            CREATE TABLE docs (id INTEGER PRIMARY KEY, kind, status, places INTEGER, content TEXT, text TEXT);
            CREATE VIRTUAL TABLE words USING fts5 (text, content='docs', content_rowid='id', tokenize='unicode61');
            ATTACH '{bank}' AS bank;
            INSERT INTO docs SELECT id, kind, status, evidence_count, content, text FROM bank.entries;
            CREATE INDEX by_status ON docs (kind, status);
            CREATE INDEX by_places ON docs (places DESC, id);
            INSERT INTO words (rowid, text) SELECT id, text FROM docs WHERE text IS NOT NULL;
            """
        )

    def search(self, text: str) -> list[int]:
        """Ids of the best PAGE."""
        sql = f"SELECT rowid FROM words WHERE words MATCH ? ORDER BY rank LIMIT {PAGE}"
        return [row[0] for row in self.db.execute(sql, (_match(text),))]

    def read(self, text: str) -> list[tuple[int, Any]]:
        """The best PAGE, with what they say."""
        sql = "SELECT d.id, d.content FROM words JOIN docs d ON d.id = words.rowid WHERE words MATCH ?"
        rows = self.db.execute(f"{sql} ORDER BY rank LIMIT {PAGE}", (_match(text),))
        return [(i, json.loads(content)) for i, content in rows]

    def page(self, order: str, offset: int) -> list[tuple[int, Any]]:
        sql = f"SELECT id, content FROM docs ORDER BY {order} LIMIT ? OFFSET ?"
        return [(i, json.loads(content)) for i, content in self.db.execute(sql, (PAGE, offset))]

    def count(self, where: str) -> int:
        return int(self.db.execute(f"SELECT count(*) FROM docs WHERE {where}").fetchone()[0])

    def set_status(self, ids: list[int], status: str) -> None:
        self.db.execute("BEGIN IMMEDIATE")
        self.db.executemany("UPDATE docs SET status = ? WHERE id = ?", ((status, i) for i in ids))
        self.db.execute("COMMIT")


def _match(text: str) -> str:
    return " ".join(f'"{word}"' for word in text.split())
