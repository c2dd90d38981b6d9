"""The command line: `sgsd COMMAND`.

Each command parses, loads a configuration, calls one function and prints. The files here import typer and rich and
nothing heavy; a command imports what it needs inside, so that `sgsd --help` is instant. `main` turns every failure into
one line on stderr and an exit code: 0 done, 1 failed, 2 wrong usage or configuration, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer

from sgsd import __version__
from sgsd.cli.bank import app as bank_app
from sgsd.cli.demo import demo_command
from sgsd.cli.evaluate import evaluate_command
from sgsd.cli.rollout import rollout_command
from sgsd.cli.train import train_command
from sgsd.errors import ConfigError, SGSDError, VerifierError
from skillbank.errors import SkillBankError

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130

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
        code = app([argument for argument in given if argument != "--debug"], prog_name="sgsd", standalone_mode=False)
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


def _report(error: Exception, debug: bool) -> int:
    """One line for an error that ended a command; the exit code that belongs to it."""
    if isinstance(error, typer.TyperException):
        context = getattr(error, "ctx", None)
        if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help text
            typer.echo(error.format_message(), err=True)
        else:
            path = context.command_path if context else "sgsd"
            _line(f"{_one_line(error.format_message())} (see `{path} --help`)", who=path)
        return error.exit_code
    if isinstance(error, typer.Abort):
        _line("aborted")
        return FAILED
    if isinstance(error, SGSDError | SkillBankError):
        _line(_one_line(str(error)))
        return WRONG_USAGE if isinstance(error, ConfigError | VerifierError) else FAILED
    if "pydantic" in sys.modules:
        from pydantic import ValidationError

        if isinstance(error, ValidationError):
            _line("; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()))
            return WRONG_USAGE
    hint = "" if debug else " (add --debug for the traceback)"
    _line(f"{type(error).__name__}: {_one_line(str(error))}{hint}")
    return FAILED


def _pipe_closed() -> int:
    """Whoever read our output went away, as in `sgsd bank list | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains again when it exits
    _line("the output was closed before everything was written")
    return FAILED


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _line(text: str, who: str = "sgsd") -> None:
    typer.echo(f"{who}: {text}", err=True)
