"""Banks of made-up operations: small, and every word of them is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from skillbank.index.embed import Embedder, build_lexical_embedder
from skillbank.store import Bank

from .made_up import OPERATIONS, mined


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    """Six pairs of six operations at revision 1: skills 1, 4, 7 ..., mistakes 2, 5, 8 ..., pairs 3, 6, 9 ..."""
    with Bank.create(tmp_path / "bank") as bank:
        bank.add_mined([mined(operation) for operation in OPERATIONS], actor="miner", reason="rollouts.jsonl")
        yield bank


@pytest.fixture(scope="session")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    folder = tmp_path_factory.mktemp("embedder")
    pairs = [mined(operation) for operation in OPERATIONS]
    build_lexical_embedder(folder, [text for pair in pairs for text in (pair.skill.text(), pair.mistake.text())])
    return Embedder.load(folder, device="cpu")
