"""Servers that speak OpenAI's completions API: where they are and how patiently they are asked."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import PositiveFloat, PositiveInt, field_validator

from sgsd.config.base import Config


class EndpointConfig(Config):
    """Servers of one model."""

    urls: tuple[str, ...] = ()
    """Base addresses such as http://10.0.0.7:8000/v1, asked in turn; `/v1` is added to a bare host."""
    model: str | None = None
    """The name that the servers know the model by; None: the only one they serve."""
    timeout_s: PositiveFloat = 600.0
    """From sending a request (all that is asked about one prompt) to its whole reply."""
    attempts: PositiveInt = 5
    """How often a request is tried."""
    concurrency: PositiveInt = 64
    """Requests of one process under way at once."""
    api_key_env: str = "SGSD_API_KEY"
    """The environment variable that holds the servers' key; none is sent when it is empty."""

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
