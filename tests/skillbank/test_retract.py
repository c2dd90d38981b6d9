"""Retracting a rollout or a file: what rests on it alone goes, through merges, and comes back with an undo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pytest

from sgsd.cli import main
from skillbank.errors import InvalidEntry, InvalidOption
from skillbank.guard import retract
from skillbank.records import RolloutFate
from skillbank.store import Bank

from .made_up import OPERATIONS, evidence, mined

FILES = ("runs/a/rollouts.jsonl", "runs/b/rollouts.jsonl", "runs/b/more.jsonl")


@pytest.fixture
def read(bank: Bank) -> Bank:
    """The made-up bank (skills 1, 4, 7 ..., mistakes 2, 5, 8 ..., pairs 3, 6, 9 ...) with the files it came from."""
    for n, operation in enumerate(OPERATIONS):
        bank.record_rollouts(fate(operation, outcome, FILES[n % 3]) for outcome in ("correct", "wrong"))
    return bank


def fate(operation: str, outcome: Literal["correct", "wrong"], file: str) -> RolloutFate:
    return RolloutFate(
        rollout_id=f"p-{operation}-{outcome}",
        problem_id=f"p-{operation}",
        content_hash="0",
        outcome=outcome,
        file=file,
        miner="contrast",
        fate="accepted",
    )


def test_what_rests_on_one_rollout_alone_is_retired(read: Bank) -> None:
    done = retract(read, "p-zorp-wrong", actor="me")
    assert (done.rollouts, done.places, done.retired, done.pairs, done.revision) == (1, 1, (2,), (3,), 2)
    assert [read.get(i).status for i in (1, 2)] == ["active", "retired"]
    assert done.leaving == (2,)
    assert read.retrievable("skill") == [1, 4, 7, 10, 13, 16]
    assert read.revisions(limit=1)[0].reason == "retracted p-zorp-wrong"
    read.undo(actor="me")
    assert read.get(2).status == "active"
    assert read.evidence(2)


def test_entries_with_other_evidence_keep_it(read: Bank) -> None:
    with read.change(actor="me") as change:
        change.add_evidence(1, [evidence("p-else", "correct")])
    done = retract(read, "p-zorp-correct", actor="me")
    assert (done.retired, done.kept, done.leaving) == ((), 1, ())
    assert [place.problem_id for place in read.evidence(1)] == ["p-else"]


def test_preview_changes_nothing_and_tells_the_same(read: Bank) -> None:
    seen = retract(read, "p-zorp-wrong", actor="me", preview=True)
    assert (seen.revision, read.revision, read.get(2).status) == (None, 1, "active")
    assert seen.model_copy(update={"revision": 2}) == retract(read, "p-zorp-wrong", actor="me")
    assert retract(read, "p-zorp-wrong", actor="me").revision is None


def test_a_file_by_its_path_or_its_name(read: Bank) -> None:
    assert retract(read, FILES[0], actor="me", preview=True).retired == (1, 2, 10, 11)
    assert retract(read, "more.jsonl", actor="me", preview=True).retired == (7, 8, 16, 17)
    with pytest.raises(InvalidOption, match=r"'rollouts\.jsonl' names 2 files: runs/a/rollouts\.jsonl, runs/b"):
        retract(read, "rollouts.jsonl", actor="me")
    with pytest.raises(InvalidOption, match=r"nothing in .* came from 'other\.jsonl'"):
        retract(read, "other.jsonl", actor="me")


def test_undoing_a_merge_brings_back_nothing_that_was_retracted(read: Bank) -> None:
    with read.change(actor="me") as change:
        change.merge([4], into=1)
    done = retract(read, "p-blen-correct", actor="me")
    assert done.retired == (4,)
    assert [place.problem_id for place in read.evidence(1)] == ["p-zorp"]
    with pytest.raises(InvalidEntry, match="was changed again in revision 3"):
        read.undo(2, actor="me")
    with read.change(actor="me") as change:
        change.undo(2, skip_changed=True)
    assert read.get(4).status == "retired"
    assert 4 not in read.retrievable("skill")


def test_the_survivor_of_a_merge_goes_and_the_other_comes_back(read: Bank) -> None:
    with read.change(actor="me") as change:
        change.merge([4], into=1)
    done = retract(read, "p-zorp-correct", actor="me")
    assert (done.retired, done.revived) == ((1,), (4,))
    assert (read.get(1).status, read.get(4).status) == ("retired", "active")


def test_nothing_can_rest_on_it_again(read: Bank) -> None:
    retract(read, "p-zorp-wrong", actor="me")
    assert read.add_mined([mined("zorp")], actor="miner") == [None]
    assert read.get(2).status == "retired"


def test_command_line(read: Bank, capsys: pytest.CaptureFixture[str]) -> None:
    read.close()
    command = ["bank", "retract", "--bank", str(read.path), "--source"]
    assert main([*command, "p-zorp-wrong", "--preview"]) == 0
    out = capsys.readouterr().out
    assert "retired     2\npairs       3: without one side\nkept        0" in out
    assert out.endswith("preview: nothing was changed\n")
    assert main([*command, "p-zorp-wrong", "--reason", "wrong verdict", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["retired"] == [2]
    with Bank.open(read.path) as bank:
        assert bank.revisions(limit=1)[0].reason == "wrong verdict"
    assert main([*command, str(Path("nowhere.jsonl"))]) == 2
    assert "came from 'nowhere.jsonl'" in capsys.readouterr().err
