"""Launches that are not what they were asked to be are told, and the shipped configurations are accelerate's own."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, prepare_multi_gpu_env
from accelerate.utils.launch import prepare_deepspeed_cmd_env

from sgsd.errors import ConfigError
from sgsd.ranks import ALONE, Processes, check_launch, check_wrapper, first_to_tell, launched, together

CONFIGS = Path(__file__).parents[3] / "configs" / "accelerate"
WANTED = {"ddp": "MULTI_GPU", "fsdp2": "FSDP", "zero2": "DEEPSPEED", "zero3": "DEEPSPEED"}


def test_every_configuration_is_known_here() -> None:
    assert {path.stem for path in CONFIGS.iterdir()} == WANTED.keys()


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `accelerate launch --config_file configs/accelerate/NAME.yaml` hands to its processes."""
    monkeypatch.setattr(os, "environ", {**os.environ})

    def environment(name: str) -> dict[str, str]:
        file = str(CONFIGS / f"{name}.yaml")
        given = launch_command_parser().parse_args(["--config_file", file, "-m", "sgsd", "train", "x.yaml"])
        args, defaults, _ = _validate_launch_command(given)
        if name.startswith("zero"):
            args.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
            return dict(prepare_deepspeed_cmd_env(args)[1])
        return dict(prepare_multi_gpu_env(args))

    return environment


@pytest.mark.parametrize("name", WANTED)
def test_accelerate_reads_each_configuration(name: str, launch: Any) -> None:
    """Its parser refuses keys that it does not know."""
    config = load_config_from_file(str(CONFIGS / f"{name}.yaml"))
    assert isinstance(config, ClusterConfig)
    assert config.distributed_type == DistributedType(WANTED[name])
    assert config.num_processes == 8
    known = {action.dest for action in launch_command_parser()._actions}
    assert (config.fsdp_config.keys() | config.deepspeed_config.keys()) - known == set()
    environment = launch(name)
    if name == "fsdp2":
        assert environment["ACCELERATE_USE_FSDP"] == "true"
        assert environment["FSDP_VERSION"] == "2"
        assert environment["FSDP_STATE_DICT_TYPE"] == "FULL_STATE_DICT"
    elif name != "ddp":
        assert environment["ACCELERATE_USE_DEEPSPEED"] == "true"
        assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == name[-1]
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"


def test_what_the_launcher_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launched() == ALONE == Processes(0, 1)
    assert ALONE.main
    assert ALONE.gather("x") == ["x"]
    assert first_to_tell()
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="WORLD_SIZE = 4 and RANK is not set"):
        launched()
    monkeypatch.setenv("RANK", "3")
    assert launched() == Processes(3, 4)
    assert not launched().main
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert first_to_tell()  # there is nobody to ask


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_several_processes_that_do_not_know_of_each_other(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv(name, "1")
    check_launch()
    monkeypatch.setenv(name, "4")
    with pytest.raises(ConfigError, match=f"{name} = 4, but WORLD_SIZE is not set"), together(1):
        pass
    monkeypatch.setenv("WORLD_SIZE", "4")
    check_launch()


def test_accelerates_single_process_on_a_cpu_is_refused(launch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate launch --cpu --num_processes 2` starts one process, without a word."""
    from accelerate.utils.launch import prepare_simple_launcher_cmd_env

    parser, before = launch_command_parser(), {**os.environ}
    before.pop("MASTER_PORT", None)
    for count in (2, 1):
        monkeypatch.setattr(os, "environ", {**before})
        args, _, _ = _validate_launch_command(
            parser.parse_args(["--cpu", "--num_processes", str(count), "-m", "sgsd", "train", "x.yaml"])
        )
        monkeypatch.setattr(os, "environ", {**prepare_simple_launcher_cmd_env(args)[1]})
        if count == 1:
            check_launch()
        else:
            with pytest.raises(ConfigError, match="one process for several on a CPU: use torchrun"):
                check_launch()


class Wrapped(torch.nn.Module):
    pass


def accelerator(kind: str, *, fsdp2: bool = True) -> Any:
    device = torch.device("cpu")
    return SimpleNamespace(distributed_type=DistributedType(kind), device=device, is_fsdp2=fsdp2, num_processes=1)


def test_a_wrapper_that_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FSDP", "DEEPSPEED"):
        monkeypatch.delenv(f"ACCELERATE_USE_{name}", raising=False)
    assert check_wrapper(accelerator("NO"), Wrapped()) == "none"
    assert check_wrapper(accelerator("MULTI_CPU"), Wrapped()) == "Wrapped"
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert check_wrapper(accelerator("FSDP"), Wrapped()) == "Wrapped"
    with pytest.raises(ConfigError, match="asked for FSDP, and accelerate trains with MULTI_CPU on cpu"):
        check_wrapper(accelerator("MULTI_CPU"), Wrapped())
    with pytest.raises(ConfigError, match="fsdp_version 1 is not supported"):
        check_wrapper(accelerator("FSDP", fsdp2=False), Wrapped())
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match="asked for DEEPSPEED, and accelerate trains with NO"):
        check_wrapper(accelerator("NO"), Wrapped())
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConfigError, match="started 2 processes, and accelerate knows of 1 on cpu"):
        check_wrapper(accelerator("DEEPSPEED"), Wrapped())
