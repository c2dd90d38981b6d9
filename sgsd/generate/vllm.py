"""Completions from vLLM in this process, beside the student that is trained or alone.

The engine holds weights of its own. They are pushed from computed copies of the student's (weights.py), through vLLM's
own reloading, which keeps its kernels' and CUDA graphs' tensors where they are: lazily, before the first draw after
`weights_changed`. After the first push engine and student must agree on the log-probs of a few tokens.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from tqdm import tqdm

from sgsd.errors import ConfigError, TrainingError
from sgsd.generate.seeds import prompt_seeds, seeded
from sgsd.generate.vllm_engine import build_engine
from sgsd.generate.weights import check_mergeable, merged_weights
from sgsd.records import Completion

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sgsd.config import SamplingConfig, VllmConfig

AGREE_NATS = {torch.float32: 1e-2, torch.float64: 1e-2}
"""How far the log-probs of engine and student may be apart; half-precision ones 1."""


class VllmGenerator:
    """Draws with vLLM. `student` is what weights are pushed from; None draws from the folder's own weights."""

    def __init__(
        self,
        config: VllmConfig,
        model: str,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Sequence[int],
        *,
        student: nn.Module | None = None,
        revision: str | None = None,
        dtype: str = "bfloat16",
        max_model_len: int,
        logprobs: bool = False,
    ) -> None:
        if student is not None:
            check_mergeable(student)
        self.tokenizer = tokenizer
        self.stop_ids = list(stop_ids)
        self.student = student
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.max_model_len = max_model_len
        self.logprobs = logprobs
        self.sleeps = config.sleep and student is not None
        self._stale = student is not None
        self._checked = student is None
        self._asleep = False
        self._group = _engine_group(config.tensor_parallel)
        self.llm = build_engine(
            config, model, revision=revision, dtype=dtype, max_model_len=max_model_len, read_weights=student is None
        )
        self._sleep()

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        """See `Generator.generate`. Raises ConfigError for a prompt that leaves no room for its completion."""
        if not all(prompts):
            raise ConfigError("a prompt has no tokens: the chat template rendered nothing")
        longest = max(map(len, prompts), default=0)
        if longest + sampling.max_new_tokens > self.max_model_len:
            raise ConfigError(
                f"a prompt of {longest} tokens and {sampling.max_new_tokens} new ones exceed the engine's "
                f"{self.max_model_len}: raise generation.vllm.max_model_len, or lower max_new_tokens"
            )
        asked = list(zip(prompts, prompt_seeds(seed, len(prompts)), strict=True))
        # The trainer's autocast and random state are not the engine's.
        with seeded(torch.device(_device_type()), seed), torch.autocast(_device_type(), enabled=False):
            self._wake_up()
            outputs = self._draw(asked, sampling, on_progress)
            self._sleep()
        return [[self._completion(drawn) for drawn in output.outputs] for output in outputs]

    def weights_changed(self) -> None:
        """See `Engine.weights_changed`."""
        self._stale = self.student is not None

    def close(self) -> None:
        """See `Engine.close`."""
        self.llm.llm_engine.engine_core.shutdown()

    # Drawing

    def _draw(self, asked: list[Any], sampling: SamplingConfig, on_progress: Callable[[int], None] | None) -> list[Any]:
        from vllm import TokensPrompt

        mine = slice(0, len(asked))
        if self._group is not None:  # engines that share the weights have to draw the same, at the same time
            gathered: list[Any] = [None] * self._group.size()
            torch.distributed.all_gather_object(gathered, asked, group=self._group)
            before = sum(map(len, gathered[: self._group.rank()]))
            mine = slice(before, before + len(asked))
            asked = [one for part in gathered for one in part]
        if not asked:
            return []
        outputs = self.llm.generate(
            [TokensPrompt(prompt_token_ids=list(prompt)) for prompt, _ in asked],
            [self._settings(sampling, seed) for _, seed in asked],
            use_tqdm=False if on_progress is None else _bars(on_progress),
        )
        return list(outputs[mine])

    def _settings(self, sampling: SamplingConfig, seed: int) -> Any:
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError

        try:
            return SamplingParams(
                n=sampling.n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                top_k=sampling.top_k,  # 0 keeps the whole vocabulary here too
                seed=seed,
                max_tokens=sampling.max_new_tokens,
                stop_token_ids=self.stop_ids,
                logprobs=0 if self.logprobs else None,  # the drawn token's
                flat_logprobs=True,
                detokenize=False,
            )
        except (ValueError, VLLMValidationError) as error:  # above temperature 2, for one
            raise ConfigError(f"vLLM refuses the sampling: {error}") from error

    def _completion(self, drawn: Any) -> Completion:
        if drawn.finish_reason not in ("stop", "length"):
            raise TrainingError(f"vLLM ended a completion with {drawn.finish_reason!r}, neither stop nor length")
        ids = tuple(drawn.token_ids)
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        logprobs = tuple(drawn.logprobs.logprobs) if self.logprobs else None
        return Completion(ids, str(text), truncated=drawn.finish_reason == "length", logprobs=logprobs)

    # Weights

    def _wake_up(self) -> None:
        if self._asleep:
            torch.cuda.empty_cache()  # what the trainer's allocator holds for itself is the engine's room
            self.llm.wake_up(tags=["weights"])
        if self._stale:
            self._push()
        if self._asleep:
            self.llm.wake_up(tags=["kv_cache"])
            self._asleep = False
        if not self._checked:
            self._check()

    def _sleep(self) -> None:
        if self.sleeps:
            self.llm.sleep(level=2)  # weights are dropped: a copy kept in main memory would be old after the next step
            self._asleep = self._stale = True

    def _push(self) -> None:
        assert self.student is not None
        weights = merged_weights(self.student, self.dtype)
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not self.llm.reset_prefix_cache():
            raise TrainingError("vLLM keeps keys and values of the weights before: its prefix cache cannot be reset")
        self._stale = False

    @torch.no_grad()
    def _check(self) -> None:
        """Raise TrainingError when engine and student disagree on the log-probs of some tokens."""
        from vllm import SamplingParams, TokensPrompt

        assert self.student is not None
        student: Any = self.student
        vocabulary = student.config.get_text_config().vocab_size
        ids = [i % vocabulary for i in range(1, 1 + min(16, self.max_model_len - 1))]
        settings = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        (output,) = self.llm.generate([TokensPrompt(prompt_token_ids=ids)], settings, use_tqdm=False)
        theirs_T = torch.tensor([at[i].logprob for i, at in zip(ids[1:], output.prompt_logprobs[1:], strict=True)])
        modes = {module: module.training for module in student.modules()}
        student.eval()
        logits_TV = student(input_ids=torch.tensor([ids], device=student.device), use_cache=False).logits[0, :-1]
        for module, training in modes.items():
            module.training = training
        mine_T = logits_TV.float().log_softmax(-1).cpu().gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
        gap_nats = (mine_T - theirs_T).abs().max().item()
        bound = AGREE_NATS.get(self.dtype, 1.0)
        if not gap_nats <= bound:
            raise TrainingError(
                f"vLLM's log-probs are {gap_nats:.3g} nats off the student's after the first push, above {bound}: its "
                "model of this architecture is another, draw with generation.engine transformers"
            )
        self._checked = True


class _Progress(tqdm):  # type: ignore[misc]
    """vLLM reports to a bar: one update a finished prompt."""

    def __init__(self, on_progress: Callable[[int], None]) -> None:
        super().__init__(file=io.StringIO())  # a bar that is disabled has no clock, by which vLLM divides
        self._on_progress = on_progress

    def update(self, n: float | None = 1) -> None:
        self._on_progress(1)


def _bars(on_progress: Callable[[int], None]) -> Callable[..., Any]:
    """vLLM asks for two: around the prompts as it takes them in, and for what is drawn."""
    return lambda prompts=None, **given: _Progress(on_progress) if prompts is None else prompts


def _device_type() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def _engine_group(size: int) -> Any:
    """The processes that share an engine with this one; None where each has its own. A collective."""
    if size == 1:
        return None
    if not (torch.distributed.is_initialized() and torch.distributed.get_world_size() % size == 0):
        return None  # refused by build_engine, in words
    world = torch.distributed.get_world_size()
    group, _ = torch.distributed.new_subgroups_by_enumeration(  # type: ignore[no-untyped-call]
        [list(range(start, start + size)) for start in range(0, world, size)]
    )
    return group
