"""Do the import contracts bite? Plants a forbidden import in a copy of the source, once for each, and wants a failure.

python scripts/check_contracts.py
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

PLANTS = [  # file, forbidden line, the contract that must break
    ("skillbank/records.py", "import sgsd.config", "skillbank stands alone"),
    ("sgsd/records.py", "import sgsd.data", "sgsd imports one way"),
    ("sgsd/trainer/distillation.py", "import skillbank", "only what draws, scores, judges and keeps experience"),
    ("sgsd/objectives/gated.py", "import transformers", "objectives and logits import torch alone"),
]


def lint(folder: Path) -> tuple[int, str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-logo", "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy(ROOT / "pyproject.toml", copy)
        for package in ("sgsd", "skillbank"):
            shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
        code, output = lint(copy)
        if code:
            sys.exit(f"the contracts fail before anything is planted:\n{output}")
        for file, line, contract in PLANTS:
            original = (copy / file).read_text(encoding="utf-8")
            (copy / file).write_text(f"{original}\n{line}\n", encoding="utf-8")
            code, output = lint(copy)
            (copy / file).write_text(original, encoding="utf-8")
            broken = [text for text in output.splitlines() if text.endswith("BROKEN")]
            if code == 0 or not any(text.startswith(contract) for text in broken):
                sys.exit(f"`{line}` planted in {file} went unnoticed by '{contract}':\n{output}")
            print(f"noticed: `{line}` in {file}")


if __name__ == "__main__":
    main()
