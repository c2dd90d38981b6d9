"""What the tests of training share: a tiny bank, problems, a verifier without processes, recorded rollouts."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, TrainingArguments

from sgsd.config import SamplingConfig, SGSDConfig
from sgsd.records import Completion, Outcome, Problem, Verdict
from sgsd.trainer import SGSDTrainer
from skillbank.records import Evidence, MinedPair, Mistake, RetrievedPair, Skill
from skillbank.retrieve import Retriever, Settings
from skillbank.store import Bank, Query

PAIRS = 4

# Trainer.train collects garbage, half a second over all that torch and its kin have loaded by now: leave that alone.
gc.freeze()


def problems(count: int = 8) -> list[Problem]:
    """Of unequal lengths, in words that the tiny tokenizer knows."""
    texts = [f"What is {i} + {' + '.join(str(j) for j in range(1 + i % 4))} ?" for i in range(count)]
    return [Problem(f"p{i}", text, str(i)) for i, text in enumerate(texts)]


def mined(i: int) -> MinedPair:
    def evidence(outcome: Outcome) -> tuple[Evidence, ...]:
        quote = f"{i} + {i}"
        return (
            Evidence(
                rollout_id=f"{i}{outcome}", problem_id=f"m{i}", outcome=outcome, quote=quote, span=(0, len(quote))
            ),
        )

    words = " + ".join(str((3 * i + j) % 20) for j in range(i + 2))
    return MinedPair(
        skill=Skill(title=f"step {i}", principle=f"reason by {words}", when_to_apply=f"What is {i} ?"),
        mistake=Mistake(description=f"step by {i + 5} {words}", how_to_avoid=f"reason {i} ."),
        skill_evidence=evidence("correct"),
        mistake_evidence=evidence("wrong"),
    )


def make_bank(folder: Path, pairs: int = PAIRS) -> Path:
    with Bank.create(folder) as bank:
        if pairs:
            bank.add_mined([mined(i) for i in range(pairs)], actor="test")
    return folder


class Pairs(Retriever):
    """Pairs of a bank by a rule that a test can foresee, with unequal weights; no embedder.

    Problem number i gets the first `counts[i % len(counts)]` pairs, from pair i on.
    """

    def __init__(self, bank: Bank, counts: Sequence[int] = (PAIRS,)) -> None:
        super().__init__(bank, None, Settings(mode="random"))
        self.counts = counts

    def retrieve(self, problems: Sequence[str], problem_ids: Sequence[str] | None = None) -> list[list[RetrievedPair]]:
        skills, mistakes = self.bank.entries(Query(kind="skill")), self.bank.entries(Query(kind="mistake"))
        found = []
        for problem_id in problem_ids or []:
            number = int(problem_id[1:])
            count = self.counts[number % len(self.counts)]
            total = sum(range(1, count + 1))
            pairs = []
            for k in range(count):
                skill, mistake = skills[(number + k) % len(skills)], mistakes[(number + k) % len(mistakes)]
                assert isinstance(skill.content, Skill)
                assert isinstance(mistake.content, Mistake)
                pairs.append(
                    RetrievedPair(
                        skill_id=skill.id,
                        mistake_id=mistake.id,
                        skill=skill.content,
                        mistake=mistake.content,
                        skill_cosine=0.5,
                        mistake_cosine=0.5,
                        weight=(k + 1) / total,
                        pair_id=None,
                    )
                )
            found.append(pairs)
        return found


class TextVerifier:
    """The outcomes it is given, by a number that is made of the completion's text."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = outcomes or ("correct", "wrong", "correct", "wrong", "unverifiable")

    def verify_many(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        return [Verdict(self.outcomes[sum(map(ord, text)) % len(self.outcomes)]) for text in completions]

    def close(self) -> None:
        pass


class Recorded:
    """A generator that replays: the completion of a prompt depends on the prompt and the seed, not on any weights."""

    def __init__(self, tokens: int = 9, *, seeded: bool = False) -> None:
        self.tokens, self.seeded = tokens, seeded
        self.calls: list[int] = []
        """Prompts of each call."""

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        self.calls.append(len(prompts))
        return [[self.complete(prompt, seed if self.seeded else 0)] for prompt in prompts]

    def complete(self, prompt: Sequence[int], seed: int) -> Completion:
        rng = random.Random(str((list(prompt), seed)))
        ids = [rng.randrange(5, 38) for _ in range(rng.randrange(1, self.tokens))]
        ended = rng.random() < 0.7
        words = " ".join(map(str, ids))
        return Completion((*ids, 2) if ended else tuple(ids), words, not ended)


class Watch(TrainerCallback):
    """Gradients of each optimiser step before it is taken, and the logs."""

    def __init__(self) -> None:
        self.gradients: list[dict[str, torch.Tensor]] = []
        self.logs: list[dict[str, Any]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        named = kwargs["model"].named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if "loss" in kwargs["logs"]:
            self.logs.append({"step": state.global_step, **kwargs["logs"]})

    @property
    def losses(self) -> list[float]:
        return [log["loss"] for log in self.logs]


def arguments(out: Path, **changes: Any) -> TrainingArguments:
    values: dict[str, Any] = {
        "output_dir": str(out),
        "max_steps": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    return TrainingArguments(**values | changes)


def method(**sections: dict[str, Any]) -> SGSDConfig:
    values: dict[str, Any] = {"rollout": {"max_new_tokens": 8, "temperature": 1.0}} | sections
    return SGSDConfig.model_validate(values)


def make_trainer(
    tiny: Any,
    bank: Retriever,
    out: Path,
    *,
    model: Any = None,
    config: SGSDConfig | None = None,
    data: Sequence[Any] | None = None,
    verifier: Any = None,
    generator: Any = None,
    peft_config: Any = None,
    **changes: Any,
) -> tuple[SGSDTrainer, Watch]:
    """A trainer in float64 on recorded rollouts, unless told otherwise, and what watches it."""
    watch = Watch()
    trainer = SGSDTrainer(
        model=tiny.model().double() if model is None else model,
        args=arguments(out, **changes),
        method=config or method(),
        bank=bank,
        verifier=verifier or TextVerifier(),
        train_dataset=problems() if data is None else data,
        processing_class=tiny.tokenizer(),
        generator=generator or Recorded(),
        peft_config=peft_config,
        callbacks=[watch],
    )
    return trainer, watch
