"""What every trainer here does about checkpoints, whoever wrote its step.

transformers.Trainer writes into `checkpoint-N` file by file. Here that folder is a staged one, which becomes
`checkpoint-N` when it is whole (sgsd.checkpoint), with the state that the parent does not know of.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from accelerate.utils import broadcast_object_list
from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from sgsd.checkpoint import CheckpointPart, CheckpointWriter, checkpoint_bytes, newest_checkpoint, read_about
from sgsd.models import note_base


class WholeCheckpoints(Trainer):
    """A Trainer whose checkpoints are whole or absent, and found again. Among the bases it stands before TRL's."""

    teachers_copy = False
    """Whether a checkpoint holds the trained weights once more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parts: list[CheckpointPart] = []
        """What a checkpoint holds besides the parent's files and `about`. The main process saves, all ranks load."""
        self.checkpoints = CheckpointWriter(
            Path(str(self.args.output_dir)),
            keep=self.args.save_total_limit,
            main=self.args.should_save,
            wait=self.accelerator.wait_for_everyone,
        )
        self._staged: Path | None = None
        self.add_callback(_RoomFirst(self))

    def about(self) -> dict[str, Any]:
        """What `sgsd.json` is to say. The main process asks."""
        return {}

    def take_up(self, about: dict[str, Any]) -> None:
        """Go on from what it says."""

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the parent's; True goes on from the newest sound checkpoint. Raises TrainingError when there is none."""
        if resume_from_checkpoint is True:
            found = [str(newest_checkpoint(self.checkpoints.out)) if self.is_world_process_zero() else ""]
            broadcast_object_list(found)
            resume_from_checkpoint = found[0]
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def bytes_of_checkpoint(self) -> int:
        return checkpoint_bytes(cast(nn.Module, self.model), teachers_copy=self.teachers_copy)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # killed between its last checkpoint and its end
            self.control.should_training_stop = True  # the parent would take one step more
        else:
            super()._run_epoch(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _get_output_dir(self, trial: Any) -> str:
        """Where the parent puts a checkpoint."""
        return str(self._staged.parent) if self._staged else super()._get_output_dir(trial)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            note_base(self.accelerator.unwrap_model(self.model), Path(output_dir or str(self.args.output_dir)))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        about = self.about() if self.args.should_save else {}
        with self.checkpoints.writing(self.state.global_step, about, self.bytes_of_checkpoint()) as folder:
            if self.args.should_save:
                for part in self.parts:
                    part.save(folder)
            self._staged = folder
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staged = None

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load_parts(Path(resume_from_checkpoint))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint and self.is_deepspeed_enabled:  # it has loaded the weights by itself
            self._load_parts(Path(checkpoint))
        super()._load_optimizer_and_scheduler(checkpoint)

    def _load_parts(self, folder: Path) -> None:
        about = read_about(folder)
        for part in self.parts:
            part.load(folder)
        self.take_up(about)


class _RoomFirst(TrainerCallback):
    """Training begins when there is room for a checkpoint."""

    def __init__(self, trainer: WholeCheckpoints) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.save_strategy != "no":
            self.trainer.checkpoints.check(self.trainer.bytes_of_checkpoint())
