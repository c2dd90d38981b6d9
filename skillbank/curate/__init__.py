"""What a curator does to a bank: the one set of operations that the command line and the web page call.

    operation.py   what every operation is: previewed by being done and rolled back, told field by field, undone in one
    states.py      disable, enable, retire, release, accept, reject, pin, unpin, tag, untag, retag
    words.py       edit, add, split, merge: what brings in words, so the guard may look
    past.py        undo, checkout
    prune.py       prune: retires what a rule over the usage ledger finds
    runs.py        what a training run may hold, and taking back what it did (for runs alone)

Each takes who does it and why, makes one revision at most, and says what it changed and what it left alone. What takes
ids takes a Query as well; whoever shows a preview first resolves the query once and then applies exactly those ids.
"""

from skillbank.curate.operation import FieldChange, Held, Left, Operation, field_changes, net_field_changes, resolve
from skillbank.curate.past import checkout, undo
from skillbank.curate.states import accept, disable, enable, pin, reject, release, retag, retire, tag, unpin, untag
from skillbank.curate.words import EditConflict, add, edit, merge, split

__all__ = [
    "EditConflict",
    "FieldChange",
    "Held",
    "Left",
    "Operation",
    "accept",
    "add",
    "checkout",
    "disable",
    "edit",
    "enable",
    "field_changes",
    "merge",
    "net_field_changes",
    "pin",
    "reject",
    "release",
    "resolve",
    "retag",
    "retire",
    "split",
    "tag",
    "undo",
    "unpin",
    "untag",
]
