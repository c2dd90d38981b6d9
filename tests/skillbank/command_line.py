"""Runs `sgsd bank ...` in this process, as a test wants to look at it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sgsd.cli import main


class CommandLine:
    """`sgsd bank` on one bank, named by the environment."""

    def __init__(self, bank: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.bank, self._capsys, self._monkeypatch = bank, capsys, monkeypatch
        monkeypatch.setenv("SGSD_BANK", str(bank))
        monkeypatch.setenv("USER", "ada")
        for name in ("VISUAL", "EDITOR"):
            monkeypatch.delenv(name, raising=False)

    def __call__(self, *arguments: object, stdin: str = "") -> tuple[int, str, str]:
        """(exit code, stdout, stderr)."""
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        self._capsys.readouterr()
        code = main(["bank", *map(str, arguments)])
        out, err = self._capsys.readouterr()
        return code, out, err

    def out(self, *arguments: object, stdin: str = "") -> str:
        code, out, err = self(*arguments, stdin=stdin)
        assert code == 0, err
        return out

    def json(self, *arguments: object, stdin: str = "") -> Any:
        return json.loads(self.out(*arguments, "--json", stdin=stdin))

    def refused(self, *arguments: object, stdin: str = "", code: int) -> str:
        """The one line that a command fails with."""
        exit_code, out, err = self(*arguments, stdin=stdin)
        assert (exit_code, out) == (code, ""), err
        assert len(err.strip().splitlines()) == 1, err
        return err

    def editor(self, folder: Path, python: str) -> None:
        """Makes EDITOR a program that changes `text`, what is in the file, by these lines of Python."""
        script = folder / "editor.py"
        indented = python.replace("\n", "\n    ")
        lines = [
            "import sys",
            "from pathlib import Path",
            "def edit(text):",
            f"    {indented}",
            "    return text",
            "file = Path(sys.argv[1])",
            "file.write_text(edit(file.read_text(encoding='utf-8')), encoding='utf-8')",
        ]
        script.write_text("\n".join(lines), encoding="utf-8")
        self._monkeypatch.setenv("EDITOR", f"'{sys.executable}' '{script}'")
