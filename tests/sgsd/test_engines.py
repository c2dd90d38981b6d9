"""Which engine draws, what its section of the configuration refuses, and the gap between engine and trainer."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sgsd.config import EngineConfig, RunConfig, ServerConfig, VllmConfig, parse_config
from sgsd.errors import ConfigError
from sgsd.generate import vllm_engine
from sgsd.generate.engines import context_tokens, training_generator
from sgsd.generate.seeds import prompt_seeds
from sgsd.generate.transformers import TransformersGenerator
from sgsd.generate.vllm import VllmGenerator
from sgsd.methods.gap import EngineGap, engine_gap
from sgsd.progress import Tally
from sgsd.records import Completion, Problem, Rollout, Verdict
from sgsd.teachers import Example

SIZES = {"dtype": "float32", "drawn_tokens": 60}


def test_the_model_itself_draws_by_default(tiny: Any) -> None:
    made = training_generator(EngineConfig(), tiny.model(), tiny.tokenizer(), **SIZES)
    assert isinstance(made, TransformersGenerator)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"engine": "server"}, "server.urls is empty"),
        ({"server": {"urls": ["ftp://a"]}}, "no address of a server"),
        ({"server": {"urls": ["http://me:secret@a"]}}, "must not hold a user or a password"),
        ({"vllm": {"gpu_memory_utilization": 1.5}}, "must be at most 1"),
        ({"engine": "magic"}, "must be 'transformers', 'vllm' or 'server'"),
        ({"vllm": {"speed": 1}}, "generation.vllm.speed is not a key here"),
    ],
)
def test_what_the_section_refuses(section: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config({"generation": section})
    assert said in str(refused.value)
    assert "secret" not in str(refused.value).partition("(got")[0]


def test_addresses_are_completed_and_the_curve_of_a_shared_engine_is_refused() -> None:
    assert ServerConfig(urls=("http://a:1", "https://b/x/")).urls == ("http://a:1/v1", "https://b/x")
    shared = {"engine": "vllm", "vllm": {"tensor_parallel": 2}}
    with pytest.raises(ConfigError, match=r"eval\.every_steps = 5 draws in one process"):
        parse_config({"generation": shared, "eval": {"every_steps": 5}})
    assert parse_config({"generation": shared}).generation.vllm.tensor_parallel == 2


def test_an_engine_is_as_wide_as_what_is_drawn() -> None:
    values = {"rollout": {"max_prompt_tokens": 100, "max_new_tokens": 50}}
    curve = {"eval": {"sampling": {"temperature": 0.0, "max_prompt_tokens": 300, "max_new_tokens": 9}}}
    assert RunConfig.model_validate(values | curve).drawn_tokens == 150
    curve["eval"]["every_steps"] = 1  # type: ignore[assignment]
    assert RunConfig.model_validate(values | curve).drawn_tokens == 309
    text = SimpleNamespace(max_position_embeddings=256)
    assert context_tokens(SimpleNamespace(get_text_config=lambda: text), 309) == 256
    assert context_tokens(SimpleNamespace(get_text_config=lambda: text), 150) == 150


def test_without_vllm_it_is_said_how_to_get_it(tiny: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    student = tiny.model()
    with pytest.raises(ConfigError, match="from a folder or the hub"):
        training_generator(EngineConfig(engine="vllm"), student, tiny.tokenizer(), **SIZES)
    student.config._name_or_path = student.name_or_path = str(tmp_path)
    with pytest.raises(ConfigError, match=r"vLLM cannot be imported .*: pip install 'sgsd\[vllm\]'"):
        training_generator(EngineConfig(engine="vllm"), student, tiny.tokenizer(), **SIZES)


def test_processes_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    build = {"revision": None, "dtype": "float32", "max_model_len": 9, "read_weights": True}
    with pytest.raises(ConfigError, match=r"tensor_parallel = 2 does not divide the run's 1 process: start a multiple"):
        vllm_engine.build_engine(VllmConfig(tensor_parallel=2), "folder", **build)  # type: ignore[arg-type]
    monkeypatch.setattr(vllm_engine, "_world_size", lambda: 6)
    with pytest.raises(ConfigError, match="does not divide the run's 6 processes"):
        vllm_engine.build_engine(VllmConfig(tensor_parallel=4), "folder", **build)  # type: ignore[arg-type]


class FakeEngine:
    """Notes the order of what a sleeping engine is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def sleep(self, level: int) -> None:
        self.told.append(f"sleep {level}")

    def wake_up(self, tags: list[str]) -> None:
        self.told.append(f"wake {tags[0]}")

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> None:
        self.told.append(f"{method} {len(list(kwargs['weights_iterator']))}")

    def reset_prefix_cache(self) -> bool:
        self.told.append("reset")
        return True

    def generate(self, prompts: Any, settings: Any, use_tqdm: Any) -> list[Any]:
        self.told.append("draw")
        return []


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    fake = FakeEngine()
    monkeypatch.setattr("sgsd.generate.vllm.build_engine", lambda *args, **kwargs: fake)
    return fake


