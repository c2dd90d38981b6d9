"""Any interleaving of writers and readers: see scripts/torture_interleavings.py, which this draws schedules for."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


schedules = script("torture_interleavings")
STEPS = st.builds(
    schedules.Step, st.integers(0, schedules.HANDLES - 1), st.sampled_from(schedules.ACTIONS), st.integers(0, 11)
)


@settings(max_examples=150)
@given(steps=st.lists(STEPS, max_size=50))
def test_any_schedule_loses_nothing_and_shows_no_half_change(steps: list[object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        schedules.Schedule(Path(folder), schedules.HANDLES).run(steps)


def test_the_schedules_write_and_get_in_each_other_s_way(tmp_path: Path) -> None:
    outcome = schedules.interleave(40, 0, tmp_path)
    assert outcome.failures == []
    assert outcome.schedules == 40
    assert outcome.committed > 50
    assert outcome.busy > 100


def test_a_lost_update_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is not blind: a commit that does not reach the bank is told."""
    schedule = schedules.Schedule(tmp_path, 2)
    begun = [schedules.Step(0, action, 1) for action in ("begin", "add", "commit", "begin", "tag")]
    monkeypatch.setattr("skillbank.store.change.Change.tag", lambda *_, **__: None)
    with pytest.raises(AssertionError, match="sees"):
        schedule.run([*begun, schedules.Step(0, "commit", 0), schedules.Step(1, "read", 0)])
