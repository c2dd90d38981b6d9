"""An embedder that needs no model: hashed words and character n-grams, as a plain StaticEmbedding.

A text's vector is the sum of its words' vectors. A word's vector is a fixed pseudo-random sign vector of the word, plus
those of its character n-grams (so that `zorps` is near `zorp`), times how rare the word is in the bank. Signs come from
a hash of the letters: the same texts give the same embedder on every machine. It matches words, not meaning.
"""

from __future__ import annotations

import hashlib
import json
import math
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

DESCRIPTION = "lexical (hashed words and character n-grams, no model): matches words, not meaning"
MARKER_FILE = "lexical.json"
"""Beside the model's own files; its presence says that the embedder is lexical."""
DIM = 1024
MAX_WORDS = 50_000
MAX_PIECES = 4_000
NGRAM_LENGTHS = (3, 4, 5)
"""Of the n-grams in a word's vector."""
PIECE_LENGTHS = (2, 3, 4, 5)
"""Of the pieces that unseen words are read by."""
START = "▁"
"""Begins every word, so that the n-grams of its beginning differ from those inside words."""
UNKNOWN = "<unk>"
NGRAM_SHARE = 0.35
"""Length of the n-grams' part of a word's vector, against 1 for the word itself."""
UNSEEN_SHARE = 0.35
"""Weight of a piece of a word that the bank does not have, against 1 for the rarest word that it has."""
FAINT = 0.05
"""Weight of stop words, instruction words, digits and ASCII symbols, against 1 for the rarest word."""

# What problems and instructions say whatever they are about.
_STOP_WORDS = """
a about after again all also although am an and any are as at be been because before being both but by can could did
do does doing don done during each either else for from get had has have having he her here his how i if in into is
it its itself just let like may me might more most must my no not now of off on once one only or other our out over
own per s same she should since so some such t than that the their them then there these they this those though
through to too under until up upon us very was we were what when where whether which while who whom whose why will
with would yet you your yours
answer apply ask asked assume attempt attempts box boxed calculate carefully compute correct determine evaluate
every exactly final find first follow following form give given gives instead instruct kind line mention mentions
mistake need please problem problems put query question reason required respectively result right second share show
simplify skill solution solve step steps suppose task tell think use using value within write wrong
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())


def build_lexical_embedder(folder: str | Path, texts: Iterable[str], *, dim: int = DIM) -> None:
    """Writes a SentenceTransformer folder whose vocabulary is the words of `texts`.

    Give it all the texts of the bank, and the problems where they are at hand: words that occur in most texts weigh
    little. Words that come later are read in pieces. The folder loads with `SentenceTransformer(folder)` anywhere.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    folder = Path(folder)
    splitter = _tokenizer({}, [])
    frequency: Counter[str] = Counter()
    documents = 0
    for text in texts:
        documents += 1
        frequency.update(set(_words(splitter, text)))
    words = sorted(frequency, key=lambda word: (-frequency[word], word))[:MAX_WORDS]
    known = set(words)
    words += sorted(word for word in (f"{START}{word}" for word in STOP_WORDS) if word not in known)
    known.update(words)
    pieces = [piece for piece in _pieces(words) if piece not in known]
    weights = [_word_weight(word, frequency.get(word, 0), documents) for word in words]
    matrix = _matrix(words, weights, pieces, UNSEEN_SHARE * (math.log(documents + 1) or 1.0), dim)
    vocabulary = {token: row for row, token in enumerate([UNKNOWN, *words, *pieces])}
    static = StaticEmbedding(_tokenizer(vocabulary, _merges(pieces)), embedding_weights=matrix)
    model = SentenceTransformer(modules=[static], device="cpu")
    folder.mkdir(parents=True, exist_ok=True)
    model.save(str(folder), create_model_card=False)
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)  # safetensors keeps others out, who may read the rest of the bank
    marker = {"kind": "hashed words and character n-grams", "dim": dim, "words": len(words), "pieces": len(pieces)}
    (folder / MARKER_FILE).write_text(json.dumps(marker) + "\n", encoding="utf-8")