def _generator(tiny: Any, *, sleep: bool) -> tuple[VllmGenerator, int, Callable[[], None]]:
    student = tiny.model()
    made = VllmGenerator(
        VllmConfig(sleep=sleep), "folder", tiny.tokenizer(), [2], student=student, dtype="float32", max_model_len=99
    )
    made._checked = True  # there is no engine to compare

    def draw() -> None:
        made._wake_up()
        made.llm.generate([], [], False)
        made._sleep()

    return made, len(list(student.parameters())), draw


def test_weights_are_pushed_once_a_step_to_an_engine_that_stays_awake(tiny: Any, engine: FakeEngine) -> None:
    made, count, draw = _generator(tiny, sleep=False)
    draw()
    draw()
    made.weights_changed()
    draw()
    pushed = [f"reload_weights {count}", "reset", "draw"]
    assert engine.told == [*pushed, "draw", *pushed]


def test_a_sleeping_engine_is_given_its_weights_before_its_cache(tiny: Any, engine: FakeEngine) -> None:
    _, count, draw = _generator(tiny, sleep=True)
    draw()
    draw()
    once = ["wake weights", f"reload_weights {count}", "reset", "wake kv_cache", "draw", "sleep 2"]
    assert engine.told == ["sleep 2", *once, *once]


def test_every_prompt_has_a_seed_of_its_own() -> None:
    seeds = prompt_seeds(3, 100)
    assert len(set(seeds)) == 100
    assert seeds[:10] == prompt_seeds(3, 10)
    assert not set(seeds) & set(prompt_seeds(4, 100))
    assert all(0 <= seed < 2**56 for seed in prompt_seeds(2**63, 50))


def test_the_gap_is_over_told_tokens_alone() -> None:
    def example(logprobs: tuple[float, ...] | None) -> Example:
        completion = Completion((5,) * 3 if logprobs is None else (5,) * len(logprobs), "", False, logprobs)
        return Example(Rollout(Problem("p", "?", "1"), (1,), completion, Verdict("correct")), ())

    student_BT = torch.tensor([[-1.0, -2.0, 0.0], [-9.0, -9.0, -9.0], [-0.5, -0.5, -0.5]], requires_grad=True)
    gap = engine_gap([example((-1.25, -1.0)), example(None), example((-0.5, -0.5, -0.75))], student_BT)
    assert gap is not None
    assert (gap.total_nats, gap.highest_nats, gap.tokens) == (pytest.approx(1.5), pytest.approx(1.0), 5)
    assert engine_gap([example(None)], student_BT[:1]) is None

    tally = Tally()
    tally.add_gap(None)
    assert "engine_gap_mean" not in tally.close(dict)
    tally.add_gap(gap)
    tally.add_gap(EngineGap(0.5, 0.5, 5))
    metrics = tally.close(dict, lambda own: max(own, 2.0))  # another rank has seen 2
    assert metrics["engine_gap_mean"] == pytest.approx(0.2)
    assert metrics["engine_gap_max"] == 2.0
    assert "engine_gap_max" not in tally.close(dict)
