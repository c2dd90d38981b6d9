"""The bank is maintained while it teaches: over whole windows, in one revision, and resumed as if never interrupted."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import sgsd.maintain
import sgsd.run
from sgsd.config import MaintainConfig, RunConfig, SamplingConfig, parse_config
from sgsd.errors import ConfigError, TrainingError
from sgsd.run import RunResult, train_run
from skillbank.curate import runs
from skillbank.errors import BankBusy, InvalidOption
from skillbank.records import Entry, Mistake, Skill
from skillbank.retrieve import Retriever, Settings
from skillbank.store import Bank, Query, UsageRow
from skillbank.usage import KeepRule, estimates

from .distributed.launch import torchrun
from .maintain_ranks import RuleVerifier, Spoken, maintained
from .training import make_bank, problems

pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning")


@pytest.fixture(autouse=True)
def spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgsd.generate.engines.TransformersGenerator", Spoken)
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
        assert skills
        assert skills <= {"zorp means triple", "blick means triple"}
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


def test_capacity_goes_by_what_an_entry_did_on_its_own(folders: Folders) -> None:
    """One mistake is right and mostly beside a misleading skill, one is misleading and mostly beside a right skill: the
    polarities of their teachers rank them the wrong way round."""
    with Bank.open(folders.at / "bank") as bank:
        with bank.change(actor="test") as change:
            right, misleading = (change.add(Mistake(description=word), origin="online") for word in ("one", "two"))
        helps, harms = (skill.id for skill in bank.entries(Query(kind="skill"), limit=2))
        rng = random.Random(0)
        for n in range(80):
            sign = 1 if n % 2 else -1
            sides = [(harms, right), (helps, misleading)] if n % 8 > 1 else [(helps, right), (harms, misleading)]
            for skill, mistake in sides:
                effect = (2 if skill == helps else -2) + (1 if mistake == right else -1) + rng.gauss(0, 0.5)
                outcome = "correct" if sign > 0 else "wrong"
                use(bank, skill, mistake, effect, problem=str(n), outcome=outcome)
        by_id = {one.entry_id: one for one in estimates(bank, credit=True)}
        assert by_id[right].utility < 0 < by_id[misleading].utility
        assert runs.over_capacity(bank, "mistake", 1, young=()) == [misleading]


def use(
    bank: Bank, skill_id: int, mistake_id: int, effect: float, *, problem: str = "p", outcome: Any = "correct"
) -> None:
    """One teacher that leaned to what turned out right as far as `effect`."""
    row = UsageRow(
        run="r",
        step=1,
        problem_id=problem,
        outcome=outcome,
        skill_id=skill_id,
        mistake_id=mistake_id,
        support=0.1 * effect * (1 if outcome == "correct" else -1),
        polarity=(effect > 0) - (effect < 0),
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


# ---- what does not tell right from wrong -----------------------------------------------------------------------------


def test_entries_that_do_not_tell_right_from_wrong_are_retired_when_asked(folders: Folders) -> None:
    """Support that follows the outcome, is unrelated to it, follows it too seldom to tell, and unrelated but pinned."""
    with Bank.open(folders.at / "bank") as bank:
        skills, mistakes = (bank.ids(Query(kind=kind)) for kind in ("skill", "mistake"))
        rng = random.Random(0)
        for problem in range(60):
            sign = 1 if problem % 2 else -1
            outcome = "correct" if sign > 0 else "wrong"
            noise = rng.choice((-1, 1))
            for entry, support in enumerate((sign, noise, noise, noise)):
                if entry != 2 or problem < 8:
                    use(bank, skills[entry], mistakes[entry], support * sign, problem=str(problem), outcome=outcome)
        with bank.change(actor="me") as change:
            change.pin([skills[3]])
        rule = KeepRule.parse("correlation_high:<0.5")
        assert runs.ruled_out(bank, rule, young={mistakes[3]}) == sorted([skills[1], mistakes[1]])
        assert runs.ruled_out(bank, rule, young=()) == sorted([skills[1], mistakes[1], mistakes[3]])
        assert runs.ruled_out(bank, KeepRule.parse("correlation_high:<0.5 kind:skill"), young=()) == [skills[1]]
        assert runs.ruled_out(bank, KeepRule.parse("correlation_high:<-0.9"), young=()) == []

    config = folders.config(
        "run", maintain={"prune": "correlation_high:<0.5", "success_below": 0.0}, train={"max_steps": 2}
    )
    run(config)
    assert looks(config)[0]["pruned"] == 3
    with bank_of(config) as bank:
        assert not {skills[1], mistakes[1], mistakes[3]} & {*bank.retrievable("skill"), *bank.retrievable("mistake")}
        assert {skills[0], mistakes[0], skills[2], mistakes[2], skills[3]} <= set(bank.ids(Query(status="active")))
        bank.undo(actor="me")
        assert bank.count(Query(status="active")) == 12


def test_a_rule_that_cannot_be_read_is_told_before_the_run(folders: Folders) -> None:
    config = folders.config("run", maintain={"prune": "hopeless"})
    with pytest.raises(InvalidOption, match="bounds nothing that was measured"):
        run(config)
    assert not Path(config.output_dir).exists()


# ---- what can go wrong -----------------------------------------------------------------------------------------------


def test_a_server_that_is_away_costs_no_rollout(folders: Folders) -> None:
    away = {"miner": "model", "model": "writer", "endpoint": "http://127.0.0.1:9/v1"}
    config = folders.config("run", maintain=away, train={"max_steps": 2})
    with pytest.warns(UserWarning, match="the bank was not maintained in step 2, the window is kept"):
        run(config)
    (look,) = looks(config)
    assert (look["failed"], look["rollouts"]) == (1, 8)
    with bank_of(config) as bank:
        assert bank.revision == 1
    shutil.rmtree(config.output_dir)


def test_a_held_bank_is_tried_again_with_the_whole_window(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folders.config("run", train={"max_steps": 4})
    store, calls = sgsd.maintain.store_window, []

    def held_once(*given: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise BankBusy("held by another process")
        return store(*given, **named)

    monkeypatch.setattr("sgsd.maintain.store_window", held_once)
    with pytest.warns(UserWarning, match="held by another process"):
        run(config)
    assert [(look["rollouts"], look.get("failed", 0)) for look in looks(config)] == [(8, 1), (16, 0)]
    assert looks(config)[1]["added"] > 0


def test_the_student_itself_writes(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """A random student writes nothing usable: every call is made, kept, and a dead letter."""
    monkeypatch.undo()
    monkeypatch.setattr("sgsd.run.load_verifier", lambda config: RuleVerifier())
    asks = {"miner": "model", "max_problems": 2, "max_tokens": 4}
    config = folders.config("run", maintain=asks, train={"max_steps": 2})
    run(config)
    (look,) = looks(config)
    assert (look["mined"], look["added"]) == (0, 0)
    with bank_of(config) as bank:
        calls = bank.db.rows("SELECT model FROM calls")
        assert len(calls) == 2
        assert all(row["model"].endswith("@2") for row in calls)


def test_a_checkpoint_without_maintenance_is_told(folders: Folders) -> None:
    run(folders.config("run", maintain={"every_steps": 0}, train={"max_steps": 3}))
    with pytest.raises(TrainingError, match=r"saved without maintain\.every_steps"):
        run(folders.config("run"), resume=True)


@pytest.mark.parametrize(
    ("maintain", "said"),
    [
        ({"model": "x"}, "maintain.model needs maintain.endpoint"),
        ({"endpoint": "http://h/v1"}, "maintain.endpoint needs maintain.model"),
        ({"model": "x", "endpoint": "http://h/v1"}, "set maintain.miner to model"),
        ({"capacity": 0}, "maintain.capacity"),
        ({"success_below": 2}, "maintain.success_below"),
    ],
)
def test_wrong_settings_are_told(maintain: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config({"maintain": maintain})


def test_a_method_without_a_bank_is_not_maintained() -> None:
    with pytest.raises(ConfigError, match="opsd has no bank"):
        parse_config({"method": "opsd", "maintain": {"every_steps": 5}})
    assert parse_config({}).maintain.every_steps == 0
    assert (parse_config({}).maintain.max_new, parse_config({}).maintain.capacity) == (5, 30)


def test_a_bank_that_cannot_be_written_is_told(folders: Folders) -> None:
    with Bank.open(folders.at / "bank", readonly=True) as bank, pytest.raises(ConfigError, match="cannot be written"):
        sgsd.maintain.Maintenance(
            MaintainConfig(every_steps=1),
            Retriever(bank, None, Settings(mode="random")),
            output_dir="x",
            sampling=SamplingConfig(),
            student=(None, cast(Any, None)),
        )


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


@pytest.mark.slow
def test_two_ranks_maintain_as_one_does(tmp_path: Path) -> None:
    """Two processes on gloo: one window, one revision, the same entries, and the same once more from a checkpoint."""
    for ranks in (1, 2):
        make_bank(tmp_path / f"bank-{ranks}")
    ended = torchrun(2, str(Path(__file__).parent / "maintain_ranks.py"), str(tmp_path))
    assert ended.code == 0, ended.err[-4000:]
    two = json.loads((tmp_path / "two.json").read_text())
    one = json.loads(json.dumps(maintained(tmp_path, ranks=1)))
    assert one["losses"][3:] == pytest.approx(one["again"], rel=1e-9)
    assert one["looks"][1:] == one["looks_again"]
    for key in ("losses", "again"):
        assert two[key] == pytest.approx(one[key], rel=1e-5)
    assert all(abs(loss) > 1e-3 for loss in one["losses"])
    for key in ("looks", "looks_again", "online", "usage"):
        assert two[key] == one[key]
    assert [look[0] for look in two["looks"]] == [8, 8, 8]  # both ranks' rollouts of two steps
    assert two["online"]
    assert set(two["revisions_a_step"]) == {1}  # no rank retrieves from another revision
