"""`sgsd bank ui`: the bank in a browser, served from this machine."""

from __future__ import annotations

import ipaddress
import os
import secrets
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from sgsd.cli.bank.app import app
from sgsd.cli.bank.options import BankOption, actor
from sgsd.cli.common import note
from sgsd.errors import ConfigError

if TYPE_CHECKING:
    from skillbank.records import RetrievedPair
    from skillbank.web import TeacherPrompts

TOKEN = "SGSD_UI_TOKEN"


@app.command(epilog="Example: sgsd bank ui --bank bank --port 8765")
def ui(
    bank: BankOption,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    host: Annotated[
        str, typer.Option(help=f"Where to listen. Other than this machine alone asks for a token ({TOKEN} sets it).")
    ] = "127.0.0.1",
    read_only: Annotated[bool, typer.Option("--read-only", help="Show everything, change nothing.")] = False,
    model: Annotated[
        str | None,
        typer.Option(help="Show teacher prompts in this model's chat template: a folder, a hub name, or `arena`."),
    ] = None,
) -> None:
    """Look at the bank and curate it in a browser: entries, review, clusters, revisions, retrieval, training."""
    try:
        import uvicorn

        from skillbank.web import Site, create_app
    except ModuleNotFoundError as error:
        raise ConfigError(f"the browser's pages need {error.name}: install sgsd with the extra `web`") from error

    token = None if _is_this_machine(host) else os.environ.get(TOKEN) or secrets.token_urlsafe(24)
    site = Site(
        bank,
        actor=actor(),
        readonly=read_only,
        token=token,
        names=() if token is None else _names(host),
        teacher_prompts=_teacher_prompts(model),
    )
    with _listening(host, port) as listener:
        address = _address(host, listener.getsockname()[1])
        note(f"{bank} at {address}{'' if token is None else f'?token={token}'} (Control-C ends it)")
        server = uvicorn.Server(uvicorn.Config(create_app(site), log_level="warning", server_header=False))
        server.run(sockets=[listener])


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _names(host: str) -> Sequence[str]:
    """Names by which a browser elsewhere may call this server."""
    return (host, socket.gethostname(), socket.getfqdn())


def _listening(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ConfigError when the address is not this machine's or taken."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"cannot listen on {host} port {port} ({reason}): choose another --port or --host") from error


def _address(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def _teacher_prompts(model: str | None) -> TeacherPrompts:
    """What each pair's teacher reads: the user's turn, or with a model all that its chat template makes of it."""
    from sgsd.prompts import Guidance, guided_user_text, render

    def texts(problem: str, pairs: Sequence[RetrievedPair]) -> list[str]:
        return [guided_user_text(problem, [Guidance(pair.skill, pair.mistake)]) for pair in pairs]

    if model is None:
        return texts
    from sgsd.models import load_tokenizer, resolve_model_path

    tokenizer = load_tokenizer(resolve_model_path(model))

    def rendered(problem: str, pairs: Sequence[RetrievedPair]) -> list[str]:
        return [str(tokenizer.decode(render(tokenizer, text))) for text in texts(problem, pairs)]

    return rendered
