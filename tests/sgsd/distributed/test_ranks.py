"""Several processes make the steps of one: on the same recorded rollouts and the same global batch, the same losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .launch import trained
from .steps import make_banks, train

pytestmark = pytest.mark.slow


def assert_same(found: dict[str, Any], expected: dict[str, Any], rel: float = 1e-5) -> None:
    assert found["losses"] == pytest.approx(expected["losses"], rel=rel, abs=1e-8)
    assert found["grad_norms"] == pytest.approx(expected["grad_norms"], rel=rel, abs=1e-8)
    assert found["support"] == pytest.approx(expected["support"], rel=rel)
    for key in ("helpful", "examples", "tokens", "usage"):
        assert found[key] == pytest.approx(expected[key]), key


UNEVEN = {"data": 7, "counts": [1, 4, 0, 2], "steps": 4}
CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "adapter": {"lora": True},
    "uneven": UNEVEN,  # an epoch of 4 and of 3 problems, teacher passes of unequal number
    "empty": {"bank": "empty", "counts": [0], "steps": 2},
}


def test_two_processes(tmp_path: Path) -> None:
    """Under DDP. In `full` the first process has no teacher at all; in `empty` there are none; in `uneven` the second
    process lacks a problem at the end of the epoch."""
    make_banks(tmp_path)
    two = trained(2, tmp_path, **CASES)
    for name, options in CASES.items():
        one = train(tmp_path, name, **options)
        assert (one["ranks"], one["wrapper"]) == (1, "none")
        assert (two[name]["ranks"], two[name]["wrapper"]) == (2, "DistributedDataParallel")
        assert_same(two[name], one)
        if name != "empty":
            assert all(abs(loss) > 1e-3 for loss in one["losses"])
            assert one["usage"] > 0
    assert two["empty"]["losses"] == [0.0, 0.0]
    assert two["full"]["problems"][0] == [["p0", "p2"], ["p4", "p6"], ["p0", "p2"]]  # of even number: no teachers
    assert two["uneven"]["examples"] == [4, 3, 4, 3]
    assert two["uneven"]["problems"][1] == [["p1", "p3"], ["p5"], ["p1", "p3"], ["p5"]]
