"""A process that mines against a server, to be killed. For test_extract.py.

    python mining_process.py URL DATABASE PROBLEMS OUT

OUT gets one JSON line a problem when all of them are mined.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from skillbank.mine.model.client import ChatClient, ClientSettings
from skillbank.mine.model.extract import ExtractSettings, ModelMiner
from skillbank.mine.model.ledger import Ledger
from skillbank.store.database import Database


def main(url: str, database: str, problems: str, out: str) -> None:
    spec = importlib.util.spec_from_file_location("writer", Path(__file__).with_name("writer.py"))
    assert spec is not None
    assert spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    file = Path(database)
    ledger = Ledger(Database(file, create=not file.exists()))
    client = ChatClient(ClientSettings(endpoints=(url,), model="tiny", concurrency=4, longest_backoff_s=0.01))
    mined = ModelMiner(client, ExtractSettings(), ledger).mine(writer.groups(int(problems)))
    lines = [one.model_dump_json(exclude={"calls_made", "prompt_tokens", "completion_tokens"}) for one in mined]
    ledger.close()
    part = Path(f"{out}.part")
    part.write_text("\n".join(lines), encoding="utf-8")
    os.replace(part, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
