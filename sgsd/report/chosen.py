"""Which rollouts of a run are worth a look, when none is named."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from sgsd.errors import ConfigError
from sgsd.report.folder import RunFolder
from skillbank.look.judged import JudgedRollout, judged_rollouts
from skillbank.records import Rollout
from skillbank.store import Bank


@dataclass(frozen=True)
class Chosen:
    """A rollout to be looked at."""

    step: int
    rollout: Rollout
    number: int
    """Among the judged rollouts of its problem in its step, from 0."""
    why: str


def named(run: RunFolder, rollout_id: str) -> Chosen:
    """The rollout of that id. Raises ConfigError when the run has none."""
    first = None
    for one in _numbered(run.rollouts()):
        if one.rollout.rollout_id == rollout_id:
            return one
        first = first or one.rollout.rollout_id
    where = run.path / "rollouts"
    known = f"ids stand in {where}, such as {first}" if first else f"{where} holds no rollouts"
    raise ConfigError(f"no rollout {rollout_id} in {run.path}: {known}")


def notable(run: RunFolder, bank: Bank | None) -> list[Chosen]:
    """The rollout that taught most, and of the latest weights kept a success and a failure.

    Those whose very weights are kept come first: what is shown of them is what training saw. Where nobody judges
    (`bank` None) it is the latest success and failure. Raises ConfigError when there is nothing to choose from.
    """
    found = _latest(run) if bank is None else _of_ledger(run, bank)
    if not found:
        what = "its bank's ledger has no row of it" if bank is not None else "it has no verified rollout"
        raise ConfigError(f"nothing of {run.path} to explain: {what}")
    return found


def _of_ledger(run: RunFolder, bank: Bank) -> list[Chosen]:
    name = run.ledger_name
    judged = judged_rollouts(bank, name, steps=run.exact_steps) or judged_rollouts(bank, name)
    wanted: dict[tuple[int, str, int], list[str]] = {}

    def want(why: str, among: Sequence[JudgedRollout]) -> None:
        if among:
            best = max(among, key=lambda one: one.gate_mass)
            wanted.setdefault((best.step, best.problem_id, best.number), []).append(why)

    want("most gate mass", judged)
    for outcome, why in (("correct", "a success"), ("wrong", "a failure")):
        some = [one for one in judged if one.outcome == outcome]
        last = max((one.step for one in some), default=0)
        want(why, [one for one in some if one.step == last])
    return [_found(run, key, ", ".join(why)) for key, why in wanted.items()]


def _found(run: RunFolder, key: tuple[int, str, int], why: str) -> Chosen:
    step, problem_id, number = key
    for one in _numbered(run.rollouts(step)):
        rollout = one.rollout
        if (rollout.problem_id, one.number) == (problem_id, number) and rollout.outcome != "unverifiable":
            return Chosen(step, rollout, number, why)
    raise ConfigError(
        f"the ledger has a rollout of problem {problem_id} in step {step}, {run.path / 'rollouts'} has none: "
        "the folder is another run's, or incomplete"
    )


def _latest(run: RunFolder) -> list[Chosen]:
    last = _last(rollout for step in run.exact_steps for rollout in run.rollouts(step)) or _last(run.rollouts())
    words = {"correct": "the latest success", "wrong": "the latest failure"}
    return [Chosen(c.step, c.rollout, c.number, words[outcome]) for outcome, c in sorted(last.items())]


def _last(rollouts: Iterable[tuple[int, Rollout]]) -> dict[str, Chosen]:
    """The last rollout of each outcome that was verified."""
    return {one.rollout.outcome: one for one in _numbered(rollouts) if one.rollout.outcome != "unverifiable"}


def _numbered(rollouts: Iterable[tuple[int, Rollout]]) -> Iterator[Chosen]:
    """Each with its number; one that could not be verified was judged by nobody and counts for none."""
    seen: dict[tuple[int, str], int] = {}
    for step, rollout in rollouts:
        key = (step, rollout.problem_id)
        yield Chosen(step, rollout, seen.get(key, 0), "as named")
        if rollout.outcome != "unverifiable":
            seen[key] = seen.get(key, 0) + 1
