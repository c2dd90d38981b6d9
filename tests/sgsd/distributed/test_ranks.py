"""Several processes make the steps of one: on the same recorded rollouts and the same global batch, the same losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .launch import WORKER, torchrun, trained
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


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_deepspeed(tmp_path: Path, name: str) -> None:
    """The shipped configurations, on the CPU: in float32, since DeepSpeed knows no float64."""
    make_banks(tmp_path)
    uneven = UNEVEN | {"double": False}
    single = {"full": {"double": False}, "adapter": {"double": False, "lora": True}, "uneven": uneven}
    on_cpu = {"use_cpu": False, "ddp_backend": "gloo"}
    two = trained(2, tmp_path, name, **{case: options | on_cpu for case, options in single.items()})
    for case, options in single.items():
        one = train(tmp_path, case, **options)
        assert (two[case]["ranks"], two[case]["wrapper"]) == (2, "DeepSpeedEngine")
        assert two[case]["losses"] == pytest.approx(one["losses"], abs=1e-5)
        assert two[case]["grad_norms"] == pytest.approx(one["grad_norms"], rel=1e-3)
        assert two[case]["support"] == pytest.approx(one["support"], rel=1e-4)
        for key in ("helpful", "examples", "tokens", "usage"):
            assert two[case][key] == pytest.approx(one[key]), key


def test_fully_shard(tmp_path: Path) -> None:
    """FSDP2 through accelerate falls back to DDP on a CPU, so torch's own `fully_shard` stands for it."""
    ended = torchrun(2, str(WORKER.parent / "sharded.py"), str(tmp_path))
    assert ended.code == 0, ended.err[-4000:]
    assert ended.out.split() == ["live", "base", "ema", "periodic"]


def test_resuming_on_other_numbers_of_processes(tmp_path: Path) -> None:
    """From two to one, from one to two and from two to four, with the teachers' moving average in the checkpoint."""
    make_banks(tmp_path)
    teacher = {"teacher": {"weights": "ema", "ema_decay": 0.5}}
    common: dict[str, Any] = {"counts": [1, 3, 2, 0], "data": 7, "sections": teacher, "save_strategy": "steps"}
    whole = train(tmp_path, "whole", steps=4, **common)
    half = {**common, "steps": 2, "save_steps": 2}
    one = train(tmp_path, "half", **half)
    at_two = f"{one['at']}/checkpoint-2"
    two = trained(2, tmp_path, half=half, more={**common, "steps": 4, "resume": at_two})
    assert two["more"]["losses"] == pytest.approx(whole["losses"][2:], rel=1e-5)
    of_two = f"{two['half']['at']}/checkpoint-2"
    four = trained(4, tmp_path, more={**common, "steps": 4, "resume": of_two})
    assert (four["more"]["ranks"], four["more"]["wrapper"]) == (4, "DistributedDataParallel")
    assert four["more"]["losses"] == pytest.approx(whole["losses"][2:], rel=1e-5)
    back = train(tmp_path, "back", steps=4, resume=of_two, **common)
    assert back["losses"] == pytest.approx(whole["losses"][2:], rel=1e-5)
    assert back["examples"] == whole["examples"][2:] == [4, 3]
