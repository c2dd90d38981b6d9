"""The guard: gathers what a rule may look at, runs the rules, and quarantines what they find.

    guard = Guard(bank, embedder=embedder)
    bank.add_mined(pairs, actor="miner", check=guard.check)     # on ingest
    report = guard.scan(bank, actor="me")                        # on demand, one revision

It only ever adds flags. Taking one back is a person's decision (`release`), after which the same rule does not raise
the same reason again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from skillbank.errors import InvalidOption
from skillbank.guard.contamination import EvaluationIndex
from skillbank.guard.context import Context, Neighbour, Source
from skillbank.guard.evaluations import index_of
from skillbank.guard.language import majority_language
from skillbank.guard.neighbours import Neighbours
from skillbank.guard.rules import chosen, flags_of
from skillbank.guard.surroundings import Surroundings, evidence_of
from skillbank.records import Entry, Evidence, Flag, Kind, Mistake, Pair, Record, Skill
from skillbank.store.query import Query

if TYPE_CHECKING:
    from skillbank.index.embed import Embedder
    from skillbank.store import Bank

CHUNK = 1000
"""Entries looked at between two reads of the bank."""
LANGUAGE_ENTRIES = 20
"""A bank with fewer entries has no language yet: each entry is held against its own."""
LANGUAGE_SAMPLE = 1000
MAX_SOURCES = 8
"""An entry that rests on more problems is general: their answers and numbers are no longer looked for in it."""


class Flagged(Record):
    """A flag and the entry that it is on."""

    entry: int
    kind: Kind
    rule: str
    reason: str
    new: bool = True
    """False when the entry had it already."""


class ScanReport(Record):
    """What the guard looked at and found."""

    revision: int | None
    """The one that it made; None when it flagged nothing or only previewed."""
    checked: int
    flagged: tuple[Flagged, ...]
    """All that is found and not released, whether found just now or before."""
    by_rule: dict[str, int]
    """Of `flagged`."""
    new: int
    """Of `flagged`, those that the entries did not have yet."""
    quarantined: int
    """Entries that were active and are now in quarantine."""
    released: int
    """Flags found again that a person released: not raised."""
    skipped: int
    """Entries that were reworded while the guard looked: look again."""
    evaluations: int
    """Registered evaluation problems."""
    language: str | None
    embedder: str | None
    """Without one nearness to evaluation problems was not looked for."""
    rules: tuple[str, ...]


class Guard:
    """The rules, with what they need of one bank. One guard serves while the registry stays as it is."""

    def __init__(
        self,
        bank: Bank | EvaluationIndex | None = None,
        *,
        embedder: Embedder | None = None,
        rules: Iterable[str] | None = None,
        language: str | None = None,
    ) -> None:
        """`bank`: where problems, answers and the registry are looked up; a registry alone, or None, for texts by
        themselves. `language`: as `language.COMMON_WORDS` names it; by default that of the bank's entries.

        Raises InvalidOption for an unknown rule, and for a lexical embedder: it matches words, not meaning, and would
        put unrelated problems nearer than reworded ones.
        """
        if embedder is not None and embedder.lexical:
            raise InvalidOption(
                "a lexical embedder cannot find reworded evaluation problems: give a model that knows meaning"
            )
        self.rules = chosen(rules)
        self._bank = None if isinstance(bank, EvaluationIndex) else bank
        self.evaluations = bank if isinstance(bank, EvaluationIndex) else None if bank is None else index_of(bank)
        self.language = language or (None if self._bank is None else bank_language(self._bank))
        self.embedder = embedder
        self._neighbours: Neighbours | None = None
        if embedder is not None and self.evaluations is not None and "evaluation_near" in self.rules:
            self._neighbours = Neighbours(self.evaluations.problems, embedder)
        self._around = Surroundings(self._bank)

    def check(self, content: Skill | Mistake, evidence: Sequence[Evidence] = ()) -> tuple[Flag, ...]:
        """The flags of a wording with what it rests on. What `add_mined(check=...)` calls."""
        return tuple(flags_of(self.context(content, evidence, self._around), self.rules))

    def scan(
        self, bank: Bank, where: Query | None = None, *, actor: str, reason: str = "", preview: bool = False
    ) -> ScanReport:
        """Checks the entries that fit (all but retired ones), and flags and quarantines in one revision."""
        checked, new = 0, dict[int, tuple[Entry, list[Flag]]]()
        found: list[Flagged] = []
        released = 0
        for entry, flags in self.findings(bank, where):
            checked += 1
            known = {(flag.rule, flag.reason): flag.released for flag in entry.flags}
            fresh = [flag for flag in flags if (flag.rule, flag.reason) not in known]
            for flag in flags:
                if known.get((flag.rule, flag.reason), False):
                    released += 1
                else:
                    found.append(
                        Flagged(entry=entry.id, kind=entry.kind, rule=flag.rule, reason=flag.reason, new=flag in fresh)
                    )
            if fresh:
                new[entry.id] = entry, fresh
        revision, skipped, quarantined = self._quarantine(bank, new, actor, reason, preview)
        flagged = tuple(flag for flag in found if flag.entry not in skipped)
        return ScanReport(
            revision=revision,
            checked=checked,
            flagged=flagged,
            by_rule=_in_order(Counter(flag.rule for flag in flagged)),
            quarantined=quarantined,
            new=sum(flag.new for flag in flagged),
            released=released,
            skipped=len(skipped),
            evaluations=0 if self.evaluations is None else len(self.evaluations.problems),
            language=self.language,
            embedder=None if self._neighbours is None or self.embedder is None else self.embedder.describe(),
            rules=tuple(self.rules),
        )

    def _quarantine(
        self, bank: Bank, new: dict[int, tuple[Entry, list[Flag]]], actor: str, reason: str, preview: bool
    ) -> tuple[int | None, set[int], int]:
        if preview or not new:
            return None, set(), sum(entry.status == "active" for entry, _ in new.values())
        skipped: set[int] = set()
        with bank.change(actor=actor, reason=reason or "guard") as change:
            before = {row["id"]: row["status"] for row in change.load(new)}
            for entry_id, (entry, flags) in new.items():
                if change.row(entry_id)["version"] != entry.version:
                    skipped.add(entry_id)
                else:
                    change.flag(entry_id, flags)
            quarantined = sum(
                before[i] == "active" and change.row(i)["status"] == "quarantined" for i in new if i not in skipped
            )
            done = change.revision if change.events else None
        return done, skipped, quarantined

    def findings(
        self, bank: Bank, where: Query | None = None, ids: Iterable[int] | None = None
    ) -> Iterator[tuple[Entry, tuple[Flag, ...]]]:
        """(entry, its flags as of now) of skills and mistakes that fit and are not retired. Changes nothing."""
        wanted = list(ids) if ids is not None else bank.ids(where or Query())
        around = Surroundings(bank)
        for start in range(0, len(wanted), CHUNK):
            entries = [
                entry
                for entry in bank.entries(ids=wanted[start : start + CHUNK])
                if entry.kind != "pair" and entry.status != "retired"
            ]
            evidence = evidence_of(bank, [entry.id for entry in entries])
            around.prepare(evidence.values())
            self._embed(entries, evidence, around)
            for entry in entries:
                assert not isinstance(entry.content, Pair)
                context = self.context(entry.content, evidence[entry.id], around)
                yield entry, tuple(flags_of(context, self.rules))

    # What a rule gets to see

    def context(self, content: Skill | Mistake, evidence: Sequence[Evidence], around: Surroundings) -> Context:
        """What the rules may look at beside the words."""
        problem_ids = dict.fromkeys(place.problem_id for place in evidence)
        sources = tuple(around.source(problem_id) for problem_id in problem_ids)
        if len(sources) > MAX_SOURCES:
            sources = tuple(source._replace(answers=()) for source in sources)
        return Context(
            content=content,
            evidence=tuple(evidence),
            sources=sources,
            guided=around.guided(evidence) if evidence and "guided" in self.rules else frozenset(),
            evaluations=self.evaluations,
            neighbours=tuple(self._near(content, sources)),
            language=self.language,
        )

    def _near(self, content: Skill | Mistake, sources: Sequence[Source]) -> Iterator[Neighbour]:
        if self._neighbours is None:
            return
        yield from self._neighbours.near("entry", content.text())
        for source in sources[:MAX_SOURCES]:
            if source.problem:
                yield from self._neighbours.near(f"source problem {source.problem_id}", source.problem)

    def _embed(self, entries: Sequence[Entry], evidence: dict[int, list[Evidence]], around: Surroundings) -> None:
        """Embeds at once what `_near` will ask for."""
        if self._neighbours is None:
            return
        texts = [entry.content.text() for entry in entries if not isinstance(entry.content, Pair)]
        ids = {place.problem_id for places in evidence.values() for place in places}
        texts += [problem for problem_id in sorted(ids) if (problem := around.source(problem_id).problem)]
        self._neighbours.prepare(texts)


def bank_language(bank: Bank) -> str | None:
    """The language of a bank's entries, told from some of them; None for a bank of few."""
    texts = [
        row[0]
        for row in bank.db.rows(
            "SELECT text FROM entries WHERE text IS NOT NULL AND status = 'active' ORDER BY id LIMIT ?",
            (LANGUAGE_SAMPLE,),
        )
    ]
    return majority_language(texts) if len(texts) >= LANGUAGE_ENTRIES else None


def _in_order(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
