"""Bytes of a bank's files changed at random places: the doctor finds it, or nothing that can be read has changed."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torture_kills import bank_of_pairs, fresh

from skillbank.doctor import doctor
from skillbank.errors import SkillBankError
from skillbank.store import FILE, Bank
from skillbank.store.database import Database

LONGEST = 16
"""Bytes changed in a row, at most."""


@dataclass
class Flips:
    """What came of changing bytes."""

    flips: int = 0
    found: dict[str, int] = field(default_factory=dict)
    """Check -> flips that it told of as an error."""
    harmless: int = 0
    """Nothing that can be read has changed."""
    unvouched: dict[str, int] = field(default_factory=dict)
    """Column -> flips that changed it and that nothing in the bank can tell from what a person or a run wrote."""
    mended: int = 0
    """Of those found: all is as before after `fix`."""
    refused: int = 0
    """Of those found: `fix` says that something is left."""
    failures: list[str] = field(default_factory=list)


def flip(times: int, seed: int, folder: Path) -> Flips:
    """So many flips, each in a fresh copy of one bank."""
    template, bare, place = folder / "template", folder / "bare", folder / "place"
    template.mkdir(parents=True)
    bank_of_pairs(template)
    shutil.copytree(template, bare)
    with Bank.open(bare / "bank") as bank:  # vectors take the most room by far, and the least of what is checked
        bank.db.run("DELETE FROM vectors")
        bank.db.run("VACUUM")
    shutil.rmtree(bare / "bank" / "index")
    before = dump(template / "bank")
    outcome = Flips()
    chance = random.Random(seed)
    files = [file.relative_to(template / "bank") for file in (template / "bank" / "index").rglob("*") if file.is_file()]
    for _ in range(times):
        in_rows = chance.random() < 0.75
        fresh(bare if in_rows else template, place)
        name = Path(FILE) if in_rows else chance.choice([Path(FILE), *files])
        told = spoil(place / "bank" / name, chance)
        outcome.flips += 1
        try:
            _judge(place / "bank", before, outcome, f"{name} {told}")
        except Exception as error:  # noqa: BLE001 - whatever it is, it should have been one of ours
            outcome.failures.append(f"{name} {told}: {type(error).__name__}: {error}")
    shutil.rmtree(folder)
    return outcome


def spoil(file: Path, chance: random.Random) -> str:
    """Changes some bytes in a row and tells which."""
    data = bytearray(file.read_bytes())
    start, length = chance.randrange(len(data)), chance.randint(1, LONGEST)
    for at in range(start, min(len(data), start + length)):
        data[at] ^= chance.randint(1, 255)
    file.write_bytes(data)
    return f"changed from byte {start} to {start + length}"


def _judge(bank: Path, before: dict[str, list[Any]], outcome: Flips, told: str) -> None:
    _read(bank)
    report = doctor(bank)
    for check in {finding.check for finding in report.errors}:
        outcome.found[check] = outcome.found.get(check, 0) + 1
    if report.sound:
        differing = _differing(before, dump(bank))
        outcome.harmless += not differing
        for column in differing:
            outcome.unvouched[column] = outcome.unvouched.get(column, 0) + 1
        return
    mended = doctor(bank, fix=True)
    outcome.refused += not mended.sound
    if mended.sound:
        _read(bank)
        outcome.mended += 1
        wrong = _differing(before, dump(bank))
        if wrong:
            outcome.failures.append(f"{told}: said to be mended, and {', '.join(sorted(wrong))} differ")


def _read(bank: Path) -> None:
    """What every view of a bank does. An error of ours is an answer; any other ends the run."""
    try:
        with Bank.open(bank, readonly=True) as opened:
            for entry in opened.entries():
                opened.evidence(entry.id)
                opened.history(entry.id)
            opened.stats()
    except SkillBankError:
        pass


def dump(bank: Path) -> dict[str, list[Any]]:
    """Table.column -> its values in the order of the rows; table.rows -> how many. Vectors can be computed again."""
    db = Database(bank / FILE)
    found: dict[str, list[Any]] = {}
    try:
        tables = (
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND sql LIKE 'CREATE T%'"
        )
        for (table,) in db.rows(tables):
            if table == "vectors" or table.startswith("entry_text"):
                continue
            rows = db.rows(f"SELECT * FROM {table}")
            found[f"{table}.rows"] = [len(rows)]
            for name in rows[0].keys() if rows else ():
                found[f"{table}.{name}"] = [row[name] for row in rows]
    finally:
        db.close()
    return found


def _differing(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> set[str]:
    names = Counter([*before, *after])
    return {name for name in names if before.get(name) != after.get(name)}
