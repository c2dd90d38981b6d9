"""Measure how fast a bank is built from past rollouts with the miner that needs no model, and with how much memory.

    python scripts/bench_build.py                                  # 25,000 to 200,000 rollouts, a table
    python scripts/bench_build.py --rollouts 100000 --like arena --json
    python scripts/bench_build.py --files rollouts.jsonl           # your own rollouts, in any format that a build reads

The rollouts are made up here, four attempts a problem, the same ones on every machine. `words` is like GSM8K: each
problem has its own numbers, so that what is mined grows with the problems. `arena` is an invented language of few
rules: what is mined stays the same, only its evidence grows. Each size runs in a process of its own. Memory is the
peak of that process, and its peak before anything was embedded; rollouts a second are told for all but embedding, by
the wall clock and by the processor's.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SIZES = (25_000, 50_000, 100_000, 200_000)
ATTEMPTS = 4
EMBEDDING = frozenset({"embed", "index"})
"""Phases that are the embedder's and the index's; loading the embedder is the phase `load`."""

NAMES = ("Ava", "Ben", "Carla", "Dan", "Ella", "Finn", "Gita", "Hugo", "Ines", "Jon", "Kira", "Leo", "Mona", "Nils")
ITEMS = (
    "apples",
    "books",
    "candles",
    "dishes",
    "erasers",
    "flags",
    "grapes",
    "hats",
    "kites",
    "lamps",
    "maps",
    "nails",
)
PLACES = ("at the market", "at school", "in the barn", "at the fair", "in town", "at the harbor", "on the farm")
BOXES = ("boxes", "crates", "bags", "baskets", "packs", "trays")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rollouts", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--like", choices=("words", "arena"), nargs="+", default=["words", "arena"])
    parser.add_argument("--files", type=Path, nargs="+", default=[], help="rollout files to build from, each alone")
    parser.add_argument("--folder", type=Path, help="where to build; a temporary folder without it")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    results = []
    for what, size in [(file, 0) for file in args.files] or [(like, n) for like in args.like for n in args.rollouts]:
        results.append(in_own_process(what, size, args.folder))
        if not args.json:
            print(line(results[-1]) if len(results) > 1 else f"{header(results[0])}\n{line(results[0])}", flush=True)
    if args.json:
        print(json.dumps(results, indent=2))


# ------------------------------------------------------------------------------------------------------------ measure


def in_own_process(like: str | Path, size: int, folder: Path | None) -> dict[str, Any]:
    """Write the rollouts, then build in a fresh process, so that one size's memory is not the next one's; or build from
    the file that `like` is."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(dir=folder) as work, context.Pool(1, maxtasksperchild=1) as pool:
        file = Path(work) / "rollouts.jsonl"
        if isinstance(like, Path):
            file = like.resolve()
        else:
            pool.apply(write, (like, size, file))
        return dict(pool.apply(measure, (str(like), file, Path(work) / "bank")))


def write(like: str, size: int, file: Path) -> None:
    with file.open("w", encoding="utf-8") as stream:
        for rollout in made_up(like, size):
            stream.write(json.dumps(rollout) + "\n")


def measure(like: str, file: Path, bank: Path) -> dict[str, Any]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from skillbank.building import build_bank
    from skillbank.index.embed import Embedder

    assert Embedder  # what the embedder brings (torch) is loaded by every build, before or after
    idle_mb = peak_mb()
    started, cpu = time.perf_counter(), time.process_time()
    phases: dict[str, float] = {}
    marks: list[tuple[str, float]] = []

    def on_progress(phase: str, done: int, total: int | None) -> None:
        if not marks or marks[-1][0] != phase:
            marks.append((phase, time.process_time()))
        phases.setdefault(phase, peak_mb())
        phases[phase] = max(phases[phase], peak_mb())

    report = build_bank([file], bank, on_progress=on_progress)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    ends = [at for _, at in marks[1:]] + [time.process_time()]
    cpu_phases: dict[str, float] = {}
    for (phase, at), end in zip(marks, ends, strict=True):
        cpu_phases[phase] = round(cpu_phases.get(phase, 0) + end - at, 3)
    besides = sum(value for phase, value in report.seconds.items() if phase not in EMBEDDING)
    cpu_besides = sum(value for phase, value in cpu_phases.items() if phase not in EMBEDDING)
    return {
        "like": Path(like).name,
        "rollouts": report.rollouts,
        "pairs": report.pairs,
        "seconds": {**report.seconds, "total": round(seconds, 2)},
        "cpu_seconds": {**cpu_phases, "total": round(cpu_seconds, 2)},
        "rollouts_per_s": round(report.rollouts / besides),
        "rollouts_per_cpu_s": round(report.rollouts / cpu_besides),
        "peak_mb": {"before": idle_mb, **phases, "total": peak_mb()},
    }


