"""The two miners as a build sees them: problems in, findings into the harvest, a fate for every rollout.

`Contrasting` compares right and wrong attempts and needs no model; `Extracting` asks one. Both take a problem at a time
from the spool, so neither's memory grows with the rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from skillbank.building import merging
from skillbank.building.harvest import Harvest
from skillbank.building.merging import MergeBy
from skillbank.building.report import Calls, Tally
from skillbank.building.spool import Spool
from skillbank.mine.contrast import CONTRADICTED, REPEATED, MinedProblem
from skillbank.mine.model.answer import Mined
from skillbank.records import Rollout

Groups = Iterable[Sequence[Rollout]]
"""The rollouts of one problem each."""
OnProblems = Callable[[int], None]
"""Number of problems that are done."""
PROGRESS_EVERY = 200


class Miner(Protocol):
    """What turns the rollouts of a spool into findings."""

    name: str
    """Stands in the bank beside each rollout's fate."""
    merge_by: MergeBy

    def mine(self, spool: Spool, harvest: Harvest, tally: Tally, on_problems: OnProblems) -> None:
        """Mines every problem. What is not rejected or dead by then is accepted where a finding rests on it."""
        ...


class Contrasting:
    """The miner without a model. `run` mines the problems, here or elsewhere, in any order."""

    name = "contrast"
    merge_by: MergeBy = "words"

    def __init__(self, run: Callable[[Groups], Iterator[MinedProblem]]) -> None:
        self._run = run

    def mine(self, spool: Spool, harvest: Harvest, tally: Tally, on_problems: OnProblems) -> None:
        for mined in self._run(spool.groups()):
            tally.problems += 1
            tally.problems_with_both += mined.contrasted > 0
            for contrast in mined.contrasts:
                harvest.add(contrast.pair, attempts=contrast.attempts, rules=contrast.rules)
            harvest.state(mined.statements.items())
            spool.reject(mined.rejected)
            if tally.problems % PROGRESS_EVERY == 0:
                on_problems(tally.problems)
        dropped = merging.drop_contradicted(harvest)
        spool.reject((rollout_id, CONTRADICTED) for rollout_id in dropped)
        tally.notices[REPEATED] += merging.repeated(harvest)


class Extracting:
    """The miner that asks a language model. `run` is `ModelMiner.mine` or what does the same elsewhere."""

    name = "model"
    merge_by: MergeBy = "meaning"

    def __init__(self, run: Callable[[Groups], Iterator[Mined]]) -> None:
        self._run = run

    def mine(self, spool: Spool, harvest: Harvest, tally: Tally, on_problems: OnProblems) -> None:
        both = 0

        def counted(groups: Groups) -> Iterator[Sequence[Rollout]]:
            nonlocal both
            for group in groups:
                both += {"correct", "wrong"} <= {rollout.outcome for rollout in group}
                yield group

        calls = made = prompt_tokens = completion_tokens = 0
        for mined in self._run(counted(spool.groups())):
            tally.problems += 1
            for item in mined.items:
                harvest.add(item)
            spool.reject((fate.rollout_id, fate.reason) for fate in mined.fates if fate.fate == "rejected")
            spool.bury((fate.rollout_id, fate.reason) for fate in mined.fates if fate.fate == "dead")
            tally.notices.update(mined.notices)
            calls, made = calls + mined.calls, made + mined.calls_made
            prompt_tokens += mined.prompt_tokens
            completion_tokens += mined.completion_tokens
            on_problems(tally.problems)
        tally.problems_with_both = both
        tally.calls = Calls(calls=calls, made=made, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
