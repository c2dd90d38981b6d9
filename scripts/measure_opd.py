"""Measure when on-policy distillation from another model fails on the arena, and what recovers it.

    python scripts/measure_opd.py --out runs/opd
    python scripts/measure_opd.py --seeds 1 --steps 10 --out runs/opd-quick

Four teachers, each the arena's base after supervised training on other texts, all as large as the student:

* `knowing`: the reference solutions. It writes as the student does and knows the rules.
* `ignorant`: the base's own attempts, right and wrong. Of the student's family, and it knows nothing that is new.
* `foreign`: the reference solutions with all rules named before the first is applied. It knows the rules and thinks in
  another order than the student.
* `partial`: the references of problems over half of the operations, and the base's own attempts at the others.

The student is the base, trained by OPD as `sgsd compare --method opd` would on all tokens of its budget. Two remedies
(arXiv 2604.13016): `cold start` is supervised training on right attempts of the teacher first, whose steps count as
many rollouts as OPD's; `aligned` selects the problems that the teacher solves, with a tenth of the others. Attempts of
teachers are not counted as generated tokens of the student.

Accuracies are of the test split, of the checkpoint that was best on the validation split. `overlap` and `mass` are the
share of the 16 likeliest tokens that student and teacher share, and the student's probability on these, at the first
and the last measurement.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sgsd.arena.demo import past_rollouts_of_base
from sgsd.arena.settings import arena_config, sampling
from sgsd.arena.sources import load_source
from sgsd.arena.tasks import OPERATIONS, Level
from sgsd.compare.contest import run_all
from sgsd.compare.entrants import Entrant, of_arena
from sgsd.compare.table import interval_over_seeds
from sgsd.config import ModelConfig, parse_config
from sgsd.generate.transformers import TransformersGenerator
from sgsd.models import load_student
from sgsd.records import Problem
from sgsd.rollout import draw_rollouts, write_past_rollouts
from sgsd.run import train_run
from sgsd.verify import load_verifier

LEVEL: Level = "medium"
"""Chains of two: the shortest whose lines can stand in another order."""
TEACHER_STEPS, COLD_STEPS = 200, 20
ATTEMPTS = 640
KNOWN = frozenset(OPERATIONS[::2])
"""What `partial` knows: half of the operations, and of the rules too."""


class Arm(NamedTuple):
    teacher: str
    cold: bool = False
    aligned: bool = False

    def __str__(self) -> str:
        return " + ".join([self.teacher, *(["cold start"] * self.cold), *(["aligned"] * self.aligned)])


ARMS = (
    Arm("knowing"),
    Arm("ignorant"),
    Arm("foreign"),
    Arm("foreign", cold=True),
    Arm("partial"),
    Arm("partial", aligned=True),
    Arm("partial", cold=True, aligned=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of teachers and runs; what lies there is kept")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each arm, with seeds from 0 on")
    parser.add_argument("--steps", type=int, help="optimiser steps of OPD instead of those of `sgsd compare`")
    parser.add_argument("--teacher-steps", type=int, default=TEACHER_STEPS)
    parser.add_argument("--workers", type=int, default=1, help="runs at a time")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    entrants, teachers = [], {}
    for seed in range(args.seeds):
        past = args.out / f"past-{seed}"
        for name in dict.fromkeys(arm.teacher for arm in ARMS):
            teachers[name, seed] = prepared(past, name, seed, args.teacher_steps)
        entrants += [entrant(arm, seed, past, args.out, args.steps) for arm in ARMS]
    outcomes = run_all(entrants, workers=args.workers, on_done=lambda o: print(o.entrant.method, o.error, flush=True))
    lines = [line(arm, teachers, [o for o in outcomes if o.entrant.method == str(arm)]) for arm in ARMS]
    print(json.dumps({"arms": lines}, indent=2) if args.json else table(lines))


# ------------------------------------------------------------------------------------------------------------- teachers


def prepared(past: Path, name: str, seed: int, steps: int) -> float:
    """The teacher, its attempts, and a student after cold start on these, made once; the share of right attempts."""
    folder = past / name
    texts, attempts = folder / "texts.jsonl", folder / "attempts.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    if not texts.exists():
        write(texts, TEXTS[name](past, seed))
    once(folder / "teacher", lambda out: supervised(out, "arena", texts, steps, 1e-3, seed))
    if not attempts.exists():
        attempt(folder / "teacher" / "student", attempts, seed)
    once(folder / "cold", lambda out: supervised(out, "arena", attempts, COLD_STEPS, 3e-4, seed))
    outcomes = [json.loads(row)["outcome"] for row in attempts.read_text(encoding="utf-8").splitlines()]
    return outcomes.count("correct") / len(outcomes)


def references(past: Path, seed: int) -> Iterable[tuple[Problem, str]]:
    return [(problem, problem.solution or "") for problem in train_problems()]


def own_attempts(past: Path, seed: int) -> list[tuple[Problem, str]]:
    """The base's first rollout of each problem, right or wrong."""
    path = past / "rollouts.jsonl"
    if not path.exists():
        past_rollouts_of_base(arena_config(LEVEL), LEVEL, seed, path, False)
    first: dict[str, tuple[Problem, str]] = {}
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        problem = Problem(row["problem_id"], row["problem"], row["reference"])
        first.setdefault(row["problem_id"], (problem, row["completion"]))
    return list(first.values())


def reordered(past: Path, seed: int) -> Iterable[tuple[Problem, str]]:
    for problem, solution in references(past, seed):
        *lines, box = solution.splitlines()
        yield problem, "\n".join([*lines[::2], *lines[1::2], box])


