"""The model organism behaves as base models do in this method, and its task family is what it says."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from sgsd.arena.corpus import KNOWN, all_right_lessons, decoy, draw_drill, draw_example, lesson, prior
from sgsd.arena.entries import hit_share, plant
from sgsd.arena.model import base_path
from sgsd.arena.probe import accuracy
from sgsd.arena.tasks import (
    CHAIN_LENGTH,
    OPERATIONS,
    RULES,
    TRUE_RULE,
    Chain,
    draw_chain,
    load_problems,
    rule_line,
    solve,
    split_of,
    true_rules,
)
from sgsd.config import ModelConfig, VerifierConfig
from sgsd.errors import DataInvalid
from sgsd.generate.transformers import TransformersGenerator
from sgsd.models import load_student
from sgsd.objectives.gated import GatedSettings, gate_slope
from sgsd.prompts import Guidance, guided_user_text, plain_user_text, render
from sgsd.score import ScoreRow, completion_mask, score
from sgsd.verify import load_verifier
from skillbank.building import build_bank
from skillbank.retrieve import open_retriever
from skillbank.store import Bank, Query

LEVELS = tuple(CHAIN_LENGTH)


@pytest.fixture(scope="module")
def base() -> TransformersGenerator:
    model, tokenizer = load_student(ModelConfig(name_or_path="arena", dtype="float32"), device="cpu")
    return TransformersGenerator(model, tokenizer)


def chains(level: str, count: int, seed: int = 0) -> list[Chain]:
    rng = random.Random(seed)
    return [draw_chain(rng, CHAIN_LENGTH[level], "validation") for _ in range(count)]  # type: ignore[index]


# The tasks


def test_a_chain_applies_its_rules_from_right_to_left() -> None:
    chain = Chain("527", ("zorp", "blick"))
    assert chain.text() == "What is blick of zorp of 527?"
    assert true_rules(chain) == ["triple", "rotate"]
    text, result = solve(chain, true_rules(chain))
    assert text == "zorp means triple\n527 becomes 561\nblick means rotate\n561 becomes 615\n\\boxed{615}"
    assert result == "615"


@pytest.mark.parametrize(
    ("rule", "result"),
    [
        ("reverse", "725"),
        ("triple", "561"),
        ("rotate", "275"),
        ("complement", "472"),
        ("increase", "850"),
        ("neighbour", "436"),
    ],
)
def test_rules_by_hand(rule: str, result: str) -> None:
    assert RULES[rule]("527") == result


def test_every_rule_is_the_truth_of_two_operations() -> None:
    assert Counter(TRUE_RULE.values()) == dict.fromkeys(RULES, 2)


@pytest.mark.parametrize("level", LEVELS)
def test_splits_share_no_problem_and_are_drawn_by_the_seed(level: str) -> None:
    splits = {split: load_problems(level, split) for split in ("train", "validation", "test")}
    ids = {split: {p.problem_id for p in problems} for split, problems in splits.items()}
    assert {split: len(found) for split, found in ids.items()} == {"train": 4000, "validation": 500, "test": 1200}
    assert not ids["train"] & ids["test"]
    assert not ids["train"] & ids["validation"]
    assert not ids["validation"] & ids["test"]
    assert load_problems(level, "test", limit=30) == splits["test"][:30]
    assert load_problems(level, "test", limit=30, seed=1) != splits["test"][:30]


def test_pretraining_sees_no_held_out_problem() -> None:
    rng = random.Random(0)
    for draw in (draw_example, draw_drill):
        for _ in range(300):
            user = draw(rng).user
            words = user[user.index("What is ") + 8 : user.index("?")].split(" of ")
            assert split_of(Chain(words[-1], tuple(reversed(words[:-1])))) == "train"


@pytest.mark.parametrize(("level", "split"), [("simple", "train"), ("easy", "dev")])
def test_unknown_levels_and_splits_are_named(level: str, split: str) -> None:
    with pytest.raises(DataInvalid, match="easy, medium, hard with the splits train, validation, test"):
        load_problems(level, split)


def test_the_prior_knows_a_quarter_of_the_rules() -> None:
    for op in OPERATIONS:
        shares = prior(op)
        assert sum(shares.values()) == pytest.approx(1)
        favourite = max(shares, key=shares.__getitem__)
        assert favourite == (TRUE_RULE[op] if op in KNOWN else decoy(op))
    assert len(KNOWN) / len(OPERATIONS) == 0.25


def test_reference_solutions_pass_the_verifier() -> None:
    problems = load_problems("hard", "validation", limit=50)
    verifier = load_verifier(VerifierConfig())
    verdicts = verifier.verify_many([p.solution or "" for p in problems], problems)
    verifier.close()
    assert {verdict.outcome for verdict in verdicts} == {"correct"}


# The base checkpoint


def test_the_base_is_a_small_qwen3_that_fits_the_package(base: TransformersGenerator) -> None:
    model: Any = base.model
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.config.head_dim == 32
    assert sum(p.numel() for p in model.parameters()) <= 2_000_000
    assert sum(file.stat().st_size for file in base_path().iterdir()) <= 4_000_000


@pytest.mark.parametrize("level", LEVELS)
def test_with_all_right_lessons_the_base_solves_every_level(base: TransformersGenerator, level: str) -> None:
    rng = random.Random(1)
    drawn = chains(level, 200)
    guided = accuracy(base, drawn, [all_right_lessons(chain, rng) for chain in drawn])
    plain = accuracy(base, drawn, [[] for _ in drawn])
    print(f"{level}: plain {plain:.3f}, with all right lessons {guided:.3f}")
    assert guided >= 0.85
    assert plain <= {"easy": 0.4, "medium": 0.15, "hard": 0.02}[level]


@pytest.mark.parametrize("level", LEVELS)
def test_one_right_pair_helps_its_part_token_by_token(base: TransformersGenerator, level: str) -> None:
    """The right rule's token gains, all others of the right solution stay; a wrong rule's token loses."""
    model, tokenizer = base.model, base.tokenizer
    rng = random.Random(2)
    gains, others, losses, slopes, supports = [], [], [], [], []
    for chain in chains(level, 40):
        at = rng.randrange(len(chain.operations))
        op = chain.operations[at]
        wrong = decoy(op)
        given = [lesson(op, TRUE_RULE[op], op, wrong, TRUE_RULE[op])]
        for rules, kept in ((true_rules(chain), True), ([*true_rules(chain)[:at], wrong], False)):
            part = Chain(chain.code, chain.operations[: len(rules)])
            text = solve(part, rules)[0]
            delta_T, mask_T, tokens = deltas(model, tokenizer, chain, given, text)
            position = next(t for t, token in enumerate(tokens) if t and tokens[t - 1] == f"{op} means")
            if kept:
                gains.append(float(delta_T[position]))
                others.append(float((delta_T[mask_T].abs().sum() - delta_T[position].abs()) / (mask_T.sum() - 1)))
                supports.append(float(delta_T[mask_T].clamp(-3, 3).mean()))
            else:
                losses.append(float(delta_T[position]))
                slopes.append(float(gate_slope(delta_T[position], GatedSettings())))
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    print(
        f"{level}: right rule {mean(gains):+.2f} nats, other tokens {mean(others):.3f}, wrong rule {mean(losses):+.2f} "
        f"(gate slope {mean(slopes):.3f}), support of a right solution {mean(supports):+.3f}"
    )
    assert mean(gains) > 0.5
    assert mean(losses) < -1.0
    assert mean(others) < 0.1


def deltas(
    model: Any, tokenizer: Any, chain: Chain, given: list[Guidance], completion: str
) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    ids = tokenizer(completion)["input_ids"]
    plain = ScoreRow(render(tokenizer, plain_user_text(chain.text())), ids)
    guided = ScoreRow(render(tokenizer, guided_user_text(chain.text(), given)), ids)
    with torch.no_grad():
        logp_RT = score(model, [plain, guided])
    return logp_RT[1] - logp_RT[0], completion_mask(ids, tokenizer), [tokenizer.decode([i]) for i in ids]


# The bank's knobs


def right_bank(folder: Path) -> Path:
    """A bank mined from right and wrong solutions of every operation."""
    from skillbank.records import Rollout
    from skillbank.rollouts import write_rollouts

    rng = random.Random(0)
    lines = []
    for i, op in enumerate(OPERATIONS * 2):
        chain = Chain("".join(rng.sample("123456789", 3)), (op,))
        for rule, outcome in ((TRUE_RULE[op], "correct"), (decoy(op), "wrong")):
            text = solve(chain, [rule])[0]
            values = {"rollout_id": f"{i}-{outcome}", "problem_id": f"p{i}", "problem": chain.text()}
            lines.append(Rollout.model_validate({**values, "completion": text, "outcome": outcome}))
    write_rollouts(folder / "past.jsonl", lines)
    build_bank([folder / "past.jsonl"], folder / "bank")
    return folder / "bank"


def test_knobs_plant_the_shares_they_promise(tmp_path: Path) -> None:
    folder = right_bank(tmp_path)
    assert plant(folder, misleading=0.5) == 12
    with Bank.open(folder, readonly=True) as bank:
        for kind in ("skill", "mistake", "pair"):
            assert bank.count(Query(kind=kind, origin="misleading")) / bank.count(Query(kind=kind)) == 0.5
        taught = {e.content.principle for e in bank.entries(Query(kind="skill", origin="misleading"))}  # type: ignore[union-attr]
    assert taught == {rule_line(op, decoy(op)) for op in OPERATIONS}


@pytest.mark.parametrize(("misleading", "irrelevant"), [(0.5, 0.5), (-0.1, 0.0), (0.0, 1.0)])
def test_shares_that_are_none_are_refused(tmp_path: Path, misleading: float, irrelevant: float) -> None:
    with pytest.raises(ValueError, match="must not be negative and add up to less than 1"):
        plant(tmp_path, misleading=misleading, irrelevant=irrelevant)


def test_retrieval_finds_the_operation_of_the_problem(tmp_path: Path) -> None:
    folder = right_bank(tmp_path)
    plant(folder, irrelevant=0.3)
    retriever = open_retriever(folder, k=2)
    with retriever.bank:
        assert hit_share(retriever, load_problems("easy", limit=100)) == 1.0
        assert hit_share(retriever, load_problems("hard", limit=100)) == 1.0