def _tokenizer(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """Lower-cased words that begin with `▁`; digits, symbols and ideographs one by one; no punctuation.

    A word of the vocabulary is taken whole (`ignore_merges`), any other is put together from pieces.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    unknown = UNKNOWN if vocabulary else None
    tokenizer = Tokenizer(models.BPE(dict(vocabulary), list(merges), unk_token=unknown, ignore_merges=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    # Only matches of some length: empty ones (lookarounds) make tokenizers 0.23 panic.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"[^\p{L}\p{M}\p{N}\p{S}]+"), behavior="removed"),
            pre_tokenizers.Split(Regex(r"[\p{N}\p{S}\p{Han}]"), behavior="isolated"),
            pre_tokenizers.Metaspace(START, prepend_scheme="always"),
        ]
    )
    return tokenizer


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of a text as the tokenizer sees them."""
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text))]


def _ngrams(word: str, lengths: Iterable[int] = NGRAM_LENGTHS) -> list[str]:
    return [word[i : i + n] for n in lengths for i in range(len(word) - n + 1)]


def _pieces(words: Sequence[str]) -> list[str]:
    """What unseen words are read by: every letter, and the n-grams that most words share, short ones first."""
    counts = Counter(ngram for word in words for ngram in _ngrams(word, PIECE_LENGTHS))
    common = sorted(counts, key=lambda ngram: (-counts[ngram], ngram))[:MAX_PIECES]
    letters = sorted({letter for word in words for letter in word} | set(f"{START}{string.ascii_lowercase}"))
    return [*letters, *sorted(common, key=lambda ngram: (len(ngram), -counts[ngram], ngram))]


def _merges(pieces: Sequence[str]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others."""
    known = set(pieces)
    splits = ((piece[:i], piece[i:]) for piece in pieces for i in range(1, len(piece)))
    return [(left, right) for left, right in splits if left in known and right in known]


def _word_weight(word: str, frequency: int, documents: int) -> float:
    """log((N + 1) / n) for a word in n of N texts, faint for what every problem says."""
    rarest = math.log(documents + 1) or 1.0
    bare = word.removeprefix(START)
    if bare in STOP_WORDS or bare.isnumeric() or (len(bare) == 1 and bare.isascii() and not bare.isalpha()):
        return FAINT * rarest
    return max(math.log((documents + 1) / max(frequency, 1)), FAINT * rarest)


def _matrix(
    words: Sequence[str], weights: Sequence[float], pieces: Sequence[str], piece_weight: float, dim: int
) -> np.ndarray[Any, Any]:
    """Rows of the embedding table, float32 [1 + words + pieces, dim]; row 0, the unknown, is zero."""
    import numpy as np

    table = np.zeros((1 + len(words) + len(pieces), dim), dtype=np.float32)
    for row, (word, weight) in enumerate(zip(words, weights, strict=True), start=1):
        table[row] = _signs(word, dim)
        ngrams = _ngrams(word)
        if ngrams:
            parts = np.sum([_signs(ngram, dim) for ngram in ngrams], axis=0)
            table[row] += NGRAM_SHARE * parts / np.linalg.norm(parts)
        table[row] *= weight / np.linalg.norm(table[row])
    for row, piece in enumerate(pieces, start=1 + len(words)):
        share = 0.0 if piece == START else 0.5 if len(piece) < NGRAM_LENGTHS[0] else 1.0
        table[row] = piece_weight * share * _signs(piece, dim)
    return table


def _signs(piece: str, dim: int) -> np.ndarray[Any, Any]:
    """A unit vector of +-1/sqrt(dim), read off a hash of the piece: float32 [dim]."""
    import numpy as np

    bits = np.frombuffer(hashlib.shake_256(piece.encode()).digest(dim // 8), dtype=np.uint8)
    return (np.unpackbits(bits).astype(np.float32) * 2 - 1) / np.float32(math.sqrt(dim))
