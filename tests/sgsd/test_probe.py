"""`sgsd bank probe`: repairs and regressions counted by hand, problems of its own left out, kept and shown."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sgsd.cli import main
from sgsd.config import SamplingConfig
from sgsd.errors import DataInvalid
from sgsd.probe import guidance_of, not_its_own, probe_entry
from sgsd.prompts import Guidance, guided_user_text, render
from sgsd.records import Completion, Outcome, Problem, Verdict
from skillbank import curate
from skillbank.doctor import doctor
from skillbank.errors import EntryNotFound, SkillBankError
from skillbank.look.view import view_entry
from skillbank.records import ProblemText
from skillbank.store import Bank
from skillbank.store.probes import Probe, make_room, probes, record

from .training import make_bank, problems

Outcomes = Sequence[Outcome]


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank.open(make_bank(tmp_path / "bank")) as bank:
        yield bank


class Scripted:
    """Completions that name their prompt's number and whether a lesson stood in it."""

    def __init__(self, plain_tokens: int) -> None:
        self.plain_tokens = plain_tokens
        self.calls: list[tuple[list[tuple[int, ...]], int]] = []

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        self.calls.append(([tuple(prompt) for prompt in prompts], seed))
        which = "plain" if len(self.calls) == 2 else "guided"
        if on_progress is not None:
            on_progress(len(prompts))
        return [
            [Completion((3, 2), f"{which} {n} {draw}", False) for draw in range(sampling.n)]
            for n in range(len(prompts))
        ]


