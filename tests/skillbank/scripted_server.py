"""A chat completion server on 127.0.0.1 that does what a script says: answers, errors, garbage, silence, broken lines.

with ScriptedServer(lambda asked: completion("hello")) as server:
    ... server.url, server.asked, server.served
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Asked:
    """A request as it came in."""

    number: int
    """From 1, over all connections."""
    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]

    @property
    def prompt(self) -> str:
        return "\n".join(message["content"] for message in self.body["messages"])


@dataclass(frozen=True)
class Answer:
    """What is sent back."""

    body: bytes = b""
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    missing: int = 0
    """Bytes that the header promises and that never come."""
    hang: bool = False
    """Nothing is sent before the server closes."""
    drop: bool = False
    """The connection is closed without a word."""


Script = Callable[[Asked], Answer]


def completion(text: str | None, *, finish: str = "stop", tokens: tuple[int, int] = (10, 5), **message: Any) -> Answer:
    """An answer as servers give it."""
    body = {
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
        ],
        "usage": {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)},
    }
    return Answer(json.dumps(body).encode())


def refusal(status: int, message: str, **headers: str) -> Answer:
    body = json.dumps({"error": {"message": message, "type": "invalid_request_error"}}).encode()
    return Answer(body, status, {name.replace("_", "-"): value for name, value in headers.items()})


def in_turn(*answers: Answer) -> Script:
    """The answers one after the other, the last one for ever."""
    return lambda asked: answers[min(asked.number, len(answers)) - 1]


class ScriptedServer:
    """Runs in threads of its own for the length of a `with`."""

    def __init__(self, script: Script) -> None:
        self.asked: list[Asked] = []
        self.served: list[tuple[Asked, Answer]] = []
        """Those whose answer was sent to its end."""
        self.connections = 0
        self.most_at_once = 0
        self._script = script
        self._lock = threading.Lock()
        self._at_once = 0
        self._closing = threading.Event()
        self._http = _Listener(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closing.set()
        self._http.shutdown()
        self._http.end_connections()
        self._http.server_close()  # waits for the handlers
        self._thread.join()

    def wait_until_idle(self) -> None:
        """Until no request is being answered: the client may be gone by then."""
        while self._at_once:
            time.sleep(0.005)

    def _handler(server) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with server._lock:
                    server.connections += 1

            def handle(self) -> None:
                try:
                    super().handle()
                except OSError:  # the client went away, which is what some tests are about
                    self.close_connection = True

            def finish(self) -> None:
                with contextlib.suppress(OSError):
                    super().finish()

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    asked = Asked(len(server.asked) + 1, self.path, dict(self.headers.items()), body)
                    server.asked.append(asked)
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                try:
                    self._answer(asked, server._script(asked))
                finally:
                    with server._lock:
                        server._at_once -= 1

            def _answer(self, asked: Asked, answer: Answer) -> None:
                if answer.hang:
                    server._closing.wait(60)
                if answer.hang or answer.drop:
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body) + answer.missing))
                self.end_headers()
                self.wfile.write(answer.body)
                self.wfile.flush()
                self.close_connection = self.close_connection or answer.missing > 0
                with server._lock:
                    server.served.append((asked, answer))

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        return Handler


class _Listener(ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._open: set[socket.socket] = set()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self._open.add(connection)
        return connection, address

    def close_request(self, request: Any) -> None:
        self._open.discard(request)
        super().close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what some tests are about."""

    def end_connections(self) -> None:
        """Wakes the handlers that wait for a next request on a connection that is kept alive."""
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
