"""Every setting of training and evaluation.

base.py      what every section is
bank.py      what is retrieved from the bank, and what becomes of it
endpoint.py  servers that are asked
engine.py    what draws completions
systems.py   the other methods'
sections.py  what else there is to set, with units and meanings; defaults are the papers'
reading.py   YAML in, overrides, one-line complaints, YAML out
"""

from sgsd.config.bank import BankConfig, MaintainConfig
from sgsd.config.base import Config
from sgsd.config.endpoint import EndpointConfig
from sgsd.config.engine import EngineConfig, ServerConfig, VllmConfig
from sgsd.config.reading import apply_override, load_config, parse_config, save_config
from sgsd.config.sections import (
    DataConfig,
    DiagnosticsConfig,
    EvalConfig,
    LoraConfig,
    ModelConfig,
    ObjectiveConfig,
    RunConfig,
    SamplingConfig,
    SGSDConfig,
    TeacherConfig,
    TrainConfig,
    VerifierConfig,
)
from sgsd.config.systems import GRPOConfig, OPDConfig, OPSDConfig, SFTConfig

__all__ = [
    "BankConfig",
    "Config",
    "DataConfig",
    "DiagnosticsConfig",
    "EndpointConfig",
    "EngineConfig",
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
    "ServerConfig",
    "TeacherConfig",
    "TrainConfig",
    "VerifierConfig",
    "VllmConfig",
    "apply_override",
    "load_config",
    "parse_config",
    "save_config",
]
