"""The commands that change a bank by hand, and those that look at what was done, as somebody at a shell meets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from skillbank import curate
from skillbank.records import Flag, Mistake, Pair, ProblemText, Skill
from skillbank.store import Bank, UsageRow
from skillbank.store.query import Query

from .command_line import CommandLine
from .made_up import mined
from .test_view import fate

# The bank has skills 1, 4, 7 ..., mistakes 2, 5, 8 ..., pairs 3, 6, 9 ... of p-zorp, p-blen, p-quix ...


@pytest.fixture
def sgsd(bank: Bank, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return CommandLine(bank.path, capsys, monkeypatch)


def quarantine(bank: Bank, *ids: int) -> None:
    with bank.change(actor="guard") as change:
        for entry_id in ids:
            change.flag(entry_id, [Flag(rule="answer", reason="says 42")])


# ------------------------------------------------------------------------------------------------------------- in bulk


def test_a_query_is_shown_and_asked_about(bank: Bank, sgsd: CommandLine) -> None:
    out = sgsd.out("disable", "--where", "kind:skill double", "--preview")
    assert "skill 1  status  active -> disabled  Step on zorp: zorp means double" in out
    assert "no longer retrieved: 1, 4, 7, 10, 13, 16" in out
    assert out.endswith("preview: nothing was changed; it would change 6 entries (6 skills)\n")
    error = sgsd.refused("disable", "--where", "kind:skill double", code=2)
    assert "disable would change 6 entries that fit" in error
    assert "--yes" in error
    assert bank.revision == 1
    out = sgsd.out("disable", "--where", "kind:skill double", "--yes", "--reason", "all alike")
    back = f"(take it back with `sgsd bank undo 2 --bank {bank.path}`)"
    assert out.endswith(f"disable: revision 2, 6 entries (6 skills) {back}\n")
    assert bank.history(1)[-1].reason == "all alike"


def test_what_is_asked_is_answered(bank: Bank, sgsd: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    class Terminal:
        answer = False

        def confirm(self, text: str, **_: object) -> bool:
            asked.append(text)
            if not self.answer:
                return False
            bank.add_mined([mined("newer")], actor="miner")  # fits as well, and was not shown
            return True

    terminal = Terminal()
    monkeypatch.setattr("typer.confirm", terminal.confirm)
    monkeypatch.setattr("sgsd.cli.bank.bulk.at_a_terminal", lambda: True)
    code, out, err = sgsd("retire", "--where", "kind:pair")
    assert (code, out, bank.revision) == (1, "", 1)
    assert err.endswith("sgsd: aborted\n")
    terminal.answer = True
    assert sgsd.json("retire", "--where", "kind:pair")["entries"] == {"pair": 6}
    assert asked == ["retire 6 entries?"] * 2
    assert bank.get(21).status == "active"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["disable"], 2, "no entry is given: name ids, or --where QUERY"),
        (["disable", 1, "--where", "zorp"], 2, "both ids and a query is given"),
        (["disable", "--where", "kind:lesson"], 2, "kind:lesson is none of skill, mistake, pair"),
        (["disable", "--where", "color:red"], 2, "color:red is no criterion"),
        (["disable", "0"], 2, "at least 1"),
        (["disable", "x"], 2, "'x'"),
        (["tag", 1], 2, "--tag"),
        (["tag", 1, "--tag", ""], 1, "'' is no tag"),
        (["merge", 4, "--into", 99], 1, "no entry 99"),
        (["merge", 4, 2, "--into", 1], 1, "mistake 2 cannot be superseded by active skill 1"),
        (["merge", 4], 2, "--into"),
        (["edit", 1, "--description", "x"], 1, "entry 1 is a skill without a field 'description'"),
        (["edit", 1, "--title", " "], 1, "title of entry 1 is refused: it has no words"),
        (["add", "lesson"], 2, "'lesson'"),
        (["add", "--title", "x"], 2, "a skill needs a principle: give it"),
        (["add", "--title", "x", "--principle", "y", "--skill", 1], 2, "give words for it or its id, not both"),
        (["add", "--skill", 1, "--mistake", 2], 1, "pair 3 joins skill 1 and mistake 2 already"),
        (["add", "--from", "nowhere.txt"], 1, "nowhere.txt"),
        (["split", 1, "--from", "-"], 1, "give two wordings or more"),
        (["split", 3], 1, "entry 3 is a pair: name its skill 1 or its mistake 2"),
        (["log", 9], 1, "no revision 9: the bank is at revision 1"),
        (["log", "--entry", 99], 1, "no entry 99"),
        (["diff", 1, 9], 1, "no revision 9: the bank has revisions 0 to 1"),
        (["diff", 1, 0], 1, "revision 1 is later than 0"),
        (["checkout", 4], 1, "no revision 4 to check out"),
        (["list", "--utility", "much"], 2, "utility:much is no number"),
        (["list", "--utility", ""], 2, "--utility has no number"),
        (["list", "--where", "kind:skill", "--kind", "skill"], 2, "kind is given twice, in --where as skill and by"),
        (["list", "--sort", "relevance"], 2, "sort 'relevance' wants words"),
        (["search", "x", "--semantic", "--hybrid"], 2, "hybrid is semantic and by words already"),
        (["search", "x", "--where", "zorp"], 2, "words are what to search for"),
        (["rollout", "nowhere"], 1, "no rollout 'nowhere'"),
        (["problems", "--cover", "badly"], 2, "'badly'"),
        (["review", "--where", "status:gone"], 2, "status:gone is none of active"),
    ],
)
def test_wrong_input_is_one_line(
    bank: Bank, sgsd: CommandLine, arguments: list[object], code: int, message: str
) -> None:
    assert message in sgsd.refused(*arguments, code=code)
    assert bank.revision == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"], ["show", 1], ["search", "x"], ["stats"], ["problems"], ["rollout", "r"], ["edit", 1, "--title", "x"],
        ["add", "skill"], ["split", 1], ["merge", 2, "--into", 1], ["disable", 1], ["enable", 1], ["retire", 1],
        ["release", 1], ["pin", 1], ["unpin", 1], ["tag", 1, "--tag", "x"], ["untag", 1, "--tag", "x"], ["review"],
        ["log"], ["diff", 0], ["undo"], ["checkout", 0],
    ],
    ids=lambda arguments: str(arguments[0]),
)  # fmt: skip
def test_where_no_bank_is(
    sgsd: CommandLine, arguments: list[object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    error = sgsd.refused(*arguments, "--bank", "bank", code=1)
    assert "no bank at bank: build one with `sgsd bank build --rollouts FILE --bank bank`" in error
    assert list(empty.iterdir()) == []


# --------------------------------------------------------------------------------------------------------------- words


def test_edit_in_an_editor(bank: Bank, sgsd: CommandLine, tmp_path: Path) -> None:
    sgsd.editor(tmp_path, "text = text.replace('Step on zorp', 'Zorping')")
    assert sgsd.out("edit", 1, "--preview").splitlines()[-1] == "preview: nothing was changed"
    out = sgsd.out("edit", 1)
    assert out.splitlines()[:3] == ["skill 1  title", "  - Step on zorp", "  + Zorping"]
    code, out, err = sgsd("edit", 1)  # the editor finds nothing to replace
    assert (code, out, err, bank.revision) == (0, "", "left as it was: nothing was done\n", 2)
    sgsd.editor(tmp_path, "return ''")
    assert sgsd("edit", 1) == (0, "", "left as it was: nothing was done\n")
    sgsd.editor(tmp_path, "sys.exit(3)")
    assert "ended with 3: nothing was changed" in sgsd.refused("edit", 1, code=1)
    sgsd.editor(tmp_path, "text = text.replace('[title]', '[tittle]')")
    code, _, err = sgsd("edit", 1)
    assert (code, bank.revision) == (2, 2)
    kept = Path(err.splitlines()[0].removeprefix("what you wrote is kept in "))
    assert "[tittle]\nZorping" in kept.read_text(encoding="utf-8")
    kept.unlink()


def test_two_people_edit_one_entry(bank: Bank, sgsd: CommandLine, tmp_path: Path) -> None:
    sgsd.editor(  # while this editor is open somebody else rewords the entry
        tmp_path,
        "from skillbank import curate\nfrom skillbank.store import Bank\n"
        f"bank = Bank.open({str(bank.path)!r})\n"
        "curate.edit(bank, 1, {'title': 'hers'}, actor='eve')\nbank.close()\n"
        "text = text.replace('Step on zorp', 'his')",
    )
    code, out, err = sgsd("edit", 1)
    assert (code, out) == (1, "")
    assert "entry 1 was reworded since you read it (version 1, now 2): title says 'hers' now" in err
    kept = Path(err.splitlines()[0].removeprefix("what you wrote is kept in "))
    assert "his" in kept.read_text(encoding="utf-8")
    kept.unlink()
    content = bank.get(1).content
    assert isinstance(content, Skill)
    assert content.title == "hers"


def test_add_by_options_by_editor_and_from_a_file(bank: Bank, sgsd: CommandLine, tmp_path: Path) -> None:
    out = sgsd.out("add", "--title", "Check", "--principle", "Say the unit", "--tag", "mine", "--reason", "missing")
    assert "skill 19  title\n  + Check" in out
    assert "skill 19  tags  + mine" in out
    sgsd.editor(
        tmp_path, "text = text.replace('[title]\\n', '[title]\\nT').replace('[principle]\\n', '[principle]\\nP')"
    )
    sgsd.out("add")  # a pair's form: the mistake stays empty, so a skill alone is added
    assert (bank.get(20).content, bank.count()) == (Skill(title="T", principle="P"), 20)
    form = "[description]\nNot checking\n\n[title]\nCheck\n[principle]\nSay the unit\n"
    done = sgsd.json("add", "--from", "-", stdin=form)
    assert done["added"] == [21, 22]
    assert bank.get(22).content == Pair(skill_id=19, mistake_id=21)
    sgsd.editor(tmp_path, "text = text.replace('[description]\\n', '[description]\\nD')")
    assert sgsd.json("add", "--skill", 1)["added"] == [23, 24]
    assert bank.get(24).content == Pair(skill_id=1, mistake_id=23)
    assert sgsd.json("add", "--skill", 1, "--mistake", 5)["added"] == [25]


def test_what_the_guard_finds_in_a_curators_words(bank: Bank, sgsd: CommandLine) -> None:
    out = sgsd.out("edit", 1, "--principle", "The answer is \\boxed{42}.")
    assert "quarantined: 1 (answer_phrase); when you find it right, `sgsd bank release 1` lets it through" in out
    assert bank.get(1).status == "quarantined"
    assert "left as it is: 1: they are flagged and enabling lifts no flag" in sgsd.out("enable", 1)
    out = sgsd.out("release", 1)
    assert "flags  answer_phrase: states an answer" in out
    assert "-> released" in out
    assert bank.get(1).status == "active"


def test_split_and_merge(bank: Bank, sgsd: CommandLine, tmp_path: Path) -> None:
    sgsd.editor(tmp_path, "text = text.replace('zorp taken', 'zorp mistaken', 1)")
    done = sgsd.json("split", 2)
    assert done["added"] == [19, 20]
    contents = [bank.get(i).content for i in (19, 20)]
    assert [c.description for c in contents if isinstance(c, Mistake)] == [
        "zorp mistaken as the sum of both",
        "zorp taken as the sum of both",
    ]
    assert "part of 2" in sgsd.out("show", 19)
    out = sgsd.out("merge", 4, 7, "--into", 1, "--title", "One lesson")
    assert "skill 4  superseded_by  + 1" in out
    shown = sgsd.out("show", 1)
    assert "stands for 2 others merged into it" in shown
    assert "     4  Step on blen: blen means" in shown
    assert "skill 4  superseded by 1" in sgsd.out("show", 4)
    sgsd.out("pin", 10)
    assert "skill 10 is pinned and cannot be superseded by 1: unpin it first" in sgsd.refused(
        "merge", 10, "--into", 1, code=1
    )
    assert "pinned" in sgsd.out("show", 10)


# ---------------------------------------------------------------------------------------------------------- looking


def test_list_combines_what_is_given(bank: Bank, sgsd: CommandLine) -> None:
    bank.record_usage(
        UsageRow(
            run="r", step=1, problem_id="p", outcome="correct", skill_id=skill, mistake_id=skill + 1, support=0.1,
            polarity=polarity, gate_mass=0.1, weight=0.1, revision=1,
        )
        for skill, polarity in ((1, 1), (4, -1))
    )  # fmt: skip
    sgsd.out("tag", 4, 7, "--tag", "algebra")
    quarantine(bank, 10)

    def found(*arguments: object) -> list[int]:
        return [entry["id"] for entry in sgsd.json("list", *arguments)["entries"]]

    assert found("--where", "kind:skill tag:algebra") == [4, 7]
    assert found("--where", "tag:*", "--utility", "<0") == [4]
    assert found("--flag", "*") == found("--status", "quarantined") == [10]
    assert found("--kind", "skill", "--sort", "utility", "--limit", 2) == [1, 4]
    assert found("--revision", ">=2", "--sort", "changed") == [10, 4, 7]
    assert found("--text", "zorp", "--kind", "pair") == [3]
    assert found("--evidence", ">1", "--kind", "pair", "--where", "blen") == [6]
    assert found("--where", "utility:<0.5", "--utility", ">-2") == [4, 5, 6]
    line = sgsd.out("list", "--kind", "skill", "--sort", "utility", "--limit", 3).splitlines()
    assert " +1.00 " in line[0]
    assert " -1.00 " in line[1]


def test_a_rollouts_fate(bank: Bank, sgsd: CommandLine) -> None:
    bank.record_rollouts([fate("p-zorp-wrong", "I add them, so it is 3."), fate("p-new-wrong", reason="no departure")])
    bank.record_problems([ProblemText(problem_id="p-zorp", problem="What is 1 zorp 1?")])
    out = sgsd.out("rollout", "p-zorp-wrong")
    assert "accepted by contrast" in out
    assert "problem:     What is 1 zorp 1?" in out
    assert "    I add them, so it is 3.\n\n2 entries rest on it\n     2  mistake  active" in out
    out = sgsd.out("rollout", "p-new-wrong")
    assert "rejected by contrast: no departure" in out
    assert out.endswith("\nno entry rests on it\n")
    shown = sgsd.out("show", 2)
    assert "problem p-zorp: What is 1 zorp 1?\n    wrong    I add them, “so it is 3”." in shown


def test_stats_and_problems(bank: Bank, sgsd: CommandLine) -> None:
    bank.record_problems([ProblemText(problem_id=f"p-{name}", problem=f"About {name}") for name in ("zorp", "new")])
    bank.record_rollouts([fate("p-new-wrong", reason="no departure")])
    out = sgsd.out("stats")
    assert "problems     0 useful, 1 untried, 0 unhelpful, 1 uncovered" in out
    assert "rejected     1: no departure" in out
    assert out.endswith("next: sgsd bank problems --cover uncovered\n")
    assert sgsd.json("stats")["pairs_never_retrieved"] == 6
    listed = sgsd.json("problems", "--cover", "uncovered")
    assert (listed["total"], [problem["problem_id"] for problem in listed["problems"]]) == (1, ["p-new"])
    assert "p-zorp            untried       1 pair  About zorp" in sgsd.out("problems")


# ------------------------------------------------------------------------------------------------------------- history


def test_log_diff_and_going_back(bank: Bank, sgsd: CommandLine) -> None:
    sgsd.out("edit", 1, "--title", "One", "--reason", "shorter")
    sgsd.out("tag", 1, 2, "--tag", "x")
    sgsd.out("edit", 1, "--title", "Two")
    lines = sgsd.out("log").splitlines()
    assert [line.split()[0] for line in lines] == ["4", "3", "2", "1"]
    assert lines[1].endswith("2 entries  ada")
    assert lines[2].endswith("1 entry  ada: shorter")
    assert sgsd.out("log", "--limit", 1).splitlines()[-1] == "1 to 1 of 4 (--limit and --offset show others)"
    assert sgsd.out("log", 3).splitlines()[1:] == ["skill 1  tags  + x  Two: zorp means double the first and add the second", "mistake 2  tags  + x  zorp taken as the sum of both"]  # fmt: skip  # noqa: E501
    assert [event["revision"] for event in sgsd.json("log", "--entry", 1)["events"]] == [4, 3, 2, 1]
    assert sgsd.out("diff", 1, 4).splitlines() == [
        "skill 1  title", "  - Step on zorp", "  + Two", "skill 1  tags  + x", "mistake 2  tags  + x  zorp taken as the sum of both",  # noqa: E501
    ]  # fmt: skip
    assert sgsd.json("diff", 3)["changes"] == [
        {"entry_id": 1, "kind": "skill", "field": "title", "before": "One", "after": "Two"}
    ]
    assert sgsd.out("diff", 4) == "no change found\n"
    error = sgsd.refused("undo", 2, code=1)
    assert "entry 1 was changed again in revision 4" in error
    out = sgsd.out("undo", 2, "--skip-changed")
    assert out == "left as it is: 1: they were changed again since: undo the later revision first\nnothing changed\n"
    assert "preview: nothing was changed; it would change 2 entries" in sgsd.out("checkout", 1, "--preview")
    sgsd.out("checkout", 1)
    assert sgsd.json("diff", 1)["changes"] == []
    sgsd.out("undo")
    assert [change["after"] for change in sgsd.json("diff", 1)["changes"]] == ["Two", "x", "x"]


def test_json_has_every_change(bank: Bank, sgsd: CommandLine) -> None:
    bank.add_mined([mined(f"op{n}") for n in range(15)], actor="miner")
    done = sgsd.json("disable", "--where", "kind:skill", "--yes")
    assert (len(done["changes"]), done["entries"]) == (21, {"skill": 21})
    out = sgsd.out("undo")
    assert "and 1 more changes (--json prints all)" in out
    assert "retrieved from now on: 1, 4, 7" in out
    assert "and 1 more\n" in out


TAKERS: dict[str, Callable[[Bank], object]] = {
    "release": lambda bank: bank.count(Query(status="quarantined")),
    "untag": lambda bank: bank.count(Query(tag="x")),
    "unpin": lambda bank: bank.count(Query(pinned=True)),
    "enable": lambda bank: bank.count(Query(status="disabled")),
}


@pytest.mark.parametrize("command", TAKERS)
def test_what_was_done_by_query_is_taken_back_by_query(bank: Bank, sgsd: CommandLine, command: str) -> None:
    quarantine(bank, 1, 2)
    curate.tag(bank, [4, 5], ["x"], actor="me")
    curate.pin(bank, [7, 8], actor="me")
    curate.disable(bank, [10, 11], actor="me")
    where = {"release": "flag:answer", "untag": "tag:x", "unpin": "pinned:yes", "enable": "status:disabled"}[command]
    assert TAKERS[command](bank) == 2
    extra = ["--tag", "x"] if command == "untag" else []
    done = sgsd.json(command, "--where", where, *extra, "--yes")
    assert (done["action"], sum(done["entries"].values()), TAKERS[command](bank)) == (command, 2, 0)
    assert sgsd.out(command, "--where", where, *extra) == "nothing changed\n"
