"""What draws completions, and what each engine needs to know. docs/generation.md says which when."""

from __future__ import annotations

from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from sgsd.config.base import Config


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


class ServerConfig(Config):
    """Servers that draw: vLLM's, or for rollouts and evaluation any that speaks OpenAI's completions API."""

    urls: tuple[str, ...] = ()
    """Base addresses such as http://10.0.0.7:8000/v1, asked in turn; `/v1` is added to a bare host. Training pushes
    weights to each."""
    model: str | None = None
    """The name that the servers know the student by; None: the only one they serve."""
    timeout_s: PositiveFloat = 600.0
    """From sending a request (all completions of one prompt) to its whole reply."""
    attempts: PositiveInt = 5
    """How often a request is tried."""
    concurrency: PositiveInt = 64
    """Requests of one process under way at once."""
    api_key_env: str = "SGSD_API_KEY"
    """The environment variable that holds the servers' key; none is sent when it is empty."""
    group_port: int = Field(51216, ge=1, le=65535)
    """Port of the trainer's weight pushes (NCCL) to the first server; each further one takes the next port."""

    @field_validator("urls")
    @classmethod
    def _addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_server_address(url) for url in urls)


def _server_address(url: str) -> str:
    parts = urlsplit(url)
    try:
        named = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number
        named = False
    if not named or parts.query or parts.fragment:
        raise ValueError(f"{url!r} is no address of a server: write http://HOST:PORT/v1")
    if parts.username or parts.password:
        raise ValueError("an address must not hold a user or a password: put the key into the environment variable")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/v1'}"


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
