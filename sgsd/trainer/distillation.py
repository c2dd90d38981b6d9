"""The training step, on top of transformers.Trainer.

`get_batch_samples` does what must happen once an optimiser step, for the whole accumulation window: rollouts, verdicts,
teacher pools, teacher scores. `compute_loss` does the student's pass of one micro-batch. Everything between (the loop,
accumulation, optimiser, checkpoints, ranks, trackers) is the parent's.

What a step computes depends on (seed, optimiser step, rank), the weights and the bank alone, so a resumed run repeats
the uninterrupted one.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, cast

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from sgsd.config import SGSDConfig
from sgsd.data import problem_from_row
from sgsd.diagnostics import AgreementMeter
from sgsd.errors import DataInvalid, TrainingError
from sgsd.generate import Engine, Generator
from sgsd.generate.engines import training_generator
from sgsd.maintain import Maintenance
from sgsd.methods import Method, Window
from sgsd.progress import AfterStep, Tally
from sgsd.prompts import plain_user_text, render
from sgsd.ranks import check_wrapper
from sgsd.records import Problem, Rollout
from sgsd.rollout import GuidanceSource, draw_rollouts
from sgsd.saving import WholeCheckpoints
from sgsd.shards import whole
from sgsd.teachers import Example
from sgsd.verify import Verifier
from sgsd.weights import TeacherWeights

DIVERGED = "lower the learning rate, or check model and data"

OnRollouts = Callable[[int, Sequence[Rollout]], None]
"""Called on every rank with the optimiser step (from 1) and this rank's rollouts."""


