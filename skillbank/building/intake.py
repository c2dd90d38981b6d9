"""Rollout files into the spool: each id once, other splits and contradictions told apart; and what mining them by a
language model would take (`plan_build`), before any call is made."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from skillbank.building.report import Tally
from skillbank.building.site import building_bank
from skillbank.building.spool import CONTRADICTS, OTHER_SPLIT, Spool, scratch
from skillbank.mine.model.extract import ExtractSettings, Plan, make_plan
from skillbank.mine.model.ledger import Ledger
from skillbank.records import Rollout, rollout_hash
from skillbank.rollouts import Reading, Rejected, RejectLog
from skillbank.store import FILE, Bank

PROGRESS_EVERY = 1000


def take_in(
    rollouts: Iterable[tuple[Path, Rollout]],
    spool: Spool,
    *,
    split: str,
    bank: Bank | None,
    rejects: RejectLog,
    tally: Tally,
    on_rollouts: Callable[[int], None],
) -> None:
    """(file, rollout) into the spool. `bank`: an existing one, whose ids must mean the same rollouts."""
    for number, (file, rollout) in enumerate(rollouts, start=1):
        if number % PROGRESS_EVERY == 0:
            on_rollouts(number)
        another = bank is not None and _is_another(bank, rollout)
        taken = "contradicts" if another else spool.take(rollout, str(file))
        if taken == "contradicts":
            raw = rollout.model_dump_json(exclude_defaults=True)
            detail = f"rollout {rollout.rollout_id}"
            rejects(Rejected(path=str(file), line=0, reason=CONTRADICTS, detail=detail, raw=raw))
        elif taken == "seen before":
            tally.seen_before += 1
        elif rollout.split != split:
            spool.reject([(rollout.rollout_id, f"{OTHER_SPLIT}{rollout.split}")])


def _is_another(bank: Bank, rollout: Rollout) -> bool:
    """Whether the bank knows this id for a rollout that says something else."""
    sql = "SELECT content_hash FROM rollouts WHERE rollout_id = ? LIMIT 1"
    known = bank.db.value(sql, (rollout.rollout_id,))
    return known is not None and known != rollout_hash(rollout)


def plan_build(
    rollouts: Sequence[str | Path],
    bank: str | Path,
    *,
    model: str,
    extract: ExtractSettings | None = None,
    split: str = "train",
    reading: Reading | None = None,
    count_tokens: Callable[[str], int] | None = None,
    on_rollouts: Callable[[int], None] = lambda done: None,
) -> Plan:
    """Counts rollouts, calls and tokens of `build_bank(miner="model")`, and which calls the ledger of the bank, or of a
    killed build of it, has already. Writes nothing there. Raises what reading raises."""
    target, how = Path(bank), reading or Reading()
    held = next((folder for folder in (target, building_bank(target)) if (folder / FILE).exists()), None)
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        spool = Spool(stack.enter_context(closing(scratch(work / "spool.sqlite"))))
        known = None if held is None else stack.enter_context(Bank.open(held, readonly=True))
        rejects = stack.enter_context(RejectLog(work / "rejected.jsonl"))
        files = [Path(file) for file in rollouts]
        take_in(
            ((file, rollout) for file in files for rollout in how.rollouts(file, rejects)),
            spool,
            split=split,
            bank=known if held == target else None,
            rejects=rejects,
            tally=Tally(),
            on_rollouts=on_rollouts,
        )
        others = spool.counts()["rejected"]  # of other splits
        plan = make_plan(
            spool.groups(),
            extract or ExtractSettings(),
            model,
            ledger=None if known is None else Ledger(known.db),
            count_tokens=count_tokens,
        )
    unusable = {f"line unusable: {reason}": count for reason, count in rejects.counts.items()}
    return plan.model_copy(
        update={"rollouts": plan.rollouts + sum(others.values()), "rejected": plan.rejected | others | unusable}
    )