def half_known(past: Path, seed: int) -> Iterable[tuple[Problem, str]]:
    known = [(p, text) for p, text in references(past, seed) if operations(p) <= KNOWN]
    others = [(p, text) for p, text in own_attempts(past, seed) if not operations(p) <= KNOWN]
    random.Random(seed).shuffle(known)
    return known[: len(others)] + others


TEXTS: dict[str, Callable[[Path, int], Iterable[tuple[Problem, str]]]] = {
    "knowing": references,
    "ignorant": own_attempts,
    "foreign": reordered,
    "partial": half_known,
}


def operations(problem: Problem) -> frozenset[str]:
    return frozenset(OPERATIONS) & frozenset(problem.problem.split())


def train_problems() -> list[Problem]:
    return load_source(arena_config(LEVEL).data)


def write(path: Path, texts: Iterable[tuple[Problem, str]]) -> None:
    """As a rollout file; all are called right, because SFT learns the right ones and these are to be learned."""
    with path.open("w", encoding="utf-8") as file:
        for problem, text in texts:
            row = {"rollout_id": f"{problem.problem_id}-0", "problem_id": problem.problem_id}
            row |= {"problem": problem.problem, "completion": text, "outcome": "correct", "reference": problem.answer}
            file.write(json.dumps(row) + "\n")


def supervised(out: Path, student: str, texts: Path, steps: int, rate: float, seed: int) -> None:
    values = arena_config(LEVEL, output_dir=str(out), seed=seed).model_dump(mode="json")
    values |= {"method": "sft", "output_dir": str(out)}
    values["model"]["name_or_path"] = student
    values["sft"]["rollouts"] = str(texts)
    values["train"] |= {"max_steps": steps, "learning_rate": rate, "save_every": steps}
    values["eval"]["every_steps"] = 0
    config = parse_config(values)
    train_run(config, load_source(config.data))


def attempt(teacher: Path, path: Path, seed: int) -> None:
    """Two sampled completions of each of the first training problems."""
    model, tokenizer = load_student(ModelConfig(name_or_path=str(teacher), dtype="float32"))
    verifier, drawing = load_verifier(arena_config(LEVEL).verifier), sampling(LEVEL, n=2)
    generator = TransformersGenerator(model, tokenizer)
    drawn = draw_rollouts(generator, tokenizer, train_problems()[:ATTEMPTS], verifier, drawing, seed=seed)
    verifier.close()
    write_past_rollouts(path, drawn.rollouts, model=str(teacher), sampling=drawing, seed=seed)


def once(folder: Path, make: Callable[[Path], None]) -> None:
    if not (folder / "done").exists():
        make(folder)
        (folder / "done").touch()


# ----------------------------------------------------------------------------------------------------------------- arms


def entrant(arm: Arm, seed: int, past: Path, out: Path, steps: int | None) -> Entrant:
    own = past / arm.teacher
    plain = of_arena((LEVEL,), ("opd",), seeds=seed + 1, out=out, tokens=None, quick=False)[seed]
    values = plain.config.model_dump(mode="json")
    folder = out / f"{str(arm).replace(' ', '')}-{seed}"
    values["output_dir"] = str(folder / "run")
    values["bank"]["path"] = None
    values["opd"]["teacher"] = str(own / "teacher" / "student")
    values["diagnostics"]["every_steps"] = 1
    if steps is not None:
        values["train"] |= {"max_steps": steps, "save_every": max(1, steps // 4)}
        values["eval"]["every_steps"] = max(1, steps // 4)
    if arm.cold:
        values["model"]["name_or_path"] = str(own / "cold" / "student")
    if arm.aligned:
        values["data"] |= {"select": "teacher_aligned", "aligned_with": str(own / "attempts.jsonl")}
    return plain.model_copy(update={"method": str(arm), "folder": folder, "config": parse_config(values), "past": None})


def line(arm: Arm, teachers: dict[tuple[str, int], float], outcomes: Sequence[Any]) -> dict[str, Any]:
    rows = [outcome.row for outcome in outcomes if outcome.row is not None]
    seen = [agreement(outcome.entrant.folder / "run" / "metrics.jsonl") for outcome in outcomes if outcome.row]
    mean = {key: [sum(ends[key][i] for ends in seen) / len(seen) for i in (0, 1)] for key in ("overlap", "mass")}
    accuracies = [row["accuracy"] for row in rows]
    share = [teachers[arm.teacher, outcome.entrant.seed] for outcome in outcomes]
    return {
        "arm": str(arm),
        "teacher": sum(share) / len(share),
        "accuracies": accuracies,
        "ci": interval_over_seeds(accuracies),
        "collapsed": sum(row["collapsed"] for row in rows),
        "tokens": sum(row["tokens"] for row in rows) / len(rows),
        **mean,
    }


def agreement(metrics: Path) -> dict[str, tuple[float, float]]:
    """First and last measurement."""
    rows = [json.loads(row) for row in metrics.read_text(encoding="utf-8").splitlines()]
    names = {"overlap": "agreement/overlap", "mass": "agreement/student_mass"}
    found = {key: [row[name] for row in rows if name in row] for key, name in names.items()}
    return {key: (values[0], values[-1]) for key, values in found.items()}


def table(lines: Sequence[dict[str, Any]]) -> str:
    out = ["| teacher and remedy | teacher | student, by seed | mean | overlap | mass | tokens |"]
    out.append("|---|---|---|---|---|---|---|")
    for one in lines:
        mean = sum(one["accuracies"]) / len(one["accuracies"])
        by_seed = ", ".join(f"{value:.1%}" for value in one["accuracies"])
        ends = [f"{one[key][0]:.0%} -> {one[key][1]:.0%}" for key in ("overlap", "mass")]
        cells = [one["arm"], f"{one['teacher']:.0%}", by_seed, f"{mean:.1%}", *ends, f"{one['tokens']:,.0f}"]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out)


if __name__ == "__main__":
    main()
