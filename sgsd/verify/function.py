"""`module:function`: your own verifier, in a process of its own, under the time limit.

The function gets the completion and the Problem, and returns True, False, None (unverifiable) or a Verdict. What it
raises is `unverifiable`, and so is a time-out or the death of its process. Returning anything else is a VerifierError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from typing import Any

from sgsd.errors import VerifierError
from sgsd.records import Problem, Verdict
from sgsd.verify.process import WorkerProcess


class FunctionVerifier:
    """Raises VerifierError at once when the module or the function is not there."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self._worker = WorkerProcess(name, timeout_s)
        self._worker.start()

    def verify_many(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        return [
            self._worker.ask({"completion": text, "problem": asdict(problem)})
            for text, problem in zip(completions, problems, strict=True)
        ]

    def close(self) -> None:
        """Ends the worker process. A later `verify_many` starts another."""
        self._worker.close()


def load_function(name: str) -> Callable[[str, Problem], Any]:
    """Import `module:function`. Raises VerifierError when either is missing or the module fails on import."""
    module_name, _, function_name = name.partition(":")
    try:
        module = import_module(module_name)
    except Exception as error:  # the user's module may raise anything while it is imported
        raise VerifierError(
            f"verifier {name!r}: cannot import {module_name!r} ({type(error).__name__}: {error}); "
            "it must be importable from the current folder or installed"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise VerifierError(f"verifier {name!r}: module {module_name!r} has no function {function_name!r}")
    return function  # type: ignore[no-any-return]


def verdict_of(function: Callable[[str, Problem], Any], name: str, completion: str, problem: Problem) -> Verdict:
    """Call the user's function once. Raises VerifierError when it returns what is no verdict."""
    try:
        said = function(completion, problem)
    except Exception as error:  # noqa: BLE001 - docs/method.md, pitfall 4: a crash is not a failure of the student
        return Verdict("unverifiable", None, f"{name} raised {type(error).__name__}: {str(error)[:120]}")
    if isinstance(said, Verdict):
        return said
    if said is None:
        return Verdict("unverifiable", None, f"{name} gave no verdict")
    if said is True or said is False:
        return Verdict("correct" if said else "wrong")
    raise VerifierError(f"verifier {name!r} returned {said!r:.80}: it must return True, False, None or a Verdict")
