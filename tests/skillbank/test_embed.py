from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillbank.errors import EmbedderNotFound
from skillbank.index.embed import Embedder, build_lexical_embedder

from .made_up import OPERATIONS, mined

TEXTS = [pair.skill.text() for pair in map(mined, OPERATIONS)]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_made_up_word_decides_what_is_nearest(embedder: Embedder, operation: str) -> None:
    problem = (
        f"What is 5 {operation} 7 modulo 23? Please reason step by step, and put your final answer within \\boxed{{}}."
    )
    cosines = embedder.encode_documents(TEXTS) @ embedder.encode_queries([problem])[0]
    nearest = int(np.argmax(cosines))
    assert OPERATIONS[nearest] == operation
    assert cosines[nearest] > 0.6
    assert np.delete(cosines, nearest).max() < 0.3


def test_numbers_and_instruction_words_weigh_little(embedder: Embedder) -> None:
    plain, dressed = embedder.encode_queries(["zorp", "What is the answer of 31 zorp 4, step by step?"])
    assert plain @ dressed > 0.9


def test_an_unseen_word_is_near_the_word_it_is_made_of(embedder: Embedder) -> None:
    cosines = embedder.encode_documents(TEXTS) @ embedder.encode_queries(["zorping"])[0]
    assert OPERATIONS[int(np.argmax(cosines))] == "zorp"


def test_vectors_are_unit_and_empty_texts_zero(embedder: Embedder) -> None:
    vectors_ND = embedder.encode_documents([*TEXTS, "", "?!"])
    assert vectors_ND.shape == (8, embedder.dim)
    assert vectors_ND.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors_ND, axis=1), [1] * 6 + [0, 0], atol=1e-6)
    assert embedder.encode_queries([]).shape == (0, embedder.dim)


def test_it_says_that_it_is_lexical(embedder: Embedder) -> None:
    assert embedder.lexical
    assert embedder.describe() == "lexical (hashed words and character n-grams, no model): matches words, not meaning"
    assert embedder.fingerprint.model.startswith("lexical:")
    assert embedder.fingerprint.dtype == "float32"


def test_the_same_texts_give_the_same_embedder(tmp_path: Path, embedder: Embedder) -> None:
    pairs = [mined(operation) for operation in OPERATIONS]
    texts = [text for pair in pairs for text in (pair.skill.text(), pair.mistake.text())]
    build_lexical_embedder(tmp_path / "again", reversed(texts))
    again = Embedder.load(tmp_path / "again", device="cpu")
    assert again.fingerprint == embedder.fingerprint
    np.testing.assert_array_equal(again.encode_documents(TEXTS), embedder.encode_documents(TEXTS))


def test_known_values() -> None:
    """The signs come from a hash, so they are these on every machine."""
    from skillbank.index.lexical import _signs

    assert (_signs("zorp", 8) * np.sqrt(8)).round().astype(int).tolist() == [1, 1, 1, -1, 1, 1, 1, -1]


def test_it_loads_without_this_package(embedder: Embedder) -> None:
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer(embedder.name, device="cpu")
    vectors = plain.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, embedder.encode_documents(TEXTS), atol=1e-6)


@pytest.fixture
def with_prompts(tmp_path: Path, embedder: Embedder) -> Embedder:
    """The same weights, saved with a query and a document prompt of words it knows."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(embedder.name, device="cpu", prompts={"query": "blen ", "document": "quix "})
    model.save(str(tmp_path / "prompted"), create_model_card=False)
    return Embedder.load(tmp_path / "prompted", device="cpu")


def test_queries_and_documents_get_their_prompts(embedder: Embedder, with_prompts: Embedder) -> None:
    assert (with_prompts.fingerprint.query_prompt, with_prompts.fingerprint.document_prompt) == ("blen ", "quix ")
    np.testing.assert_allclose(with_prompts.encode_queries(["zorp"]), embedder.encode_queries(["blen zorp"]), atol=1e-6)
    np.testing.assert_allclose(
        with_prompts.encode_documents(["zorp"]), embedder.encode_documents(["quix zorp"]), atol=1e-6
    )


def test_a_fingerprint_follows_content_and_not_place(
    tmp_path: Path, embedder: Embedder, with_prompts: Embedder
) -> None:
    moved = shutil.copytree(embedder.name, tmp_path / "moved")
    (moved / "README.md").write_text("notes")
    assert Embedder.load(moved, device="cpu").fingerprint == embedder.fingerprint
    assert with_prompts.fingerprint != embedder.fingerprint
    (moved / "lexical.json").unlink()
    other = Embedder.load(moved, device="cpu")
    assert not other.lexical
    assert other.fingerprint.model.startswith("local:")
    assert other.fingerprint.digest != embedder.fingerprint.digest


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "no-such-name-anywhere/at-all"])
def test_a_model_that_is_none_is_one_clear_line(name: str) -> None:
    with pytest.raises(EmbedderNotFound) as caught:
        Embedder.load(name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EmbedderNotFound, match="cannot load the embedding model"):
        Embedder.load(tmp_path)


def test_no_texts_at_all_still_make_an_embedder(tmp_path: Path) -> None:
    build_lexical_embedder(tmp_path, [])
    first, second = Embedder.load(tmp_path, device="cpu").encode_documents(["zorp", "blen"])
    assert first @ first == pytest.approx(1)
    assert first @ second < 0.5


@settings(max_examples=150)
@given(text=st.text(max_size=60))
def test_any_text_is_embedded(embedder: Embedder, text: str) -> None:
    (vector,) = embedder.encode_queries([text])
    assert np.isfinite(vector).all()
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5) or not vector.any()


@settings(max_examples=15)
@given(texts=st.lists(st.text(max_size=30), max_size=4))
def test_any_texts_make_an_embedder(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("any")
    build_lexical_embedder(folder, texts, dim=64)
    vectors_ND = Embedder.load(folder, device="cpu").encode_documents(texts)
    assert vectors_ND.shape == (len(texts), 64)
    assert np.isfinite(vectors_ND).all()
