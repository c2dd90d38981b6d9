"""Rollouts and evaluation from a real vLLM server, and its completions against the model's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sgsd.arena.settings import sampling
from sgsd.arena.tasks import load_problems
from sgsd.cli import main
from sgsd.config import ModelConfig, SamplingConfig, ServerConfig
from sgsd.errors import ServerError
from sgsd.generate.server import ServerGenerator
from sgsd.generate.transformers import TransformersGenerator, stop_token_ids
from sgsd.models import load_student
from sgsd.prompts import plain_user_text, render
from sgsd.score import ScoreRow, score
from skillbank.rollouts import read_rollouts

pytestmark = pytest.mark.vllm
WARM = SamplingConfig(n=3, temperature=1.2, top_p=0.95, top_k=20, max_new_tokens=8)


@pytest.fixture(scope="module")
def student() -> tuple[Any, Any]:
    return load_student(ModelConfig(name_or_path="arena", dtype="float32"), device="cpu")


@pytest.fixture(scope="module")
def prompts(student: tuple[Any, Any]) -> list[list[int]]:
    problems = [*load_problems("easy", "test", limit=4), *load_problems("hard", "test", limit=4)]
    return [render(student[1], plain_user_text(problem.problem)) for problem in problems]


@pytest.fixture
def generator(vllm_server: str, student: tuple[Any, Any]) -> Iterator[ServerGenerator]:
    config = ServerConfig(urls=(vllm_server,), concurrency=4, attempts=2)
    made = ServerGenerator(config, student[1], stop_token_ids(*student), exact=True, logprobs=True)
    yield made
    made.close()


def test_greedy_completions_are_those_of_transformers(
    generator: ServerGenerator, student: tuple[Any, Any], prompts: list[list[int]]
) -> None:
    greedy = sampling("hard", temperature=0.0)
    theirs = generator.generate(prompts, greedy, seed=0)
    mine = TransformersGenerator(*student).generate(prompts, greedy, seed=0)
    assert [[(c.token_ids, c.text, c.truncated) for c in row] for row in theirs] == [
        [(c.token_ids, c.text, c.truncated) for c in row] for row in mine
    ]
    assert generator.models == {generator.config.urls[0]: "arena"}


def test_sampling_is_honoured_and_reproducible(
    generator: ServerGenerator, student: tuple[Any, Any], prompts: list[list[int]]
) -> None:
    first = generator.generate(prompts, WARM, seed=7)
    again = generator.generate(prompts, WARM, seed=7)
    assert [[c.token_ids for c in row] for row in again] == [[c.token_ids for c in row] for row in first]
    assert generator.generate(prompts, WARM, seed=8) != first
    assert {c.truncated for row in first for c in row} >= {True}
    top_1 = generator.generate(prompts, WARM.model_copy(update={"n": 1, "top_k": 1}), seed=3)
    greedy = generator.generate(prompts, SamplingConfig(temperature=0.0, max_new_tokens=8), seed=0)
    assert [row[0].token_ids for row in top_1] == [row[0].token_ids for row in greedy]
    rows = [ScoreRow(p, c.token_ids) for p, row in zip(prompts, first, strict=True) for c in row]
    scored_RT = score(student[0], rows)
    told = [torch.tensor(c.logprobs) for row in first for c in row]
    assert max((t - scored_RT[r, : len(t)]).abs().max().item() for r, t in enumerate(told)) < 1e-4


def test_what_the_server_refuses_is_one_line(generator: ServerGenerator) -> None:
    with pytest.raises(ServerError, match=r"answers HTTP 400: .*maximum context length") as refused:
        generator.generate([[5] * 5000], SamplingConfig(max_new_tokens=10), seed=0)
    assert "\n" not in str(refused.value)
    with pytest.raises(ServerError, match=r"cuts completions off after 96 of 1000 tokens: give it a longer context"):
        generator.generate([[5] * 4000], SamplingConfig(max_new_tokens=1000, temperature=0.0), seed=0)


def test_rollout_and_eval_draw_from_the_server(
    vllm_server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rollouts.jsonl"
    asked = ["--data", "arena:easy", "--limit", "6", "--server", vllm_server, "--json"]
    assert main(["rollout", *asked, "--out", str(out), "--n", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["rollouts"], report["retokenised"], report["unverifiable"]) == (12, 0, 0)
    assert len(list(read_rollouts(out))) == 12
    assert main(["eval", *asked]) == 0
    by_server = json.loads(capsys.readouterr().out)
    assert main(["eval", "--data", "arena:easy", "--limit", "6", "--json"]) == 0
    by_transformers = json.loads(capsys.readouterr().out)
    assert by_server.pop("evaluation")["model"]["served"] == ["arena"]
    assert len(by_transformers.pop("evaluation")["model"]["sha256"]) == 16
    assert by_server == by_transformers
    assert main(["eval", *asked, "--server-model", "nobody"]) == 1
    assert "serves no 'nobody', but arena: name one of them" in capsys.readouterr().err
