"""Whether the rows of a bank agree with one another: chains, counts, pairs, ledgers. One query a question.

What entries are against what their events made them is in `replay.py`.
"""

from __future__ import annotations

import zlib

from skillbank.doctor import problems
from skillbank.doctor.problems import Problem
from skillbank.doctor.report import Findings
from skillbank.store import lineage, query
from skillbank.store.database import Database

_QUESTIONS: tuple[tuple[Problem, str], ...] = (
    (
        problems.SIDES,
        "SELECT e.id FROM entries e LEFT JOIN entries s ON s.id = e.skill_id LEFT JOIN entries m ON m.id = e.mistake_id"
        " WHERE e.kind = 'pair' AND (s.kind IS NOT 'skill' OR m.kind IS NOT 'mistake')"
        " OR e.kind <> 'pair' AND (e.skill_id IS NOT NULL OR e.mistake_id IS NOT NULL)",
    ),
    (
        problems.SUPERSEDED,
        "SELECT e.id FROM entries e LEFT JOIN entries b ON b.id = e.superseded_by"
        " WHERE (e.status = 'superseded') <> (e.superseded_by IS NOT NULL)"
        " OR e.superseded_by IS NOT NULL AND b.kind <> e.kind",
    ),
    (
        problems.CYCLE,
        "SELECT id FROM entries WHERE superseded_by IS NOT NULL AND id NOT IN (SELECT id FROM temp.chains)",
    ),
    (
        problems.HEAD,
        "SELECT e.id FROM entries e LEFT JOIN temp.chains c ON c.id = e.id WHERE e.head IS NOT nullif(c.head, e.id)",
    ),
    (problems.COUNT, "SELECT e.id FROM entries e WHERE e.evidence_count IS NOT {count}"),
    (
        problems.FLAGGED,
        "SELECT e.id FROM entries e WHERE e.flags <> '[]' AND e.status = 'active' AND json_valid(e.flags)"
        " AND EXISTS (SELECT 1 FROM json_each(e.flags) f WHERE NOT f.value ->> 'released')",
    ),
    (problems.WITHDRAWN, "SELECT id FROM entries WHERE withdrawn AND status <> 'retired'"),
    (
        problems.RETRACTED,
        "SELECT DISTINCT x.entry_id FROM retractions r JOIN evidence x ON x.rollout_id = r.rollout_id"
        " WHERE r.active AND x.active",
    ),
)

COUNT = (
    "CASE e.kind WHEN 'pair'"
    " THEN (SELECT sum(p.evidence_count) FROM entries p WHERE p.id IN (e.skill_id, e.mistake_id))"
    " ELSE coalesce((SELECT s.count FROM temp.standing s WHERE s.id = e.id),"
    " (SELECT count(*) FROM evidence x WHERE x.entry_id = e.id AND x.active)) END"
)
"""How many places an entry `e` rests on; of a pair, as many as are noted for its sides."""

SUMS = (
    "SELECT skill_id, mistake_id, sum(polarity > 0) AS helpful, sum(polarity < 0) AS harmful,"
    " sum(polarity = 0) AS neutral, sum(support) AS support_sum"
    " FROM usage WHERE NOT placebo GROUP BY skill_id, mistake_id"
)


def check_rows(db: Database, findings: Findings) -> None:
    """Everything but the ledgers. Needs `prepare` before it."""
    for problem, sql in _QUESTIONS:
        findings.add_entries(problem, (row[0] for row in db.stream(sql.format(count=COUNT))))
    for kind, side in query.SIDES.items():
        should = lineage.RETRIEVABLE.format(side=side)
        sql = f"SELECT e.id FROM entries e WHERE e.kind = '{kind}' AND e.retrievable IS NOT {should}"
        findings.add_entries(problems.RETRIEVABLE, (row[0] for row in db.stream(sql)))
    never = "SELECT id FROM entries WHERE kind = 'pair' AND retrievable"
    findings.add_entries(problems.RETRIEVABLE, (row[0] for row in db.stream(never)))
    gaps = (
        "SELECT revision FROM revisions r WHERE NOT EXISTS (SELECT 1 FROM events v WHERE v.revision = r.revision)"
        " OR revision > 1 AND NOT EXISTS (SELECT 1 FROM revisions b WHERE b.revision = r.revision - 1) OR revision < 1"
    )
    for row in db.stream(gaps):
        findings.add(problems.REVISIONS, f"revision {row[0]}")