class DistillationTrainer(WholeCheckpoints):
    """A student, its own rollouts, a pool of teachers and an objective: what SGSD and its siblings share.

    `train_dataset` holds `Problem` records, or mappings with `problem` and `answer`. Problems whose plain prompt
    exceeds rollout.max_prompt_tokens are left out and counted in `dropped_problems`; DataInvalid when none is left.
    """

    loss_is_scaled_for_ga = True  # the objective divides by the examples of the whole optimiser step

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        config: SGSDConfig,
        method: Method,
        verifier: Verifier,
        train_dataset: Sequence[Problem | Mapping[str, Any]],
        processing_class: PreTrainedTokenizerBase,
        generator: Generator | None = None,
        on_rollouts: OnRollouts | None = None,
        maintenance: Maintenance | None = None,
        guidance: GuidanceSource | None = None,
        **kwargs: Any,
    ) -> None:
        # Records travel, not tensors: the verifier wants every column, and there is nothing to pin.
        args.remove_unused_columns = args.dataloader_pin_memory = False
        if args.data_seed is None:
            args.data_seed = args.seed  # else the order of the problems is made from whatever seeded torch last
        problems, self.dropped_problems = _fitting(train_dataset, processing_class, config)
        use_cache = getattr(model.config, "use_cache", True)
        super().__init__(
            model=model,
            args=args,
            train_dataset=cast(Any, problems),
            data_collator=cast(Any, list),
            processing_class=processing_class,
            **kwargs,
        )
        model.config.use_cache = use_cache  # scoring says itself that it wants none; the parent's False would be saved
        self.student = model
        self.config = config
        self.method = method
        self.verifier = verifier
        self.tokenizer = processing_class
        self.generator = generator or training_generator(
            config.generation,
            model,
            processing_class,
            dtype=_engine_dtype(args, model),
            drawn_tokens=config.drawn_tokens,
        )
        self.teacher_weights = TeacherWeights(config.teacher, model)
        self.on_rollouts = on_rollouts
        self.maintenance = maintenance
        self.guidance = guidance
        self.generated_tokens = 0
        """Of the whole run and all ranks."""
        self.agreement = AgreementMeter(config)
        self.tally = Tally(
            (*method.objective.counted, *self.agreement.counted),
            lambda sums: method.objective.metrics(sums) | self.agreement.metrics(sums),
        )
        self._window = Window(0, 0)
        self.wrapper = ""
        """What wraps the model, from the first step on; `none` in a single process."""
        self.teachers_copy = config.teacher.weights in ("ema", "periodic")
        self.parts += [self.teacher_weights, *([maintenance] if maintenance else [])]
        self.add_callback(AfterStep(self._begin, self._after_step, self._close_ledger))
        if maintenance is not None:
            self.add_callback(maintenance)

    def _begin(self) -> None:
        self.wrapper = check_wrapper(self.accelerator, self.model_wrapped)
        self.teacher_weights.lay_out()

    # The window: docs/method.md, steps 1 to 5, the teachers' half

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Problem]], num_batches: int, device: torch.device
    ) -> tuple[list[list[Example]], int]:
        batches = list(islice(epoch_iterator, num_batches))
        n = self.config.rollout.n
        problems = [problem for batch in batches for problem in batch]
        counted = n * (len(problems) - self._filled_up())
        rollouts = self.roll_out(problems)
        if self.on_rollouts is not None:
            self.on_rollouts(self.state.global_step + 1, rollouts[:counted])
        if self.maintenance is not None:
            self.maintenance.take(self.state.global_step + 1, rollouts[:counted], seed=self._seed())
        with self.tally.timed("retrieve"):
            pools = self.method.pool([one.problem for one in rollouts[:counted]], self.state.global_step + 1)
        pooled = zip(rollouts[:counted], pools.teachers, pools.placebos, strict=True)
        examples = [Example(rollout, tuple(teachers), placebo) for rollout, teachers, placebo in pooled]
        # Scoring exchanges the model's forward, beneath which accelerate puts its autocast: it is entered here.
        with self.tally.timed("teachers"), self.accelerator.autocast(), self.teacher_weights.active():
            examples = self.method.objective.score_teachers(self.student, examples)
        with self.accelerator.autocast():
            teacher = self.method.objective.teacher_network or self.student
            step, active = self.state.global_step + 1, self.teacher_weights.active
            self.tally.add(self.agreement.measure(step, self.student, teacher, examples, active))
        self.tally.add_window(examples, pools.too_long)
        over_ranks = self._over_ranks({"examples": len(examples), "tokens": sum(map(len, examples))})
        self.generated_tokens += round(over_ranks["tokens"])
        rest = iter([*examples, *(Example(rollout, ()) for rollout in rollouts[counted:])])
        self._window = Window(round(over_ranks["examples"]), round(over_ranks["tokens"]))
        return [list(islice(rest, n * len(batch))) for batch in batches], self._window.examples

    def _filled_up(self) -> int:
        """Problems at the end of this rank's window that stand in another window already: at the end of an epoch
        accelerate fills up the ranks' last batches from its beginning. They pass through the student, so that every
        rank has its passes, and count for nothing: an epoch is the same on any number of ranks."""
        ranks, size = self.args.world_size, self.args.per_device_train_batch_size
        left_over: int = len(cast(Any, self.train_dataset)) % (ranks * size)
        if ranks == 1 or not left_over or not self.accelerator.gradient_state.end_of_dataloader:
            return 0
        mine: int = min(max(left_over - self.args.process_index * size, 0), size)
        return size - mine

    def roll_out(self, problems: Sequence[Problem]) -> Sequence[Rollout]:
        """`rollout.n` verified completions a problem, problem after problem, at these weights; from the plain prompt
        unless there is `guidance`."""
        with self.tally.timed("rollout"), self.accelerator.autocast(), whole(self.model_wrapped):
            return draw_rollouts(
                self.generator,
                self.tokenizer,
                problems,
                self.verifier,
                self.config.rollout,
                truncated=self.config.verifier.truncated,
                seed=self._seed(),
                guidance=self.guidance,
            ).rollouts

    def _seed(self) -> int:
        return draw_seed(self.args.seed, self.state.global_step, self.args.process_index)

    def _weights_changed(self) -> None:
        if isinstance(self.generator, Engine):
            self.generator.weights_changed()

    # The micro-batch: step 5, the student's half, and steps 6 to 8

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        dropout_off(model)
        with self.tally.timed("student"), self.accelerator.autocast():
            result = self.method.objective.loss(model, inputs, self._window)
        if not torch.isfinite(result.loss):
            raise TrainingError(f"the loss of step {self.state.global_step + 1} is {result.loss.item()}: {DIVERGED}")
        self.tally.add(result.sums)
        self.tally.add_gap(result.gap)
        if self.method.ledger is not None:
            with self.tally.timed("ledger"):
                self.method.ledger.record(self.state.global_step + 1, result)
        # Gradients are averaged over ranks, while N counts the examples of all of them.
        return result.loss * self.accelerator.num_processes

    def floating_point_ops(self, inputs: Any) -> int:
        """Forward and backward of the student (6 N), forwards of the teachers and of the rollout (2 N a token)."""
        return self.student.num_parameters(exclude_embeddings=True) * sum(
            8 * (len(example.rollout.prompt_ids) + len(example))
            + 2 * sum(len(teacher.prompt_ids) + len(example) for teacher in example.teachers if example.scored)
            for example in inputs
        )

    # Counting and logging

    def _over_ranks(self, sums: Mapping[str, float]) -> dict[str, float]:
        """Sums over all ranks. Every rank must call it with the same keys."""
        if self.accelerator.num_processes == 1:
            return dict(sums)
        values = torch.tensor([float(value) for value in sums.values()], dtype=torch.float64, device=self.args.device)
        total = cast(torch.Tensor, self.accelerator.reduce(values, reduction="sum"))
        return dict(zip(sums, total.tolist(), strict=True))

    def _highest_over_ranks(self, value: float) -> float:
        """Every rank must call it."""
        if self.accelerator.num_processes == 1:
            return value
        highest = torch.tensor([value], dtype=torch.float64, device=self.args.device)
        return float(cast(torch.Tensor, self.accelerator.gather(highest)).max())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what was counted since the last log to the parent's loss, gradient norm and learning rate."""
        if "loss" in logs:
            logs = {**logs, **self.tally.close(self._over_ranks, self._highest_over_ranks)}
            if self.maintenance is not None:
                logs |= self.maintenance.take_metrics()
            norm = logs.get("grad_norm", 0.0)
            if not math.isfinite(norm) and not self.args.fp16:  # a gradient scaler tries and skips such steps
                raise TrainingError(f"the gradient norm of step {self.state.global_step} is {norm}: {DIVERGED}")
        super().log(logs, start_time)

    # Saving: what the parent does not know of

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save and self.student.generation_config is not None:
            # An adapter is saved without them; the length it was trained at is what evaluation takes as its default.
            settings = copy.deepcopy(self.student.generation_config)
            settings.max_new_tokens, settings._from_model_config = self.config.rollout.max_new_tokens, False
            settings.save_pretrained(output_dir or str(self.args.output_dir))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        with self.teacher_weights.gathering():
            super()._save_checkpoint(model, trial)

    def about(self) -> dict[str, Any]:
        about = {
            "method": self.method.name,
            "processes": self.accelerator.num_processes,
            "wrapper": self.wrapper,
            "generated_tokens": self.generated_tokens,
            "totals": self.tally.totals,
        }
        return about | (self.method.ledger.state(self.state.global_step) if self.method.ledger is not None else {})

    def take_up(self, about: dict[str, Any]) -> None:
        if self.method.ledger is not None:
            self.method.ledger.resume(about)
        self.generated_tokens, self.tally.totals = about["generated_tokens"], about["totals"]
        self._weights_changed()

    def _after_step(self, step: int) -> None:
        self.teacher_weights.after_step(step)
        self._weights_changed()
        if self.method.ledger is not None:
            with self.tally.timed("ledger"):
                rows = self.method.ledger.take()
                if self.accelerator.num_processes > 1:
                    rows = gather_object(rows)
                if self.accelerator.is_main_process:
                    self.method.ledger.write(rows)

    def _close_ledger(self) -> None:
        if self.method.ledger is not None:
            self.method.ledger.close()


