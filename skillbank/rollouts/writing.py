"""Writing rollouts in the native format. The file appears whole under its name, or not at all."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections.abc import Iterable
from pathlib import Path

from skillbank.records import Rollout

ROWS = 1024
"""Of one parquet row group: what is held in memory at a time."""


def write_rollouts(path: str | os.PathLike[str], rollouts: Iterable[Rollout]) -> int:
    """Write rollouts as JSONL, packed when the name ends in `.gz`, or as parquet when it ends in `.parquet`.

    Returns their number.
    """
    file = Path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.tmp-{os.getpid()}")
    try:
        count = (_write_parquet if file.suffix == ".parquet" else _write_jsonl)(part, rollouts, file.suffix == ".gz")
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)
    return count


def _write_jsonl(part: Path, rollouts: Iterable[Rollout], packed: bool) -> int:
    count = 0
    with part.open("wb") as plain, gzip.GzipFile("", "wb", fileobj=plain, mtime=0) if packed else plain as stream:
        for rollout in rollouts:
            stream.write(rollout.model_dump_json().encode() + b"\n")
            count += 1
    return count


def _write_parquet(part: Path, rollouts: Iterable[Rollout], _: bool) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # Text, but for what is yes or no and for tokens. `sampling` differs from row to row, so it travels as JSON.
    types = {name: pa.bool_() if field.annotation is bool else pa.string() for name, field in _FIELDS.items()}
    types["token_ids"] = pa.list_(pa.int32())
    schema = pa.schema(list(types.items()))
    count = 0
    stream = iter(rollouts)
    with pq.ParquetWriter(part, schema) as writer:
        while rows := [_row(rollout) for rollout in itertools.islice(stream, ROWS)]:
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count += len(rows)
    return count


_FIELDS = Rollout.model_fields


def _row(rollout: Rollout) -> dict[str, object]:
    row = rollout.model_dump()
    return {**row, "sampling": None if row["sampling"] is None else json.dumps(row["sampling"])}
