"""Every error that `sgsd` raises on purpose.

    SGSDError
    ├── ConfigError     (ValueError)         a configuration key or value is refused
    ├── DataNotFound    (FileNotFoundError)  a file of problems is missing
    ├── DataInvalid     (ValueError)         a file of problems cannot be read or holds none
    ├── ModelNotFound   (FileNotFoundError)  no model at the path, and no such name to be had
    ├── ProblemTooLong  (ValueError)         a prompt exceeds the token limit
    ├── VerifierError   (ValueError)         a verifier cannot be built (an unknown name, a bad `module:function`)
    └── TrainingError   (RuntimeError)       the run cannot go on

Each is also the built-in that fits, so callers may catch either. Messages name the value, the bound and the fix.
"""

from __future__ import annotations


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


class VerifierError(SGSDError, ValueError):
    pass


class TrainingError(SGSDError, RuntimeError):
    pass