class ByScript:
    """The verdicts of the two arms, a row of draws a problem."""

    def __init__(self, plain: Sequence[Outcomes], guided: Sequence[Outcomes]) -> None:
        self.arms = {"plain": plain, "guided": guided}

    def verify_many(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        parts = [text.split() for text in completions]
        return [Verdict(self.arms[arm][int(n)][int(draw)]) for arm, n, draw in parts]

    def close(self) -> None: ...


def probed(
    tiny: Any, bank: Bank, plain: Sequence[Outcomes], guided: Sequence[Outcomes], entry_id: int = 3, **changes: Any
) -> tuple[Probe, Scripted]:
    generator = Scripted(0)
    found = probe_entry(
        bank,
        entry_id,
        generator,
        tiny.tokenizer(),
        changes.pop("problems", problems(len(plain))),
        ByScript(plain, guided),
        SamplingConfig(n=len(plain[0]), max_new_tokens=4, **changes),
        model="arena",
        data="made up",
        seed=7,
    )
    return found, generator


R, W, U = "correct", "wrong", "unverifiable"


def test_counts_by_hand(tiny: Any, bank: Bank) -> None:
    """Six problems: three repairs, one regression, one right both times, one that nobody could judge."""
    found, generator = probed(tiny, bank, [[W], [W], [W], [R], [R], [W]], [[R], [R], [R], [W], [R], [U]])
    assert (found.problems, found.pairs, found.unverifiable, found.draws) == (6, 5, 1, 1)
    assert (found.right_without, found.right_with) == (2, 4)
    assert (found.repairs, found.regressions) == (3, 1)
    assert found.difference == pytest.approx(2 / 5)
    # Bonett and Price (2012): one repair and one regression more, n + 2 problems.
    p, q, n = (3 + 1) / 7, (1 + 1) / 7, 7
    half = 1.959964 * math.sqrt((p + q - (p - q) ** 2) / n)
    assert (found.low, found.high) == (pytest.approx(p - q - half, abs=1e-6), pytest.approx(p - q + half, abs=1e-6))
    assert (found.repaired, found.regressed) == (("p0", "p1", "p2"), ("p3",))
    assert (found.own_problems, found.too_long, found.revision, found.seed) == (0, 0, bank.revision, 7)
    # The same problems and seed twice; the lesson as a teacher sees it, then the plain prompt.
    (guided, seed_with), (plain, seed_without) = generator.calls
    assert seed_with == seed_without == 7
    lesson = guidance_of(bank, 3)
    for problem, with_it, without in zip(problems(6), guided, plain, strict=True):
        assert with_it == tuple(render(tiny.tokenizer(), guided_user_text(problem.problem, [lesson])))
        assert without == tuple(render(tiny.tokenizer(), guided_user_text(problem.problem, [])))


def test_draws_of_one_problem_are_no_observations_of_their_own(tiny: Any, bank: Bank) -> None:
    """Two problems of three draws, all repaired: by draws there would be six observations."""
    found, _ = probed(tiny, bank, [[W, W, W], [W, W, W]], [[R, R, R], [R, R, R]], temperature=1.0)
    assert (found.pairs, found.repairs, found.difference) == (6, 6, 1.0)
    assert found.repaired == ("p0", "p1")
    alone, _ = probed(tiny, bank, [[W], [W]], [[R], [R]])
    assert (found.low, found.high) == (pytest.approx(alone.low), pytest.approx(alone.high))
    assert alone.low < 0.1


def test_problems_of_its_own_are_left_out_by_id_and_by_words(tiny: Any, bank: Bank) -> None:
    bank.record_problems([ProblemText(problem_id="m0", problem="What  is 1 + 0 + 1 ?")])
    given = [Problem("m0", "other words", "1"), *problems(3)]
    assert [p.problem_id for p in not_its_own(bank, 3, given)] == ["p0", "p2"]  # p1 is m0 in other spaces
    found, generator = probed(tiny, bank, [[W]] * 2, [[R]] * 2, problems=given)
    assert (found.problems, found.own_problems) == (2, 2)
    assert [len(prompts) for prompts, _ in generator.calls] == [2, 2]
    with pytest.raises(DataInvalid, match="entry 3 was mined from all of the 1 problems: give others"):
        probed(tiny, bank, [[W]], [[R]], problems=given[:1])
    with pytest.raises(DataInvalid, match="none of 1 pairs of draws has a verdict: look at the verifier"):
        probed(tiny, bank, [[W]], [[U]], problems=problems(1))


def test_a_problem_too_long_with_the_entry_is_drawn_in_neither_arm(tiny: Any, bank: Bank) -> None:
    given = problems(4)
    lengths = [len(render(tiny.tokenizer(), guided_user_text(p.problem, [guidance_of(bank, 3)]))) for p in given]
    found, generator = probed(tiny, bank, [[W]] * 4, [[W]] * 4, problems=given, max_prompt_tokens=max(lengths) - 1)
    assert (found.problems, found.too_long) == (3, 1)
    assert [len(prompts) for prompts, _ in generator.calls] == [3, 3]


def test_a_side_is_a_lesson_of_its_own(bank: Bank) -> None:
    skill, mistake = bank.get(1).content, bank.get(2).content
    assert guidance_of(bank, 1) == Guidance(skill, None)  # type: ignore[arg-type]
    assert guidance_of(bank, 2) == Guidance(None, mistake)  # type: ignore[arg-type]
    assert guidance_of(bank, 3) == Guidance(skill, mistake)  # type: ignore[arg-type]
    with pytest.raises(EntryNotFound):
        guidance_of(bank, 99)


# ---- kept in the bank ------------------------------------------------------------------------------------------------


def test_a_probe_is_kept_and_shown(tiny: Any, bank: Bank) -> None:
    assert view_entry(bank, 3).probes == ()
    revision = bank.revision
    first, _ = probed(tiny, bank, [[W], [R]], [[R], [R]])
    record(bank, first)
    second, _ = probed(tiny, bank, [[W], [R]], [[W], [W]])
    record(bank, second)
    view = view_entry(bank, 3)
    assert view.probes == (second, first)
    assert bank.revision == revision
    assert view.words == first.words
    assert probes(bank, 1) == []
    assert [finding.check for finding in doctor(bank.path).findings] == ["rollout"]  # of places made up: no more
    curate.edit(bank, 2, {"how_to_avoid": "otherwise"}, actor="ada")  # a side of the pair
    assert view_entry(bank, 3).words != first.words
    with pytest.raises(EntryNotFound):
        record(bank, first.model_copy(update={"entry_id": 99}))


def test_a_bank_that_cannot_be_written_says_so_before_anything_is_drawn(bank: Bank) -> None:
    make_room(bank)
    with Bank.open(bank.path, readonly=True) as readonly, pytest.raises(SkillBankError, match="readonly"):
        make_room(readonly)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank = make_bank(tmp_path / "bank")
    asked = ["bank", "probe", "3", "--bank", str(bank), "--data", "arena:easy", "--limit", "6", "--max-new-tokens", "4"]
    assert main([*asked, "--json"]) == 0
    said = Probe.model_validate(json.loads(capsys.readouterr().out))
    assert (said.problems, said.pairs + said.unverifiable, said.data) == (6, 6, "arena:easy, train")
    assert main(asked) == 0
    out = capsys.readouterr().out
    assert "pair 3 with arena on 6 problems of arena:easy, train, 1 draw each way" in out
    assert "repairs, " in out or "repair, " in out
    with Bank.open(bank, readonly=True) as opened:
        assert [one.model_copy(update={"at": said.at}) for one in probes(opened, 3)] == [said, said]
    assert main(["bank", "show", "3", "--bank", str(bank)]) == 0
    assert "probed 20" in capsys.readouterr().out
    assert main([*asked[:2], "99", *asked[3:]]) == 1
    assert "99" in capsys.readouterr().err
