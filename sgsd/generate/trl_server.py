"""The student's weights on their way to vLLM servers, over NCCL: the one place where TRL's client is used.

A server is started as docs/generation.md says, with its weight transfer on. TRL's client joins its workers in a NCCL
group; what is sent are computed copies (weights.py), one tensor at a time, so an adapter's base is never touched. The
client's own drawing is not used: each process of the run asks the servers itself (server.py).

tests/sgsd/test_trl_server.py fails when a newer TRL changes what is called here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from sgsd.errors import ConfigError, ServerError
from sgsd.generate.weights import check_mergeable, merged_weights

if TYPE_CHECKING:
    from sgsd.config import ServerConfig


class WeightPusher:
    """Sends the student's weights to every server of `config`, in `dtype` ("bfloat16").

    The main process sends; all of them have to call `push`, which gathers sharded weights.
    """

    def __init__(self, config: ServerConfig, student: nn.Module, dtype: str) -> None:
        """Raises ConfigError without a GPU or vLLM, ServerError when a server cannot be joined."""
        device = _device_of(student)
        if device.type != "cuda":
            raise ConfigError(
                f"generation.engine = server sends weights over NCCL: the student is on {device}, not on a GPU; "
                "set generation.engine to vllm or transformers"
            )
        check_mergeable(student)
        self.student = student
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.sends = _rank() == 0
        self.clients = [_client(config, number, device) for number in range(len(config.urls))] if self.sends else []
        self.servers = len(config.urls)
        self._described: list[tuple[str, str, list[int]]] | None = None

    def push(self) -> None:
        """Send all weights. Raises ServerError when a server does not take them; it may hold a part of them then."""
        with torch.autocast("cuda", enabled=False):
            if self._described is None:  # a server is told names, dtypes and shapes before the first tensor
                self._described = [
                    (name, str(weight.dtype).removeprefix("torch."), list(weight.shape))
                    for name, weight in merged_weights(self.student, self.dtype)
                ]
            for number in range(self.servers):
                weights = merged_weights(self.student, self.dtype)
                if self.sends:
                    with _told():
                        self.clients[number].update_named_params(self._described, weights)
                        self.clients[number].reset_prefix_cache()  # keys and values of the weights before
                else:
                    for _ in weights:
                        pass
        if _distributed():
            torch.distributed.barrier()  # nobody draws before all servers have all weights

    def close(self) -> None:
        """Leave the servers' groups."""
        for client in self.clients:
            client.close_communicator()


def _client(config: ServerConfig, number: int, device: torch.device) -> Any:
    try:
        from trl.generation.vllm_client import VLLMClient
    except ImportError as error:
        raise ConfigError(f"TRL's client of vLLM servers cannot be imported: {error}") from error
    root = config.urls[number].removesuffix("/v1")
    with _told():
        try:
            client = VLLMClient(
                base_url=root, group_port=config.group_port + number, connection_timeout=config.timeout_s
            )
        except ImportError as error:
            raise ConfigError(
                f"weights are sent with vLLM's own transfer, which is not installed here ({error}): "
                "pip install 'sgsd[vllm]'"
            ) from error
        client.init_communicator(device=device)
    return client


@contextmanager
def _told() -> Iterator[None]:
    """TRL's client raises bare exceptions for whatever a server answers."""
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise ServerError(
            f"a server does not take weights ({said}): start it as docs/generation.md says, with its weight transfer on"
        ) from error


def _device_of(student: nn.Module) -> torch.device:
    return next(student.parameters()).device


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _rank() -> int:
    return torch.distributed.get_rank() if _distributed() else 0
