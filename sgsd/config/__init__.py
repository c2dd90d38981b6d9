"""Every setting of training and evaluation.

sections.py  what there is to set, with units and meanings; defaults are the papers'
reading.py   YAML in, overrides, one-line complaints, YAML out
"""

from sgsd.config.reading import apply_override, load_config, parse_config, save_config
from sgsd.config.sections import (
    BankConfig,
    Config,
    DataConfig,
    EvalConfig,
    GRPOConfig,
    LoraConfig,
    MaintainConfig,
    ModelConfig,
    ObjectiveConfig,
    OPDConfig,
    OPSDConfig,
    RunConfig,
    SamplingConfig,
    SFTConfig,
    SGSDConfig,
    TeacherConfig,
    TrainConfig,
    VerifierConfig,
)

__all__ = [
    "BankConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "GRPOConfig",
    "LoraConfig",
    "MaintainConfig",
    "ModelConfig",
    "OPDConfig",
    "OPSDConfig",
    "ObjectiveConfig",
    "RunConfig",
    "SFTConfig",
    "SGSDConfig",
    "SamplingConfig",
    "TeacherConfig",
    "TrainConfig",
    "VerifierConfig",
    "apply_override",
    "load_config",
    "parse_config",
    "save_config",
]
