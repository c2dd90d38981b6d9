"""OPD's teacher behind a server: parity with the same teacher in this process, what is asked, and what is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from sgsd.config import EndpointConfig, OPDConfig, RunConfig, parse_config
from sgsd.errors import ConfigError, ServerError
from sgsd.layout import ScoreRow
from sgsd.methods import Window, opd_method
from sgsd.methods.distribution import DistributionObjective, opd_token_loss
from sgsd.methods.served import PROBE, ServedObjective
from sgsd.prompt_logprobs import ServedTeacher
from sgsd.records import Completion, Problem, Rollout, TeacherPrompt, Verdict
from sgsd.run import train_run
from sgsd.teachers import Example

from .answering import Answer, serving
from .conftest import WORDS, save_tiny, tiny_model, tiny_tokenizer
from .training import problems

PROMPT = (3, 4)
ROW = ScoreRow(PROMPT, (7, 8, 2))


class Teacher:
    """A vLLM server as far as prompt log-probs go, over a model of this process; `answers` come first."""

    def __init__(self, *answers: Answer | Callable[[dict[str, Any]], Answer], seed: int = 7) -> None:
        self.model, self.tokenizer = tiny_model(seed), tiny_tokenizer()
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []
        self.busiest = self._busy = 0
        self._lock = threading.Lock()

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any] | None) -> Answer:
        if body is None:
            return reply({"data": [{"id": "big"}]}) if path == "/v1/models" else (404, {}, b"")
        if path == "/tokenize":
            ids = self.tokenizer(body["prompt"], add_special_tokens=body["add_special_tokens"])["input_ids"]
            return reply({"tokens": list(ids), "count": len(ids), "max_model_len": 256})
        assert path == "/v1/completions"
        with self._lock:
            self.asked.append(body)
            self._busy += 1
            self.busiest = max(self.busiest, self._busy)
            given = self.answers.pop(0) if self.answers else self.told
        try:
            return given(body) if callable(given) else given
        finally:
            with self._lock:
                self._busy -= 1

    def told(self, body: dict[str, Any], **changes: Any) -> Answer:
        """As vLLM: nothing of the first token; then its own first, and the k likeliest, whose ranks replace its own."""
        ids, k = body["prompt"], body["prompt_logprobs"]
        with torch.no_grad():
            logp_LV = self.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        told: list[dict[str, Any] | None] = [None]
        for token, logp_V in zip(ids[1:], logp_LV[:-1], strict=True):
            ranked = [(token, int((logp_V >= logp_V[token]).sum()))]
            ranked += [(i, rank) for rank, i in enumerate(logp_V.topk(k).indices.tolist(), start=1)]
            told.append(
                {
                    str(i): {"logprob": logp_V[i].item(), "rank": rank, "decoded_token": self.tokenizer.decode([i])}
                    for i, rank in ranked
                }
            )
        choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": None, "prompt_logprobs": told}
        return reply({"choices": [choice | changes]})


def reply(content: dict[str, Any]) -> Answer:
    return 200, {}, json.dumps(content).encode()


@contextmanager
def asking(script: Teacher, k: int = 3, **settings: Any) -> Iterator[tuple[ServedTeacher, list[float]]]:
    """A client of the server, and the pauses it makes."""
    pauses: list[float] = []
    with serving(script) as url:
        config = EndpointConfig.model_validate({"urls": (url,), "attempts": 3, "timeout_s": 5.0} | settings)
        teacher = ServedTeacher(config, k, pause=pauses.append)
        try:
            yield teacher, pauses
        finally:
            teacher.close()


def example(ids: Sequence[int], teachers: int = 1) -> Example:
    rollout = Rollout(Problem("p", "?", "1"), PROMPT, Completion(tuple(ids), "", False), Verdict("unverifiable"))
    return Example(rollout, (TeacherPrompt((3, 10, 11), 1.0),) * teachers)


def window() -> list[Example]:
    return [example([7, 8, 9, 2]), example([6]), example([8, 9], 0), example([9, 8, 7, 6, 5])]


# ---- parity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "sampled"},
        {"strategy": "teacher", "k": 3},
        {"strategy": "teacher", "k": 5, "weighting": "teacher_p"},
        {"strategy": "teacher", "k": 1, "weighting": "none"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_loss_and_gradients_are_those_of_the_teacher_in_this_process(settings: dict[str, Any]) -> None:
    config = OPDConfig.model_validate(settings)
    student, script = tiny_model().double(), Teacher()
    here = DistributionObjective(opd_token_loss(config), token_budget=99, teacher=script.model)
    with asking(script, 0 if config.loss == "sampled" else config.k) as (teacher, _):
        served = ServedObjective(config, teacher)
        results, gradients = [], []
        for objective in (here, served):
            scored = objective.score_teachers(student, window())
            assert [e.scored for e in scored] == [True, True, False, True]
            result = objective.loss(student, scored, Window(examples=4, tokens=12))
            results.append(result)
            gradients.append(torch.autograd.grad(result.loss, list(student.parameters())))
    local, remote = results
    assert abs(local.loss.item()) > 0.1
    assert remote.loss.item() == pytest.approx(local.loss.item(), rel=1e-4)
    assert remote.sums["loss_tokens"] == local.sums["loss_tokens"] == 10
    assert served.metrics(remote.sums) == pytest.approx(here.metrics(local.sums), rel=1e-4)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def run_config(tmp_path: Path, name: str, **opd: Any) -> RunConfig:
    values: dict[str, Any] = {
        "method": "opd",
        "output_dir": str(tmp_path / name),
        "model": {"name_or_path": str(tmp_path / "student"), "dtype": "float32"},
        "rollout": {"max_new_tokens": 6, "temperature": 1.0},
        "verifier": {"name": "exact"},
        "train": {"max_steps": 3, "per_device_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-3},
        "opd": {"teacher": str(tmp_path / "teacher"), "dtype": "float32", "k": 4, "strategy": "teacher"} | opd,
    }
    return parse_config(values)


def test_a_run_under_a_served_teacher_is_that_under_a_local_one(tmp_path: Path) -> None:
    save_tiny(tmp_path / "student")
    tiny_model(7).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    script = Teacher()
    with serving(script) as url:
        for name, opd in (("local", {}), ("served", {"server": {"urls": [url]}})):
            train_run(run_config(tmp_path, name, **opd), problems())
    assert len(script.asked) == 3 * 4
    runs = []
    for name in ("local", "served"):
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        runs.append([(line["loss"], line["token_loss"], line["grad_norm"]) for line in lines if "loss" in line])
    for ours, theirs in zip(*runs, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    assert [file.read_bytes() for file in sorted((tmp_path / "served/rollouts").glob("*"))]


# ---- what is asked and read ------------------------------------------------------------------------------------------


def test_what_is_asked_and_what_comes_back() -> None:
    script = Teacher()
    with asking(script, 2) as (teacher, _):
        (told,) = teacher.read([ROW])
    expected = {"prompt": [3, 4, 7, 8, 2], "prompt_logprobs": 2, "max_tokens": 1, "temperature": 0.0, "stream": False}
    assert script.asked == [expected | {"model": "big"}]
    with torch.no_grad():
        logp_TV = script.model(input_ids=torch.tensor([[3, 4, 7, 8, 2]])).logits[0, 1:-1].log_softmax(-1)
    torch.testing.assert_close(told.logp_T, logp_TV[range(3), [7, 8, 2]])
    assert told.ids_TK.tolist() == logp_TV.topk(2).indices.tolist()
    torch.testing.assert_close(told.logp_TK, logp_TV.topk(2).values)


def test_rows_come_back_in_their_order_and_few_are_under_way() -> None:
    script = Teacher()
    rows = [ScoreRow(PROMPT, (i, 2)) for i in range(5, 20)]
    with asking(script, 0, concurrency=3) as (teacher, _):
        told = teacher.read(rows)
        assert teacher.read([]) == []
    alone = [
        script.model(input_ids=torch.tensor([[*PROMPT, i, 2]])).logits[0, 1].log_softmax(-1)[i] for i in range(5, 20)
    ]
    torch.testing.assert_close(torch.stack([one.logp_T[0] for one in told]), torch.stack(alone))
    assert all(one.ids_TK.shape == (2, 0) for one in told)
    assert script.busiest <= 3


# ---- faults ----------------------------------------------------------------------------------------------------------


def told(position: int, entries: Any) -> Callable[[dict[str, Any]], Answer]:
    """The teacher's reply with other entries at one token of the prompt."""

    def changed(body: dict[str, Any]) -> Answer:
        _, _, content = Teacher().told(body)
        values = json.loads(content)
        values["choices"][0]["prompt_logprobs"][position] = entries
        return reply(values)

    return changed


