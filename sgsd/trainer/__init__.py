"""The trainers, on top of transformers.Trainer.

distillation.py  the step that SGSD and its siblings share
skills.py        SGSD: a bank in, in the manner of TRL's trainers
"""

from sgsd.trainer.distillation import DistillationTrainer, draw_seed
from sgsd.trainer.skills import SGSDTrainer

__all__ = ["DistillationTrainer", "SGSDTrainer", "draw_seed"]