def _engine_dtype(args: TrainingArguments, model: PreTrainedModel) -> str:
    """What an engine computes in: as the student does, under mixed precision or in its weights' own dtype."""
    if args.bf16 or args.fp16:
        return "bfloat16" if args.bf16 else "float16"
    return str(model.dtype).removeprefix("torch.")


def draw_seed(seed: int, step: int, rank: int) -> int:
    """The seed of one rank's rollouts after `step` optimiser steps. Below 2^64, as generators want it."""
    return (seed * 1_000_003 + step) * 4099 + rank


def _fitting(
    dataset: Sequence[Problem | Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, config: SGSDConfig
) -> tuple[list[Problem], int]:
    """The problems whose plain prompt fits, and how many do not."""
    problems = [row if isinstance(row, Problem) else problem_from_row(row) for row in dataset]
    limit, thinking = config.rollout.max_prompt_tokens, config.rollout.thinking
    lengths = [len(render(tokenizer, plain_user_text(p.problem), thinking=thinking)) for p in problems]
    fitting = [problem for problem, length in zip(problems, lengths, strict=True) if length <= limit]
    if not fitting:
        shortest = f"the shortest prompt has {min(lengths)} tokens" if lengths else "there are no problems"
        raise DataInvalid(f"nothing to train on: {shortest}, rollout.max_prompt_tokens is {limit}")
    return fitting, len(problems) - len(fitting)


def dropout_off(model: nn.Module) -> None:
    """Eval mode for all but an adapter's own layers, whose dropout was asked for (docs/method.md, step 4), and layers
    that checkpoint their activations, which they do in training mode alone."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        module.training = bool(getattr(module, "gradient_checkpointing", False))
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            for name, child in layer.named_children():
                if name != "base_layer":
                    child.train()
            layer.training = True
