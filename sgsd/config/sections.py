"""Every configuration, as pydantic models; unknown keys are refused.

Torch-free, so that the command line can check a configuration before anything heavy is imported. Defaults are those of
the paper where it names one (arXiv 2605.28791 and its released configuration).
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from sgsd.config.bank import BankConfig, LedgerConfig, MaintainConfig
from sgsd.config.base import Config
from sgsd.config.engine import EngineConfig
from sgsd.config.systems import GRPOConfig, OPDConfig, OPSDConfig, SFTConfig


class LoraConfig(Config):
    """A LoRA adapter, trained in place of the full weights."""

    r: PositiveInt = 64
    alpha: PositiveInt = 128
    dropout: float = Field(0.0, ge=0.0, lt=1.0)
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Without `lm_head`: the head is read in chunks of plain weights."""
    dora: bool = False
    """Length and direction of each weight learned apart (DoRA): nearer to training all weights, slower."""
    rslora: bool = False
    """Scale by alpha / sqrt(r) in place of alpha / r, so that a large r learns as fast as a small one."""


class ModelConfig(Config):
    """The student."""

    name_or_path: str = "arena"
    """A folder, a hub name, or `arena`: the small base model that comes with the package."""
    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    attention: Literal["eager", "sdpa", "flash_attention_2"] = "sdpa"
    lora: LoraConfig | None = None
    """None trains every weight."""
    quantization: Literal["4bit"] | None = None
    """`4bit` stores the base's linear layers in NF4 with nested scales (bitsandbytes); an adapter is trained on it."""


class DataConfig(Config):
    """Where problems come from."""

    source: str = "arena:easy"
    """A JSONL or parquet file, a hub name, or `arena:LEVEL`."""
    split: str = "train"
    limit: PositiveInt | None = None
    """The first problems only, of those that `select` leaves."""
    select: Literal["all", "teacher_aligned"] = "all"
    """`teacher_aligned`: the problems that the teacher is at home in, and a share of the others (docs/systems.md)."""
    aligned_with: str | None = None
    """Of `teacher_aligned`: the teacher's own training problems (a file, a hub name), or a rollout file of its
    attempts, of which those problems count that it solves at least every other time."""
    keep_others: float = Field(0.1, ge=0.0, le=1.0)
    """Of `teacher_aligned`: share of the other problems that is kept; with none, entropy falls (arXiv 2604.13016)."""

    @model_validator(mode="after")
    def _alignment_has_a_source(self) -> Self:
        if self.select == "teacher_aligned" and self.aligned_with is None:
            raise ValueError(
                "select is teacher_aligned, but aligned_with names neither the teacher's training problems nor a file "
                "of its attempts (sgsd rollout --model TEACHER)"
            )
        if self.select == "all" and self.aligned_with is not None:
            raise ValueError(f"aligned_with {self.aligned_with} selects nothing: set select to teacher_aligned")
        return self


class SamplingConfig(Config):
    """How completions are drawn."""

    n: PositiveInt = 1
    """Completions a prompt. Above 1 in training for opsd and opd alone, whose batch sizes count problems."""
    max_new_tokens: PositiveInt = 1024
    temperature: NonNegativeFloat = 1.0
    """0 is greedy."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: NonNegativeInt = 0
    """0 keeps the whole vocabulary."""
    max_prompt_tokens: PositiveInt = 2048
    """A longer student prompt is dropped and counted; a longer teacher prompt drops that teacher."""
    batch_size: PositiveInt = 64
    """Prompts in one call of the transformers generator; in evaluation, completions drawn at once by any engine."""
    thinking: bool = False
    """Handed to chat templates that know `enable_thinking`."""

    @model_validator(mode="after")
    def _greedy_has_one_completion(self) -> Self:
        if self.temperature == 0 and self.n > 1:
            raise ValueError(f"{self.n} greedy completions would all be equal: draw 1, or set temperature above 0")
        return self


class VerifierConfig(Config):
    """What decides the outcome of a rollout."""

    name: str = "math"
    """`math`, `exact`, `choice` or your own `module:function`."""
    timeout_s: PositiveFloat = 5.0
    """A verification that takes longer is unverifiable, not wrong."""
    truncated: Literal["grade", "wrong", "ignore"] = "grade"
    """A rollout cut off at the limit: graded as it stands (the paper), wrong, or outcome 0."""


class TeacherConfig(Config):
    """The teachers: the same network under privileged prompts."""

    weights: Literal["live", "base", "ema", "periodic"] = "live"
    ema_decay: float = Field(0.99, ge=0.0, lt=1.0)
    """Of `ema`: teacher = decay * teacher + (1 - decay) * student, once an optimiser step."""
    period_steps: PositiveInt = 25
    """Of `periodic`: the teacher becomes the student's copy this often."""
    thinking: bool = False
    token_budget: PositiveInt | None = None
    """Tokens, padding included, in one teacher forward pass. None: 16,384 on a GPU; on a CPU 2,048, where larger passes
    are slower a token."""
    min_usefulness: float | None = Field(None, gt=-1.0, le=1.0)
    """Teachers are not asked whose pair the usage ledger shows, at 95 %, to have a utility below this:
    (helpful - harmful) / uses, in [-1, 1]. Young pairs and a tenth of the problems are. None asks all."""
    screen_tokens: PositiveInt | None = None
    """All teachers read so many tokens of a completion, the rest of it only those that disagree with the student there.
    Saves where completions are long beside prompts. None asks all about everything."""

    @model_validator(mode="after")
    def _screen_is_read_by_the_student(self) -> Self:
        if self.screen_tokens is not None and self.weights != "live":
            raise ValueError(
                f"screen_tokens compares teachers with the student as they read: take weights live, not {self.weights}"
            )
        return self


