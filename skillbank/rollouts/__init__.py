"""Past rollouts, in and out: any file of a known format becomes a stream of `skillbank.records.Rollout`.

reading.py   a file -> rollouts, what cannot be used counted and kept
lines.py     bytes -> records: JSON lines, JSON arrays, gzip, parquet
formats.py   a record -> rollouts: one function and one line of a table a format
chat.py      prompts and completions that are chats; whether a prompt showed skills
rewards.py   what a reward says of an attempt
rejects.py   what could not be used, and why
writing.py   rollouts -> a file
"""

from skillbank.rollouts.formats import Format
from skillbank.rollouts.reading import Reading, read_rollouts, reader_for
from skillbank.rollouts.rejects import OnReject, Rejected, RejectLog
from skillbank.rollouts.writing import write_rollouts

__all__ = ["Format", "OnReject", "Reading", "RejectLog", "Rejected", "read_rollouts", "reader_for", "write_rollouts"]
