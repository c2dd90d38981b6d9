"""`sgsd bank review`: a queue of entries, one key each. Every decision is committed at once.

On a terminal a key counts without Enter. Elsewhere letters are read from stdin, so that a review can be scripted:
`printf 'aars' | sgsd bank review`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from sgsd.cli.bank import entry_text, text
from sgsd.cli.bank.app import app
from sgsd.cli.bank.by_hand import edit_by_hand, unchanged
from sgsd.cli.bank.options import BankOption, JsonOption, ReasonOption, actor, query, writing
from sgsd.cli.common import emit
from sgsd.errors import SGSDError

if TYPE_CHECKING:
    from skillbank.curate import Operation
    from skillbank.store import Bank
    from skillbank.store.query import Query

QUARANTINED = "status:quarantined"
PLACES = 5
"""Of evidence shown of an entry; `sgsd bank show` has all."""
INTERRUPTED = 130
Decision = Literal["accepted", "rejected", "edited", "skipped"]
KEYS: dict[str, str] = {"a": "accept", "r": "reject", "e": "edit", "s": "skip", "u": "undo", "q": "quit"}


class Step(NamedTuple):
    """A decision that `u` takes back."""

    place: int
    """Of its entry in the queue."""
    decision: Decision
    revision: int | None


class Review:
    """A queue that is worked through, and what was decided."""

    def __init__(self, bank: Bank, ids: Sequence[int], where: Query, reason: str) -> None:
        self.bank, self.ids, self.where, self.reason = bank, ids, where, reason
        self.place = 0
        self.steps: list[Step] = []

    def run(self, next_key: Callable[[], str]) -> bool:
        """Goes through the queue until its end, `q` or the end of the input; whether it was interrupted."""
        shown = -1
        while self.place < len(self.ids):
            if shown != self.place:
                if not self._waits(self.ids[self.place]):
                    self.place += 1
                    continue
                self._show()
                shown = self.place
            _prompt(self.place + 1, len(self.ids))
            try:
                key = next_key().lower()
            except KeyboardInterrupt:
                typer.echo("")
                return True
            typer.echo(KEYS.get(key, key))
            if key in ("q", ""):
                break
            shown = shown if self._decided(key) else -1
        return False

    def _decided(self, key: str) -> bool:
        """Does what a key says. False when the entry at this place is to be shown again."""
        from skillbank.errors import SkillBankError

        entry_id = self.ids[self.place]
        if key not in KEYS:
            names = ", ".join(f"{letter} {name}" for letter, name in KEYS.items())
            typer.echo(f"no such key: {names}")
            return True
        try:
            if key == "u":
                self._take_back()
                return False
            if key == "e":
                self._edit(entry_id)
                return False
            self._settle(key, entry_id)
        except (SkillBankError, SGSDError) as error:
            typer.echo(f"not done: {error}")
        return True

    def _settle(self, key: str, entry_id: int) -> None:
        from skillbank import curate

        if key == "s":
            self.steps.append(Step(self.place, "skipped", None))
        else:
            decide = curate.accept if key == "a" else curate.reject
            done = decide(self.bank, [entry_id], actor=actor(), reason=self.reason)
            self._tell(done)
            self.steps.append(Step(self.place, "accepted" if key == "a" else "rejected", done.revision))
        self.place += 1

    def _edit(self, entry_id: int) -> None:
        done = edit_by_hand(self.bank, entry_id, self.reason)
        if done is None or done.revision is None:
            unchanged()
            return
        self._tell(done)
        self.steps.append(Step(self.place, "edited", done.revision))

    def _take_back(self) -> None:
        from skillbank import curate

        if not self.steps:
            typer.echo("there is nothing to undo in this review")
            return
        last = self.steps[-1]
        if last.revision is not None:
            self._tell(curate.undo(self.bank, last.revision, actor=actor(), reason=self.reason))
        self.steps.pop()
        self.place = last.place

    def _tell(self, done: Operation) -> None:
        text.consequences(done)
        if done.revision is not None:
            typer.echo(f"{done.action}: revision {done.revision}")

    def _waits(self, entry_id: int) -> bool:
        """Whether it still fits: another decision may have settled it, or somebody else."""
        edited = any(step.place == self.place and step.decision == "edited" for step in self.steps)
        return edited or bool(self.bank.count(self.where, ids=[entry_id]))

    def _show(self) -> None:
        from skillbank.look.view import view_entry

        typer.echo(f"\n{'-' * min(72, text.terminal_width())}")
        entry_text.entry(view_entry(self.bank, self.ids[self.place]), history=False, places=PLACES)

    def summary(self) -> dict[str, object]:
        counts = Counter(step.decision for step in self.steps)
        decisions: tuple[Decision, ...] = ("accepted", "rejected", "edited", "skipped")
        return {
            "queue": len(self.ids),
            **{decision: counts[decision] for decision in decisions},
            "left": self.bank.count(self.where),
            "revisions": [step.revision for step in self.steps if step.revision is not None],
        }


@app.command(epilog='Example: sgsd bank review --where "flag:answer_value" --bank bank')
def review(
    bank: BankOption,
    where: Annotated[
        str | None, typer.Option("--where", metavar="QUERY", help="What to review; by default what is quarantined.")
    ] = None,
    reason: ReasonOption = "",
    json: JsonOption = False,
) -> None:
    """Go through entries one by one: a accept, r reject, e edit, s skip, u undo, q quit.

    Accepting releases what is quarantined (of a pair its two sides too) and enables what is out of use; rejecting
    retires. Every decision is a revision of its own.
    """
    criteria = query(QUARANTINED if where is None else where, {})
    with writing(bank) as opened:
        with redirect_stdout(sys.stderr if json else sys.stdout):
            session = Review(opened, _queue(opened, criteria), criteria, reason)
            interrupted = session.run(_keyboard if sys.stdin.isatty() else _letters)
        summary = session.summary()
        emit(summary, json, lambda: _print_summary(summary, str(criteria)))
    if interrupted:
        raise typer.Exit(INTERRUPTED)


def _queue(bank: Bank, where: Query) -> list[int]:
    """Pairs before the rest: who accepts a pair accepts its two sides, which then need not be shown again."""
    if where.kind is not None:
        return bank.ids(where)
    pairs = bank.ids(where.model_copy(update={"kind": "pair"}))
    first = set(pairs)
    return pairs + [entry_id for entry_id in bank.ids(where) if entry_id not in first]


def _prompt(number: int, total: int) -> None:
    keys = ", ".join(f"[{key}]{name.removeprefix(key)}" for key, name in KEYS.items())
    typer.echo(f"\n{number:,} of {total:,}  {keys}: ", nl=False)


def _keyboard() -> str:
    """A key of the terminal, without Enter. Control-D ends a review, Control-C interrupts it."""
    sys.stdout.flush()
    try:
        return typer.getchar()
    except EOFError:
        return ""


def _letters() -> str:
    """The next letter of stdin; empty at its end."""
    while (letter := sys.stdin.read(1)).isspace():
        pass
    return letter


def _print_summary(summary: dict[str, object], where: str) -> None:
    if not summary["queue"]:
        typer.echo(f"nothing to review: no entry fits {where}")
        return
    done = ", ".join(f"{summary[name]} {name}" for name in ("accepted", "rejected", "edited", "skipped"))
    typer.echo(f"\nreviewed: {done}; {summary['left']} left that fit {where}")
