"""Texts into unit vectors, by any sentence-transformers model, and who made them.

Queries carry the model's query instruction where it has one, documents its document prompt. Vectors of different models
must never meet in one index; the `Fingerprint` is what tells them apart.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field

from skillbank.errors import EmbedderNotFound
from skillbank.index.lexical import DESCRIPTION, MARKER_FILE, build_lexical_embedder
from skillbank.records import Mistake, Record, Skill

if TYPE_CHECKING:
    import numpy as np
    from sentence_transformers import SentenceTransformer

__all__ = ["Embedder", "Fingerprint", "build_lexical_embedder"]

# transformers imports it where it is installed; on a CPU it then says of a faster kernel that it is not there.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

BATCH_SIZE = 64


def template_hash() -> str:
    """Changes when skills or mistakes are put into words otherwise: their old vectors are foreign then."""
    skill = Skill(title="title", principle="principle", when_to_apply="when")
    mistake = Mistake(description="description", why_it_happens="why", how_to_avoid="how")
    return hashlib.sha256(f"{skill.text()}\0{mistake.text()}".encode()).hexdigest()[:8]


class Fingerprint(Record):
    """All that decides a text's vector. Two embedders with equal fingerprints may share an index."""

    model: str
    """The name on the hub, or `local:` / `lexical:` and a hash of the folder's content, wherever the folder lies."""
    revision: str | None = None
    """The commit of a model from the hub."""
    pooling: str
    query_prompt: str = ""
    document_prompt: str = ""
    dim: int
    dtype: str
    template: str = Field(default_factory=template_hash)
    """Hash of how an entry becomes the text that is embedded."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def __str__(self) -> str:
        return f"{self.model} ({self.dim}-d {self.dtype}, {self.digest})"


class Embedder:
    """A sentence-transformers model with its fingerprint."""

    def __init__(self, model: SentenceTransformer, *, name: str, folder: Path | None = None) -> None:
        self.name = name
        """The name or path it was loaded by."""
        self.lexical = folder is not None and (folder / MARKER_FILE).is_file()
        """True when it matches words and not meaning."""
        self._model = model
        prompts: dict[str, str | None] = model.prompts
        documents = (prompts[key] for key in ("document", "passage", "corpus") if key in prompts)
        dim = model.get_embedding_dimension()
        if dim is None:
            raise EmbedderNotFound(f"{name} gives no single vector per text: name a text embedding model")
        self.fingerprint = Fingerprint(
            model=name if folder is None else f"{'lexical' if self.lexical else 'local'}:{folder_hash(folder)}",
            revision=_commit(model) if folder is None else None,
            pooling=_pooling(model),
            query_prompt=prompts.get("query") or "",
            document_prompt=next(documents, None) or "",
            dim=dim,
            dtype=str(next(model.parameters()).dtype).removeprefix("torch."),
        )

    @classmethod
    def load(cls, name_or_path: str | Path, *, device: str | None = None) -> Self:
        """Loads a model by its name on the hub or from a folder. Raises EmbedderNotFound."""
        name = os.fspath(name_or_path)
        folder = Path(name)
        local = folder.is_dir()
        if not local and (folder.is_absolute() or name.startswith((".", "~")) or folder.exists()):
            raise EmbedderNotFound(f"no embedding model at {name}: name a folder that SentenceTransformer saved")
        from sentence_transformers import SentenceTransformer

        try:
            model = SentenceTransformer(name, device=device)
        except (OSError, ValueError, KeyError, AttributeError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise EmbedderNotFound(
                f"cannot load the embedding model {name}: {reason[0]} "
                "(name a sentence-transformers model or a folder with one)"
            ) from error
        return cls(model, name=name, folder=folder if local else None)

    @property
    def dim(self) -> int:
        return self.fingerprint.dim

    def describe(self) -> str:
        """One line for people."""
        if self.lexical:
            return DESCRIPTION
        return f"{self.name} ({self.dim} dimensions)"

    def encode_documents(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Unit vectors of entries, float32 [n, dim]; a text without any known piece gives zeros."""
        return self._encode(self._model.encode_document, texts)

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Unit vectors of problems, float32 [n, dim]."""
        return self._encode(self._model.encode_query, texts)

    def _encode(self, encode: Any, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        import numpy as np

        if not texts:
            return np.zeros((0, self.dim), dtype=np.float32)
        vectors = encode(
            list(texts),
            batch_size=BATCH_SIZE,
            normalize_embeddings=True,
            convert_to_tensor=True,
            show_progress_bar=False,
        )
        # Normalised again in float32: a bf16 model's unit vectors are off by up to 0.4 %.
        vectors_ND = np.ascontiguousarray(vectors.float().cpu().numpy())
        norms_N1 = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        return np.asarray(vectors_ND / np.where(norms_N1 > 0, norms_N1, 1), dtype=np.float32)


def folder_hash(folder: Path) -> str:
    """Hash of the files that make a model, whatever the folder is called.

    Left out: documentation, and the file in which sentence-transformers writes its own version beside the prompts.
    """
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        relative = file.relative_to(folder)
        if any(part.startswith(".") for part in relative.parts) or file.suffix == ".md":
            continue
        if file.name == "config_sentence_transformers.json":
            continue
        digest.update(relative.as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]


def _commit(model: SentenceTransformer) -> str | None:
    """The hub commit of the transformer inside, when there is one."""
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    return getattr(config, "_commit_hash", None)


def _pooling(model: SentenceTransformer) -> str:
    modes = [str(mode) for module in model if (mode := getattr(module, "pooling_mode", None)) is not None]
    return "+".join(modes) or type(model[-1]).__name__
