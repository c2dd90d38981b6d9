"""Any text in every field that a bank keeps: it comes back as it was, or is refused in one line and nothing changes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from skillbank.doctor import doctor
from skillbank.errors import SkillBankError
from skillbank.records import (
    Evidence,
    Flag,
    MinedEntry,
    Mistake,
    ProblemText,
    Provenance,
    RolloutFate,
    Skill,
)
from skillbank.store import Bank, Query, UsageRow

TEXTS = st.text(alphabet=st.characters(), min_size=0, max_size=40) | st.sampled_from(
    [
        "\0",
        "a\0b",
        "\ud800",
        "lone \udfff end",
        "\x01\x1b[31m",
        "\u202e\u200b",
        "\r\n\t",
        "é\u0301",
        "{}",
        '"',
        "'; DROP--",
        "🧮" * 3,
    ]
)
Put = Callable[[Bank, str], None]
Got = Callable[[Bank], Any]


def keep(bank: Bank, text: str, **fields: Any) -> None:
    with bank.change(actor="me") as change:
        change.add(Skill(title="t", principle="p"), **fields)


def place(**fields: str) -> tuple[Evidence, ...]:
    values = {"rollout_id": "r", "problem_id": "p", "outcome": "wrong", "quote": "q", "source": "s"} | fields
    return (Evidence.model_validate(values),)


def fate(**fields: str) -> RolloutFate:
    values = {
        "rollout_id": "r",
        "problem_id": "p",
        "content_hash": "h",
        "outcome": "wrong",
        "miner": "m",
        "fate": "dead",
    }
    return RolloutFate.model_validate(values | fields)


def usage(**fields: str) -> UsageRow:
    numbers = {"step": 1, "skill_id": 1, "mistake_id": 2, "support": 0, "polarity": 0, "gate_mass": 0, "weight": 0}
    values = {"run": "r", "problem_id": "p", "outcome": "wrong", "revision": 1} | numbers
    return UsageRow.model_validate(values | fields)


def revise(bank: Bank, **fields: str) -> None:
    with bank.change(**{"actor": "me", **fields}) as change:
        change.add(Skill(title="t", principle="p"))


FIELDS: dict[str, tuple[Put, Got]] = {
    "skill title": (
        lambda bank, text: bank.add_mined([MinedEntry(content=Skill(title=text, principle="p"))], actor="me") and None,
        lambda bank: bank.get(1).content.title,  # type: ignore[union-attr]
    ),
    "skill when": (
        lambda bank, text: (
            bank.add_mined([MinedEntry(content=Skill(title="t", principle="p", when_to_apply=text))], actor="me")
            and None
        ),
        lambda bank: bank.get(1).content.when_to_apply,  # type: ignore[union-attr]
    ),
    "mistake": (
        lambda bank, text: (
            bank.add_mined([MinedEntry(content=Mistake(description=text, how_to_avoid=text))], actor="me") and None
        ),
        lambda bank: bank.get(1).content.description,  # type: ignore[union-attr]
    ),
    "origin": (lambda bank, text: keep(bank, text, origin=text), lambda bank: bank.get(1).origin),
    "tag": (lambda bank, text: keep(bank, text, tags=[text]), lambda bank: bank.get(1).tags[0]),
    "flag": (
        lambda bank, text: keep(bank, text, flags=[Flag(rule=text, reason=text)]),
        lambda bank: bank.get(1).flags[0].rule,
    ),
    "provenance": (
        lambda bank, text: keep(bank, text, provenance=Provenance(miner=text, detail=text)),
        lambda bank: bank.get(1).provenance.detail,  # type: ignore[union-attr]
    ),
    "rollout id": (
        lambda bank, text: keep(bank, text, evidence=place(rollout_id=text)),
        lambda bank: bank.evidence(1)[0].rollout_id,
    ),
    "problem id": (
        lambda bank, text: keep(bank, text, evidence=place(problem_id=text)),
        lambda bank: bank.evidence(1)[0].problem_id,
    ),
    "quote": (lambda bank, text: keep(bank, text, evidence=place(quote=text)), lambda bank: bank.evidence(1)[0].quote),
    "source": (
        lambda bank, text: keep(bank, text, evidence=place(source=text)),
        lambda bank: bank.evidence(1)[0].source,
    ),
    "actor": (lambda bank, text: revise(bank, actor=text), lambda bank: bank.revisions()[0].actor),
    "reason": (lambda bank, text: revise(bank, reason=text), lambda bank: bank.revisions()[0].reason),
    "problem": (
        lambda bank, text: bank.record_problems([ProblemText(problem_id=text, problem=text, reference=text)]),
        lambda bank: bank.db.value("SELECT problem FROM problems"),
    ),
    "completion": (
        lambda bank, text: bank.record_rollouts([fate(completion=text)]),
        lambda bank: bank.rollout("r")[0].completion,
    ),
    "file": (
        lambda bank, text: bank.record_rollouts([fate(file=text, reason=text)]),
        lambda bank: bank.rollout("r")[0].file,
    ),
    "run": (
        lambda bank, text: bank.record_usage([usage(run=text)]),
        lambda bank: bank.db.value("SELECT run FROM usage"),
    ),
    "meta": (lambda bank, text: bank.set_meta("key", text), lambda bank: bank.meta("key")),
}


def refusal(act: Callable[[], object]) -> Exception | None:
    try:
        act()
    except Exception as error:  # noqa: BLE001 - which it is, is what the tests are about
        return error
    return None


def everything(bank: Bank) -> list[Any]:
    tables = (
        "entries",
        "events",
        "evidence",
        "revisions",
        "wordings",
        "problems",
        "rollouts",
        "usage",
        "usage_totals",
        "meta",
    )
    return [[tuple(row) for row in bank.db.rows(f"SELECT * FROM {table}")] for table in tables]


@pytest.mark.parametrize("name", FIELDS)
@settings(max_examples=25)
@given(text=TEXTS)
@example(text="x" * 1_000_000)
@example(text="\ud83e\uddee a pair of surrogates")
def test_any_text_comes_back_or_is_refused(name: str, text: str) -> None:
    put, got = FIELDS[name]
    with tempfile.TemporaryDirectory() as folder, Bank.create(Path(folder) / "bank") as bank:
        bank.db.run("PRAGMA synchronous = OFF")
        before = everything(bank)
        refused = refusal(lambda: put(bank, text))
        if refused is None:
            assert got(bank) == text
        else:  # pydantic's comes before the bank is asked
            assert isinstance(refused, SkillBankError | ValidationError), repr(refused)
            assert isinstance(refused, ValidationError) or "\n" not in str(refused)
            assert everything(bank) == before
        assert doctor(bank.path).errors == ()


@given(text=TEXTS)
def test_any_text_can_be_searched_for(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder, Bank.create(Path(folder) / "bank") as bank:
        bank.db.run("PRAGMA synchronous = OFF")
        keep(bank, "")
        for where in (Query(text=text), Query(tag=text), Query(origin=text), Query(problem=text), Query(rollout=text)):
            refused = refusal(lambda where=where: bank.entries(where))
            if refused is None:
                assert bank.entries(where) in ([], [bank.get(1)])
                assert bank.count(where) in (0, 1)
            else:
                assert "half a character" in str(refused)
                assert any("\ud800" <= character <= "\udfff" for character in text)