def check_ledgers(db: Database, findings: Findings) -> None:
    """The ledger of training and its sums, where evidence was found, and what else was written down."""
    for table in ("revisions", "problems", "calls", "evaluations", "usage"):
        for _ in db.stream(f"SELECT * FROM {table}"):  # a text that is none cannot be read
            pass
    compared = (
        f"WITH sums AS MATERIALIZED ({SUMS}) SELECT t.skill_id, t.mistake_id FROM usage_totals t"
        " LEFT JOIN sums s USING (skill_id, mistake_id) WHERE t.helpful IS NOT s.helpful OR t.harmful IS NOT s.harmful"
        " OR t.neutral IS NOT s.neutral OR abs(t.support_sum - s.support_sum) > 1e-6 * (1 + abs(s.support_sum))"
        " UNION ALL SELECT s.skill_id, s.mistake_id FROM sums s LEFT JOIN usage_totals t USING (skill_id, mistake_id)"
        " WHERE t.skill_id IS NULL"
    )
    for row in db.stream(compared):
        findings.add(problems.TOTALS, f"skill {row[0]} with mistake {row[1]}")
    for kind, side in query.SIDES.items():
        unknown = (
            f"SELECT DISTINCT u.{side} FROM usage_totals u LEFT JOIN entries e ON e.id = u.{side} AND e.kind = '{kind}'"
            " WHERE e.id IS NULL"
        )
        findings.add_entries(problems.UNKNOWN_USAGE, (row[0] for row in db.stream(unknown)))
    strangers = (
        "SELECT count(*) FROM evidence x WHERE x.active"
        " AND NOT EXISTS (SELECT 1 FROM rollouts r WHERE r.rollout_id = x.rollout_id)"
    )
    count = db.value(strangers)
    if count:
        findings.add(problems.UNKNOWN_ROLLOUT, count=count)
    for row in db.stream("SELECT * FROM rollouts"):
        if row["completion"] is None:
            continue
        try:
            zlib.decompress(row["completion"]).decode()
        except (zlib.error, UnicodeDecodeError, TypeError):
            findings.add(problems.COMPLETION, f"rollout {row['rollout_id']}")


def prepare(db: Database) -> None:
    """Temporary tables: the chains that entries were merged along, and the places of those that stand for others."""
    for table in ("chains", "under", "standing"):
        db.run(f"DROP TABLE IF EXISTS temp.{table}")
    db.run("CREATE TEMP TABLE chains (id INTEGER PRIMARY KEY, head INTEGER NOT NULL)")
    db.run(
        "INSERT INTO temp.chains WITH RECURSIVE chain (id, head) AS (SELECT id, id FROM entries"
        " WHERE superseded_by IS NULL AND id IN (SELECT superseded_by FROM entries WHERE superseded_by IS NOT NULL)"
        " UNION ALL SELECT e.id, c.head FROM chain c JOIN entries e ON e.superseded_by = c.id) SELECT * FROM chain"
    )
    db.run("CREATE TEMP TABLE under (above INTEGER, id INTEGER, PRIMARY KEY (above, id)) WITHOUT ROWID")
    db.run(
        "INSERT INTO temp.under WITH RECURSIVE up (above, id) AS (SELECT superseded_by, id FROM entries"
        " WHERE superseded_by IS NOT NULL UNION SELECT e.superseded_by, up.id FROM up JOIN entries e ON e.id = up.above"
        " WHERE e.superseded_by IS NOT NULL) SELECT * FROM up WHERE above <> id"
    )
    db.run("INSERT INTO temp.under SELECT DISTINCT above, above FROM temp.under")
    db.run("CREATE TEMP TABLE standing (id INTEGER PRIMARY KEY, count INTEGER NOT NULL)")
    db.run(
        "INSERT INTO temp.standing SELECT above, count(*) FROM (SELECT DISTINCT u.above, x.rollout_id, x.digest"
        " FROM temp.under u JOIN evidence x ON x.entry_id = u.id WHERE x.active) GROUP BY above"
    )