class ObjectiveConfig(Config):
    """The gated objective."""

    tau: PositiveFloat = 1.0
    """Width of the gate, in nats squared."""
    clip: PositiveFloat = 3.0
    """Bound on a token's say in the support, in nats."""
    eps: NonNegativeFloat = 0.05
    """Mean support below this is no opinion, in nats a token."""
    polarity: Literal["verified", "off"] = "verified"
    gate: Literal["bounded", "quadratic"] = "bounded"
    support_baseline: Literal["none", "placebo", "pool"] = "none"
    support_top_k: NonNegativeInt = 0
    """0 scores with the full vocabulary (the paper's best); n > 0 on the teacher's top n and the sampled token."""

    @field_validator("polarity", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: object) -> object:
        return "off" if value is False else value  # YAML reads a bare `off` as false

    @model_validator(mode="after")
    def _baseline_needs_full_vocabulary(self) -> Self:
        if self.support_top_k and self.support_baseline != "none":
            raise ValueError(
                "support_baseline is defined on the full vocabulary: set support_top_k to 0 or drop the baseline"
            )
        return self


class DiagnosticsConfig(Config):
    """Agreement of student and teacher while training (docs/systems.md): overlap, mass, advantage, entropy gap."""

    every_steps: NonNegativeInt = 0
    """Optimiser steps between measurements; 0 for none. Each costs a pass of both over the examples."""
    examples: PositiveInt = 8
    """Of a step, a process; the first teacher of each."""
    k: PositiveInt = 16
    """Likeliest tokens of each side."""


class TrainConfig(Config):
    """The optimisation; handed to transformers.TrainingArguments."""

    max_steps: PositiveInt = 200
    per_device_batch_size: PositiveInt = 4
    gradient_accumulation_steps: PositiveInt = 4
    learning_rate: PositiveFloat = 5e-6
    schedule: Literal["constant", "linear", "cosine", "constant_with_warmup"] = "constant"
    warmup_steps: NonNegativeInt = 0
    max_grad_norm: PositiveFloat = 0.1
    weight_decay: NonNegativeFloat = 0.0
    adam_beta2: float = Field(0.999, gt=0.0, lt=1.0)
    gradient_checkpointing: bool = False
    save_every: PositiveInt = 25
    """Optimiser steps between checkpoints."""
    max_generated_tokens: PositiveInt | None = None
    """Training ends with the step in which the run's rollouts reach this many tokens, end tokens included; null for no
    bound. For comparisons at equal tokens."""
    keep_checkpoints: PositiveInt | None = None
    report_to: tuple[str, ...] = ()
    """Trackers that transformers knows: tensorboard, wandb, ..."""
    timeout_s: PositiveInt = 1800
    """With several processes: seconds that one waits for another before the run ends with an error."""


class EvalConfig(Config):
    """Accuracy on held-out problems."""

    data: DataConfig | None = None
    sampling: SamplingConfig = SamplingConfig(temperature=0.0)
    every_steps: NonNegativeInt = 0
    """Optimiser steps between points of the accuracy curve while training; 0 for none."""
    stop_on_collapse: bool = False
    """End training when two points of the curve in a row lie below half of the best one."""
    with_bank: bool = False
    """Put retrieved pairs into the prompt (base + skill)."""
    bootstrap: PositiveInt = 1000