ONE = {"logprob": -1.0, "rank": 1}
SECOND_AND_THIRD = {"5": {"logprob": -2.0, "rank": 2}, "6": {"logprob": -3.0, "rank": 3}}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ((503, {}, b"busy"), "HTTP 503"),
        ((200, {}, b"<html>"), "no JSON"),
        (reply({"choices": []}), "without its one choice"),
        (lambda body: Teacher().told(body, prompt_logprobs=[None] * 4), "not one for each of 5 tokens"),
        (told(3, None), "log-probs that are none"),
        (told(3, {"five": ONE}), "log-probs that are none"),
        (told(3, {"5": ONE}), "without that of token 8 itself"),
        (told(3, {"8": {"logprob": -1.0}}), "without a rank"),
        (told(4, {"2": {"logprob": 0.5, "rank": 1}, **SECOND_AND_THIRD}), "a log-prob that is none"),
    ],
)
def test_what_may_pass_is_asked_again_and_then_told(fault: Any, reason: str) -> None:
    script = Teacher(fault)
    with asking(script) as (teacher, pauses):
        assert teacher.read([ROW])[0].logp_T.shape == (3,)
        assert len(script.asked) == 2
        assert pauses == [1.0]
        script.answers = [fault] * 3
        with pytest.raises(ServerError, match=r"no log-probs from .* after 3 tries \(3 x ") as refused:
            teacher.read([ROW])
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda body: Teacher().told(body, prompt_logprobs=None), "tells no prompt_logprobs: serve opd.teacher with"),
        (lambda body: Teacher().told(body | {"prompt_logprobs": 2}), "tells 2 of the 3 likeliest tokens: lower opd.k"),
        (
            told(3, {"8": {"logprob": -9999.0, "rank": 9}, "1": ONE, "2": ONE | {"rank": 2}, "3": ONE | {"rank": 3}}),
            "of 0",
        ),
        ((400, {}, json.dumps({"error": {"message": "max allowed: 20"}}).encode()), "HTTP 400: max allowed: 20; check"),
    ],
)
def test_what_cannot_pass_is_told_at_once(fault: Any, reason: str) -> None:
    script = Teacher(*[fault] * 3)
    with asking(script) as (teacher, pauses), pytest.raises(ServerError) as refused:
        teacher.read([ROW])
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (len(script.asked), pauses) == (1, [])


