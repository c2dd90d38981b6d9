from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from skillbank.errors import BankCorrupt, EmbedderNotFound, ForeignFingerprint
from skillbank.index import VectorIndex
from skillbank.index.embed import Embedder, build_lexical_embedder
from skillbank.index.vectors import adopt, bank_embedder, check_fingerprint, embed_missing, load_vectors
from skillbank.records import Skill
from skillbank.store import Bank

from .made_up import mined

QUERIES = ["What is 5 zorp 7?", "2 blen 3", "drell of skorn", "the sum of both"]


@pytest.fixture
def adopted(bank: Bank, embedder: Embedder) -> Bank:
    """The bank with the session's embedder as its own."""
    adopt(bank, embedder.name, device="cpu")
    return bank


def results(bank: Bank, embedder: Embedder) -> list[tuple[object, ...]]:
    index = VectorIndex.open(bank, embedder)
    queries_ND = embedder.encode_queries(QUERIES)
    found = [index.search(kind, queries_ND, 4) for kind in ("skill", "mistake")]
    return [(cosines_ND.tolist(), ids_ND.tolist()) for cosines_ND, ids_ND in found]


def test_faiss_equals_brute_force(tmp_path: Path, embedder: Embedder) -> None:
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefgh"), 5)) for _ in range(60)]
    with Bank.create(tmp_path / "bank") as bank:
        bank.add_mined([mined(" ".join(rng.choice(words, 3))) for _ in range(200)], actor="miner")
        adopt(bank, embedder.name, device="cpu")
        index = VectorIndex.open(bank, embedder)
        queries_ND = embedder.encode_queries(
            [" ".join(rng.choice(words, 4)) for _ in range(40)]
        )  # above the BLAS switch
        for kind in ("skill", "mistake"):
            ids_N, vectors_ND = load_vectors(bank, embedder.fingerprint, kind)
            texts = [e.content.text() for e in bank.entries(ids=ids_N.tolist()) if not hasattr(e.content, "skill_id")]
            np.testing.assert_allclose(vectors_ND, embedder.encode_documents(texts), atol=1e-6)
            exact_QN = queries_ND @ vectors_ND.T
            order_QN = np.argsort(-exact_QN, axis=1, kind="stable")[:, :10]
            for queries in (slice(None), slice(3, 4)):  # in a batch and alone
                cosines_QD, ids_QD = index.search(kind, queries_ND[queries], 10)
                expected = np.take_along_axis(exact_QN, order_QN, axis=1)[queries]
                np.testing.assert_allclose(cosines_QD, expected, atol=1e-5)
                clear = np.diff(-expected, axis=1, prepend=-2, append=2).min(axis=1) > 1e-5  # no ties
                np.testing.assert_array_equal(ids_QD[clear], ids_N[order_QN[queries]][clear])


def test_depth_is_bounded_by_what_there_is(adopted: Bank, embedder: Embedder) -> None:
    index = VectorIndex.open(adopted, embedder)
    cosines_ND, ids_ND = index.search("skill", embedder.encode_queries(QUERIES), 99)
    assert cosines_ND.shape == ids_ND.shape == (4, 6)
    assert sorted(ids_ND[0].tolist()) == [1, 4, 7, 10, 13, 16]
    assert index.search("skill", embedder.encode_queries([]), 3)[1].shape == (0, 3)


@pytest.mark.parametrize(
    "damage", ["delete", "truncate", "garbage", "manifest", "pointer", "pointer to nowhere", "one file"]
)
def test_a_lost_or_damaged_index_is_built_again_with_the_same_results(
    adopted: Bank, embedder: Embedder, damage: str
) -> None:
    before = results(adopted, embedder)
    root = adopted.path / "index"
    generation = root / "gen-1"
    assert (root / "CURRENT").read_text() == "gen-1\n"
    file = generation / "skill.faiss"
    match damage:
        case "delete":
            shutil.rmtree(root)
        case "truncate":
            file.write_bytes(file.read_bytes()[:100])
        case "garbage":
            file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\1")
        case "manifest":
            (generation / "manifest.json").write_text("{")
        case "pointer":
            (root / "CURRENT").write_bytes(b"\xff\xfe")
        case "pointer to nowhere":
            (root / "CURRENT").write_text("gen-77\n")
        case "one file":
            file.unlink()
    assert results(adopted, embedder) == before
    current = (root / "CURRENT").read_text().strip()
    assert [path.name for path in root.glob("*")] in (["CURRENT", current], [current, "CURRENT"])  # the old one is gone


