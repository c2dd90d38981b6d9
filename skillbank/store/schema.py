"""The tables of a bank, in SQL.

`entries` is the state of today; `revisions` and `events` are how it came about and are only ever appended to (triggers
refuse anything else). `vectors`, `entry_text` and `usage_totals` can be recomputed. What only ever grows makes no
revision: `usage` is the ledger of training, `problems` and `rollouts` say what was read and what became of it, `calls`
is the ledger of mining by a model, `evaluations` holds the problems that the guard keeps out.
`probes` (probes.py) comes with the first one.
"""

from __future__ import annotations

APPLICATION_ID = 0x534B424B
"""`SKBK`, in the header of every bank's database file: tells a bank from any other SQLite file."""
FORMAT = 2

SCHEMA = f"""
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {FORMAT};

CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

CREATE TABLE revisions (
    revision INTEGER PRIMARY KEY,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    undoes INTEGER REFERENCES revisions (revision),
    retrieval INTEGER NOT NULL                      -- whether it changed what retrieval may return, or in which words
);
CREATE INDEX revisions_of_retrieval ON revisions (revision) WHERE retrieval;

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
    head INTEGER,                                   -- the end of the chain of superseded_by; NULL for none
    retrievable INTEGER NOT NULL DEFAULT 0,         -- whether retrieval may return it (store.py says when)
    withdrawn INTEGER NOT NULL DEFAULT 0,           -- its addition was undone: as if it had never been mined
    skill_id INTEGER REFERENCES entries (id),       -- of a pair
    mistake_id INTEGER REFERENCES entries (id),
    pinned INTEGER NOT NULL DEFAULT 0,
    tags TEXT NOT NULL DEFAULT '[]',                -- JSON list of texts, sorted
    flags TEXT NOT NULL DEFAULT '[]',               -- JSON list of Flag
    provenance TEXT                                 -- JSON of Provenance; never changed
);
CREATE INDEX entries_by_status ON entries (kind, status);
CREATE INDEX entries_by_revision ON entries (revision);
CREATE INDEX entries_by_evidence ON entries (evidence_count DESC, id);
CREATE INDEX entries_retrievable ON entries (kind, id) WHERE retrievable;
CREATE INDEX entries_superseded ON entries (superseded_by) WHERE superseded_by IS NOT NULL;
CREATE INDEX entries_by_head ON entries (head) WHERE head IS NOT NULL;
CREATE INDEX entries_flagged ON entries (id) WHERE flags <> '[]';
CREATE INDEX entries_tagged ON entries (id) WHERE tags <> '[]';
CREATE INDEX entries_pinned ON entries (id) WHERE pinned;
CREATE INDEX pairs_by_skill ON entries (skill_id, mistake_id) WHERE kind = 'pair';
CREATE INDEX pairs_by_mistake ON entries (mistake_id) WHERE kind = 'pair';

CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    revision INTEGER NOT NULL REFERENCES revisions (revision),
    entry_id INTEGER REFERENCES entries (id),       -- NULL when it is the bank that changed (a retraction)
    op TEXT NOT NULL,                               -- change.Op
    before TEXT,                                    -- JSON of the touched fields; NULL when the entry is new
    after TEXT NOT NULL
);
CREATE INDEX events_by_revision ON events (revision);
CREATE INDEX events_by_entry ON events (entry_id);

CREATE VIEW versions AS                             -- every wording an entry has had
    SELECT entry_id, json_extract(after, '$.version') AS version, revision, json_extract(after, '$.content') AS content
    FROM events WHERE json_extract(after, '$.content') IS NOT NULL;

CREATE TABLE wordings (                             -- what an entry says or once said: mined again, it is this entry
    kind TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    entry_id INTEGER NOT NULL REFERENCES entries (id),
    PRIMARY KEY (kind, content_hash, entry_id)
) WITHOUT ROWID;

CREATE TABLE retractions (                          -- rollouts on which nothing may rest
    rollout_id TEXT PRIMARY KEY,
    active INTEGER NOT NULL
) WITHOUT ROWID;

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
CREATE INDEX evidence_by_rollout ON evidence (rollout_id) WHERE active;

CREATE TABLE problems (problem_id TEXT PRIMARY KEY, problem TEXT NOT NULL, reference TEXT) WITHOUT ROWID;

CREATE TABLE rollouts (                             -- every rollout that was mined, and what became of it
    rollout_id TEXT NOT NULL,
    miner TEXT NOT NULL,
    problem_id TEXT NOT NULL,
    content_hash TEXT NOT NULL,
    outcome TEXT NOT NULL,
    answer TEXT,
    model TEXT,
    source TEXT NOT NULL,
    guided INTEGER NOT NULL,
    file TEXT NOT NULL,
    fate TEXT NOT NULL CHECK (fate IN ('accepted', 'rejected', 'dead')),
    reason TEXT NOT NULL,
    completion BLOB,                                -- zlib; kept where an entry rests on it
    PRIMARY KEY (rollout_id, miner)
);
CREATE INDEX rollouts_by_problem ON rollouts (problem_id);
CREATE INDEX rollouts_by_file ON rollouts (file);
CREATE INDEX rollouts_by_fate ON rollouts (fate, reason);

CREATE TABLE calls (                                -- the ledger of mining by a model: no finished call is made twice
    key TEXT PRIMARY KEY,                           -- of the rollouts' content, the prompt and the model
    kind TEXT NOT NULL,
    rollouts TEXT NOT NULL,                         -- JSON list of rollout ids
    prompt_hash TEXT NOT NULL,
    model TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('done', 'dead')),
    reply TEXT,
    error TEXT,
    attempts INTEGER NOT NULL,
    prompt_tokens INTEGER,
    completion_tokens INTEGER,
    seconds REAL,
    at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
) WITHOUT ROWID;
CREATE INDEX calls_by_state ON calls (state);

CREATE TABLE evaluations (                          -- problems that nothing in the bank may come from
    sha256 TEXT NOT NULL,                           -- of the file
    number INTEGER NOT NULL,
    file TEXT NOT NULL,
    problem TEXT NOT NULL,
    problem_hash TEXT NOT NULL,
    answer TEXT,
    PRIMARY KEY (sha256, number)
) WITHOUT ROWID;
CREATE INDEX evaluations_by_problem ON evaluations (problem_hash);

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

CREATE TABLE usage_totals (                         -- of the ledger's rows that are no placebo, kept as they come
    skill_id INTEGER NOT NULL,
    mistake_id INTEGER NOT NULL,
    helpful INTEGER NOT NULL,
    harmful INTEGER NOT NULL,
    neutral INTEGER NOT NULL,
    support_sum REAL NOT NULL,
    PRIMARY KEY (skill_id, mistake_id)
) WITHOUT ROWID;
CREATE INDEX usage_totals_by_mistake ON usage_totals (mistake_id);

CREATE VIEW entry_usage AS                          -- merged entries are counted with the one that stands for them
    WITH resolved AS (
        SELECT coalesce(s.head, t.skill_id) AS skill_id, coalesce(m.head, t.mistake_id) AS mistake_id,
            helpful, harmful, neutral, support_sum
        FROM usage_totals t LEFT JOIN entries s ON s.id = t.skill_id LEFT JOIN entries m ON m.id = t.mistake_id
    ),
    parts AS (
        SELECT skill_id AS id, helpful, harmful, neutral, support_sum FROM resolved
        UNION ALL SELECT mistake_id, helpful, harmful, neutral, support_sum FROM resolved
        UNION ALL SELECT p.id, helpful, harmful, neutral, support_sum FROM resolved r
            JOIN entries p ON p.kind = 'pair' AND p.skill_id = r.skill_id AND p.mistake_id = r.mistake_id
    )
    SELECT id, sum(helpful) AS helpful, sum(harmful) AS harmful, sum(neutral) AS neutral,
        sum(helpful + harmful + neutral) AS used,
        (sum(helpful) - sum(harmful)) * 1.0 / sum(helpful + harmful + neutral) AS utility,
        sum(support_sum) / sum(helpful + harmful + neutral) AS mean_support
    FROM parts GROUP BY id;

CREATE VIEW entry_words AS SELECT id, text FROM entries WHERE text IS NOT NULL;    -- pairs have none to search
CREATE VIRTUAL TABLE entry_text USING fts5 (text, content='entry_words', content_rowid='id', tokenize='unicode61');
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

LATER = {
    "probes": (
        "CREATE TABLE probes (id INTEGER PRIMARY KEY AUTOINCREMENT, entry_id INTEGER NOT NULL REFERENCES entries (id),"
        " body TEXT NOT NULL)"
    ),
}
"""Tables that a bank gets when it first has something for them: name -> SQL. They belong to the same format."""
