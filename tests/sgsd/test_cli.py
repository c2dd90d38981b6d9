"""The frame of the command line: exit codes, one line an error, JSON on stdout alone."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable

import pytest
import typer
from pydantic import BaseModel, Field

from sgsd import __version__, cli
from sgsd.cli import common, main
from sgsd.errors import ConfigError, DataNotFound, VerifierError
from skillbank.errors import BankNotFound, InvalidOption, SkillBankWarning

Capture = pytest.CaptureFixture[str]
AddCommand = Callable[[Callable[[], None]], None]


class Sampling(BaseModel):
    temperature: float = Field(ge=0)


def fail_validation() -> None:
    Sampling(temperature=-1)


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        raise error

    return command


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> AddCommand:
    """Puts a command named `try` beside the real ones, for this test."""
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(cli._global_options)
    monkeypatch.setattr(cli, "app", app)

    def add(function: Callable[[], None]) -> None:
        app.command("try")(function)

    return add


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigError("train.max_steps: at least 1\n(got 0)"), 2, "sgsd: train.max_steps: at least 1 (got 0)\n"),
        (VerifierError("no verifier named x"), 2, "sgsd: no verifier named x\n"),
        (InvalidOption("k is 0"), 2, "sgsd: k is 0\n"),
        (
            OSError(28, "No space left on device", "o"),
            1,
            "sgsd: o: No space left on device (add --debug for the traceback)\n",
        ),
        (DataNotFound("no file at x.jsonl"), 1, "sgsd: no file at x.jsonl\n"),
        (BankNotFound("no bank at b"), 1, "sgsd: no bank at b\n"),
        (KeyboardInterrupt(), 130, "sgsd: interrupted\n"),
        (typer.Abort(), 1, "sgsd: aborted\n"),
        (typer.Exit(3), 3, ""),
        (ZeroDivisionError("by zero"), 1, "sgsd: ZeroDivisionError: by zero (add --debug for the traceback)\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_errors_are_one_line_and_a_code(
    command: AddCommand, capsys: Capture, error: BaseException, code: int, line: str
) -> None:
    command(raising(error))
    assert main(["try"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.lstrip("\n") == line


def test_our_own_warnings_are_lines(command: AddCommand, capsys: Capture) -> None:
    command(lambda: warnings.warn("k is 9 but there are 3", SkillBankWarning, stacklevel=2))
    assert main(["try"]) == 0
    assert capsys.readouterr() == ("", "warning: k is 9 but there are 3\n")


def test_warnings_of_libraries_stay_what_they_are(command: AddCommand) -> None:
    command(lambda: warnings.warn("elsewhere", DeprecationWarning, stacklevel=2))
    with pytest.warns(DeprecationWarning, match="elsewhere"):
        main(["try"])


def test_a_refused_value_is_wrong_usage(command: AddCommand, capsys: Capture) -> None:
    command(fail_validation)
    assert main(["try"]) == 2
    assert capsys.readouterr().err == "sgsd: temperature must be at least 0 (got -1)\n"


@pytest.mark.parametrize("arguments", [["--debug", "try"], ["try", "--debug"]])
def test_debug_shows_the_traceback(command: AddCommand, capsys: Capture, arguments: list[str]) -> None:
    command(raising(DataNotFound("no file at x.jsonl")))
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert error.endswith("sgsd: no file at x.jsonl\n")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["nonsense"], "sgsd: No such command 'nonsense'. (see `sgsd --help`)\n"),
        (["--nonsense"], "sgsd: No such option: --nonsense (see `sgsd --help`)\n"),
    ],
)
def test_wrong_usage(capsys: Capture, arguments: list[str], line: str) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == line


def test_version(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sgsd {__version__}\n"


def test_no_command_prints_the_help(capsys: Capture) -> None:
    assert main([]) == 2
    captured = capsys.readouterr()
    assert "Usage: sgsd [OPTIONS] COMMAND" in captured.out + captured.err


def test_runs_as_a_module() -> None:
    done = subprocess.run([sys.executable, "-m", "sgsd", "--version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"sgsd {__version__}\n")


def test_a_closed_pipe_is_no_failure() -> None:
    code = "\n".join(
        [
            "import sys, typer",
            "from sgsd import cli",
            "def command():",
            "    for _ in range(1000): print('x' * 1000)",
            "cli.app.command('pour')(command)",
            "sys.exit(cli.main(['pour']))",
        ]
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), error) == (141, "")


def test_emit_prints_json_or_words(capsys: Capture) -> None:
    payload = {"accuracy": 0.5, "ci": (0.25, float("nan")), "name": "née"}
    common.emit(payload, True, lambda: pytest.fail("words were not asked for"))
    assert json.loads(capsys.readouterr().out) == {"accuracy": 0.5, "ci": [0.25, None], "name": "née"}
    common.emit(payload, False, lambda: typer.echo("half of them"))
    assert capsys.readouterr().out == "half of them\n"
    common.emit(Sampling(temperature=0.5), True, lambda: None)
    assert json.loads(capsys.readouterr().out) == {"temperature": 0.5}


def test_progress_leaves_stdout_alone(capsys: Capture) -> None:
    with common.progress("counting", total=3) as advance:
        for item in common.track([1, 2, 3], "counting"):
            advance(item)
    assert capsys.readouterr() == ("", "")
