"""Every error that `sgsd` raises on purpose.

    SGSDError
    ├── ConfigError     (ValueError)         a configuration key or value is refused
    ├── DataNotFound    (FileNotFoundError)  a file of problems is missing
    ├── DataInvalid     (ValueError)         a file of problems cannot be read or holds none
    ├── ModelNotFound   (FileNotFoundError)  no model at the path, and no such name to be had
    ├── ProblemTooLong  (ValueError)         a prompt exceeds the token limit
    ├── ServerError     (ConnectionError)    a server of completions cannot be had, or its replies cannot be used
    ├── VerifierError   (ValueError)         a verifier cannot be built (an unknown name, a bad `module:function`)
    ├── TrainingError   (RuntimeError)       the run cannot go on
    └── TrainingStopped (RuntimeError)       the run was told to end by a signal, and has saved itself

SGSDWarning (UserWarning) is what a user should know of and the program goes on after.

Each is also the built-in that fits, so callers may catch either. Messages name the value, the bound and the fix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class SGSDError(Exception):
    """Root of the tree; the command line prints its message as one line."""


class ConfigError(SGSDError, ValueError):
    pass


class DataNotFound(SGSDError, FileNotFoundError):
    pass


class DataInvalid(SGSDError, ValueError):
    pass


class ModelNotFound(SGSDError, FileNotFoundError):
    pass


class ProblemTooLong(SGSDError, ValueError):
    pass


class ServerError(SGSDError, ConnectionError):
    pass


class VerifierError(SGSDError, ValueError):
    pass


class TrainingError(SGSDError, RuntimeError):
    pass


class TrainingStopped(SGSDError, RuntimeError):
    """`signal` is its number; `sgsd` ends with exit code 128 + signal, as a process that it has killed."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal


class SGSDWarning(UserWarning):
    pass


_BOUNDS = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "finite_number": "must be a finite number",
}
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text", "tuple": "a list"}


def refusal(name: str, error: Mapping[str, Any]) -> str:
    """What pydantic refuses of the value called `name` (an item of `ValidationError.errors()`), in one clause.

    It names the value and the bound: "train.max_steps must be above 0 (got 0)".
    """
    kind, value = error["type"], error["input"]
    if kind == "missing":
        return f"{name} is missing"
    if kind == "value_error":  # a validator in our code or in typer's, whose message says all
        message = error["msg"].removeprefix("Value error, ").rstrip(".")
        return f"{name}: {message}" if name else str(message)
    if kind in _BOUNDS:
        bounds = error.get("ctx", {}).items()
        said = _BOUNDS[kind].format(
            **{key: f"{bound:g}" if isinstance(bound, float) else bound for key, bound in bounds}
        )
    elif kind in ("model_type", "model_attributes_type", "dict_type"):
        said = "is a section: give it keys of its own"
    elif (family := kind.partition("_")[0]) in _KINDS:
        said = f"must be {_KINDS[family]}"
    else:
        said = f"is refused: {error['msg']}"
    return f"{name} {said} (got {value!r})"
