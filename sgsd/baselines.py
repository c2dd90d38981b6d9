"""GRPO and SFT: TRL's trainers as they are, behind the same configuration, problems and verifier.

GRPO learns from the outcomes of a group of rollouts of one problem, SFT from texts: the reference solutions, or the
right ones of a rollout file. The rest of a run (folder, metrics, curve, checkpoints) is as with the other methods.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, cast

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from trl.trainer.grpo_config import GRPOConfig
from trl.trainer.grpo_trainer import GRPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from sgsd.config import RunConfig
from sgsd.errors import ConfigError, DataInvalid
from sgsd.generate.transformers import TransformersGenerator, stop_token_ids
from sgsd.models import quiet_peft
from sgsd.prompts import guided_user_text, render
from sgsd.records import Completion, Outcome, Problem, Rollout
from sgsd.rollout import GuidanceSource
from sgsd.saving import WholeCheckpoints
from sgsd.verify import Verifier, grade
from skillbank.rollouts import read_rollouts

OnRollouts = Callable[[int, Sequence[Rollout]], None]


class Counts:
    """What a run asks of a trainer that is not ours."""

    on_rollouts: OnRollouts | None = None
    generated_tokens: int = 0
    """Of the whole run and all ranks."""
    dropped_problems: int = 0

    def about(self) -> dict[str, Any]:
        return {"generated_tokens": self.generated_tokens}

    def take_up(self, about: dict[str, Any]) -> None:
        self.generated_tokens = about["generated_tokens"]


class GroupTrainer(Counts, WholeCheckpoints, GRPOTrainer):
    """TRL's GRPO with the verifier as its reward: 1 for a right completion, 0 for a wrong one.

    A completion without a verdict gets the mean of its group, an advantage of 0: counted as wrong it would push the
    student away from what may be right. `on_rollouts` is called with the optimiser step and this rank's rollouts.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: dict[str, Any],
        config: RunConfig,
        verifier: Verifier,
        problems: Sequence[Problem],
        tokenizer: PreTrainedTokenizerBase,
        guidance: GuidanceSource | None = None,
        **kwargs: Any,
    ) -> None:
        self.config_of_run = config
        self.verifier = verifier
        self.tokenizer = tokenizer
        self.generator = TransformersGenerator(model, tokenizer)
        self.student = model
        self._stops = set(stop_token_ids(model, tokenizer))
        self._flops = 0.0
        given, self.dropped_problems = _fitting(problems, tokenizer, config, guidance)
        self._problems = [problem for problem, _ in given]
        rows = [
            {"prompt": [{"role": "user", "content": text}], "number": number} for number, (_, text) in enumerate(given)
        ]
        super().__init__(
            model=model,
            reward_funcs=cast(Any, self._rewards),
            args=_grpo_arguments(settings, config),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            **kwargs,
        )

    def _rewards(
        self, prompts: list[Any], completions: list[Any], completion_ids: list[list[int]], number: list[int], **_: Any
    ) -> list[float]:
        texts = self.tokenizer.batch_decode(completion_ids, skip_special_tokens=True)
        drawn = [
            Completion(tuple(ids), text, not (ids and ids[-1] in self._stops))
            for ids, text in zip(completion_ids, texts, strict=True)
        ]
        problems = [self._problems[i] for i in number]
        verdicts = grade(self.verifier, drawn, problems, self.config_of_run.verifier.truncated)
        thinking = self.config_of_run.rollout.thinking
        asked = [tuple(render(self.tokenizer, prompt[-1]["content"], thinking=thinking)) for prompt in prompts]
        if self.on_rollouts is not None:
            each = zip(problems, asked, drawn, verdicts, strict=True)
            self.on_rollouts(self.state.global_step + 1, [Rollout(*parts) for parts in each])
        tokens = self.accelerator.gather(self._number(sum(map(len, completion_ids))))
        self.generated_tokens += int(tokens.sum())
        self._flops += 2 * self._parameters * sum(map(len, [*asked, *completion_ids]))
        outcomes = [verdict.outcome for verdict in verdicts]
        self._log_metric("unverifiable", outcomes.count("unverifiable"))
        return rewards_of(number, outcomes)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Counts what the pass costs. The log-probs of the rollout's and of the initial weights are forward passes too,
        made once for all iterations over a rollout."""
        tokens = int(inputs["prompt_mask"].sum() + inputs["completion_mask"].sum())
        scored = sum(inputs.get(name) is not None for name in ("old_per_token_logps", "ref_per_token_logps"))
        self._flops += self._parameters * tokens * (6 + 2 * scored / self.config_of_run.grpo.iterations)
        return super().compute_loss(model, inputs, *args, **kwargs)

    @property
    def _parameters(self) -> int:
        return int(self.student.num_parameters(exclude_embeddings=True))

    def floating_point_ops(self, inputs: Any) -> int:
        """What was counted since the last call: the parent sees neither rollouts nor their tokens."""
        spent, self._flops = round(self._flops), 0.0
        return spent

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with quiet_peft():  # TRL asks the model for what transformers 5.23 renamed
            return super().train(*args, **kwargs)

    def _number(self, value: int) -> Any:
        import torch

        return torch.tensor([value], device=self.accelerator.device)


def rewards_of(groups: Sequence[int], outcomes: Sequence[Outcome]) -> list[float]:
    """1 for correct, 0 for wrong, the mean of the group for unverifiable (0 in a group without a verdict)."""
    seen: dict[int, list[float]] = defaultdict(list)
    for group, outcome in zip(groups, outcomes, strict=True):
        if outcome != "unverifiable":
            seen[group].append(float(outcome == "correct"))
    mean = {group: fmean(values) for group, values in seen.items()}
    return [
        mean.get(group, 0.0) if outcome == "unverifiable" else float(outcome == "correct")
        for group, outcome in zip(groups, outcomes, strict=True)
    ]


def _grpo_arguments(settings: dict[str, Any], config: RunConfig) -> GRPOConfig:
    grpo, rollout = config.grpo, config.rollout
    if config.train.per_device_batch_size * config.train.gradient_accumulation_steps % grpo.generations:
        # TRL asks this of all ranks together; asked of each, no group is divided and a group's mean is at hand.
        raise ConfigError(
            f"train.per_device_batch_size = {config.train.per_device_batch_size} times gradient_accumulation_steps = "
            f"{config.train.gradient_accumulation_steps} is no multiple of grpo.generations = {grpo.generations}, the "
            "rollouts of one problem: raise either"
        )
    return GRPOConfig(
        **settings,
        num_generations=grpo.generations,
        num_iterations=grpo.iterations,
        beta=grpo.beta,
        epsilon=grpo.epsilon,
        scale_rewards=grpo.scale_rewards,
        loss_type=grpo.loss,
        max_completion_length=rollout.max_new_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k,
        chat_template_kwargs={"enable_thinking": rollout.thinking},
    )


class TextTrainer(Counts, WholeCheckpoints, SFTTrainer):
    """TRL's SFT on the texts of the configuration; the loss is on the completion alone."""

    def __init__(
        self,
        model: PreTrainedModel,
        settings: dict[str, Any],
        config: RunConfig,
        verifier: Verifier,
        problems: Sequence[Problem],
        tokenizer: PreTrainedTokenizerBase,
        **kwargs: Any,
    ) -> None:
        self.verifier = verifier
        self.tokenizer = tokenizer
        self.generator = TransformersGenerator(model, tokenizer)
        self.student = model
        rows = _texts(problems, tokenizer, config)
        self.dropped_problems = len(problems) - len(rows)
        # Token ids are ours: TRL would render prompt and completion as one conversation, which templates with a
        # thinking block write otherwise than the prompt of a rollout.
        super().__init__(
            model=model,
            args=SFTConfig(**settings, dataset_kwargs={"skip_prepare_dataset": True}),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            **kwargs,
        )

    def floating_point_ops(self, inputs: Any) -> int:
        """Forward and backward of the student (6 N a token), without padding."""
        tokens = int(inputs["attention_mask"].sum()) if "attention_mask" in inputs else inputs["input_ids"].numel()
        return 6 * int(self.student.num_parameters(exclude_embeddings=True)) * tokens