class SGSDConfig(Config):
    """The method: rollouts, verdicts, teachers, objective. What `SGSDTrainer` takes besides TrainingArguments."""

    rollout: SamplingConfig = SamplingConfig(temperature=1.1, top_p=0.95, top_k=20)
    verifier: VerifierConfig = VerifierConfig()
    bank: BankConfig = BankConfig()
    teacher: TeacherConfig = TeacherConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    maintain: MaintainConfig = MaintainConfig()
    ledger: LedgerConfig = LedgerConfig()
    generation: EngineConfig = EngineConfig()
    diagnostics: DiagnosticsConfig = DiagnosticsConfig()

    @property
    def drawn_tokens(self) -> int:
        """The most tokens that a prompt and its completion may have together."""
        return self.rollout.max_prompt_tokens + self.rollout.max_new_tokens

    @model_validator(mode="after")
    def _rollouts_a_problem(self) -> Self:
        if self.rollout.n != 1:
            raise ValueError(f"rollout.n = {self.rollout.n}: sgsd takes one rollout a problem, raise the batch size")
        return self


class RunConfig(SGSDConfig):
    """One training run: the method, and all that stands around it."""

    method: Literal["sgsd", "opsd", "opd", "grpo", "sft"] = "sgsd"
    """`bank` and `objective` belong to sgsd, the other methods have sections of their names."""
    output_dir: str = "runs/sgsd"
    seed: NonNegativeInt = 0
    threads: PositiveInt | None = None
    """CPU threads of torch; None leaves torch's choice."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    skills_in_prompt: bool = False
    """Retrieved pairs in the rollout prompt: grpo + skill, opsd + skill. Evaluation stays on plain prompts."""
    opsd: OPSDConfig = OPSDConfig()
    opd: OPDConfig = OPDConfig()
    grpo: GRPOConfig = GRPOConfig()
    sft: SFTConfig = SFTConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="after")
    def _rollouts_a_problem(self) -> Self:  # in the place of SGSDConfig's
        if self.rollout.n != 1 and self.method not in ("opsd", "opd"):
            instead = {"grpo": "set grpo.generations", "sft": "leave it out"}.get(self.method, "raise the batch size")
            raise ValueError(f"rollout.n = {self.rollout.n}: {self.method} has no use for it, {instead}")
        return self

    @model_validator(mode="after")
    def _skills_in_prompt_of_a_bank(self) -> Self:
        if self.skills_in_prompt and self.method not in ("grpo", "opsd"):
            raise ValueError(f"skills_in_prompt is for grpo and opsd, the method is {self.method}: leave it out")
        if self.skills_in_prompt and self.bank.path is None:
            raise ValueError("skills_in_prompt wants a bank: set bank.path")
        return self

    @model_validator(mode="before")
    @classmethod
    def _teacher_of_the_method(cls, values: Any) -> Any:
        """OPSD's teacher is the initial student unless told otherwise; OPD's is no student at all."""
        if not isinstance(values, dict) or values.get("method") not in ("opsd", "opd"):
            return values
        teacher = values.get("teacher") or {}
        if not isinstance(teacher, dict):
            return values
        if values["method"] == "opd" and teacher.get("weights", "live") != "live":
            raise ValueError(f"teacher.weights = {teacher['weights']}: the teacher of opd is opd.teacher, leave it out")
        return values | {"teacher": {"weights": "base"} | teacher} if values["method"] == "opsd" else values

    @model_validator(mode="after")
    def _a_served_teacher_is_not_compared(self) -> Self:
        if self.method == "opd" and self.opd.server.urls and self.diagnostics.every_steps:
            raise ValueError(
                f"diagnostics.every_steps = {self.diagnostics.every_steps} compares whole distributions, of which "
                "opd.server tells a few tokens: set 0"
            )
        return self

    @model_validator(mode="after")
    def _only_a_bank_is_maintained(self) -> Self:
        if self.maintain.every_steps and self.method != "sgsd":
            raise ValueError(f"maintain.every_steps = {self.maintain.every_steps}: {self.method} has no bank, set 0")
        return self

    @model_validator(mode="after")
    def _curve_is_drawn_by_one_process(self) -> Self:
        shared = self.generation.vllm.tensor_parallel if self.generation.engine == "vllm" else 1
        if shared > 1 and self.eval.every_steps:
            raise ValueError(
                f"eval.every_steps = {self.eval.every_steps} draws in one process, of which generation.vllm"
                f".tensor_parallel = {shared} share an engine: set one of them to its default"
            )
        return self

    @property
    def reads_bank(self) -> bool:
        """A bank that only stands in the configuration need not be there: other methods are one line away."""
        return self.bank.path is not None and (self.method == "sgsd" or self.skills_in_prompt or self.eval.with_bank)

    @property
    def drawn_tokens(self) -> int:
        """As in SGSDConfig; the accuracy curve draws too."""
        drawing = self.eval.sampling
        curve = drawing.max_prompt_tokens + drawing.max_new_tokens if self.eval.every_steps else 0
        return max(super().drawn_tokens, curve)
