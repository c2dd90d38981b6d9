"""SGSD: Skill-Conditioned Gated Self-Distillation.

    from sgsd import SGSDConfig, SGSDTrainer

The trainers are imported when they are asked for: `import sgsd` loads no torch.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sgsd.config import SGSDConfig as SGSDConfig
    from sgsd.trainer import DistillationTrainer as DistillationTrainer
    from sgsd.trainer import SGSDTrainer as SGSDTrainer

# Where it is installed, transformers imports it; on a CPU it then says of a faster kernel that it is not there.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"
__all__ = ["DistillationTrainer", "SGSDConfig", "SGSDTrainer", "__version__"]

_HOMES = {"SGSDConfig": "config", "DistillationTrainer": "trainer", "SGSDTrainer": "trainer"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sgsd' has no attribute {name!r}")
    return getattr(import_module(f"sgsd.{_HOMES[name]}"), name)
