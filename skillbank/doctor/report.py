"""What the doctor found: findings, each with its places, and the report they make."""

from __future__ import annotations

from collections.abc import Iterable

from skillbank.doctor.problems import Problem, Repair, Severity
from skillbank.records import Record

SHOWN = 20
"""Places named in a finding, and details told; the rest is counted."""


class Finding(Record):
    """One kind of problem, wherever it occurs in the bank."""

    check: str
    severity: Severity
    what: str
    count: int
    where: tuple[str, ...]
    """The first places: `entry 7`, `index/CURRENT` ..."""
    details: tuple[str, ...] = ()
    """What is known besides, such as SQLite's own words."""
    remedy: str
    """What to do about it."""
    repair: Repair | None
    """What `fix` does about it."""

    def __str__(self) -> str:
        more = f" and {self.count - len(self.where):,} more" if self.count > len(self.where) else ""
        where = f" ({', '.join(self.where)}{more})" if self.where else ""
        said = f": {'; '.join(self.details)}" if self.details else ""
        return f"{self.what}{where}{said}; {self.remedy}"


class Report(Record):
    """How a bank is."""

    bank: str
    revision: int | None
    """None when it could not be read."""
    entries: int | None
    findings: tuple[Finding, ...]
    """What is wrong, or worth knowing; with `fix`, what is left after mending."""
    fixed: tuple[Finding, ...] = ()
    """What was wrong and has been mended."""
    seconds: float

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def sound(self) -> bool:
        return not self.errors


class Findings:
    """Gathers what checks find, in bounded memory."""

    def __init__(self) -> None:
        self._counts: dict[Problem, int] = {}
        self._where: dict[Problem, list[str]] = {}
        self._details: dict[Problem, list[str]] = {}

    def add(self, problem: Problem, where: str | None = None, *, detail: str | None = None, count: int = 1) -> None:
        self._counts[problem] = self._counts.get(problem, 0) + count
        for kept, text in ((self._where, where), (self._details, detail)):
            texts = kept.setdefault(problem, [])
            if text is not None and len(texts) < SHOWN and text not in texts:
                texts.append(text)

    def add_entries(self, problem: Problem, ids: Iterable[int]) -> None:
        for entry_id in ids:
            self.add(problem, f"entry {entry_id}")

    def take(self, others: Findings) -> None:
        """Those of another look at the same bank, at something else."""
        self._counts |= others._counts
        self._where |= others._where
        self._details |= others._details

    def has(self, *problems: Problem) -> bool:
        return any(problem in self._counts for problem in problems)

    def listed(self) -> tuple[Finding, ...]:
        """Errors first."""
        ordered = sorted(self._counts, key=lambda problem: problem.severity != "error")
        return tuple(
            Finding(
                check=problem.check,
                severity=problem.severity,
                what=problem.what,
                count=self._counts[problem],
                where=tuple(self._where[problem]),
                details=tuple(self._details[problem]),
                remedy=problem.remedy,
                repair=problem.repair,
            )
            for problem in ordered
        )
