"""The bank is maintained while it teaches: over whole windows, in one revision, and resumed as if never interrupted."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import sgsd.maintain
import sgsd.run
from sgsd.config import RunConfig, SamplingConfig, parse_config
from sgsd.errors import ConfigError
from sgsd.records import Completion, Problem, Verdict
from sgsd.run import RunResult, train_run
from skillbank.curate import runs
from skillbank.records import Entry, Mistake, Skill
from skillbank.store import Bank, Query

from .training import make_bank, problems

pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning")
RULES = ("triple", "reverse", "rotate", "double", "negate")


class Spoken:
    """A generator whose completions state a rule, by the prompt and the seed alone: the first is right."""

    def __init__(self, *_: Any) -> None: ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingConfig,
        *,
        seed: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Completion]]:
        return [[self._complete(prompt, seed)] for prompt in prompts]

    def _complete(self, prompt: Sequence[int], seed: int) -> Completion:
        rng = random.Random(str((list(prompt), seed)))
        ids = [rng.randrange(5, 38) for _ in range(rng.randrange(2, 8))]
        subject = "zorp" if sum(prompt) % 2 else "blick"
        return Completion((*ids, 2), f"{subject} means {rng.choice(RULES)}", False)


class RuleVerifier:
    def verify_many(self, completions: Sequence[str], problems: Sequence[Problem]) -> list[Verdict]:
        return [Verdict("correct" if RULES[0] in text else "wrong") for text in completions]

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgsd.trainer.TransformersGenerator", Spoken)
    monkeypatch.setattr("sgsd.run.load_verifier", lambda config: RuleVerifier())


class Folders:
    """A model and configurations, each over a bank of its own that is equal at the start."""

    def __init__(self, model: Path, at: Path) -> None:
        self.model, self.at = model, at
        make_bank(at / "bank")

    def config(self, name: str, **sections: Any) -> RunConfig:
        if not (self.at / f"{name}-bank").exists():
            shutil.copytree(self.at / "bank", self.at / f"{name}-bank")
        values: dict[str, Any] = {
            "output_dir": str(self.at / name / "run"),
            "seed": 3,
            "model": {"name_or_path": str(self.model), "dtype": "float32"},
            "bank": {"path": str(self.at / f"{name}-bank"), "k": 3, "mode": "random"},
            "rollout": {"max_new_tokens": 8, "max_prompt_tokens": 200},
            "maintain": {"every_steps": 2, "max_new": 2, "capacity": 3, "young_steps": 3},
            "train": {
                "max_steps": 8,
                "per_device_batch_size": 2,
                "gradient_accumulation_steps": 2,
                "learning_rate": 1e-2,
                "save_every": 3,
            },
        }
        for section, keys in sections.items():
            values[section] = {**values.get(section, {}), **keys}
        return parse_config(values)


@pytest.fixture
def folders(tiny_folder: Path, tmp_path: Path) -> Folders:
    return Folders(tiny_folder, tmp_path)


def run(config: RunConfig, **options: Any) -> RunResult:
    return train_run(config, problems(), **options)


def bank_of(config: RunConfig) -> Bank:
    assert config.bank.path is not None
    return Bank.open(config.bank.path)


def logged(config: RunConfig) -> list[dict[str, float]]:
    """What was logged, without what the clock says and without the number of the revision."""
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    clock = ("seconds/", "maintain/seconds", "maintain/revision", "train_")
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(clock)} for line in lines]


def looks(config: RunConfig) -> list[dict[str, float]]:
    """step and what was logged of each look, by its short name."""
    lines = map(json.loads, (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines())
    return [
        {key.removeprefix("maintain/"): value for key, value in log.items() if key == "step" or "maintain/" in key}
        for log in lines
        if "maintain/rollouts" in log
    ]


def held(bank: Bank) -> list[tuple[Any, ...]]:
    """Everything that retrieval, capacity and the guard go by."""
    return [
        (entry.id, entry.kind, entry.content, entry.status, entry.origin, entry.flags, places(bank, entry))
        for entry in bank.entries()
    ]


def places(bank: Bank, entry: Entry) -> list[tuple[str, str]]:
    return sorted((place.rollout_id, place.quote) for place in bank.evidence(entry.id))


# ---- what a look does ------------------------------------------------------------------------------------------------


def test_every_look_sees_the_whole_window_and_makes_one_revision(folders: Folders) -> None:
    config = folders.config("run")
    run(config)
    seen = looks(config)
    assert [look["step"] for look in seen] == [2, 4, 6, 8]
    assert [look["rollouts"] for look in seen] == [8, 8, 8, 8]  # two steps of two micro-batches of two
    lines = [json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()]
    rewards = {line["step"]: line["reward"] for line in lines if "reward" in line}
    assert [look["success"] for look in seen] == [
        pytest.approx((rewards[n - 1] + rewards[n]) / 2) for n in (2, 4, 6, 8)
    ]

    with bank_of(config) as bank:
        made = [revision for revision in bank.revisions() if revision.actor.startswith("train ")]
        assert len(made) == len({revision.revision for revision in made}) <= 4
        assert all(revision.reason.startswith(config.output_dir) for revision in made)
        for kind in ("skill", "mistake"):
            online = bank.entries(Query(kind=kind, origin="online"))
            assert online
            assert all(place.quote.split()[0] in ("zorp", "blick") for e in online for place in bank.evidence(e.id))
        assert bank.count(Query(origin="mined", status="active")) == 12  # static ones stay
        skills = {
            e.content.principle
            for e in bank.entries(Query(kind="skill", origin="online"))
            if isinstance(e.content, Skill)
        }
        assert skills == {"zorp means triple", "blick means triple"}
    assert sum(look["added"] for look in seen) > 2


def test_retrieval_follows_in_the_next_step(folders: Folders) -> None:
    config = folders.config("run", bank={"k": 8})
    with pytest.warns(UserWarning, match="at most"):
        run(config)
    with bank_of(config) as bank:
        online = set(bank.ids(Query(origin="online")))
        uses = bank.db.rows("SELECT step, skill_id, mistake_id, revision FROM usage ORDER BY step")
    (at, revision), *_ = ((look["step"], look["revision"]) for look in looks(config) if look["added"])
    assert not any({row["skill_id"], row["mistake_id"]} & online for row in uses if row["step"] <= at)
    assert any({row["skill_id"], row["mistake_id"]} & online for row in uses if row["step"] == at + 1)
    assert {row["revision"] for row in uses if row["step"] == at} < {1, 2}
    assert {row["revision"] for row in uses if row["step"] == at + 1} == {revision}


def test_enough_success_mines_nothing(folders: Folders) -> None:
    config = folders.config("run", maintain={"success_below": 0.0})
    run(config)
    assert [look["mined"] for look in looks(config)] == [0, 0, 0, 0]
    with bank_of(config) as bank:
        assert bank.revision == 1


def test_max_new_bounds_each_kind_of_each_look(folders: Folders) -> None:
    config = folders.config("run", maintain={"max_new": 1, "capacity": 30})
    run(config)
    seen = looks(config)
    assert sum(look["left_out"] for look in seen) > 0
    with bank_of(config) as bank:
        for revision in bank.revisions():
            if revision.actor.startswith("train "):
                added = [event.entry_id for event in bank.events(revision.revision) if event.op == "add"]
                kinds = [bank.get(entry_id).kind for entry_id in added if entry_id is not None]
                assert kinds.count("skill") <= 1
                assert kinds.count("mistake") <= 1


# ---- capacity --------------------------------------------------------------------------------------------------------


def test_capacity_is_kept_by_utility_and_the_young_are_spared(folders: Folders) -> None:
    with Bank.open(folders.at / "bank") as bank:
        with bank.change(actor="test") as change:
            ids = [change.add(Mistake(description=f"online {i}"), origin="online") for i in range(5)]
            change.pin([ids[0]])
        (skill,) = bank.entries(Query(kind="skill"), limit=1)
        for entry_id, polarity in zip(ids, (-1, -1, 1, 0, -1), strict=True):
            use(bank, skill.id, entry_id, polarity)
        worst_first = [ids[1], ids[4], ids[3], ids[2]]
        assert runs.dynamic_entries(bank, "mistake") == ids[1:]  # pinned is static
        assert runs.over_capacity(bank, "mistake", 4, young=()) == []
        assert set(runs.over_capacity(bank, "mistake", 2, young=())) == {ids[1], ids[4]}
        assert set(runs.over_capacity(bank, "mistake", 1, young={ids[4]})) == {ids[1], ids[3], ids[2]}
        assert set(runs.over_capacity(bank, "mistake", 1, young=())) == set(
            worst_first[:3]
        )  # neither oldest nor newest
        assert runs.over_capacity(bank, "mistake", 1, young=set(ids)) == []
        assert runs.over_capacity(bank, "skill", 1, young=()) == []  # all of them are static


def use(bank: Bank, skill_id: int, mistake_id: int, polarity: int) -> None:
    from skillbank.store import UsageRow

    row = UsageRow(
        run="r",
        step=1,
        problem_id="p",
        outcome="correct",
        skill_id=skill_id,
        mistake_id=mistake_id,
        support=0.1 * polarity,
        polarity=polarity,
        gate_mass=0.1,
        weight=1.0,
        revision=1,
    )
    bank.record_usage([row])


def test_a_full_bank_makes_room(folders: Folders) -> None:
    config = folders.config("run", maintain={"capacity": 2, "young_steps": 2})
    run(config)
    assert sum(look["retired"] for look in looks(config)) > 0
    with bank_of(config) as bank:
        for kind in ("skill", "mistake"):
            assert len(runs.dynamic_entries(bank, kind)) <= 2
        assert bank.count(Query(origin="online", status="retired")) > 0
    kept_young = folders.config("young", maintain={"capacity": 2, "young_steps": 100})
    run(kept_young)
    assert sum(look["retired"] for look in looks(kept_young)) == 0  # what is new waits, it is not pushed in
    with bank_of(kept_young) as bank:
        assert len(runs.dynamic_entries(bank, "mistake")) == 2


# ---- resuming --------------------------------------------------------------------------------------------------------


class Crash(BaseException):
    """Nothing handles it, as nothing handles a lost machine."""


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    write = sgsd.run.write_past_rollouts

    def once(path: Path, rollouts: Any, **rest: Any) -> None:
        if path.name == f"step-{step:06d}.jsonl":
            monkeypatch.setattr("sgsd.run.write_past_rollouts", write)
            raise Crash
        write(path, rollouts, **rest)

    monkeypatch.setattr("sgsd.run.write_past_rollouts", once)


@pytest.mark.parametrize(("crash", "save_every"), [(6, 3), (8, 3), (8, 5)], ids=["one look", "none", "two in one"])
def test_a_run_killed_after_a_look_goes_on_as_if_it_had_not_been(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, crash: int, save_every: int
) -> None:
    """Crashes between a look and the checkpoint that would have named its revision."""
    sections: dict[str, Any] = {
        "train": {"save_every": save_every},
        "maintain": {"every_steps": 1 if save_every == 5 else 2},
    }
    whole, broken = folders.config("whole", **sections), folders.config("broken", **sections)
    run(whole)
    crash_at(monkeypatch, crash)
    with pytest.raises(Crash):
        run(broken)
    with bank_of(broken) as bank:
        made = bank.revision
    torch.manual_seed(12345)
    run(broken, resume=True)
    assert logged(broken)[:-1] == logged(whole)[:-1]
    with bank_of(broken) as found, bank_of(whole) as expected:
        assert _without_run(held(found)) == _without_run(held(expected))
        assert found.revision > made  # nothing was deleted: what was taken back stands in the history
        assert [event for revision in range(1, made + 1) for event in found.events(revision)]


def _without_run(entries: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Ids of rollouts hold the run's folder: their number and words remain."""
    return [(*entry[:-1], sorted(quote for _, quote in entry[-1])) for entry in entries]


def test_an_earlier_start_of_the_same_run_is_refused(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folders.config("run", train={"save_every": 100})
    crash_at(monkeypatch, 5)
    with pytest.raises(Crash):
        run(config)
    shutil.rmtree(config.output_dir)
    with pytest.raises(
        ConfigError, match=r"revisions that an earlier start of .* made: go back with `sgsd bank checkout 1"
    ):
        run(config)
    with bank_of(config) as bank, bank.change(actor="me") as change:
        change.checkout(1)
    run(config)
