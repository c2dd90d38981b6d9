"""The items of a file into a bank: one revision, everything quarantined and flagged unless the file is trusted.

What the bank knows in the same words stays as it is; a trusted file adds its evidence to it. Whatever a file says of
the entries of a bank, an untrusted one changes none of them: not their status, their evidence, nor what they are
paired with.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from skillbank.errors import InvalidEntry
from skillbank.exchange import sgsd
from skillbank.exchange.items import Item
from skillbank.exchange.links import deepest_first, parents_first
from skillbank.exchange.reading import BankFile, Format, open_file
from skillbank.records import Flag, Pair, ProblemText, Provenance, Record, content_hash
from skillbank.rollouts.lines import shown
from skillbank.rollouts.rejects import OnReject, Rejected, Unusable, ignore
from skillbank.store import Bank, sources
from skillbank.store.change import Change, Check
from skillbank.store.events import Content

RULE = "imported"
"""The rule of the flag on what came from a file that is not trusted."""


class ImportReport(Record):
    """What became of every record of the file."""

    file: str
    format: Format
    trusted: bool
    revision: int | None
    """The one it landed as; None when nothing was new, or nothing was to be written."""
    added: dict[str, int]
    """Of each kind, `problem` too."""
    known: dict[str, int]
    """What the bank held already in the same words, or the file said twice."""
    quarantined: int
    """Of those added."""
    flags: dict[str, int]
    """Rule -> entries added with a flag of it that nobody released."""
    evidence: int
    """Places added."""
    rejected: dict[str, int]
    """Reason -> records that are no entry, or could not be taken."""
    ignored: dict[str, int]
    """Field -> entries of a JSON bank that had it, for which a bank has no place."""


def import_file(
    bank: Bank,
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    trust: bool = False,
    dry_run: bool = False,
    actor: str,
    reason: str = "",
    check: Check | None = None,
    on_reject: OnReject | None = None,
) -> ImportReport:
    """Take in a file that `export_file` wrote, or a JSON bank of SGSD or SkillRL.

    `check` is the guard, for trusted files too. `dry_run` counts and writes nothing. `on_reject` gets every record
    that was not taken. Raises BankNotFound (no file), InvalidEntry (no file of a known format, too large, damaged or
    without a single entry) and InvalidOption.
    """
    file = Path(path)
    opened = open_file(file, format)
    work = _Import(bank, file, trust, on_reject or ignore)
    with bank.change(actor=actor, reason=reason or f"import of {file.name}", check=check) as change:
        before = change.revision
        work.run(change, opened)
        change.abandoned = dry_run
    landed = not dry_run and bank.revision >= before
    return ImportReport(
        file=str(file),
        format=opened.format,
        trusted=trust,
        revision=before if landed else None,
        added=dict(work.added),
        known=dict(work.known),
        quarantined=work.quarantined,
        flags=dict(work.flags),
        evidence=work.evidence,
        rejected=dict(work.rejected),
        ignored=dict(+opened.ignored),
    )


class _Import:
    """One import: what is counted, and what the references of the file stand for in the bank."""

    def __init__(self, bank: Bank, file: Path, trust: bool, on_reject: OnReject) -> None:
        self.bank, self.file, self.trust, self.on_reject = bank, file, trust, on_reject
        self.added: Counter[str] = Counter()
        self.known: Counter[str] = Counter()
        self.flags: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.quarantined = self.evidence = 0
        self._lines: dict[str, tuple[int, object]] = {}
        self._ids: dict[str, int] = {}
        """Reference -> id, of what was added and of what was known."""
        self._new: set[int] = set()
        self._first = 0, "", ""
        """Number, reason and detail of what was rejected first."""
        self._said: Counter[tuple[str, str]] = Counter()

    def run(self, change: Change, opened: BankFile) -> None:
        self._change = change
        items = self._read(opened)
        if opened.format == "sgsd":
            items = self._joined(items)
        for item in parents_first(items):
            self._take(item, opened)
        for item in items.values():
            if item.kind == "pair":
                self._take_pair(item)
        self._link(items)
        self._check_any()
        rests = "SELECT count(*) FROM evidence WHERE active AND entry_id IN (SELECT value FROM json_each(?))"
        self.evidence += int(self.bank.db.value(rests, (json.dumps(sorted(self._new)),)))
        if opened.record is not None:
            sgsd.keep_metadata(self.bank, opened.record, opened.ignored)
        if change.refused_evidence:
            self.rejected["evidence in a retracted rollout"] += change.refused_evidence

    # Reading

    def _read(self, opened: BankFile) -> dict[str, Item]:
        """The entries of the file by reference, in its order. Problems go into the bank at once."""
        items: dict[str, Item] = {}
        for number, raw, item in opened.lines:
            if isinstance(item, Unusable):
                self._reject(number, raw, item.reason, item.detail)
            elif item.kind == "problem":
                self._take_problem(item)
            elif item.ref in items:
                self._reject(number, raw, "reference given twice", str(item.ref))
            else:
                assert item.ref is not None  # item_of() wants one
                items[item.ref] = item
                self._lines[item.ref] = number, raw
        return items

    def _joined(self, items: Mapping[str, Item]) -> dict[str, Item]:
        """A JSON bank may list one skill under several tasks: it is one entry, with the tags of all."""
        by_words: dict[tuple[str, str], str] = {}
        joined: dict[str, Item] = {}
        for ref, item in items.items():
            first = by_words.setdefault((item.kind, content_hash(item.content())), ref)
            if first == ref:
                joined[ref] = item
            else:
                tags = tuple(sorted({*joined[first].tags, *item.tags}))
                joined[first] = joined[first].model_copy(update={"tags": tags})
                self.known[item.kind] += 1
        return joined

    def _check_any(self) -> None:
        """A file of which nothing is an entry is another kind of file."""
        if self.rejected and not self.added and not self.known:
            number, reason, detail = self._first
            raise InvalidEntry(
                f"{self.file} holds no entry ({sum(self.rejected.values())} records rejected, the first: {number} is "
                f"{reason}, {' '.join(detail.split())}); past rollouts are read by `sgsd bank build`"
            )

    def _reject(self, number: int, raw: object, reason: str, detail: str) -> None:
        if not self.rejected:
            self._first = number, reason, detail
        self.rejected[reason] += 1
        self.on_reject(Rejected(path=str(self.file), line=number, reason=reason, detail=detail, raw=shown(raw)))

    def _refuse(self, item: Item, reason: str, detail: str) -> None:
        number, raw = self._lines[str(item.ref)]
        self._reject(number, raw, reason, detail)

    # Taking

    def _take_problem(self, item: Item) -> None:
        assert item.problem_id is not None
        assert item.problem is not None
        new = sources.problem(self.bank.db, item.problem_id) is None
        (self.added if new else self.known)["problem"] += 1
        if new:
            problem = ProblemText(problem_id=item.problem_id, problem=item.problem, reference=item.reference)
            sources.record_problems(self.bank.db, [problem])

    def _take(self, item: Item, opened: BankFile) -> None:
        content = item.content()
        kind, digest = item.kind, content_hash(content)
        known = self._known(kind, digest, self._said[kind, digest])
        self._said[kind, digest] += 1
        if known is None:
            parent = self._ids.get(item.split_from) if item.split_from else None
            opened.ignored["split_from"] += item.split_from is not None and parent is None
            self._add(item, content, parent)
        else:
            self._ids[str(item.ref)] = known
            self.known[kind] += 1
            if self.trust:
                before = len(self._change.evidence_of(known))
                self._change.add_evidence(known, item.evidence)
                self.evidence += len(self._change.evidence_of(known)) - before

    def _known(self, kind: str, digest: str, nth: int) -> int | None:
        """The entry that the bank held before and that says so (the nth of them), or once said so."""
        sql = (
            "SELECT e.id, e.content_hash = w.content_hash AS says FROM wordings w JOIN entries e ON e.id = w.entry_id"
            " WHERE w.kind = ? AND w.content_hash = ? AND NOT e.withdrawn ORDER BY e.id"
        )
        rows = [row for row in self.bank.db.rows(sql, (kind, digest)) if row["id"] not in self._new]
        says = [int(row["id"]) for row in rows if row["says"]]
        if nth < len(says):
            return says[nth]
        return int(rows[0]["id"]) if rows and not says and nth == 0 else None

    def _take_pair(self, item: Item) -> None:
        skill, mistake = self._ids.get(str(item.skill)), self._ids.get(str(item.mistake))
        if skill is None or mistake is None or not self._are_sides(skill, mistake):
            missing = item.skill if skill is None else item.mistake
            self._refuse(item, "pair without its sides", f"{missing} is no entry of its kind in the file")
            return
        named = "SELECT id FROM entries WHERE kind = 'pair' AND skill_id = ? AND mistake_id = ? AND NOT withdrawn"
        ids = [row[0] for row in self.bank.db.rows(f"{named} ORDER BY id", (skill, mistake))]
        known = [entry_id for entry_id in ids if entry_id not in self._new]
        nth = self._said["pair", f"{skill} {mistake}"]
        self._said["pair", f"{skill} {mistake}"] += 1
        if nth < len(known):
            self._ids[str(item.ref)] = known[nth]
            self.known["pair"] += 1
        elif not self.trust and not {skill, mistake} <= self._new:
            # Quarantined, it would keep an entry from retrieval that was there before.
            self._refuse(item, "pair with a known entry", "an untrusted file pairs no entry that the bank has already")
        else:
            self._add(item, Pair(skill_id=skill, mistake_id=mistake), None)

    def _are_sides(self, skill: int, mistake: int) -> bool:
        kinds = [row["kind"] for row in self._change.load([skill, mistake])]
        return kinds == ["skill", "mistake"]

    def _add(self, item: Item, content: Content, parent: int | None) -> None:
        flags = list(item.flags)
        if not self.trust:
            flags = [flag.model_copy(update={"released": False}) for flag in flags]
            flags.append(Flag(rule=RULE, reason=f"from {self.file.name}, which nobody has looked at here"))
        assert item.status is not None
        assert item.origin is not None
        provenance = item.provenance
        if parent is not None:
            provenance = (provenance or Provenance(miner="split")).model_copy(update={"parent": parent})
        # What is superseded is added as it was before, and superseded once the entry that stands for it is there.
        status = "retired" if item.status == "superseded" else item.status
        entry_id = self._change.add(
            content,
            origin=item.origin,
            status=status,
            evidence=() if item.kind == "pair" else item.evidence,
            flags=flags,
            tags=item.tags,
            provenance=provenance,
        )
        self._ids[str(item.ref)] = entry_id
        self._new.add(entry_id)
        self.added[item.kind] += 1
        row = self._change.row(entry_id)
        self.quarantined += row["status"] == "quarantined"
        self.flags.update({flag["rule"] for flag in json.loads(row["flags"]) if not flag["released"]})

    # Linking

    def _link(self, items: Mapping[str, Item]) -> None:
        """Which new entry another one stands for; then pins, since what is pinned cannot be superseded."""
        links = {ref: item for ref, item in items.items() if item.status == "superseded" and self._is_new(ref)}
        for ref in deepest_first({ref: str(item.superseded_by) for ref, item in links.items()}):
            item = links[ref]
            entry_id, by = self._ids[ref], self._ids.get(str(item.superseded_by))
            # What stands for an entry rests on its evidence too: an untrusted file gives none to what was there before.
            if by is None or not self._may_stand_for(entry_id, by) or not (self.trust or by in self._new):
                self._refuse(item, "superseded by no entry", f"{item.superseded_by}: taken in as retired")
            else:
                self._change.supersede(entry_id, by)
        self._change.pin(self._ids[ref] for ref, item in items.items() if item.pinned and self._is_new(ref))

    def _is_new(self, ref: str) -> bool:
        return self._ids.get(ref) in self._new

    def _may_stand_for(self, entry_id: int, by: int) -> bool:
        old, new = self._change.load([entry_id])[0], self._change.row(by)
        return entry_id != by and old["kind"] == new["kind"] and new["status"] != "superseded"