def _texts(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, config: RunConfig
) -> list[dict[str, list[int]]]:
    """{input_ids, labels} of each problem that has a text; one whose prompt or text is too long is left out."""
    if config.sft.rollouts is None:
        texts = {problem.problem_id: problem.solution for problem in problems}
    else:
        right = (r for r in read_rollouts(config.sft.rollouts) if r.outcome == "correct")
        texts = {rollout.problem_id: rollout.completion for rollout in right}
    learnable = [problem for problem in problems if texts.get(problem.problem_id)]
    if not learnable:
        what = f"a right rollout in {config.sft.rollouts}" if config.sft.rollouts else "a reference solution"
        raise DataInvalid(f"nothing to learn: none of {len(problems)} problems has {what}")
    given, _ = _fitting(learnable, tokenizer, config, None)
    end, rows = tokenizer.eos_token_id, []
    for problem, asked in given:
        prompt = render(tokenizer, asked, thinking=config.rollout.thinking)
        text = [*tokenizer.encode(str(texts[problem.problem_id]), add_special_tokens=False), end]
        if len(text) <= config.rollout.max_new_tokens:
            rows.append({"input_ids": [*prompt, *text], "labels": [-100] * len(prompt) + text})
    if not rows:
        raise DataInvalid(
            f"every text exceeds rollout.max_new_tokens = {config.rollout.max_new_tokens} tokens: raise it"
        )
    return rows


def _fitting(
    problems: Sequence[Problem], tokenizer: PreTrainedTokenizerBase, config: RunConfig, guidance: GuidanceSource | None
) -> tuple[list[tuple[Problem, str]], int]:
    """Problems with the words of their prompt where these fit, and how many do not."""
    lessons = guidance(problems) if guidance is not None else [()] * len(problems)
    texts = [guided_user_text(problem.problem, given) for problem, given in zip(problems, lessons, strict=True)]
    limit, thinking = config.rollout.max_prompt_tokens, config.rollout.thinking
    fits = [len(render(tokenizer, text, thinking=thinking)) <= limit for text in texts]
    kept = [(problem, text) for problem, text, fit in zip(problems, texts, fits, strict=True) if fit]
    if not kept:
        raise DataInvalid(
            f"nothing to train on: of {len(problems)} problems none has a prompt of at most {limit} tokens "
            "(rollout.max_prompt_tokens)"
        )
    return kept, len(problems) - len(kept)
