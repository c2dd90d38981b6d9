"""How long a page of `sgsd bank ui` takes at a hundred thousand entries: each page and filter, median and worst.

python scripts/bench_ui.py [--entries 100000] [--rounds 7] [--bank FOLDER]

A synthetic bank (`synthetic_bank.py`), one entry in twenty flagged, one in fifty tagged, some used in training. The
application is asked in this process, one page after another; a round asks for every page once, and `first` is the first
page of a fresh application. Told in milliseconds from request to the whole answer: the time on the clock, and the
processor's time, which is what other work on the machine changes least.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from starlette.testclient import TestClient
from synthetic_bank import make

from skillbank.records import Flag
from skillbank.store import Bank, UsageRow
from skillbank.web import Site, create_app

DIM = 64
USES = 20_000
PAGES = {
    "overview": "/",
    "numbers of the overview": "/numbers",
    "entries": "/entries",
    "entries, last page": "/entries?page=1000000000",
    "entry, skill": "/entries/1",
    "entry, pair": "/entries/3",
    "review": "/review",
    "revisions": "/revisions",
    "training": "/training",
    "training of an entry": "/training?entry=1",
    "revision of 30,000 events": "/revisions/1",
}
FILTERS = {
    "kind": "kind:skill",
    "status": "status:quarantined",
    "kind and status": "kind:pair status:active",
    "flag": "flag:length",
    "tag": "tag:algebra",
    "used": "used:yes",
    "never used": "used:no",
    "utility": "utility:<0",
    "evidence": "evidence:>=2",
    "origin": "origin:mined",
    "pinned": "pinned:no",
    "problem": "problem:p77",
    "a common word": "ba",
    "two common words": "ba be",
    "a rare word": "gagabi",
    "kind and word": "kind:mistake status:active ba",
    "pairs with a word": "kind:pair ba",
}
ORDERS = ("newest", "changed", "evidence", "utility")


def dressed(folder: Path, entries: int) -> None:
    """The synthetic bank with flags, tags and use."""
    make(folder, entries, DIM)
    draw = random.Random(0)
    with Bank.open(folder) as bank:
        ids = bank.ids()
        sides = [i for i in ids if i % 3]
        with bank.change(actor="guard", reason="flagged") as change:
            for entry_id in draw.sample(sides, len(ids) // 20):
                change.flag(entry_id, [Flag(rule=draw.choice(["length", "url", "language"]), reason="made up")])
        with bank.change(actor="ada", reason="tagged") as change:
            change.tag(draw.sample(ids, len(ids) // 50), ["algebra"])
        skills = [i for i in sides if i % 3 == 1][: len(ids) // 20]
        bank.record_usage(_use(draw, draw.choice(skills), step) for step in range(USES))


def _use(draw: random.Random, skill_id: int, step: int) -> UsageRow:
    polarity = draw.choice([-1, 0, 0, 1, 1])
    return UsageRow(
        run="synthetic",
        step=step // 64,
        problem_id=f"p{step}",
        outcome="correct",
        skill_id=skill_id,
        mistake_id=skill_id + 1,
        pair_id=skill_id + 2,
        support=0.1 * polarity,
        polarity=polarity,
        gate_mass=1.0,
        weight=0.1,
        revision=1,
    )


class Times(NamedTuple):
    """Of one answer, in milliseconds."""

    clock: float
    processor: float


def measured(folder: Path, rounds: int) -> dict[str, list[Times]]:
    asked = {f"page {name}": (address, {}) for name, address in PAGES.items()}
    asked |= {f"filter {name}": ("/entries", {"q": query}) for name, query in FILTERS.items()}
    asked |= {f"order {order}": ("/entries", {"sort": order}) for order in ORDERS}
    asked |= {f"filter kind, order {order}": ("/entries", {"q": "kind:skill", "sort": order}) for order in ORDERS}
    times: dict[str, list[Times]] = {}
    with TestClient(create_app(Site(folder, actor="ada")), base_url="http://localhost") as client:
        times["first"] = [_asked(client, "/", {})]
        for _ in range(rounds):
            for name, (path, parameters) in asked.items():
                times.setdefault(name, []).append(_asked(client, path, parameters))
    return times


def _asked(client: TestClient, path: str, parameters: dict[str, str]) -> Times:
    clock, processor = time.perf_counter(), time.process_time()
    client.get(path, params=parameters).raise_for_status()
    return Times(1000 * (time.perf_counter() - clock), 1000 * (time.process_time() - processor))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=100_000, help="skills and mistakes; pairs come on top")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--bank", type=Path, help="keep the bank here, or use the one that is")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.bank or Path(temporary) / "bank"
        if not folder.exists():
            dressed(folder, given.entries)
        times = measured(folder, given.rounds)
    if given.json:
        print(json.dumps(times))
        return
    print(f"{'':<34} {'clock':>15} {'processor':>17}")
    print(f"{'':<34} {'median':>7} {'worst':>7} {'median':>9} {'worst':>7}")
    for name, found in times.items():
        clock, processor = zip(*found, strict=True)
        told = f"{statistics.median(clock):7.0f} {max(clock):7.0f} {statistics.median(processor):9.0f}"
        print(f"{name:<34} {told} {max(processor):7.0f}")


if __name__ == "__main__":
    main()
