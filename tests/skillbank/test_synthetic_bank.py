"""The bank that is measured is a sound one: scripts/synthetic_bank.py writes the rows that a change writes."""

from __future__ import annotations

from pathlib import Path

from skillbank.doctor import doctor
from skillbank.records import Pair
from skillbank.store import Bank

from .test_interleavings import script


def test_the_synthetic_bank_is_sound(tmp_path: Path) -> None:
    script("synthetic_bank").make(tmp_path / "bank", 60, 8)
    assert doctor(tmp_path / "bank").errors == ()
    with Bank.open(tmp_path / "bank") as bank:
        assert bank.stats().entries == {"skill": 30, "mistake": 30, "pair": 30}
        assert bank.db.value("SELECT count(*) FROM wordings") == 90
        assert bank.get(3).content == Pair(skill_id=1, mistake_id=2)
