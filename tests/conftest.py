"""What all tests share. Runs before anything heavy is imported."""

from __future__ import annotations

import os
from pathlib import Path

# One thread a process: two processes of two threads on two cores are many times slower than two of one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Output is as wide as it likes, in whatever window the tests are started and in xdist's workers, which are given one.
os.environ.pop("COLUMNS", None)
# No test may fetch a model: what it needs is in the repository or is built on the spot.
os.environ["HF_HUB_OFFLINE"] = "1"
# DeepSpeed, once imported, looks for a GPU and says on stdout that there is none.
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import pytest
from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """A folder of public data sets that the repository does not carry; the test is skipped without it."""
    given = os.environ.get("SGSD_DATA")
    if not given:
        pytest.skip("SGSD_DATA is not set: it names a folder of public data sets")
    folder = Path(given)
    if not folder.is_dir():
        pytest.fail(f"SGSD_DATA={given} is no folder")
    return folder