def test_an_index_that_fits_is_not_built_again(
    adopted: Bank, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = results(adopted, embedder)
    monkeypatch.setattr("skillbank.index.bank_index.load_vectors", None)  # building would call it
    assert results(adopted, embedder) == before


def test_a_manifest_tells_what_it_was_built_from(adopted: Bank, embedder: Embedder) -> None:
    VectorIndex.open(adopted, embedder)
    manifest = json.loads((adopted.path / "index" / "gen-1" / "manifest.json").read_text())
    assert manifest["revision"] == 1
    assert manifest["counts"] == {"skill": 6, "mistake": 6}
    assert manifest["fingerprint"] == embedder.fingerprint.model_dump()
    assert sorted(manifest["checksum"]) == ["mistake.faiss", "skill.faiss"]


def test_a_change_of_the_bank_makes_a_new_generation(adopted: Bank, embedder: Embedder) -> None:
    VectorIndex.open(adopted, embedder)
    with adopted.change(actor="me") as change:
        change.set_status([1], "disabled")
        change.edit(4, Skill(title="gnarl", principle="gnarl"))
    index = VectorIndex.open(adopted, embedder)
    _, ids_ND = index.search("skill", embedder.encode_queries(["gnarl"]), 9)
    assert ids_ND[0, 0] == 4
    assert sorted(ids_ND[0].tolist()) == [4, 7, 10, 13, 16]
    assert [path.name for path in (adopted.path / "index").glob("gen-*")] == ["gen-2"]


def test_only_new_words_are_embedded(adopted: Bank, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert embed_missing(adopted, embedder) == 12
    embedded: list[str] = []
    encode = embedder.encode_documents
    monkeypatch.setattr(embedder, "encode_documents", lambda texts: embedded.extend(texts) or encode(texts))
    assert embed_missing(adopted, embedder) == 0
    with adopted.change(actor="me") as change:
        change.edit(1, Skill(title="gnarl", principle="gnarl"))
    shutil.rmtree(adopted.path / "index", ignore_errors=True)
    VectorIndex.open(adopted, embedder)
    assert embedded == ["gnarl\ngnarl"]
    adopted.undo(actor="me")
    VectorIndex.open(adopted, embedder)
    assert embedded == ["gnarl\ngnarl"]  # the old words' vector was kept


def test_progress_counts_to_the_total(adopted: Bank, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skillbank.index.vectors.CHUNK", 5)
    seen: list[tuple[int, int]] = []
    embed_missing(adopted, embedder, lambda done, total: seen.append((done, total)))
    assert seen == [(5, 12), (10, 12), (12, 12)]


def test_another_banks_index_is_not_believed(adopted: Bank, embedder: Embedder, tmp_path: Path) -> None:
    VectorIndex.open(adopted, embedder)
    with Bank.create(tmp_path / "other") as other:
        other.add_mined([mined("blen")], actor="miner")
        adopt(other, embedder.name, device="cpu")
        shutil.copytree(adopted.path / "index", other.path / "index")
        assert VectorIndex.open(other, embedder).count("skill") == 1


def test_a_foreign_embedder_is_refused(adopted: Bank, embedder: Embedder, tmp_path: Path) -> None:
    build_lexical_embedder(tmp_path / "foreign", ["quite other words"])
    foreign = Embedder.load(tmp_path / "foreign", device="cpu")
    for refuse in (
        lambda: VectorIndex.open(adopted, foreign),
        lambda: check_fingerprint(adopted, foreign),
        lambda: bank_embedder(adopted, foreign.name, device="cpu"),
    ):
        with pytest.raises(ForeignFingerprint) as caught:
            refuse()
        message = str(caught.value)
        assert embedder.fingerprint.digest in message
        assert foreign.fingerprint.digest in message
        assert f"sgsd bank build --bank {adopted.path} --embedder {foreign.name}" in message
    assert bank_embedder(adopted, device="cpu").fingerprint == embedder.fingerprint
    adopt(adopted, foreign.name, device="cpu")  # what the command does
    assert VectorIndex.open(adopted, foreign).count("skill") == 6


def test_a_bank_without_an_embedder_gets_a_lexical_one(bank: Bank) -> None:
    own = bank_embedder(bank, problems=["What is 1 zorp 2?"], device="cpu")
    assert own.lexical
    assert bank.meta("embedder") == "embedder"
    moved = bank.path.with_name("moved")
    bank.close()
    bank.path.rename(moved)  # the name is relative to the bank
    with Bank.open(moved) as again:
        assert bank_embedder(again, device="cpu").fingerprint == own.fingerprint
        shutil.rmtree(moved / "embedder")
        with pytest.raises(EmbedderNotFound, match=r"the bank's embedder .* is gone: restore it"):
            bank_embedder(again, device="cpu")


def test_a_vector_of_the_wrong_length_is_damage(adopted: Bank, embedder: Embedder) -> None:
    embed_missing(adopted, embedder)
    adopted.db.run(
        "UPDATE vectors SET vector = x'00' WHERE content_hash = (SELECT content_hash FROM entries WHERE id = 1)"
    )
    with pytest.raises(BankCorrupt, match="the vector of entry 1"):
        VectorIndex.open(adopted, embedder)


def test_an_empty_bank_has_an_empty_index(tmp_path: Path, embedder: Embedder) -> None:
    with Bank.create(tmp_path / "bank") as bank:
        adopt(bank, embedder.name, device="cpu")
        index = VectorIndex.open(bank, embedder)
        assert index.search("skill", embedder.encode_queries(QUERIES), 3)[1].shape == (4, 0)
