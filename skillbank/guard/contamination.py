"""The rules against evaluation problems: an entry that holds one, or that was mined from one, would teach to the test.

Three signs, from sure to likely: the source problem is one of the registered problems (its hash); thirteen words in a
row are the same (a shorter problem: all its words); the embedder puts it nearer than unrelated problems come. The
registry itself is `evaluations.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from skillbank.guard.context import Content, Context
from skillbank.guard.text import plain
from skillbank.records import Flag, problem_hash

GRAM_WORDS = 13
"""The length at which shared words are no accident (the one that GPT-3's and later reports on contamination use)."""
MIN_WORDS = 6
"""A problem of fewer words ("Compute 2 + 2.") is told by its hash alone: its words would stand in many entries."""
MIN_TELLING = 3
"""So many of the shared words must not be those that any exam question is phrased with ("can be written in the form m/n
where m and n are relatively prime positive integers"). Without it 599 of 17,917 training problems share words with AIME
2024, AMC 2023 and HMMT 2025; with it 43, which are 28 of those very problems."""
_EXAM_WORDS = frozenset(
    word
    for line in (
        "a an the of and or in is are be by can as with for to at on that such this its it so if then when where which",
        "how find compute determine evaluate calculate what value answer sum written expressed form number numbers",
        "integer integers positive negative real relatively prime primes coprime pairwise divided divisible remainder",
        "square any not no all each least greatest smallest largest possible maximum minimum let given suppose there",
        "satisfying exist many express your simplest lowest terms respectively frac sqrt has have",
        "m n p q r s k b c d x y z i 1 2 3 4 100 1000",
    )
    for word in line.split()
)
_WORD = re.compile(r"[^\W_]+")
_COMMANDS = re.compile(r"\\(?:left|right|displaystyle|dfrac|tfrac|frac|mathrm|text|mathbf|quad|,|;|!| )")


class EvaluationProblem(NamedTuple):
    """A problem of the registry."""

    file: str
    """The file's name, without folders."""
    number: int
    """From 1."""
    problem: str
    answer: str | None
    sha256: str
    """Of the file."""

    def __str__(self) -> str:
        return f"problem {self.number} of {self.file}"


def words_of(text: str) -> list[str]:
    """The words and numbers of a text, however it is spaced, cased, punctuated or typeset."""
    return _WORD.findall(_COMMANDS.sub(" ", plain(text)))


class EvaluationIndex:
    """The registered problems, ready to be looked for in texts."""

    def __init__(self, problems: Iterable[EvaluationProblem]) -> None:
        self.problems = list(problems)
        self.hashes = {problem_hash(problem.problem): problem for problem in reversed(self.problems)}
        self._grams: dict[tuple[str, ...], EvaluationProblem] = {}
        self._lengths: set[int] = set()
        for problem in self.problems:
            words = words_of(problem.problem)
            size = min(GRAM_WORDS, len(words))
            if size < MIN_WORDS:
                continue
            self._lengths.add(size)
            for n in range(len(words) - size + 1):
                gram = tuple(words[n : n + size])
                if sum(word not in _EXAM_WORDS for word in gram) >= MIN_TELLING:
                    self._grams.setdefault(gram, problem)

    def shared(self, text: str) -> Iterator[tuple[EvaluationProblem, str]]:
        """(problem, shared words) for each registered problem that has words in a row in common with a text."""
        words = words_of(text)
        seen: set[EvaluationProblem] = set()
        for size in sorted(self._lengths, reverse=True):
            for n in range(len(words) - size + 1):
                gram = tuple(words[n : n + size])
                problem = self._grams.get(gram)
                if problem is not None and problem not in seen:
                    seen.add(problem)
                    yield problem, " ".join(gram)


def evaluation(content: Content, context: Context) -> Iterator[Flag]:
    """Words of a registered evaluation problem in the entry or in a problem that it was mined from."""
    index = context.evaluations
    if index is None:
        return
    flagged = set()
    for source in context.sources:
        text_hash = None if source.problem is None else problem_hash(source.problem)
        problem = index.hashes.get(source.problem_id) or index.hashes.get(text_hash or "")
        if problem is not None:
            flagged.add(problem)
            yield Flag(rule="evaluation", reason=f"mined from an evaluation problem: {problem}")
    texts = [("the entry", context.text)]
    texts += [(f"its problem {source.problem_id}", source.problem) for source in context.sources if source.problem]
    for what, text in texts:
        for problem, words in index.shared(text):
            if problem not in flagged:
                flagged.add(problem)
                shown = words if len(words) <= 60 else f"{words[:59]}…"
                yield Flag(rule="evaluation", reason=f"{what} shares words with {problem}: '{shown}'")


def evaluation_near(content: Content, context: Context) -> Iterator[Flag]:
    """An evaluation problem so near, by the embedder, as unrelated problems never are."""
    for near in context.neighbours:
        reason = f"{near.what} is near an evaluation problem: {near.problem} (cosine {near.cosine:.2f})"
        yield Flag(rule="evaluation_near", reason=reason)
