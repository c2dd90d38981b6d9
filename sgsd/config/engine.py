"""What draws completions, and what each engine needs to know. docs/generation.md says which when."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from sgsd.config.base import Config
from sgsd.config.endpoint import EndpointConfig


class VllmConfig(Config):
    """vLLM in the process of the trainer, on its device."""

    gpu_memory_utilization: float = Field(0.3, gt=0.0, le=1.0)
    """Share of the device's memory (of the main memory on a CPU) for the engine's weights and key-value cache."""
    max_model_len: PositiveInt | None = None
    """Tokens of prompt and completion together; None: what sampling asks for, as far as the model's positions reach."""
    tensor_parallel: PositiveInt = 1
    """Processes that share one engine; the processes of the run are a multiple of it."""
    sleep: bool = False
    """The engine gives its memory back between draws, and weights are pushed before each. Not on a CPU."""
    enforce_eager: bool = False
    """No CUDA graphs: up sooner, draws slower. A CPU never has them."""


class ServerConfig(EndpointConfig):
    """Servers that draw: vLLM's, or for rollouts and evaluation any. Training pushes weights to each."""

    group_port: int = Field(51216, ge=1, le=65535)
    """Port of the trainer's weight pushes (NCCL) to the first server; each further one takes the next port."""


class EngineConfig(Config):
    """What draws completions. docs/generation.md says which engine when."""

    engine: Literal["transformers", "vllm", "server"] = "transformers"
    """The model itself; vLLM in this process; or servers. The latter two hold copies of the weights, pushed once an
    optimiser step."""
    vllm: VllmConfig = VllmConfig()
    server: ServerConfig = ServerConfig()

    @model_validator(mode="after")
    def _servers_have_addresses(self) -> Self:
        if self.engine == "server" and not self.server.urls:
            raise ValueError("engine is server, but server.urls is empty: give the address of one at least")
        return self
