"""The tables of a bank, in SQL.

`entries` is the state of today; `revisions` and `events` are how it came about and are only ever appended to (triggers
refuse anything else). `vectors` and `entry_text` can be recomputed; `usage` is the ledger of training and makes no
revision.
"""

from __future__ import annotations

APPLICATION_ID = 0x534B424B
"""`SKBK`, in the header of every bank's database file: tells a bank from any other SQLite file."""
FORMAT = 1

SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE revisions (
    revision INTEGER PRIMARY KEY,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    undoes INTEGER REFERENCES revisions (revision)
);

CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,           -- handed out once, never again
    kind TEXT NOT NULL CHECK (kind IN ('skill', 'mistake', 'pair')),
    status TEXT NOT NULL CHECK (status IN ('active', 'disabled', 'quarantined', 'superseded', 'retired')),
    origin TEXT NOT NULL,
    content TEXT NOT NULL,                          -- JSON of Skill, Mistake or Pair
    content_hash TEXT NOT NULL,
    text TEXT,                                      -- what is embedded and searched; NULL for a pair
    version INTEGER NOT NULL DEFAULT 1,
    revision INTEGER NOT NULL,                      -- the revision that last changed it
    evidence_count INTEGER NOT NULL DEFAULT 0,
    superseded_by INTEGER REFERENCES entries (id),
    withdrawn INTEGER NOT NULL DEFAULT 0,           -- its addition was undone: as if it had never been mined
    skill_id INTEGER REFERENCES entries (id),       -- of a pair
    mistake_id INTEGER REFERENCES entries (id)
);
CREATE INDEX entries_by_content ON entries (kind, content_hash);
CREATE INDEX entries_by_status ON entries (kind, status);
CREATE INDEX entries_by_revision ON entries (revision);
CREATE INDEX pairs_by_skill ON entries (skill_id, mistake_id) WHERE kind = 'pair';
CREATE INDEX pairs_by_mistake ON entries (mistake_id) WHERE kind = 'pair';

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    revision INTEGER NOT NULL REFERENCES revisions (revision),
    entry_id INTEGER NOT NULL REFERENCES entries (id),
    op TEXT NOT NULL CHECK (op IN ('add', 'edit', 'status', 'supersede', 'evidence', 'undo')),
    before TEXT,                                    -- JSON of the touched fields; NULL when the entry is new
    after TEXT NOT NULL
);
CREATE INDEX events_by_revision ON events (revision);
CREATE INDEX events_by_entry ON events (entry_id);

CREATE VIEW versions AS                             -- every wording an entry has had
    SELECT entry_id, json_extract(after, '$.version') AS version, revision, json_extract(after, '$.content') AS content
    FROM events WHERE json_extract(after, '$.content') IS NOT NULL;

CREATE TABLE evidence (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    entry_id INTEGER NOT NULL REFERENCES entries (id),
    rollout_id TEXT NOT NULL,
    problem_id TEXT NOT NULL,
    outcome TEXT NOT NULL,
    quote TEXT NOT NULL,
    span_start INTEGER,
    span_end INTEGER,
    source TEXT NOT NULL,
    digest BLOB NOT NULL,                           -- of the quoted place: the same place counts once
    active INTEGER NOT NULL DEFAULT 1,
    UNIQUE (entry_id, rollout_id, digest)
);
CREATE INDEX evidence_by_entry ON evidence (entry_id, problem_id) WHERE active;
CREATE INDEX evidence_by_problem ON evidence (problem_id, entry_id) WHERE active;

CREATE TABLE flags (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    entry_id INTEGER NOT NULL REFERENCES entries (id),
    rule TEXT NOT NULL,
    reason TEXT NOT NULL,
    revision INTEGER NOT NULL
);
CREATE INDEX flags_by_entry ON flags (entry_id);

CREATE TABLE vectors (
    fingerprint TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    vector BLOB NOT NULL,                           -- float32, little endian
    PRIMARY KEY (fingerprint, content_hash)
);

CREATE TABLE usage (
    id INTEGER PRIMARY KEY,
    run TEXT NOT NULL,
    step INTEGER NOT NULL,
    problem_id TEXT NOT NULL,
    outcome TEXT NOT NULL,
    skill_id INTEGER NOT NULL,
    mistake_id INTEGER NOT NULL,
    pair_id INTEGER,
    support REAL NOT NULL,
    polarity INTEGER NOT NULL,
    gate_mass REAL NOT NULL,
    weight REAL NOT NULL,
    revision INTEGER NOT NULL,
    placebo INTEGER NOT NULL
);
CREATE INDEX usage_by_skill ON usage (skill_id);
CREATE INDEX usage_by_mistake ON usage (mistake_id);

CREATE VIRTUAL TABLE entry_text USING fts5 (text, content='entries', content_rowid='id', tokenize='unicode61');
CREATE TRIGGER entry_text_insert AFTER INSERT ON entries WHEN new.text IS NOT NULL BEGIN
    INSERT INTO entry_text (rowid, text) VALUES (new.id, new.text);
END;
CREATE TRIGGER entry_text_update AFTER UPDATE OF text ON entries WHEN new.text IS NOT NULL BEGIN
    INSERT INTO entry_text (entry_text, rowid, text) VALUES ('delete', old.id, old.text);
    INSERT INTO entry_text (rowid, text) VALUES (new.id, new.text);
END;

CREATE TRIGGER entries_stay BEFORE DELETE ON entries BEGIN SELECT RAISE (ABORT, 'entries are never deleted'); END;
CREATE TRIGGER evidence_stays BEFORE DELETE ON evidence BEGIN SELECT RAISE (ABORT, 'evidence is never deleted'); END;
CREATE TRIGGER events_stay BEFORE DELETE ON events BEGIN SELECT RAISE (ABORT, 'events are append-only'); END;
CREATE TRIGGER events_hold BEFORE UPDATE ON events BEGIN SELECT RAISE (ABORT, 'events are append-only'); END;
CREATE TRIGGER revisions_stay BEFORE DELETE ON revisions BEGIN SELECT RAISE (ABORT, 'revisions are append-only'); END;
CREATE TRIGGER revisions_hold BEFORE UPDATE ON revisions BEGIN SELECT RAISE (ABORT, 'revisions are append-only'); END;
"""
