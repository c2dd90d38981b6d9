"""vLLM beside a student on the CPU: weights that arrive, draws that obey, and a trainer's process left as it was.

colocated.py, run in vLLM's environment, puts one engine through all of it; what it saw is judged here.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from .conftest import environment

pytestmark = pytest.mark.vllm


def run_script(python: Path, script: str, work: Path, *arguments: str) -> Any:
    """What a script of this folder writes into its ANSWER."""
    answer = work / "answer.json"
    command = [str(python), str(Path(__file__).with_name(script)), *arguments, str(answer)]
    done = subprocess.run(
        command, cwd=work, env=environment(work), capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(answer.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def seen(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return run_script(vllm_python, "colocated.py", tmp_path_factory.mktemp("colocated"))


@pytest.mark.parametrize("kind", ["full", "lora", "dora", "lora-bf16"])
def test_pushed_weights_are_the_trainers(seen: Any, kind: str) -> None:
    """After no, one and two optimiser steps. The engine computes in float32: of a bfloat16 student it knows the weights
    exactly and the student's own rounding not at all."""
    of_kind = seen["kinds"][kind]
    bound_nats = 0.3 if kind.endswith("bf16") else 1e-4
    assert len(of_kind["gaps"]) == 3
    assert max(of_kind["gaps"]) < bound_nats
    assert min(of_kind["stale_gaps"]) > 1, "a step is too small to see, or the engine shares the student's memory"


@pytest.mark.parametrize("kind", ["full", "lora", "dora"])
def test_greedy_completions_are_those_of_transformers(seen: Any, kind: str) -> None:
    assert seen["kinds"][kind]["equal"] == [True, True, True]


@pytest.mark.parametrize("kind", ["lora", "dora", "lora-bf16"])
def test_pushes_leave_the_base_as_it_was_bit_for_bit(seen: Any, kind: str) -> None:
    assert seen["kinds"][kind]["frozen_equal"]


def test_the_trainers_process_is_left_as_it_was(seen: Any) -> None:
    kept = {"handler": True, "threads": True, "python": True, "numpy": True, "torch": True}
    assert seen["kept"] == kept
    assert seen["drawing"]["random_state_kept"]
    assert seen["drawing"]["autocast_equal"], "the trainer's mixed precision reaches the engine"


def test_the_seed_alone_decides(seen: Any) -> None:
    drawing = seen["drawing"]
    assert drawing["again_equal"]
    assert not drawing["other_seed_equal"]
    twins = [tuple(row[0]) for row in drawing["twins"]]
    assert len(set(twins)) > 1, "equal prompts are drawn from equal seeds"


def test_completions_end_or_are_truncated(seen: Any) -> None:
    drawn = [c for row in seen["drawing"]["drawn"] for c in row]
    (stop_id,) = seen["stop_ids"]
    assert [len(row) for row in seen["drawing"]["drawn"]] == [3] * 8
    for completion in drawn:
        ids = completion["ids"]
        assert stop_id not in ids[:-1]
        assert completion["truncated"] == (ids[-1] != stop_id)
        assert len(ids) == 8 if completion["truncated"] else 1 <= len(ids) <= 8
        assert "<|im_end|>" not in completion["text"]
    assert any(c["truncated"] for c in drawn)
    assert seen["drawing"]["ended"] == [True] * 8, "a longer limit lets every completion end"


def test_settings_of_sampling_are_honoured(seen: Any) -> None:
    drawing = seen["drawing"]
    assert drawing["top_1"] == drawing["greedy"]
    assert drawing["likeliest"] < 0.95
    assert drawing["frequency_error"] < 4 * (0.25 / 2000) ** 0.5  # four standard errors
    assert drawing["progress"] == [1] * 8
    assert drawing["nothing"] == []


def test_told_logprobs_are_at_temperature_1_over_the_whole_vocabulary(seen: Any) -> None:
    """At temperature 1.2, top-p 0.95 and top-k 20; against the trainer's scores."""
    assert seen["drawing"]["told_gap"] < 1e-4


def test_refusals_name_value_and_bound(seen: Any) -> None:
    drawing = seen["drawing"]
    assert drawing["refused"].startswith("ConfigError: a prompt of 300 tokens and 600 new ones exceed the engine's 800")
    assert drawing["empty"].startswith("ConfigError: a prompt has no tokens")
    assert drawing["too_hot"].startswith("ConfigError: vLLM refuses the sampling: temperature must be in [0, 2]")
    assert seen["sleep"] == "ConfigError: generation.vllm.sleep = true: vLLM cannot sleep on a CPU, set it to false"
