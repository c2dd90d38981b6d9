"""Work on a bank that is killed with -9 at random moments: what there is to kill, and what must be true after it.

Each `Work` is deterministic: done to its end without a kill it gives one bank, whose content at every revision is
known. Killed anywhere and looked at, a bank must be one of those, and begun again the work must end in the same one.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import statistics
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from skillbank.building import build_bank
from skillbank.dedupe import merge_duplicates
from skillbank.dedupe.duplicates import find_duplicates
from skillbank.doctor import doctor
from skillbank.exchange import export_file, import_file
from skillbank.index import VectorIndex
from skillbank.index.embed import Embedder
from skillbank.index.vectors import bank_embedder
from skillbank.records import Evidence, MinedPair, Mistake, Rollout, Skill
from skillbank.rollouts import write_rollouts
from skillbank.store import FILE, Bank
from skillbank.store.database import Database
from skillbank.store.query import Query

PAIRS = 200
"""Pairs in the bank that work is done on."""
ROUNDS = 6
"""Repetitions of a short piece of work, so that there is something to kill."""
ATTEMPTS = 4
"""Tries for one kill: work that is done before its kill does not count."""


# -------------------------------------------------------------------------------------------------------- what is done


def pair(n: int) -> MinedPair:
    """A made-up finding. Every fifth says nearly the same as the one before it, so that there is something to merge."""
    word = f"operation{n - (n % 5 == 4)}"
    tail = " indeed" if n % 5 == 4 else ""

    def places(outcome: str) -> tuple[Evidence, ...]:
        return tuple(
            Evidence.model_validate(
                {
                    "rollout_id": f"{n}-{k}-{outcome}",
                    "problem_id": f"problem {n % 97}",
                    "outcome": outcome,
                    "quote": f"{word} of {k} gives {n}",
                    "span": (k, k + 20),
                }
            )
            for k in range(3)
        )

    return MinedPair(
        skill=Skill(title=f"Take {word}", principle=f"{word} doubles the first and adds the second{tail}"),
        mistake=Mistake(description=f"{word} taken as the sum of both", how_to_avoid=f"Double first in {word}{tail}"),
        skill_evidence=places("correct"),
        mistake_evidence=places("wrong"),
        origin="torture",
    )


def rollouts(problems: int, start: int = 0) -> Iterator[Rollout]:
    """Two right and two wrong attempts at every problem."""
    for n in range(start, start + problems):
        word = f"{'bcdfghklmnprstvz'[n % 16]}or{'bdfgklmnprt'[n % 11]}"
        problem = f"What is {n} {word} 7 modulo 23?"
        for k in range(4):
            rule = "doubled sum" if k < 2 else ("sum" if k == 2 else "product")
            yield Rollout(
                rollout_id=f"{n}-{k}",
                problem_id=f"p{n}",
                problem=problem,
                completion=f"{word} means {rule}\n{n} {word} 7 = {n}\n\\boxed{{{n}}}",
                outcome="correct" if k < 2 else "wrong",
            )


@dataclass(frozen=True)
class Work:
    """Something that is done to a bank, and may be begun again at any point."""

    name: str
    prepare: Callable[[Path], None]
    """Makes the folder that the work begins with."""
    do: Callable[[Path, Callable[[], None]], None]
    """Does it, or what is left of it; calls back after each revision that is committed."""


def bank_of_pairs(folder: Path) -> None:
    with Bank.create(folder / "bank") as bank:
        for start in range(0, PAIRS, 100):
            bank.add_mined(map(pair, range(start, start + 100)), actor="miner", reason=f"batch {start}")
        VectorIndex.open(bank, bank_embedder(bank))


def bank_and_export(folder: Path) -> None:
    bank_of_pairs(folder)
    with Bank.open(folder / "bank", readonly=True) as bank:
        export_file(bank, folder / "export.jsonl", format="jsonl")
    shutil.rmtree(folder / "bank")


def rollout_files(folder: Path) -> None:
    write_rollouts(folder / "first.jsonl", rollouts(60))
    write_rollouts(folder / "second.jsonl", rollouts(60, start=60))


def built_and_files(folder: Path) -> None:
    rollout_files(folder)
    build_bank([folder / "first.jsonl"], folder / "bank")


def steps(folder: Path, committed: Callable[[], None], act: Callable[[Bank, int], None], first: int) -> None:
    """Does what is left of ROUNDS pieces of work, each of which makes one revision."""
    with Bank.open(folder / "bank") as bank:
        while (round_ := bank.revision - first) < ROUNDS:
            act(bank, round_)
            committed()


_embedders: dict[str | None, Embedder] = {}


def embedder_of(bank: Bank) -> Embedder:
    """Loaded once, in the process that starts all others: else most kills would hit its loading."""
    fingerprint = bank.meta("fingerprint")
    if fingerprint not in _embedders:
        _embedders[fingerprint] = bank_embedder(bank)
    return _embedders[fingerprint]


def undo(folder: Path, committed: Callable[[], None]) -> None:
    """Rejects half the bank and undoes that, again and again."""

    def act(bank: Bank, n: int) -> None:
        if n % 2:
            bank.undo(actor="me")
            return
        with bank.change(actor="me", reason="clumsy") as change:
            change.set_status(range(1, 3 * PAIRS // 2), "disabled")
            change.tag(range(1, PAIRS), add=["clumsy"])

    steps(folder, committed, act, PAIRS // 100)


def index(folder: Path, committed: Callable[[], None]) -> None:
    """Changes entries and writes the index anew, again and again."""

    def act(bank: Bank, n: int) -> None:
        with bank.change(actor="me") as change:
            change.set_status(bank.ids(Query(kind="skill"))[n::3], "disabled" if n % 2 else "retired")
        VectorIndex.open(bank, embedder_of(bank)).write()

    steps(folder, committed, act, PAIRS // 100)


def dedupe(folder: Path, committed: Callable[[], None]) -> None:
    """Merges what is nearly the same and undoes that, again and again."""

    def act(bank: Bank, n: int) -> None:
        if n % 2:
            bank.undo(actor="me")
            return
        look = find_duplicates(bank, embedder_of(bank), 0.7)
        assert look.groups, "there is nothing to merge"
        merge_duplicates(bank, look, actor="me")

    steps(folder, committed, act, PAIRS // 100)


def build(folder: Path, committed: Callable[[], None]) -> None:
    build_bank([folder / "first.jsonl"], folder / "bank")
    committed()


def build_more(folder: Path, committed: Callable[[], None]) -> None:
    build_bank([folder / "second.jsonl"], folder / "bank")
    committed()


def create(folder: Path, committed: Callable[[], None]) -> None:
    for n in range(ROUNDS):
        Bank.open_or_create(folder / f"bank{n or ''}").close()
        committed()


def bring_in(folder: Path, committed: Callable[[], None]) -> None:
    with Bank.open_or_create(folder / "bank") as bank:
        committed()
        if bank.revision == 0:
            import_file(bank, folder / "export.jsonl", trust=True, actor="me")
            committed()


WORKS = (
    Work("build", rollout_files, build),
    Work("build into a bank", built_and_files, build_more),
    Work("undo", bank_of_pairs, undo),
    Work("index swap", bank_of_pairs, index),
    Work("dedupe", bank_of_pairs, dedupe),
    Work("create", lambda folder: None, create),
    Work("import", bank_and_export, bring_in),
)


# ------------------------------------------------------------------------------------------------------ what must hold

_REVISED = {
    "entries": "id",
    "events": "id",
    "evidence": "id",
    "revisions": "revision",
    "wordings": "kind, content_hash, entry_id",
    "retractions": "rollout_id",
}
"""What changes in revisions, and an order that says nothing of how it came in. Vectors and indexes follow from it."""
_FACTS = {"problems": "problem_id", "rollouts": "rollout_id, miner", "usage": "id"}
"""What only ever grows: it may be there before the revision that rests on it."""


def content(bank: Path, tables: dict[str, str]) -> str:
    """A hash of what a bank holds, but for its id and the time of day."""
    digest = hashlib.sha256()
    db = Database(bank / FILE)
    try:
        for table, order in tables.items():
            digest.update(table.encode())
            for row in db.stream(f"SELECT * FROM {table} ORDER BY {order}"):
                digest.update(repr([row[name] for name in row.keys() if name != "at"]).encode())  # noqa: SIM118
    finally:
        db.close()
    return digest.hexdigest()


@dataclass
class Outcome:
    """What came of killing one kind of work."""

    work: str
    span_s: float
    """The work takes so long when nobody kills it."""
    kills: int = 0
    outlived: int = 0
    """Kills that came when the work was done; they are not counted among the kills."""
    at_revision: dict[str, int] = field(default_factory=dict)
    """How often it was found at which revision; `none` where there was no bank yet."""
    notes: dict[str, int] = field(default_factory=dict)
    """What the doctor noted, which is no error: mostly what was left behind."""
    failures: list[str] = field(default_factory=list)


def torture(work: Work, kills: int, seed: int, folder: Path) -> Outcome:
    """Kills the work so many times, each time on a fresh copy."""
    template, place = folder / "template", folder / "place"
    template.mkdir(parents=True)
    run(lambda: work.prepare(template))
    known, span = _measured(work, template, place)
    outcome = Outcome(work.name, round(span, 3))
    chance = random.Random(f"{work.name} {seed}")
    for _ in range(kills * ATTEMPTS):
        if outcome.kills == kills:
            break
        fresh(template, place)
        delay = chance.uniform(0, span)
        reported, killed = run_and_kill(lambda committed: work.do(place, committed), delay)
        if not killed:
            outcome.outlived += 1
            continue
        outcome.kills += 1
        told = f"{work.name}, killed after {delay:.3f} s"
        _look(place, known, reported, outcome, told)
        run(lambda: work.do(place, lambda: None))
        if _contents(place, _REVISED | _FACTS) != known[-1]:
            outcome.failures.append(f"{told}: begun again it ends otherwise than without a kill")
        _doctored(place, outcome, f"{told} and begun again", fix=True)
    return outcome


def _measured(work: Work, template: Path, place: Path) -> tuple[list[dict[str, str]], float]:
    """What the bank holds after each revision and, last, at the end with all facts; and how long the work takes."""
    known: list[dict[str, str]] = []
    spans = []
    for turn in range(3):
        fresh(template, place)
        states = [_contents(place, _REVISED)]

        def noted(states: list[dict[str, str]] = states) -> None:
            states.append(_contents(place, _REVISED))

        started = time.monotonic()
        if turn == 0:
            work.do(place, noted)  # in this process, so that the states are seen
            known = [*states, _contents(place, _REVISED | _FACTS)]
        else:
            run(lambda: work.do(place, lambda: None))
            spans.append(time.monotonic() - started)
            assert _contents(place, _REVISED | _FACTS) == known[-1], f"{work.name} does not end in the same bank twice"
    return known, statistics.median(spans)


def _look(place: Path, known: list[dict[str, str]], reported: int, outcome: Outcome, told: str) -> None:
    """After a kill: every bank there is one that the work passes through, and no revision that was made is gone."""
    found = _contents(place, _REVISED)
    passed = [n for n, state in enumerate(known[:-1]) if state == found]
    revision = "none"
    if (place / "bank" / FILE).is_file():
        with Bank.open(place / "bank", readonly=True) as bank:
            revision = str(bank.revision)
    outcome.at_revision[revision] = outcome.at_revision.get(revision, 0) + 1
    if not passed:
        outcome.failures.append(f"{told}: what is there (revision {revision}) is no state that the work passes through")
    elif passed and max(passed) < reported:
        outcome.failures.append(f"{told}: of {reported} committed revisions some are gone")
    _doctored(place, outcome, told)


def _contents(place: Path, tables: dict[str, str]) -> dict[str, str]:
    return {file.parent.name: content(file.parent, tables) for file in sorted(place.glob(f"*/{FILE}"))}


def _doctored(place: Path, outcome: Outcome, told: str, *, fix: bool = False) -> None:
    for file in sorted(place.glob(f"*/{FILE}")):
        report = doctor(file.parent, fix=fix)
        outcome.failures += [f"{told}: {finding}" for finding in report.errors]
        left = [finding.check for finding in report.findings if fix and finding.check == "leftover"]
        outcome.failures += [f"{told}: {name} stays after mending" for name in left]
        for finding in report.findings:
            if finding.severity == "note" and finding.check != "rollout":
                outcome.notes[finding.check] = outcome.notes.get(finding.check, 0) + 1


# ----------------------------------------------------------------------------------------------------------- processes


def fresh(template: Path, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place)


def run(act: Callable[[], Any]) -> None:
    """In a process of its own, which has loaded all that this one has."""
    _, killed = run_and_kill(lambda committed: act(), None)
    assert not killed


def run_and_kill(act: Callable[[Callable[[], None]], Any], delay: float | None) -> tuple[int, bool]:
    """(How often it reported a commit, whether it was killed.) Without a delay it is left to end."""
    # tqdm's own lock is one for all processes: killed while it was held, a child would leave the others waiting.
    tqdm.set_lock(threading.RLock())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act(lambda: os.write(writing, b"."))
            code = 0
        finally:
            if code:
                traceback.print_exc()
            os._exit(code)  # whatever happened: nothing of the parent's may run twice
    os.close(writing)
    if delay is not None:
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        reported = len(pipe.read())
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("the work failed by itself: see its traceback above")
    return reported, os.WIFSIGNALED(status)
