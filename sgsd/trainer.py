"""The training step, on top of transformers.Trainer.

`get_batch_samples` does what must happen once an optimiser step, for the whole accumulation window: rollouts, verdicts, teacher
pools, teacher scores. `compute_loss` does the student's pass of one micro-batch. Everything between (the loop,
accumulation, optimiser, checkpoints, ranks, trackers) is the parent's.

What a step computes depends on (seed, optimiser step, rank) and the weights alone, so a resumed run repeats the uninterrupted one.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

from sgsd.config import ModelConfig, SGSDConfig
from sgsd.data import problem_from_row
from sgsd.errors import ConfigError, DataInvalid, TrainingError
from sgsd.generate import Generator
from sgsd.generate.transformers import TransformersGenerator
from sgsd.methods import Example, Method, MicroBatch, open_bank, sgsd_method
from sgsd.models import default_dtype, load_student
from sgsd.prompts import plain_user_text, render
from sgsd.records import Problem, Rollout
from sgsd.rollout import draw_rollouts
from sgsd.score import check_scoring
from sgsd.teachers import TeacherWeights
from sgsd.verify import Verifier, load_verifier

if TYPE_CHECKING:
    from peft import PeftConfig

    from skillbank.retrieve import Retriever

TEACHER_FILE = "teacher.safetensors"
ABOUT_FILE = "sgsd.json"


class DistillationTrainer(Trainer):
    """A student, its own rollouts, a pool of teachers and an objective: what SGSD and its siblings share.

    `train_dataset` holds `Problem` records, or mappings with `problem` and `answer`. Problems whose plain prompt exceeds
    `config.rollout.max_prompt_tokens` are left out and counted in `dropped_problems`; DataInvalid when none is left.
    """

    loss_is_scaled_for_ga = True  # the objective divides by the examples of the whole optimiser step

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        config: SGSDConfig,
        method: Method,
        verifier: Verifier,
        train_dataset: Sequence[Problem | dict[str, Any]],
        processing_class: PreTrainedTokenizerBase,
        generator: Generator | None = None,
        on_rollouts: Callable[[int, Sequence[Rollout]], None] | None = None,
        **kwargs: Any,
    ) -> None:
        args.remove_unused_columns = False  # the verifier wants every column
        problems, self.dropped_problems = _fitting(train_dataset, processing_class, config)
        super().__init__(
            model=model,
            args=args,
            train_dataset=cast(Any, problems),
            data_collator=cast(Any, list),
            processing_class=processing_class,
            **kwargs,
        )
        self.student = model
        self.config = config
        self.method = method
        self.verifier = verifier
        self.tokenizer = processing_class
        self.generator = generator or TransformersGenerator(model, processing_class)
        self.teacher_weights = TeacherWeights(config.teacher)
        self.teacher_weights.start(model)
        self.on_rollouts = on_rollouts
        self.generated_tokens = 0
        """Of the whole run and all ranks."""
        self.totals: Counter[str] = Counter()
        """Sums of the whole run and all ranks, under the names of COUNTED."""
        self.sums: Counter[str] = Counter()
        """Sums since the last log, this rank's; shares are made of them when they are logged."""

    # The window: METHOD steps 1 to 5, the teachers' half

    def get_batch_samples(
        self, epoch_iterator: Iterator[list[Problem]], num_batches: int, device: torch.device
    ) -> tuple[list[MicroBatch], int]:
        batches = list(islice(epoch_iterator, num_batches))
        problems = [problem for batch in batches for problem in batch]
        rollouts = self.roll_out(problems)
        if self.on_rollouts is not None and self.args.should_save:
            self.on_rollouts(self.state.global_step + 1, rollouts)
        with self._timed("retrieve"):
            pools = self.method.pool(problems)
        examples = [
            Example(rollout, tuple(teachers), pools.placebos[i] if pools.placebos else None)
            for i, (rollout, teachers) in enumerate(zip(rollouts, pools.teachers, strict=True))
        ]
        # Scoring exchanges the model's forward, beneath which accelerate puts its autocast: it is entered here.
        with self._timed("teachers"), self.accelerator.autocast(), self.teacher_weights.active(self.student):
            scores = self.method.objective.score_teachers(self.student, examples)
        self._count(examples, pools.too_long)
        micro_batches, at = [], 0
        for batch in batches:
            members = slice(at, at + len(batch))
            micro_batches.append(MicroBatch(tuple(examples[members]), tuple(scores[members])))
            at += len(batch)
        tokens = sum(len(e.rollout.completion.token_ids) for e in examples)
        over_ranks = self._over_ranks({"examples": len(examples), "tokens": tokens})
        self.generated_tokens += over_ranks["tokens"]
        return micro_batches, over_ranks["examples"]

    def roll_out(self, problems: Sequence[Problem]) -> Sequence[Rollout]:
        """One verified completion a problem from the plain prompt, at the current weights."""
        with self._timed("rollout"):
            return draw_rollouts(
                self.generator,
                self.tokenizer,
                problems,
                self.verifier,
                self.config.rollout,
                truncated=self.config.verifier.truncated,
                seed=self._seed_of_step(),
            ).rollouts

    def _seed_of_step(self) -> int:
        return (int(self.args.seed) * 1_000_003 + self.state.global_step) * 4099 + int(self.args.process_index)

    # The micro-batch: step 5, the student's half, and steps 6 to 8

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        if return_outputs:
            raise TrainingError("a distillation loss has no outputs to return: evaluate with sgsd.evaluate")
        batch: MicroBatch = inputs
        with self._timed("student"), self.accelerator.autocast():
            result = self.method.objective.loss(model, batch, num_examples=int(num_items_in_batch))
        self.sums.update(result.sums)
        self.method.report(self.state.global_step + 1, result)
        # Gradients are averaged over ranks, while N counts the examples of all of them.
        return result.loss * self.accelerator.num_processes

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs  # records, not tensors: the scorer puts its own tensors on the device

    def _prepare_context_parallel_inputs(self, model: torch.nn.Module, inputs: Any) -> Any:
        return nullcontext, inputs

    def floating_point_ops(self, inputs: Any) -> int:
        """Forward and backward of the student (6 N), forwards of the teachers and of the rollout (2 N a token)."""
        parameters = self.student.num_parameters(exclude_embeddings=True)
        return parameters * sum(
            8 * (len(e.rollout.prompt_ids) + len(e.rollout.completion.token_ids))
            + 2 * sum(len(t.prompt_ids) + len(e.rollout.completion.token_ids) for t in e.teachers)
            for e in inputs.examples
        )

    # Counting and logging

    def _count(self, examples: Sequence[Example], too_long: int) -> None:
        self.sums["examples"] += len(examples)
        self.sums["generated_tokens"] += sum(len(e.rollout.completion.token_ids) for e in examples)
        self.sums["truncated"] += sum(e.rollout.completion.truncated for e in examples)
        self.sums["without_teachers"] += sum(not e.teachers for e in examples)
        self.sums["teachers_too_long"] += too_long
        for example in examples:
            self.sums[example.rollout.verdict.outcome] += 1

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self.sums[f"seconds/{phase}"] += time.monotonic() - started  # type: ignore[assignment]

    def _over_ranks(self, sums: dict[str, Any]) -> dict[str, Any]:
        """Sums over all ranks. Every rank must call it with the same keys."""
        if self.accelerator.num_processes == 1:
            return sums
        keys = sorted(sums)
        values = torch.tensor([float(sums[key]) for key in keys], dtype=torch.float64, device=self.args.device)
        total = self.accelerator.reduce(values, reduction="sum")
        return {key: type(sums[key])(value) for key, value in zip(keys, total.tolist(), strict=True)}

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the window counted to the parent's loss, gradient norm and learning rate."""
        if "loss" in logs:
            sums = self._over_ranks({key: self.sums[key] for key in COUNTED})
            logs = {**logs, **_metrics(sums)}
            self.totals.update(sums)
            self.sums.clear()
        super().log(logs, start_time)

    # Checkpoints: what the parent does not know of

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise TrainingError(
                f"the loss of step {self.state.global_step + 1} is {loss.item()}: lower train.learning_rate or check the model"
            )
        return loss

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if not self.args.should_save:
            return
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        state = self.teacher_weights.state()
        if state:
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / TEACHER_FILE)
        about = {
            "method": self.method.name,
            "bank_revision": self.method.bank_revision,
            "generated_tokens": self.generated_tokens,
            "totals": dict(self.totals),
        }
        (folder / ABOUT_FILE).write_text(json.dumps(about), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        teacher = Path(resume_from_checkpoint) / TEACHER_FILE
        if teacher.is_file():
            self.teacher_weights.load_state(load_file(teacher, device=str(self.args.device)))
        elif self.teacher_weights.state():
            raise TrainingError(
                f"{teacher} is missing: teacher.weights {self.config.teacher.weights} cannot be resumed"
            )


class SGSDTrainer(DistillationTrainer):
    """Skill-Conditioned Gated Self-Distillation, in the manner of TRL's trainers.

    `model` is a model or a name, `bank` a bank folder or an open Retriever, `verifier` a Verifier, a name that
    `load_verifier` knows, or None for `method.verifier`; `method` holds rollouts, retrieval, teachers and objective.
    `peft_config` trains an adapter in place of the full weights.
    """

    def __init__(
        self,
        model: PreTrainedModel | str,
        args: TrainingArguments,
        method: SGSDConfig,
        bank: Retriever | str | Path,
        verifier: Verifier | str | None = None,
        train_dataset: Sequence[Problem | dict[str, Any]] = (),
        peft_config: PeftConfig | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        **kwargs: Any,
    ) -> None:
        student: PreTrainedModel
        if isinstance(model, str):
            student, tokenizer = load_student(
                ModelConfig.model_validate({"name_or_path": model, "dtype": default_dtype()})
            )
            processing_class = processing_class or tokenizer
        else:
            student = model
        if processing_class is None:
            raise ConfigError(
                "processing_class is None: a model that is given as an object needs its tokenizer beside it"
            )
        if peft_config is not None:
            from peft import get_peft_model

            student = cast(PreTrainedModel, get_peft_model(student, peft_config))
        check_scoring(student)
        if verifier is None or isinstance(verifier, str):
            settings = method.verifier if verifier is None else method.verifier.model_copy(update={"name": verifier})
            verifier = load_verifier(settings)
        retriever = open_bank(bank, method.bank) if isinstance(bank, str | Path) else bank
        super().__init__(
            model=student,
            args=args,
            config=method,
            method=sgsd_method(method, retriever, processing_class, run=Path(args.output_dir or "run").name),
            verifier=verifier,
            train_dataset=train_dataset,
            processing_class=processing_class,
            **kwargs,
        )


COUNTED = (
    *("examples", "correct", "wrong", "unverifiable", "truncated", "generated_tokens"),
    *("without_teachers", "teachers_too_long", "judged_examples", "teachers", "judged"),
    *("helpful", "harmful", "neutral", "below_threshold", "teacher_tokens", "clipped", "gate_mass", "support"),
    *(f"seconds/{phase}" for phase in ("rollout", "retrieve", "teachers", "student")),
)
"""Every sum there is, so that all ranks reduce the same keys."""


def _metrics(sums: dict[str, Any]) -> dict[str, float]:
    """What the log shows of a step's sums: counts as they are, the rest as means and shares in [0, 1]."""
    examples, judged = max(1, sums["examples"]), max(1, sums["judged"])
    teachers = max(1, sums["teachers"])
    counts = ("examples", "generated_tokens", "unverifiable", "without_teachers", "teachers_too_long")
    metrics = {key: float(sums[key]) for key in counts}
    metrics |= {
        "reward": sums["correct"] / examples,
        "truncated": sums["truncated"] / examples,
        "completion_length": sums["generated_tokens"] / examples,
        "helpful": sums["helpful"] / judged,
        "harmful": sums["harmful"] / judged,
        "neutral": sums["neutral"] / judged,
        "below_threshold": sums["below_threshold"] / teachers,
        "clipped": sums["clipped"] / max(1, sums["teacher_tokens"]),
        "gate_mass": sums["gate_mass"] / teachers,
        "support": sums["support"] / teachers,
    }
    return metrics | {key: float(value) for key, value in sums.items() if key.startswith("seconds/")}


def _fitting(
    dataset: Sequence[Problem | dict[str, Any]], tokenizer: PreTrainedTokenizerBase, config: SGSDConfig
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
