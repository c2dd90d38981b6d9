"""vLLM lives in an environment of its own: its interpreter, and its server over the arena's model."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sgsd.models import ARENA_BASE

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process: up in seconds, and nothing is left behind
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
START_S = 300
"""Half a minute on an idle machine."""


@pytest.fixture(scope="session")
def vllm_python(root: Path) -> Path:
    """The interpreter that has vLLM; SGSD_VLLM=required, as CI sets it, fails without one where others are skipped."""
    home = root / ".venv-vllm"
    if not (home / ".sgsd-installed").exists():
        refuse = pytest.fail if os.environ.get("SGSD_VLLM") == "required" else pytest.skip
        refuse(f"no vLLM in {home.name}: run `make install-vllm`")
    return home / "bin" / "python"


def environment(work: Path) -> dict[str, str]:
    """vLLM keeps its caches in the home folder: a test leaves nothing there."""
    return os.environ | SETTINGS | {"VLLM_CACHE_ROOT": str(work / "cache"), "VLLM_CONFIG_ROOT": str(work / "config")}


@pytest.fixture(scope="session")
def vllm_server(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of vLLM's OpenAI server, where the arena's base is called `arena`. Ended with all its children."""
    work = tmp_path_factory.mktemp("vllm-server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        "model": str(ARENA_BASE),
        "served-model-name": "arena",
        "dtype": "float32",
        # the arena's tokens are short: our prompts are longer than the problems that the model knows
        "max-model-len": "4096",
        "hf-overrides": json.dumps({"max_position_embeddings": 4096}),
        # without it a model that knows no JSON fills its replies with line breaks, which the schema allows anywhere
        "structured-outputs-config": json.dumps({"backend": "xgrammar", "disable_any_whitespace": True}),
        "gpu-memory-utilization": "0.3",
        "host": "127.0.0.1",
        "port": str(port),
    }
    command = [str(vllm_python), "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    # a seeded request whose prompt is cut in two ends the CPU build's engine: its generators cannot be rewound
    command += ["--no-enable-chunked-prefill", "--max-num-batched-tokens", "4096"]
    for name, value in options.items():
        command += [f"--{name}", value]
    log = work / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=work, env=environment(work), stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        _end(process)


def _wait(health: str, process: subprocess.Popen[bytes], log: Path) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(START_S):
        if process.poll() is not None:
            pytest.fail(f"vLLM's server ended with {process.returncode}:\n{log.read_text(errors='replace')[-3000:]}")
        try:
            with direct.open(health, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    pytest.fail(f"vLLM's server is not up after {START_S} s:\n{log.read_text(errors='replace')[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process group: the engine is a child of the server's."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            continue
    process.wait()
