"""An import into the bank at a path, which is made when there is none: whole, with what came in, or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import nullcontext
from pathlib import Path

from skillbank.errors import BankExists
from skillbank.exchange.importing import ImportReport, import_file
from skillbank.exchange.reading import Format
from skillbank.guard import Guard
from skillbank.rollouts.rejects import RejectLog, ignore
from skillbank.store import FILE, Bank

REJECTED_FILE = "import-rejected.jsonl"
"""In the bank's folder: the records that the last import could not take. Absent when it could take all."""


def import_into(
    folder: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    trust: bool = False,
    dry_run: bool = False,
    actor: str,
    reason: str = "",
) -> ImportReport:
    """`import_file` with the guard and a log of what was rejected, which a dry run does not write.

    Raises BankExists when the folder holds something else, BankCorrupt, and what `import_file` raises.
    """
    target = Path(folder)

    def run(at: Path) -> ImportReport:
        with Bank.open(at) as bank, nullcontext(ignore) if dry_run else RejectLog(at / REJECTED_FILE) as log:
            return import_file(
                bank,
                path,
                format=format,
                trust=trust,
                dry_run=dry_run,
                actor=actor,
                reason=reason,
                check=Guard(bank).check,
                on_reject=log,
            )

    if (target / FILE).exists():
        return run(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BankExists(f"{target} exists and is no bank; name an empty or a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{target.name}.tmp-", dir=target.parent) as made:
        new = Path(made) / "bank"
        Bank.create(new).close()
        report = run(new)
        if report.revision is not None:
            os.replace(new, target)
        return report
