"""`sgsd bank review`: one key a decision, each committed at once, on a terminal and from a script."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from skillbank import curate
from skillbank.records import Flag
from skillbank.store import Bank
from skillbank.store.query import Query

from .command_line import CommandLine


@pytest.fixture
def sgsd(bank: Bank, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Quarantined are skill 1, mistake 2 and their pair 3, and mistake 5."""
    with bank.change(actor="guard") as change:
        for entry_id in (1, 2, 3, 5):
            change.flag(entry_id, [Flag(rule="answer", reason=f"entry {entry_id} says 42")])
    return CommandLine(bank.path, capsys, monkeypatch)


def statuses(bank: Bank) -> list[str]:
    return [bank.get(entry_id).status for entry_id in (1, 2, 3, 5)]


def test_accepting_a_pair_settles_its_sides(bank: Bank, sgsd: CommandLine) -> None:
    done = sgsd.json("review", "--reason", "read", stdin="a r")
    assert done == {
        "queue": 4, "accepted": 1, "rejected": 1, "edited": 0, "skipped": 0, "left": 0, "revisions": [3, 4],
    }  # fmt: skip
    assert statuses(bank) == ["active", "active", "active", "retired"]
    assert [(r.actor, r.reason, r.changed) for r in bank.revisions(limit=2)] == [("ada", "read", 1), ("ada", "read", 3)]


def test_what_is_shown(bank: Bank, sgsd: CommandLine) -> None:
    out = sgsd.out("review", stdin="r\nq\n")
    assert "pair 3  quarantined" in out
    assert "flag  answer: entry 3 says 42" in out
    assert "flag of mistake 2  answer: entry 2 says 42" in out
    assert "wrong    “so it is 3”" in out
    assert "1 of 4  [a]ccept, [r]eject, [e]dit, [s]kip, [u]ndo, [q]uit: reject" in out
    assert "pair 3  status" not in out  # what a key does goes without saying
    assert "reject: revision 3\n" in out
    assert "skill 1  quarantined" in out
    assert out.endswith("reviewed: 0 accepted, 1 rejected, 0 edited, 0 skipped; 3 left that fit status:quarantined\n")


def test_undo_steps_back_over_skips_and_decisions(bank: Bank, sgsd: CommandLine) -> None:
    done = sgsd.json("review", stdin="r s u u a q")
    assert statuses(bank) == ["active", "active", "active", "quarantined"]
    assert (done["accepted"], done["rejected"], done["skipped"], done["revisions"]) == (1, 0, 0, [5])
    assert bank.revision == 5  # rejected, undone, accepted
    out = sgsd.out("review", stdin="u")
    assert "there is nothing to undo in this review" in out


def test_an_unknown_key_and_the_end_of_the_input(bank: Bank, sgsd: CommandLine) -> None:
    out = sgsd.out("review", stdin="x")
    assert "no such key: a accept, r reject, e edit, s skip, u undo, q quit" in out
    assert out.endswith("reviewed: 0 accepted, 0 rejected, 0 edited, 0 skipped; 4 left that fit status:quarantined\n")
    assert bank.revision == 2


def test_editing_shows_the_entry_again(bank: Bank, sgsd: CommandLine, tmp_path: Path) -> None:
    curate.release(bank, [1, 2, 3], actor="me")
    sgsd.editor(tmp_path, "text = text.replace('blen taken', 'blen mistaken')")
    out = sgsd.out("review", stdin="eea")
    assert out.count("mistake 5  quarantined") == 3
    assert "description:     blen mistaken as the sum of both" in out
    assert (bank.get(5).status, bank.get(5).version) == ("active", 2)
    assert out.endswith("reviewed: 1 accepted, 0 rejected, 1 edited, 0 skipped; 0 left that fit status:quarantined\n")


def test_what_cannot_be_done_is_told_and_the_review_goes_on(bank: Bank, sgsd: CommandLine) -> None:
    out = sgsd.out("review", stdin="e s e q")
    assert "not done: entry 3 is a pair: name its skill 1 or its mistake 2" in out
    assert "not done: there is no editor to write in: set EDITOR" in out
    assert bank.revision == 2


def test_another_queue_and_an_empty_one(bank: Bank, sgsd: CommandLine) -> None:
    done = sgsd.json("review", "--where", "kind:skill quix", stdin="a")
    assert (done["queue"], done["accepted"], done["left"], done["revisions"]) == (1, 1, 1, [])
    assert (
        sgsd.out("review", "--where", "kind:skill nothing") == "nothing to review: no entry fits kind:skill nothing\n"
    )


def test_keys_of_a_terminal_need_no_enter(bank: Bank, sgsd: CommandLine) -> None:
    said, code = at_terminal(bank, [("1 of 4", b"r"), ("2 of 4", b"a"), ("3 of 4", b"q")])
    assert code == 0
    assert "reviewed: 1 accepted, 1 rejected, 0 edited, 0 skipped; 2 left" in said
    assert statuses(bank) == ["active", "quarantined", "retired", "quarantined"]


def test_control_c_keeps_what_was_decided(bank: Bank, sgsd: CommandLine) -> None:
    said, code = at_terminal(bank, [("1 of 4", b"r"), ("2 of 4", b"\x03")])
    assert code == 130
    assert "reviewed: 0 accepted, 1 rejected" in said
    assert said.rstrip().endswith("sgsd: interrupted")
    assert "Traceback" not in said
    assert bank.count(Query(status="retired")) == 1


def at_terminal(bank: Bank, keys: list[tuple[str, bytes]]) -> tuple[str, int]:
    """Runs a review in a real terminal: each key is typed when the text before it has appeared."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "sgsd", "bank", "review", "--bank", str(bank.path)]
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    said = ""
    try:
        for text, key in keys:
            while f"{text}  [a]ccept" not in said or not said.rstrip(" ").endswith("[q]uit:"):
                said += os.read(master, 4096).decode()
            time.sleep(0.05)  # the terminal is made raw after the question is written
            os.write(master, key)
            said += os.read(master, 1).decode()
        while True:
            try:
                more = os.read(master, 4096)
            except OSError:  # the other end is closed
                break
            if not more:
                break
            said += more.decode(errors="replace")
    finally:
        code = process.wait(timeout=60)
        os.close(master)
    return said, code
