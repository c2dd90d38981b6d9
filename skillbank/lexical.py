"""An embedder that needs no model: hashed words and character n-grams, as a plain StaticEmbedding.

A text's vector is the sum of its words' vectors. A word's vector is a fixed pseudo-random sign vector of the word, plus
those of its character n-grams (so that `zorps` is near `zorp`), times how rare the word is in the bank. Signs come from
a hash of the letters: the same texts give the same embedder on every machine. It matches words, not meaning.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

DESCRIPTION = "lexical (hashed words and character n-grams, no model): matches words, not meaning"
MARKER_FILE = "lexical.json"
"""Beside the model's own files; its presence says that the embedder is lexical."""
DIM = 512
MAX_WORDS = 50_000
MAX_NGRAMS = 20_000
NGRAM_LENGTHS = (3, 4, 5)
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
    splitter = _tokenizer([("<unk>", 0.0)])
    frequency: Counter[str] = Counter()
    documents = 0
    for text in texts:
        documents += 1
        frequency.update(set(_words(splitter, text)))
    words = sorted(frequency, key=lambda word: (-frequency[word], word))[:MAX_WORDS]
    known = set(words)
    words += sorted(word for word in (_marked(word) for word in STOP_WORDS) if word not in known)
    ngrams = _fallback_ngrams(words)
    letters = sorted(
        {letter for word in words for letter in word} | set(_marked("abcdefghijklmnopqrstuvwxyz0123456789"))
    )
    pieces = [piece for piece in (*ngrams, *letters) if piece not in known]
    rarest = math.log(documents + 1)
    weights = [_word_weight(word, frequency.get(word, 0), documents) for word in words]
    matrix = _matrix(words, weights, pieces, rarest * UNSEEN_SHARE or UNSEEN_SHARE, dim)
    # Costs for the segmentation with the fewest pieces; a whole word always wins.
    scores = [("<unk>", 0.0), *((word, -1.0) for word in words), *((piece, -10.0) for piece in pieces)]
    model = SentenceTransformer(modules=[StaticEmbedding(_tokenizer(scores), embedding_weights=matrix)], device="cpu")
    folder.mkdir(parents=True, exist_ok=True)
    model.save(str(folder), create_model_card=False)
    marker = {"kind": "hashed words and character n-grams", "dim": dim, "words": len(words), "pieces": len(pieces)}
    (folder / MARKER_FILE).write_text(json.dumps(marker) + "\n", encoding="utf-8")


def _tokenizer(scores: Sequence[tuple[str, float]]) -> Tokenizer:
    """Lower-cased words between markers (`▁zorp▂`); digits, symbols and ideographs one by one; no punctuation.

    A Unigram model takes a known word whole, as only a whole word has both markers, and cuts any other into pieces.
    """
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    alone = r"[\p{N}\p{S}\p{Han}]"
    tokenizer = Tokenizer(models.Unigram(list(scores), unk_id=0))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\p{L}\p{M}\p{N}\p{S}]+"), " "),
            normalizers.Replace(Regex(f"(?={alone})"), " "),
            normalizers.Replace(Regex(f"(?<={alone})"), " "),
            normalizers.Strip(),
            normalizers.Replace(Regex(" +"), "▂ ▁"),
            normalizers.Prepend("▁"),
            normalizers.Replace(Regex(r"\z"), "▂"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def _words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words of a text as the tokenizer sees them, markers included."""
    return str(tokenizer.normalizer.normalize_str(text)).split()


def _marked(word: str) -> str:
    return f"▁{word}▂"


def _ngrams(word: str) -> list[str]:
    return [word[i : i + n] for n in NGRAM_LENGTHS for i in range(len(word) - n + 1) if n < len(word)]


def _fallback_ngrams(words: Sequence[str]) -> list[str]:
    """The n-grams that most words share, to read unseen words by."""
    counts = Counter(ngram for word in words for ngram in _ngrams(word))
    return sorted(counts, key=lambda ngram: (-counts[ngram], ngram))[:MAX_NGRAMS]


def _word_weight(word: str, frequency: int, documents: int) -> float:
    """log((N + 1) / n) for a word in n of N texts, faint for what every problem says."""
    rarest = math.log(documents + 1) or 1.0
    bare = word[1:-1]
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
        letters = len(piece.strip("▁▂"))
        share = 1.0 if len(piece) > 1 else 0.5 if letters else 0.0
        table[row] = piece_weight * share * _signs(piece, dim)
    return table


def _signs(piece: str, dim: int) -> np.ndarray[Any, Any]:
    """A unit vector of +-1/sqrt(dim), read off a hash of the piece: float32 [dim]."""
    import numpy as np

    bits = np.frombuffer(hashlib.shake_256(piece.encode()).digest(dim // 8), dtype=np.uint8)
    return (np.unpackbits(bits).astype(np.float32) * 2 - 1) / np.float32(math.sqrt(dim))
