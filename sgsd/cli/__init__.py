"""The command line: `sgsd COMMAND`.

Each command parses, loads a configuration, calls one function and prints. The files here import typer and rich and
nothing heavy; a command imports what it needs inside, so that `sgsd --help` is instant. `main` turns every failure
into one line on stderr and an exit code: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted, 128 + N
when training was stopped by signal N and has saved itself (143 for SIGTERM), 141 when the reader of the output went
away (`sgsd bank list | head`).
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, TextIO

import typer

from sgsd import __version__
from sgsd.cli.bank import app as bank_app
from sgsd.cli.common import warn
from sgsd.cli.compare import compare_command
from sgsd.cli.demo import demo_command
from sgsd.cli.diagnose import diagnose_command
from sgsd.cli.evaluate import evaluate_command
from sgsd.cli.explain import explain_command
from sgsd.cli.report import report_command
from sgsd.cli.rollout import rollout_command
from sgsd.cli.train import train_command
from sgsd.errors import ConfigError, SGSDError, SGSDWarning, TrainingStopped, VerifierError, refusal
from sgsd.ranks import first_to_tell, launched
from skillbank.errors import InvalidOption, SkillBankError, SkillBankWarning

DONE, FAILED, WRONG_USAGE, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141

app = typer.Typer(
    name="sgsd",
    help="Skill-conditioned gated self-distillation: train a language model under its own past experience.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


app.command("demo")(demo_command)
app.command("rollout")(rollout_command)
app.add_typer(bank_app, name="bank")
app.command("train")(train_command)
app.command("eval")(evaluate_command)
app.command("compare")(compare_command)
app.command("diagnose")(diagnose_command)
app.command("explain")(explain_command)
app.command("report")(report_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sgsd {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")] = False,
) -> None:
    """Declared for `--help`; `main` reads --debug itself, because it outlives the command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (sys.argv when None) and return its exit code. Raises nothing but SystemExit."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in given
    try:
        with _warnings_as_lines():
            rest = [argument for argument in given if argument != "--debug"]
            code = app(rest, prog_name="sgsd", standalone_mode=False)
        if sys.stdout is not None:  # it is when the shell closed it: >&-
            sys.stdout.flush()
    except SystemExit as error:
        if not isinstance(error.__context__, BrokenPipeError):  # typer's way of ending on a closed pipe
            raise
        return _pipe_closed()
    except BrokenPipeError:
        return _pipe_closed()
    except Exception as error:  # noqa: BLE001 - the last stop: whatever failed becomes one line and an exit code
        if debug:
            traceback.print_exc()
        return _report(error, debug)
    if code == INTERRUPTED:
        _line("interrupted")
    return code if isinstance(code, int) else DONE


@contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Our own warnings as one line, without the place in the code; those of libraries as they are. Of several processes
    the main one shows them."""
    show = warnings.showwarning

    def line(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, SGSDWarning | SkillBankWarning):
            warn(str(message))
        elif launched().main:
            show(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", SGSDWarning)
        warnings.simplefilter("always", SkillBankWarning)
        warnings.showwarning = line
        yield


def _report(error: Exception, debug: bool) -> int:
    """One line for an error that ended a command; the exit code that belongs to it."""
    if isinstance(error, typer.TyperException):
        return _report_usage(error)
    if isinstance(error, typer.Abort):
        _line("aborted")
        return FAILED
    if isinstance(error, SGSDError | SkillBankError):
        _line(_one_line(str(error)))
        if isinstance(error, TrainingStopped):
            return 128 + error.signal  # as a shell says it of a process that a signal ended
        return WRONG_USAGE if isinstance(error, ConfigError | VerifierError | InvalidOption) else FAILED
    refused = _refused(error)
    if refused:
        _line(refused)
        return WRONG_USAGE
    hint = "" if debug else " (add --debug for the traceback)"
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        _line(f"{where}{error.strerror}{hint}")
    else:
        _line(f"{type(error).__name__}: {_one_line(str(error))}{hint}")
    return FAILED


def _report_usage(error: typer.TyperException) -> int:
    """A command line that cannot be understood."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "sgsd"
    if type(error).__name__ == "NoArgsIsHelpError":  # rich has printed the help; without it the message is the help
        if error.format_message():
            typer.echo(error.format_message(), err=True)
        return error.exit_code
    parameter = getattr(error, "param", None)
    refused = _refused(error.__cause__, parameter.get_error_hint().strip("'") if parameter else "")
    _line(f"{refused or _one_line(error.format_message())} (see `{path} --help`)", who=path)
    return error.exit_code


def _refused(error: BaseException | None, name: str = "") -> str:
    """What pydantic refuses, when the error is one of its: `name` is the option, where the error knows no key."""
    if "pydantic" not in sys.modules:
        return ""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError):
        return ""
    if name:
        return _one_line(refusal(name, error.errors()[0]))
    return _one_line("; ".join(refusal(".".join(map(str, e["loc"])), e) for e in error.errors()))


def _pipe_closed() -> int:
    """Whoever read our output went away, as in `sgsd bank list | head`: no failure, and nothing to say."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it exits
    return PIPE_CLOSED


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _line(text: str, who: str = "sgsd") -> None:
    """Why the command ends; of several processes the first one tells, and which it is."""
    processes = launched()
    if first_to_tell():
        of = "" if processes.count == 1 else f" (process {processes.index} of {processes.count})"
        typer.echo(f"{who}{of}: {text}", err=True)
