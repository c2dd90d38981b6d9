"""Keep rules, and what pruning by them does: said before it is done, done in one revision, undone in one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillbank import curate
from skillbank.curate.prune import Pruning, prune
from skillbank.doctor import doctor
from skillbank.errors import InvalidOption
from skillbank.store import Bank
from skillbank.store.query import Bound, Query
from skillbank.usage import MEASURES, RULES, Credit, Estimate, KeepRule

from .command_line import CommandLine
from .made_up import OPERATIONS, mined
from .test_usage import row, simulated


def estimate(entry_id: int, utility: float, uses: int = 10, kind: str = "skill") -> Estimate:
    return Estimate.model_validate(
        {
            "kind": kind, "entry_id": entry_id, "skill_id": None, "mistake_id": None, "uses": uses, "helpful": 0,
            "harmful": 0, "neutral": 0, "problems": uses, "utility": utility, "low": utility - 0.2,
            "high": utility + 0.2, "mean_support": 0.0, "mean_gate_mass": 0.0, "correlation": None, "placebo": None,
            "support_right": None, "credit": None, "age_steps": 3, "idle_steps": 0,
        }
    )  # fmt: skip


FOUND = [estimate(1, 0.5), estimate(2, -0.5), estimate(3, -0.1), estimate(4, -0.9, uses=2), estimate(5, -0.3)]


def chosen(rule: str, among: range | list[int] = range(10)) -> tuple[list[int | None], list[int | None]]:
    retired, kept = KeepRule.parse(rule).choose([*FOUND, estimate(7, 0.9, kind="mistake")], among)
    return [one.entry_id for one in retired], [one.entry_id for one in kept]


# ----------------------------------------------------------------------------------------------------------- the rules


def test_all_that_is_bounded_must_hold() -> None:
    assert chosen("high:<0") == ([2, 4, 5], [])
    assert chosen("high:<0 uses:>=5") == ([2, 5], [])
    assert chosen("utility:>=-0.5 utility:<0") == ([2, 3, 5], [])
    assert chosen("high:<0", among=[4, 9]) == ([4], [])


def test_the_best_of_each_kind_stay() -> None:
    assert chosen("uses:>=5 keep:2") == ([2, 5], [1, 3, 7])
    assert chosen("keep:0") == ([1, 2, 3, 4, 5, 7], [])
    assert chosen("uses:>=5 utility:<0 keep:1") == ([2, 5], [3])


def test_the_best_are_those_of_highest_credit() -> None:
    credit = {1: -0.2, 2: 0.3, 3: 0.1, 4: 0.0}
    found = [
        one.model_copy(update={"credit": Credit(value=credit[n], low=0, high=0, z=0)}) for n, one in enumerate(FOUND, 1)
        if n in credit
    ]  # fmt: skip
    retired, kept = KeepRule.parse("keep:2").choose([*found, FOUND[4]], range(10))
    assert ([one.entry_id for one in retired], [one.entry_id for one in kept]) == ([1, 4, 5], [2, 3])


def test_what_was_not_measured_fits_no_bound() -> None:
    for line in (
        "correlation:<1",
        "z:<100",
        "placebo:<100",
        "placebo_low:<100",
        "placebo_high:>-100",
        "credit:<100",
        "credit_z:<100",
        "support_right:<100",
    ):
        assert chosen(line) == ([], [])


def test_a_rule_reads_queries_too() -> None:
    rule = KeepRule.parse('problems:>=8 kind:skill high:<0 "unit price" keep:3 origin:online')
    assert rule.bounds == (("problems", Bound(comparison=">=", value=8)), ("high", Bound(comparison="<", value=0)))
    assert rule.where == Query(kind="skill", origin="online", text="unit price")
    assert rule.keep == 3
    assert KeepRule.parse(str(rule)) == rule
    for name, line in RULES.items():
        assert KeepRule.parse(f" {name} ") == KeepRule.parse(line)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "bounds nothing that was measured: use uses, helpful, harmful"),
        ("kind:skill", "bounds nothing that was measured"),
        ("harmfull", "or name one of harmful, misleading, idle"),
        ("high:low", "high:low is no number: write high:3"),
        ("keep:-1", "keep:-1: give keep once, with the number of entries of each kind that stay"),
        ("keep:1 keep:2", "keep:2: give keep once"),
        ("high:<0 worth:3", "worth:3 is no criterion"),
        ("high:<0 kind:pairs", "kind:pairs is none of skill, mistake, pair"),
    ],
)
def test_what_cannot_be_read_is_named(line: str, complaint: str) -> None:
    with pytest.raises(InvalidOption, match=complaint):
        KeepRule.parse(line)


bounds = st.tuples(
    st.sampled_from(sorted(MEASURES)),
    st.builds(
        Bound,
        comparison=st.sampled_from(["<", "<=", "=", ">=", ">"]),
        value=st.integers(-500, 500).map(lambda n: n / 100),
    ),
)


@given(st.lists(bounds, min_size=1, max_size=4), st.none() | st.integers(0, 9), st.sampled_from([None, "skill"]))
def test_a_rule_is_what_it_writes(at: list[tuple[str, Bound]], keep: int | None, kind: str | None) -> None:
    rule = KeepRule(where=Query.model_validate({"kind": kind}), bounds=tuple(at), keep=keep)
    assert KeepRule.parse(str(rule)) == rule


@given(
    st.lists(st.tuples(st.floats(-1, 1), st.integers(1, 50), st.sampled_from(["skill", "mistake"])), max_size=20),
    st.integers(0, 6),
    st.sets(st.integers(0, 20)),
)
def test_keeping_the_best_keeps_the_best(measured: list[tuple[float, int, str]], keep: int, among: set[int]) -> None:
    found = [estimate(n, utility, uses, kind) for n, (utility, uses, kind) in enumerate(measured)]
    rule = KeepRule.parse(f"uses:>=10 keep:{keep}")
    retired, kept = rule.choose(found, among)
    fitting = [one for one in found if one.uses >= 10 and one.entry_id in among]
    assert sorted(one.entry_id or 0 for one in [*retired, *kept]) == [one.entry_id for one in fitting]
    for kind in ("skill", "mistake"):
        stay = [one.utility for one in kept if one.kind == kind]
        go = [one.utility for one in retired if one.kind == kind]
        assert len(stay) == min(keep, len(stay) + len(go))
        assert not stay or not go or min(stay) >= max(go)


# ------------------------------------------------------------------------------------------------------------- pruning


def states(bank: Bank) -> list[tuple[int, str]]:
    return [(entry.id, entry.status) for entry in bank.entries()]


def test_what_misleads_is_retired_and_comes_back(bank: Bank) -> None:
    simulated(bank, steps=60)  # 1, 2, 3 know the task, 4, 5, 6 mislead, 7, 8, 9 are beside the point
    before = states(bank)
    rule = KeepRule.parse("harmful")
    seen = prune(bank, rule, actor="me", preview=True)
    assert (states(bank), bank.revision) == (before, 1)
    done = prune(bank, rule, actor="me", reason="it misleads")
    assert done.pruning == seen.pruning
    assert [one.entry_id for one in done.pruning.retired] == [4, 5, 6]
    assert [entry_id for entry_id, status in states(bank) if status == "retired"] == [4, 5, 6]
    skills = done.pruning.kinds["skill"]
    assert (skills.active, skills.measured, skills.retired, skills.kept, skills.pinned) == (6, 3, 1, 0, 0)
    assert skills.uses_share == pytest.approx(1 / 3)  # each of three was used in every rollout
    assert skills.evidence_share == pytest.approx(1 / 6)
    assert (done.pruning.leaving, done.pruning.retrievable) == (
        {"skill": 1, "mistake": 1},
        {"skill": 6, "mistake": 6},
    )
    assert (done.pruning.problems_bare, done.pruning.bare) == (1, (f"p-{OPERATIONS[1]}",))
    assert (done.operation.revision, bank.revisions()[0].reason) == (2, "it misleads")
    again = prune(bank, rule, actor="me")
    assert (again.operation.revision, again.pruning.retired) == (None, ())
    curate.undo(bank, actor="me")
    assert states(bank) == before
    assert doctor(bank.path).sound


def test_pinned_young_and_unasked_entries_stay(bank: Bank) -> None:
    simulated(bank, steps=60)
    curate.pin(bank, [4], actor="me")
    done = prune(bank, KeepRule.parse("problems:>=8 high:<0 kind:skill"), actor="me")
    assert done.pruning.retired == ()
    assert (done.pruning.kinds["skill"].pinned, done.pruning.kinds["mistake"].pinned) == (1, 0)
    assert prune(bank, KeepRule.parse("problems:>=500 high:<0"), actor="me").pruning.retired == ()
    assert prune(bank, KeepRule.parse("high:<0"), only=[1, 8], actor="me").pruning.retired == ()
    agreed = prune(bank, KeepRule.parse("high:<0"), only=[5, 9], actor="me")
    assert [one.entry_id for one in agreed.pruning.retired] == [5]


def test_the_unused_are_never_pruned(bank: Bank) -> None:
    """However the rule reads: what nobody measured stays."""
    bank.record_usage([row(1, 2, -1, problem=f"p{n}") for n in range(9)])
    done = prune(bank, KeepRule.parse("keep:0"), actor="me")
    assert [one.entry_id for one in done.pruning.retired] == [1, 2, 3]
    assert [status for entry_id, status in states(bank) if entry_id > 3] == ["active"] * 15


def test_only_late_steps_can_be_believed(bank: Bank) -> None:
    """Harmful at first and helpful since: with a half-life it stays."""
    bank.record_usage([row(1, 2, -1, problem=f"a{n}", step=1) for n in range(60)])
    bank.record_usage([row(1, 2, 1, problem=f"b{n}", step=100) for n in range(20)])
    rule = KeepRule.parse("harmful")
    assert [one.entry_id for one in prune(bank, rule, actor="me", preview=True).pruning.retired] == [1, 2, 3]
    assert prune(bank, rule, half_life_steps=10, actor="me", preview=True).pruning.retired == ()


def test_a_problem_is_bare_when_its_last_entry_leaves(tmp_path: Path) -> None:
    with Bank.create(tmp_path / "bank") as bank:
        pairs = [mined("zorp", "one"), mined("blen", "one"), mined("quix", "two"), mined("framp", "three")]
        bank.add_mined(pairs, actor="miner")
        bank.record_usage([row(s, m, -1, problem=f"p{n}") for s, m in ((1, 2), (7, 8), (10, 11)) for n in range(9)])
        done = prune(bank, KeepRule.parse("harmful"), actor="me")
        assert (done.pruning.problems_bare, done.pruning.bare) == (2, ("three", "two"))


# -------------------------------------------------------------------------------------------------- the command line


@pytest.fixture
def cli(bank: Bank, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    simulated(bank, steps=60)
    return CommandLine(bank.path, capsys, monkeypatch)


def test_prune_on_the_command_line(cli: CommandLine, bank: Bank) -> None:
    seen = cli.json("prune", "--rule", "harmful", "--dry-run")
    assert (sorted(one["entry_id"] for one in seen["retired"]), seen["revision"]) == ([4, 5, 6], None)
    refused = cli.refused("prune", "--rule", "harmful", code=2)
    assert "it would retire 3 entries and nobody is there to ask: look with --dry-run, then add --yes" in refused
    assert bank.revision == 1
    text = cli.out("prune", "--rule", "harmful", "--yes")
    assert "skills:   1 of 6 go (3 were measured), with 33% of the uses and 17% of the places" in text
    assert "retrieval loses 1 of 6 skills, 1 of 6 mistakes" in text
    assert f"1 problem left without an entry: p-{OPERATIONS[1]}" in text
    assert "prune: revision 2 (take it back with `sgsd bank undo 2`)" in text
    assert (bank.revisions()[0].actor, bank.revisions()[0].reason) == ("ada", f"pruned: {RULES['harmful']}")
    done = cli.json("prune", "--rule", "harmful", "--yes")
    assert (done["retired"], done["revision"]) == ([], None)
    Pruning.model_validate({name: value for name, value in done.items() if name != "revision"})
    assert "bounds nothing that was measured" in cli.refused("prune", "--rule", "kind:skill", code=2)
    assert "level 95 is not between" in cli.refused("prune", "--rule", "harmful", "--level", "95", "--yes", code=2)


def test_usage_on_the_command_line(cli: CommandLine) -> None:
    told = cli.json("usage", "--sort", "utility", "--kind", "skill")
    assert ([one["entry_id"] for one in told["usage"]], told["total"]) == ([1, 7, 4], 3)
    assert [Estimate.model_validate(one).kind for one in told["usage"]] == ["skill"] * 3
    (line, words, *_) = cli.out("usage", "4").splitlines()
    assert line.startswith("     4  skill      240 on ")
    assert "utility -0." in line
    assert "nats" in line
    assert OPERATIONS[1] in words
    (teacher,) = cli.json("usage", "4", "--teachers")["usage"]
    assert (teacher["skill_id"], teacher["mistake_id"], teacher["entry_id"]) == (4, 5, 6)
    assert [one["entry_id"] for one in cli.json("usage", "--limit", "2", "--offset", "3")["usage"]] == [4, 5]
    assert cli.json("usage", "--run", "another")["usage"] == []
    assert "chosen by ids alone" in cli.refused("usage", "--teachers", "--kind", "skill", code=2)
