"""Runs of `sgsd train` whose rollouts vLLM draws: train.py makes them in vLLM's environment, judged here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .test_colocated import run_script

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
def seen(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_script(vllm_python, "train.py", tmp_path_factory.mktemp("training"))


def test_every_run_ends_well(seen: Any) -> None:
    assert seen["codes"] == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_engine_draws_from_the_students_weights_at_every_step(seen: Any, kind: str) -> None:
    """After a resume too. At a learning rate of 1e-3 an engine with the weights of the step before would be seen."""
    steps = [log for log in seen[kind] if "loss" in log]
    assert [log["step"] for log in steps] == [1, 2, 3]
    for log in steps:
        assert log["examples"] == 32
        assert 0 < log["engine_gap_mean"] <= log["engine_gap_max"] < 1e-3


def test_the_curve_is_drawn_by_the_engine(seen: Any) -> None:
    points = [log for log in seen["full"] if "eval_accuracy" in log]
    assert [log["step"] for log in points] == [0, 2, 3]
    assert all(0 <= log["eval_accuracy"] <= 1 for log in points)


def test_an_adapter_is_evaluated_alike_by_vllm_and_transformers(seen: Any) -> None:
    engines = [seen[name].pop("evaluation")["engine"]["name"] for name in ("vllm", "transformers")]
    assert engines == ["vllm", "transformers"]
    assert seen["vllm"] == seen["transformers"]
