"""A worker process that verifies one item at a time and may hang, crash or be killed without harm to the caller.

It is a plain subprocess that speaks JSON lines over pipes: no fork of a process that holds torch and its threads, no
`__main__` to import again, so it works the same under pytest, in a notebook and from the command line. It is started at
the first item that needs it, kept, and started again after a time-out or a crash.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from typing import IO, Any

from sgsd.errors import VerifierError
from sgsd.records import Verdict

START_LIMIT_S = 120.0
"""Imports of a user's module may be slow, on a cold disk above all. They do not count as verification."""


class WorkerProcess:
    """Parent's side of `python -m sgsd.verify.worker NAME`. Safe to call from several threads: items queue."""

    def __init__(self, name: str, timeout_s: float) -> None:
        self.name = name
        self.timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._stop: weakref.finalize[..., Any] | None = None
        self._buffer = b""
        self._lock = threading.RLock()

    def start(self) -> None:
        """Start the process if none runs, and wait until it is ready.

        Raises VerifierError when the verifier cannot be loaded there.
        """
        with self._lock:
            if self._process is not None:
                return
            self._buffer = b""
            self._process = subprocess.Popen(
                # -P keeps scripts of the current folder from shadowing modules; a user's module is looked for there.
                [sys.executable, "-P", "-m", "sgsd.verify.worker", self.name, str(self.timeout_s)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL if self.name == "math" else None,  # antlr prints every odd token there
                env={**os.environ, "PYTHONPATH": os.pathsep.join(_search_path(self.name))},
                start_new_session=True,  # Ctrl-C is the caller's to handle; the worker ends when its stdin closes
            )
            self._stop = weakref.finalize(self, _end, self._process)
            reply = self._read_line(START_LIMIT_S)
            if isinstance(reply, dict) and reply.get("ready"):
                return
            reason = reply["error"] if isinstance(reply, dict) else f"verifier {self.name!r} did not start: {reply}"
            self.close()
            raise VerifierError(reason)

    def ask(self, request: Mapping[str, Any], *, answer: str | None = None) -> Verdict:
        """One item. `answer` goes into the verdict when the worker dies. Raises VerifierError on misuse only."""
        with self._lock:
            self.start()
            assert self._process is not None
            try:
                _stream(self._process.stdin).write(json.dumps(request).encode() + b"\n")
                _stream(self._process.stdin).flush()
                reply = self._read_line(self.timeout_s)
            except BrokenPipeError:
                reply = _obituary(self._process)
            if isinstance(reply, str):
                self.close()
                return Verdict("unverifiable", answer, reply)
            if "error" in reply:
                raise VerifierError(reply["error"])
            return Verdict(**reply)

    def _read_line(self, limit_s: float) -> dict[str, Any] | str:
        """The next reply, or in words why there is none."""
        assert self._process is not None
        stdout = _stream(self._process.stdout)
        deadline = time.monotonic() + limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return f"no verdict within {limit_s:g} s"
                chunk = os.read(stdout.fileno(), 65_536)
                if not chunk:
                    return _obituary(self._process)
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return dict(json.loads(line))

    def close(self) -> None:
        """End the process, if one runs."""
        with self._lock:
            if self._stop is not None:
                self._stop()
            self._process, self._stop = None, None


def _search_path(name: str) -> list[str]:
    here = [] if name == "math" else [os.getcwd()]
    return [*dict.fromkeys([*here, *(path for path in sys.path if path)])]


def _stream(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # every pipe is asked for in Popen
    return pipe


def _obituary(process: subprocess.Popen[bytes]) -> str:
    code = process.wait()
    if code < 0:
        return f"the verifier's process was killed by {signal.Signals(-code).name}"
    return f"the verifier's process ended with exit code {code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    _stream(process.stdout).close()
    with contextlib.suppress(BrokenPipeError):  # closing flushes what a dead worker never read
        _stream(process.stdin).close()
