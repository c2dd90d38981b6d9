"""What `sgsd rollout` and `sgsd eval` share: options, the settings they become, the student, words for the outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from sgsd.cli.common import from_options
from sgsd.errors import ConfigError

if TYPE_CHECKING:
    from sgsd.config import EngineConfig, SamplingConfig, VerifierConfig
    from sgsd.generate import Generator
    from sgsd.generate.engines import Drawer

SHOWN_REASONS = 3

ModelName = Annotated[str, typer.Option(help="A folder (weights or an adapter), a hub name, or `arena`.")]
TopK = Annotated[int, typer.Option(help="0 keeps the whole vocabulary.")]
NewTokens = Annotated[
    int | None, typer.Option(min=1, help="Default: what the model's generation settings say, else 1024.")
]
PromptTokens = Annotated[int, typer.Option(min=1, help="Problems with longer prompts are left out and counted.")]
VerifierName = Annotated[str, typer.Option(help="math, exact, choice or your own module:function.")]
Timeout = Annotated[float, typer.Option(help="Seconds a verification; more is unverifiable.")]
Truncated = Annotated[str, typer.Option(help="Completions that were cut off: grade, wrong or ignore.")]
Limit = Annotated[int | None, typer.Option(min=1, help="The first problems only.")]
Seed = Annotated[int, typer.Option(min=0)]

EngineName = Annotated[
    str | None,
    typer.Option(help="What draws: transformers, vllm or server. Default: transformers; server with --server."),
]
Servers = Annotated[
    list[str] | None,
    typer.Option("--server", help="An OpenAI-compatible server, such as http://HOST:PORT/v1; several take turns."),
]
ServerModel = Annotated[
    str | None, typer.Option(help="The model's name on the servers. Default: the only one they serve.")
]
MemoryShare = Annotated[
    float,
    typer.Option(
        "--gpu-memory-utilization", help="With --engine vllm: its share of the GPU's memory; on a CPU, of all memory."
    ),
]


def judge_from_options(verifier: str, timeout: float, truncated: str) -> VerifierConfig:
    """The verifier's settings. Raises ConfigError that names the option."""
    from sgsd.config import VerifierConfig

    values = {"name": verifier, "timeout_s": timeout, "truncated": truncated}
    return from_options(VerifierConfig, values, {"name": "--verifier", "timeout_s": "--timeout"})


def unverifiable_reasons(verdicts: Iterable[tuple[str, str]]) -> dict[str, int]:
    """The most frequent reasons of (outcome, reason) for being unverifiable: a broken verifier is to be seen."""
    reasons = Counter(reason or "no reason given" for outcome, reason in verdicts if outcome == "unverifiable")
    return dict(reasons.most_common(SHOWN_REASONS))


def engine_from_options(
    engine: str | None, servers: Sequence[str], server_model: str | None, memory_share: float
) -> EngineConfig:
    """What draws: an address is a server, and the model itself without either. Raises ConfigError naming the option."""
    from sgsd.config import EngineConfig, ServerConfig, VllmConfig

    chosen = engine or ("server" if servers else "transformers")
    if servers and chosen != "server":
        raise ConfigError(f"--engine {chosen} asks no server: leave out --server, or say --engine server")
    if chosen == "server" and not servers:
        raise ConfigError("--engine server has no address: give --server http://HOST:PORT/v1")
    if server_model is not None and not servers:
        raise ConfigError(f"--server-model {server_model} is a server's: give --server too")
    server = from_options(
        ServerConfig, {"urls": tuple(servers), "model": server_model}, {"urls": "--server", "model": "--server-model"}
    )
    colocated = from_options(VllmConfig, {"gpu_memory_utilization": memory_share}, {})
    return from_options(EngineConfig, {"engine": chosen, "vllm": colocated, "server": server}, {})


@contextmanager
def drawing(config: EngineConfig, model: str, sampling: SamplingConfig, max_new_tokens: int | None) -> Iterator[Drawer]:
    """The generator that the options ask for, its tokenizer and settings; what an engine holds is given back after."""
    from sgsd.generate import Engine
    from sgsd.generate.engines import drawing_generator

    drawer = drawing_generator(config, model, sampling, max_new_tokens=max_new_tokens)
    try:
        yield drawer
    finally:
        if isinstance(drawer.generator, Engine):
            drawer.generator.close()


def with_length(sampling: SamplingConfig, given: int | None, suggested: int | None) -> SamplingConfig:
    """The length limit: what the command line gives, else what the model suggests, else the configuration's default."""
    limit = given or suggested
    return sampling.model_copy(update={"max_new_tokens": limit}) if limit else sampling


def retokenised(generator: Generator) -> int:
    """Completions of which a server told the text alone: their tokens are counted from it."""
    return int(getattr(generator, "retokenised", 0))
