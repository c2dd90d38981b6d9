"""Rollouts and evaluation from a real vLLM server, and its completions against the model's own."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sgsd.arena.settings import sampling
from sgsd.arena.tasks import load_problems
from sgsd.cli import main
from sgsd.config import EndpointConfig, ModelConfig, SamplingConfig, ServerConfig, parse_config
from sgsd.errors import ConfigError, ServerError
from sgsd.generate.server import ServerGenerator
from sgsd.generate.transformers import TransformersGenerator, stop_token_ids
from sgsd.methods.served import PROBE
from sgsd.models import load_student
from sgsd.prompt_logprobs import ServedTeacher
from sgsd.prompts import plain_user_text, render
from sgsd.run import train_run
from sgsd.score import ScoreRow, score, score_tokens, score_top
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


@pytest.fixture
def served_teacher(vllm_server: str) -> Iterator[ServedTeacher]:
    made = ServedTeacher(EndpointConfig(urls=(vllm_server,), concurrency=4, attempts=2), 7)
    yield made
    made.close()


def test_a_served_teacher_says_what_the_model_says(
    served_teacher: ServedTeacher, student: tuple[Any, Any], prompts: list[list[int]]
) -> None:
    model, tokenizer = student
    drawn = TransformersGenerator(model, tokenizer).generate(prompts, WARM.model_copy(update={"n": 1}), seed=1)
    rows = [ScoreRow(p, row[0].token_ids) for p, row in zip(prompts, drawn, strict=True)]
    told = served_teacher.read(rows)
    own_RT, top = score(model, rows), score_top(model, rows, 7)
    for r, one in enumerate(told):
        T = len(one.logp_T)
        assert len(rows[r].completion_ids) == T
        torch.testing.assert_close(one.logp_T, own_RT[r, :T], rtol=0, atol=1e-4)
        torch.testing.assert_close(one.logp_TK, top.logp_NK[r, :T], rtol=0, atol=1e-4)
        # likeliest tokens of equal log-probs may stand in another order
        (of_these_TK,) = score_tokens(model, rows[r : r + 1], one.ids_TK[None])
        torch.testing.assert_close(of_these_TK, one.logp_TK, rtol=0, atol=1e-4)


def test_opd_under_a_served_teacher_is_opd_under_a_local_one(
    vllm_server: str, student: tuple[Any, Any], tmp_path: Path
) -> None:
    other, rows = copy.deepcopy(student[0]), []
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in filter(lambda weight: weight.dim() == 2, other.parameters()):
            weight += 0.3 * weight.std() * torch.randn(weight.shape, generator=noise)
    for part in (other, student[1]):
        part.save_pretrained(tmp_path / "student")
    train = {"max_steps": 2, "per_device_batch_size": 4, "gradient_accumulation_steps": 1, "learning_rate": 1e-3}
    # the other weightings leave a loss near 0 where both sides are sure
    opd = {"teacher": "arena", "dtype": "float32", "k": 7, "strategy": "teacher", "weighting": "none"}
    for name, server in (("local", {}), ("served", {"urls": [vllm_server]})):
        values = {
            "method": "opd",
            "output_dir": str(tmp_path / name),
            "model": {"name_or_path": str(tmp_path / "student"), "dtype": "float32"},
            "rollout": {"max_new_tokens": 12, "temperature": 1.2},
            "verifier": {"name": "exact"},
            "train": train | {"max_grad_norm": 1.0},
            "opd": opd | {"server": server},
        }
        train_run(parse_config(values), load_problems("easy", "train", limit=8))
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        rows.append([(line["token_loss"], line["grad_norm"]) for line in lines if "loss" in line])
    for ours, theirs in zip(*rows, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert min(abs(value) for row in rows[0] for value in row) > 1


def test_another_tokenizer_and_too_many_tokens_are_refused(
    vllm_server: str, served_teacher: ServedTeacher, student: tuple[Any, Any]
) -> None:
    served_teacher.check_tokenizer(student[1], PROBE)
    with pytest.raises(ConfigError, match="serves another tokenizer: token 0 of a text is"):
        served_teacher.check_tokenizer(other_tokenizer(), PROBE)
    greedy_for_tokens = ServedTeacher(EndpointConfig(urls=(vllm_server,), attempts=2), 21)
    with pytest.raises(ServerError, match=r"answers HTTP 400: .*21.*max.*20"):
        greedy_for_tokens.read([ScoreRow((5, 6), (7,))])
    greedy_for_tokens.close()


def other_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "Let": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")


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
