"""vLLM's engine in this process: how it is built so that a trainer can live beside it.

Left out: drawing (vllm.py). vLLM is imported here and in vllm.py alone. Its `LLM` is used as it is, not through TRL's
VLLMGeneration, which merges an adapter into its base in place, fixes the sampling when it is made, and needs a trainer
around it; what TRL serves for is the servers' weight push (trl_server.py).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from sgsd.errors import ConfigError
from sgsd.generate.seeds import random_state_kept

if TYPE_CHECKING:
    from sgsd.config import VllmConfig

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # weights are handed over as tensors: the engine is in this process
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # stdout is for results
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer's threads are not the engine's to place
}
"""Before vLLM is imported. The first is needed; of the others a user's own setting is left alone."""


def build_engine(
    config: VllmConfig,
    model: str,
    *,
    revision: str | None,
    dtype: str,
    max_model_len: int,
    read_weights: bool,
    device: torch.device | None = None,
) -> Any:
    """A `vllm.LLM` over the model's folder or hub name, in `dtype` ("bfloat16"), as wide as `max_model_len` tokens.

    Without `read_weights` its weights are random until some are pushed. In a run of several processes each has an
    engine, or `config.tensor_parallel` of them share one; all of them must call this. Random states, signal handlers
    and torch's functions are afterwards what they were.

    Raises ConfigError where vLLM is not installed, does not fit the run's processes, or refuses the settings.
    """
    world = _world_size()
    if world % config.tensor_parallel:
        raise ConfigError(
            f"generation.vllm.tensor_parallel = {config.tensor_parallel} does not divide the run's {world} "
            f"process{'es' if world > 1 else ''}: start a multiple of it with torchrun, or lower it"
        )
    llm = _import_vllm()
    on_cpu = _is_cpu_build()
    if on_cpu and config.sleep:
        raise ConfigError("generation.vllm.sleep = true: vLLM cannot sleep on a CPU, set it to false")
    options: dict[str, Any] = {"distributed_executor_backend": "external_launcher"} if world > 1 else {}
    if on_cpu:  # a prompt cut in two rewinds its seed, which only a GPU's generators can
        options |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(2048, max_model_len)}
    with random_state_kept(), _handlers_kept(), _torch_kept():
        if on_cpu:
            make_cpu_build_reloadable()
        try:
            return llm(
                model=model,
                revision=revision,
                dtype=dtype,
                seed=0,  # the same on all ranks of a group; every draw has a seed of its own
                skip_tokenizer_init=True,  # prompts and completions are token ids
                generation_config="vllm",  # not the model's own: what SamplingConfig says is all that holds
                load_format="auto" if read_weights else "dummy",
                max_model_len=max_model_len,
                gpu_memory_utilization=config.gpu_memory_utilization,
                tensor_parallel_size=config.tensor_parallel,
                enable_sleep_mode=config.sleep,
                enforce_eager=config.enforce_eager or on_cpu,
                disable_log_stats=True,
                **options,
            )
        except (ValueError, RuntimeError, OSError, AssertionError) as error:
            raise ConfigError(f"vLLM does not start: {_said(error)}") from error


def make_cpu_build_reloadable() -> None:
    """Keep vLLM's CPU build from packing weights into its kernels' own layouts. Before an engine is built.

    Packed by oneDNN or the SGL kernels, a weight is read once, and new weights are taken without an error and without
    effect: the engine goes on drawing from the old ones (seen in vLLM 0.30 to 0.32; tests/vllm compares log-probs after
    every push). Plain matrix products read the weight anew each time. GPU builds pack nothing.
    """
    import vllm._custom_ops
    import vllm.model_executor.layers.utils

    vllm._custom_ops._supports_onednn = False
    vllm.model_executor.layers.utils.check_cpu_sgl_kernel = lambda *shape, **options: False


def _import_vllm() -> Any:
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = ENVIRONMENT["VLLM_ENABLE_V1_MULTIPROCESSING"]
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from vllm import LLM
    except ImportError as error:
        raise ConfigError(
            f"generation.engine = vllm, but vLLM cannot be imported ({_said(error)}): pip install 'sgsd[vllm]'"
        ) from error
    return LLM


def _is_cpu_build() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _world_size() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """vLLM takes the signals that end a process; a trainer saves at them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _torch_kept() -> Iterator[None]:
    """vLLM's CPU worker replaces torch.set_num_threads by a warning."""
    set_num_threads, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads = set_num_threads
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__
