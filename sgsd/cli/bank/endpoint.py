"""The options that name the language model a bank is mined with, shared by `bank build` and `bank dead-letters`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sgsd.cli.common import offline_without_network

if TYPE_CHECKING:
    from skillbank.mine.model.complete import Complete

EndpointOption = Annotated[
    list[str] | None,
    typer.Option(
        "--endpoint",
        metavar="URL",
        help="An OpenAI-compatible server, such as http://127.0.0.1:8000/v1; give it again for more, asked in turn. "
        "Without one, --model is run here by transformers.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="The writer's name on the server; without --endpoint a folder or hub name."),
]
ConcurrencyOption = Annotated[
    int, typer.Option(min=1, max=4096, help="Calls at once, over all endpoints; run here, the size of a batch.")
]
RequestsOption = Annotated[int | None, typer.Option(min=1, help="At most so many requests in any minute.")]
TokensOption = Annotated[int | None, typer.Option(min=1, help="At most so many tokens in any minute.")]
TimeoutOption = Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that a call may take.")]
ApiKeyOption = Annotated[
    str, typer.Option("--api-key-env", metavar="NAME", help="Environment variable that holds the server's key.")
]
PromptsOption = Annotated[
    list[Path] | None,
    typer.Option(help="Prompt templates in place of the package's: files such as pairs.md, or a folder of them."),
]


def open_writer(
    endpoints: Sequence[str] | None,
    model: str,
    *,
    concurrency: int,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    timeout_s: float = 300.0,
    api_key_env: str = "SGSD_API_KEY",
) -> Complete:
    """The model that is to write entries: behind servers, or loaded into this process when there are none.

    Raises pydantic's ValidationError for a wrong address (the command line shows it as one line), InvalidOption,
    ModelNotFound.
    """
    if endpoints:
        from skillbank.mine.model.client import ChatClient, ClientSettings

        settings = ClientSettings(
            endpoints=tuple(endpoints),
            model=model,
            concurrency=concurrency,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            timeout_s=timeout_s,
            api_key_env=api_key_env,
        )
        return ChatClient(settings)
    if requests_per_minute is not None or tokens_per_minute is not None:
        raise typer.BadParameter("limits are for servers: name one", param_hint="--endpoint")
    offline_without_network(model)
    from sgsd.complete import LocalModel
    from sgsd.config import ModelConfig
    from sgsd.models import default_dtype, load_student

    loaded, tokenizer = load_student(ModelConfig(name_or_path=model, dtype=default_dtype()))
    return LocalModel(loaded, tokenizer, name=model, batch_size=concurrency)
