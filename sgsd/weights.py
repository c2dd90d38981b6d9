"""The weights under which teachers read, and how they follow the student.

The student itself (`live`), its initial weights (`base`), a moving average (`ema`) or a copy renewed now and then
(`periodic`). Copies lie as the student's weights do: whole in each process, or in the same shards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor

from sgsd.config import TeacherConfig
from sgsd.errors import ConfigError, TrainingError
from sgsd.shards import gathered, laid_out_as, local, reshard, zero3

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

TEACHER_FILE = "teacher.safetensors"
"""In a checkpoint: the teachers' weights where they differ from the student's present and initial ones."""


class TeacherWeights:
    """The network that scores as teacher.

    Make it before the first optimiser step, for `base` before a checkpoint is loaded: it takes its copy at once. `base`
    switches a LoRA adapter off, or keeps a frozen copy of full weights. `ema` and `periodic` copy the *trained* weights
    alone and swap them in for the teacher pass, so an adapter run keeps an adapter's worth. The average is in float32
    at least: in bfloat16 a hundredth of a small step is nothing.

    A model that is sharded later is sharded under its copies: `lay_out` follows. Raises ConfigError there for ZeRO-3,
    whose shards are nobody else's to exchange.
    """

    def __init__(self, config: TeacherConfig, model: PreTrainedModel) -> None:
        self.config = config
        self.model = model
        self._adapter_off = config.weights == "base" and hasattr(model, "peft_config")
        self._shadow: dict[str, Tensor] = {}
        self._to_save: dict[str, Tensor] = {}
        if config.weights != "live" and not self._adapter_off:
            trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
            self._refuse_zero3(trained)
            self._shadow = {name: p.detach().to(self._dtype(p), copy=True) for name, p in trained.items()}

    def _dtype(self, weight: Tensor) -> torch.dtype:
        return torch.promote_types(weight.dtype, torch.float32) if self.config.weights == "ema" else weight.dtype

    def _refuse_zero3(self, parameters: dict[str, Any]) -> None:
        if any(map(zero3, parameters.values())):
            raise ConfigError(
                f"teacher.weights = {self.config.weights} keeps a copy of the trained weights, which ZeRO-3 has in "
                "shards of its own: use configs/accelerate/fsdp2.yaml or zero2.yaml, or teacher.weights: live"
            )

    def lay_out(self) -> None:
        """Bring the copies to where the student's weights are now, in their shards. Before the first teacher pass."""
        if not self._shadow:
            return
        parameters = dict(self.model.named_parameters())
        self._refuse_zero3(parameters)
        for name, shadow in self._shadow.items():
            if not isinstance(shadow, DTensor):
                self._shadow[name] = laid_out_as(shadow, parameters[name])

    def after_step(self, step: int) -> None:
        """Follow the student after optimiser step `step` (counted from 1)."""
        if self.config.weights == "ema":
            rate = 1 - self.config.ema_decay
        elif self.config.weights == "periodic" and step % self.config.period_steps == 0:
            rate = 1.0
        else:
            return
        parameters = dict(self.model.named_parameters())
        for name, shadow in self._shadow.items():
            local(shadow).lerp_(local(parameters[name]).to(shadow.dtype), rate)

    @contextmanager
    def active(self) -> Iterator[None]:
        """Within this context the model is the teacher; afterwards its weights are the student's, bit for bit."""
        if self._adapter_off:
            with self.model.disable_adapter():  # type: ignore[operator]
                yield
            return
        if not self._shadow:
            yield
            return
        parameters = dict(self.model.named_parameters())
        students: dict[str, Tensor] = {}
        reshard(self.model)  # what is still gathered of an earlier pass is of other weights
        try:
            for name, shadow in self._shadow.items():
                students[name] = _exchange(parameters[name], local(shadow))
            yield
        finally:
            reshard(self.model)
            for name, student in students.items():
                _exchange(parameters[name], student, keep=False)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """`save` within has whole weights to write. Every process must enter it; without shards there is no need."""
        if self.config.weights in ("ema", "periodic"):
            self._to_save = self._whole()
        try:
            yield
        finally:
            self._to_save = {}

    def save(self, folder: Path) -> None:
        """What a checkpoint must hold to go on exactly. Initial weights are the model's own and are not stored."""
        if self.config.weights in ("ema", "periodic"):
            save_file(self._to_save or self._whole(), folder / TEACHER_FILE)

    def _whole(self) -> dict[str, Tensor]:
        return {name: gathered(shadow).contiguous() for name, shadow in self._shadow.items()}

    def load(self, folder: Path) -> None:
        """Raises TrainingError when the checkpoint lacks what these weights need."""
        if self.config.weights not in ("ema", "periodic"):
            return
        file = folder / TEACHER_FILE
        stored: dict[str, Any] = load_file(file) if file.is_file() else {}
        if stored.keys() != self._shadow.keys():
            raise TrainingError(
                f"{file} does not hold the teachers' weights: the checkpoint was not made with "
                f"teacher.weights {self.config.weights} on this model"
            )
        for name, shadow in self._shadow.items():
            local(shadow).copy_(local(laid_out_as(stored[name], shadow)))


def _exchange(parameter: Tensor, value: Tensor, *, keep: bool = True) -> Tensor:
    """Put this process's part of other weights into a parameter. Returns the part that was there.

    A plain parameter is given other memory. FSDP gathers from memory that it has noted itself, so there the values are
    exchanged, and what was there is copied unless it need not be kept.
    """
    if not isinstance(parameter, DTensor):
        before = parameter.data
        parameter.data = value.to(before.dtype)
        return before
    mine = local(parameter)
    before = mine.clone() if keep else mine
    mine.copy_(value)
    return before