def test_a_server_that_is_down_ends_the_run_before_it_begins(tmp_path: Path) -> None:
    save_tiny(tmp_path / "student")
    save_tiny(tmp_path / "teacher")
    config = run_config(tmp_path, "run", server={"urls": ["http://127.0.0.1:9"]})
    with pytest.raises(ServerError, match=r"no server at http://127\.0\.0\.1:9/v1 \(no connection\): start one"):
        train_run(config, problems())
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_another_tokenizer_is_refused_by_name_and_by_what_the_server_makes_of_a_text(tmp_path: Path) -> None:
    save_tiny(tmp_path / "teacher")
    script = Teacher()
    script.tokenizer.add_tokens(["digits"])
    with serving(script) as url:
        config = run_config(tmp_path, "run", server={"urls": [url]})
        assert "digits" in PROBE
        unknown = rf"token \d+ of a text is {len(WORDS)} there, the student's 0 \('<unk>'\); serve opd\.teacher"
        with pytest.raises(ConfigError, match=rf"{url} serves another tokenizer: {unknown}"):
            opd_method(config, tiny_tokenizer())
        script.tokenizer = tiny_tokenizer()
        opd_method(config, tiny_tokenizer()).close()
        other = tiny_tokenizer()
        other.add_tokens(["more"])
        with pytest.raises(ConfigError, match=r"has another tokenizer: its token \d+ is None, the student's 'more'"):
            opd_method(config, other)


def test_a_likely_token_beyond_the_students_vocabulary_is_refused() -> None:
    width = tiny_model().config.vocab_size
    beyond = {str(width): ONE, "8": {"logprob": -4.0, "rank": 4}, **SECOND_AND_THIRD}
    with (
        asking(Teacher(told(4, beyond))) as (teacher, _),
        pytest.raises(ConfigError, match=f"token {width} likely"),
    ):
        ServedObjective(OPDConfig(k=3, strategy="teacher"), teacher).score_teachers(tiny_model(), [example([7, 8, 2])])


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"opd": {"loss": "full"}}, "loss = full wants whole distributions"),
        (
            {"opd": {"loss": "top_k"}},
            "strategy = student wants the teacher's log-probs of tokens that the student",
        ),
        (
            {"opd": {"loss": "sampled", "temperature": 0.7}},
            r"temperature = 0\.7: a server tells log-probs",
        ),
        (
            {"opd": {"loss": "sampled"}, "diagnostics": {"every_steps": 5}},
            r"diagnostics\.every_steps = 5",
        ),
        ({"opd": {"loss": "sampled", "server": {"urls": ["teacher:8000"]}}}, "no address of a server"),
    ],
)
def test_what_a_server_cannot_tell_is_refused_before_anything_is_loaded(sections: dict[str, Any], said: str) -> None:
    opd = {"teacher": "big", "server": {"urls": ["http://teacher:8000"]}} | sections["opd"]
    with pytest.raises(ConfigError, match=said):
        parse_config({"method": "opd"} | sections | {"opd": opd})
