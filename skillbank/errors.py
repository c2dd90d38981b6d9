"""Every error that `skillbank` raises on purpose.

    SkillBankError
    ├── BankNotFound      (FileNotFoundError)  no bank at the path
    ├── BankExists        (FileExistsError)    a bank is already there
    ├── BankCorrupt       (RuntimeError)       the database or a file of the bank cannot be read
    ├── BankBusy          (TimeoutError)       another process holds the bank's write lock
    ├── EntryNotFound     (KeyError)           no entry with that id
    ├── InvalidEntry      (ValueError)         an entry's text or an operation on it is refused
    │   └── EditConflict                       in `curate`: somebody else reworded it meanwhile
    ├── InvalidOption     (ValueError)         a setting of retrieval is out of its bounds
    ├── RolloutsNotFound  (FileNotFoundError)  the file of past rollouts is missing
    ├── RolloutsInvalid   (ValueError)         the file holds no usable rollout
    ├── EmbedderNotFound  (FileNotFoundError)  the embedding model cannot be loaded
    ├── ForeignFingerprint(ValueError)         the bank's vectors come from another embedder
    ├── EndpointUnavailable(ConnectionError)   no server of a language model can be reached, or it has no room
    ├── EndpointRefuses   (PermissionError)    a server refuses every call: key, model name or address is wrong
    └── CompletionFailed  (RuntimeError)       a server gave no usable answer to this one call

Each is also the built-in that fits, so callers may catch either. Messages name the value, the bound and the fix.
`SkillBankWarning` is for what the user should know and what stops nothing.
"""

from __future__ import annotations


class SkillBankError(Exception):
    """Root of the tree; the command line prints its message as one line."""


class BankNotFound(SkillBankError, FileNotFoundError):
    pass


class BankExists(SkillBankError, FileExistsError):
    pass


class BankCorrupt(SkillBankError, RuntimeError):
    pass


class EntryNotFound(SkillBankError, KeyError):
    def __str__(self) -> str:  # KeyError would print the repr of its message
        return str(self.args[0]) if self.args else ""


class InvalidEntry(SkillBankError, ValueError):
    pass


class RolloutsNotFound(SkillBankError, FileNotFoundError):
    pass


class RolloutsInvalid(SkillBankError, ValueError):
    pass


class EmbedderNotFound(SkillBankError, FileNotFoundError):
    pass


class ForeignFingerprint(SkillBankError, ValueError):
    pass


class BankBusy(SkillBankError, TimeoutError):
    pass


class InvalidOption(SkillBankError, ValueError):
    pass


class EndpointUnavailable(SkillBankError, ConnectionError):
    pass


class EndpointRefuses(SkillBankError, PermissionError):
    pass


class CompletionFailed(SkillBankError, RuntimeError):
    pass


class SkillBankWarning(UserWarning):
    """The work goes on, with less than was asked for."""