def peak_mb() -> float:
    """The most memory this process has had, in MB (Linux counts in kB, macOS in bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def header(result: dict[str, Any]) -> str:
    phases = [phase for phase in result["seconds"] if phase != "total"]
    names = ["like", "rollouts", "pairs", *(f"{phase} s" for phase in phases), "rollouts/s", "a cpu s", "peak MB"]
    return f"| {' | '.join(names)} |\n|{'---|' * len(names)}"


def line(result: dict[str, Any]) -> str:
    phases = [f"{value:.1f}" for phase, value in result["seconds"].items() if phase != "total"]
    memory = f"{result['peak_mb']['total']:.0f}"
    rates = [f"{result['rollouts_per_s']:,}", f"{result['rollouts_per_cpu_s']:,}"]
    counts = [f"{result[key]:,}" for key in ("rollouts", "pairs")]
    return f"| {' | '.join([result['like'], *counts, *phases, *rates, memory])} |"


# ------------------------------------------------------------------------------------------------- made-up rollouts


def made_up(like: str, size: int) -> Iterator[dict[str, Any]]:
    """`size` rollouts in the native format, `ATTEMPTS` of them a problem, apart from one another in the file."""
    rng = random.Random(0)
    attempts = words_problem if like == "words" else arena_problem
    window: list[dict[str, Any]] = []
    made = 0
    while made < size:
        for outcome, problem, completion, reference in attempts(rng):
            number = made
            made += 1
            window.append(
                {
                    "rollout_id": f"{like}-{number:07d}",
                    "problem_id": f"{like}-{number // ATTEMPTS:06d}",
                    "problem": problem,
                    "completion": completion,
                    "outcome": outcome,
                    "reference": reference,
                    "model": "made-up",
                    "source": "bench",
                }
            )
        if len(window) >= 4000:
            rng.shuffle(window)
            yield from window
            window = []
    yield from window


Made = tuple[str, str, str, str]
"""(outcome, problem, completion, reference)"""


def words_problem(rng: random.Random) -> list[Made]:
    """A word problem of three steps and four attempts at it, a random number of them wrong in one of four ways."""
    name, friend = rng.sample(NAMES, 2)
    item, place, box = rng.choice(ITEMS), rng.choice(PLACES), rng.choice(BOXES)
    count, each, price = rng.randint(3, 40), rng.randint(4, 60), rng.randint(2, 19)
    given = rng.randint(2, count * each // 2)
    problem = (
        f"{name} brings {count} {box} of {item}, {each} {item} in each of the {box}. {name} gives {given} {item} to "
        f"{friend} {place} and sells the rest for ${price} apiece. How much money does {name} make from the {item}?"
    )
    total, left = count * each, count * each - given
    answer = left * price
    made: list[Made] = []
    for number in range(ATTEMPTS):
        wrong = number > 0 and rng.random() < 0.5
        opening = rng.choice(
            (f"In all {name} brings", f"{name} has", f"There are {count} {box}, so {name} starts with")
        )
        steps = [f"{opening} {count} * {each} = <<{count}*{each}={total}>>{total} {item}"]
        kept = rng.choice((f"After the gift to {friend} there are", f"{name} keeps"))
        sold = rng.choice((f"{name} sells them {place} and makes", "The sale of the rest brings"))
        if not wrong:
            steps.append(f"{kept} {total} - {given} = <<{total}-{given}={left}>>{left} {item} for the sale")
            steps.append(f"{sold} {left} * {price} = $<<{left}*{price}={answer}>>{answer}")
            made.append(("correct", problem, "\n".join([*steps, f"A: {answer}"]), f"{answer}"))
            continue
        way = rng.randrange(4)
        if way == 0:  # the gift is forgotten
            value = total * price
            steps.append(f"{sold} {total} * {price} = $<<{total}*{price}={value}>>{value}")
        elif way == 1:  # the gift is added
            more = total + given
            value = more * price
            steps.append(f"{kept} {total} + {given} = <<{total}+{given}={more}>>{more} {item} for the sale")
            steps.append(f"{sold} {more} * {price} = $<<{more}*{price}={value}>>{value}")
        elif way == 2:  # stops short
            value = left
            steps.append(f"{kept} {total} - {given} = <<{total}-{given}={left}>>{left} {item} for the sale")
        else:  # the boxes are added to what is in them
            sum_, value = count + each, (count + each) * price
            steps = [f"{opening} {count} + {each} = <<{count}+{each}={sum_}>>{sum_} {item}"]
            steps.append(f"{sold} {sum_} * {price} = $<<{sum_}*{price}={value}>>{value}")
        made.append(("wrong", problem, "\n".join([*steps, f"A: {value}"]), f"{answer}"))
    return made


OPERATIONS = ("zorp", "blen", "quix", "framp", "drell", "skorn", "vint", "glope")
RULES = ("sum", "doubled sum", "difference", "reversed difference", "product", "first plus twice the second")


def arena_problem(rng: random.Random) -> list[Made]:
    """A chain of two made-up operations, of which an attempt knows the rules or takes another."""
    operations = rng.sample(OPERATIONS, 2)
    numbers = [rng.randint(1, 99) for _ in range(3)]
    chain = f"{numbers[0]} {operations[0]} {numbers[1]} {operations[1]} {numbers[2]}"
    problem = f"What is {chain} modulo 101, from left to right?"
    made: list[Made] = []
    for number in range(ATTEMPTS):
        wrong = number > 0 and rng.random() < 0.5
        lines, value = [], numbers[0]
        slip = rng.randrange(2) if wrong else -1
        for place, operation in enumerate(operations):
            rule = OPERATIONS.index(operation) % len(RULES)
            if place == slip:
                rule = (rule + rng.randint(1, 2)) % len(RULES)
            lines.append(f"{operation} means {RULES[rule]}")
            result = (value * (rule + 2) + numbers[place + 1]) % 101
            lines.append(f"{value} {operation} {numbers[place + 1]} = {result}")
            value = result
        made.append(("wrong" if wrong else "correct", problem, "\n".join([*lines, f"\\boxed{{{value}}}"]), ""))
    return made


if __name__ == "__main__":
    main()
