"""Work on a bank that is killed with -9 at random moments: nothing lost, nothing doubled, and it can be begun again.

Five kills of each kind of work; `python scripts/torture_bank.py` does fifty.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "torture_bank.py"


def torture(folder: Path, *options: str) -> dict[str, object]:
    command = [sys.executable, str(SCRIPT), "--folder", str(folder), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.mark.slow
@pytest.mark.parametrize("work", ["build", "build into a bank", "undo", "index swap", "dedupe", "create", "import"])
def test_killed_work_loses_and_doubles_nothing(tmp_path: Path, work: str) -> None:
    result = torture(tmp_path, "--kills", "5", "--only", work)
    (outcome,) = result["kills"]  # type: ignore[misc]
    assert outcome["failures"] == []
    assert outcome["kills"] == 5
    assert sum(outcome["at_revision"].values()) == 5


@pytest.mark.slow
def test_bytes_changed_in_the_files_are_found_or_change_nothing_that_can_be_read(tmp_path: Path) -> None:
    result = torture(tmp_path, "--kills", "0", "--flips", "60")
    assert result["flips"]["failures"] == []  # type: ignore[index]
    assert sum(result["flips"]["found"].values()) > 30  # type: ignore[index]
