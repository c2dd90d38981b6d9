"""`sgsd explain`: what a page says of a token is what the method computes, in the words that teachers had."""

from __future__ import annotations

import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from sgsd.cli import main
from sgsd.config import RunConfig
from sgsd.errors import ConfigError
from sgsd.models import load_student
from sgsd.objectives.gated import GatedSettings, gated_loss
from sgsd.prompts import Guidance, guided_user_text, plain_user_text, render
from sgsd.report.chosen import named, notable
from sgsd.report.explain import explain_page
from sgsd.report.folder import RunFolder, open_run
from sgsd.report.heat import of_all, of_teacher, signed, visible
from sgsd.report.scored import Scored, scored
from sgsd.score import ScoreRow, completion_mask, score
from skillbank import curate
from skillbank.look.judged import judged_rollouts, judgements, words_at
from skillbank.rollouts import read_rollouts
from skillbank.store import Bank

from .answering import serving
from .runs import LORA, Folders, run
from .test_served_teacher import Teacher
from .training import problems

pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning")

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>\"'><style>*{display:none}</style>"


def made(folders: Folders, **sections: Any) -> RunFolder:
    config = folders.config(**sections)
    run(config, held_out=0)
    return open_run(Path(config.output_dir))


def of(folder: RunFolder, rollout_id: str | None = None) -> list[Scored]:
    with Bank.open(folder.config.bank.path or "", readonly=True) as bank:
        chosen = notable(folder, bank) if rollout_id is None else [named(folder, rollout_id)]
        return scored(folder, chosen, bank, {problem.problem_id: problem for problem in problems()}.get)


def verified(folder: RunFolder, step: int) -> str:
    """A rollout of a step that was judged."""
    return next(r.rollout_id for _, r in folder.rollouts(step) if r.outcome != "unverifiable")


@pytest.mark.parametrize(
    "sections",
    [
        pytest.param({}, id="as published"),
        pytest.param({"model": {"lora": LORA}, "teacher": {"weights": "ema"}}, id="adapter, ema"),
        pytest.param(
            {"teacher": {"weights": "base"}, "objective": {"support_baseline": "placebo"}}, id="base, placebo"
        ),
        pytest.param({"objective": {"support_top_k": 4}}, id="local support"),
    ],
)
def test_numbers_are_those_of_training(folders: Folders, sections: dict[str, Any]) -> None:
    """Of the steps whose weights were kept (1, and 4 after the checkpoint of 3) the ledger's own come out again."""
    folder = made(folders, ledger={"placebo_share": 1.0}, train={"max_steps": 5}, **sections)
    for step in (1, 4):
        for rollout_id in (r.rollout_id for _, r in folder.rollouts(step) if r.outcome != "unverifiable"):
            (one,) = of(folder, rollout_id)
            assert (one.weights_step, one.exact_tokens) == (step - 1, True)
            assert len(one.teachers) == 3
            assert one.placebo is not None
            for teacher in (*one.teachers, one.placebo):
                assert teacher.opinion is not None
                assert teacher.in_training is not None
                assert teacher.opinion.polarity == teacher.in_training.polarity
                assert teacher.opinion.support == pytest.approx(teacher.in_training.support, abs=2e-5)
                assert teacher.opinion.gate_mass == pytest.approx(teacher.in_training.gate_mass, abs=2e-5)
            assert (one.pull_T is None) == bool(folder.config.objective.support_top_k)
            before = f"{folders.model}, as it was before training"
            assert one.weights == (before if step == 1 else "checkpoint-3")
    (older,) = of(folder, verified(folder, 5))
    assert older.weights_step == 3  # the nearest
    page = explain_page(folder, [older])
    assert ": 1 step before those of training, the nearest that the run kept" in page
    local = folder.config.objective.support_top_k
    assert (f"renormalised on the teacher&#39;s {local} likeliest tokens" in page.replace("'", "&#39;")) == bool(local)


def test_a_token_is_scored_as_the_scoring_function_scores_it(folders: Folders) -> None:
    folder = made(folders, train={"max_steps": 1})
    one = of(folder)[0]
    model, tokenizer = load_student(folder.config.model, training=True)
    (judgement,) = [
        found for found in _judgements(folder, one) if found.teachers[0].opinion == one.teachers[0].in_training
    ]
    plain = ScoreRow(render(tokenizer, plain_user_text(one.rollout.problem)), one.token_ids)
    mask_T = completion_mask(one.token_ids, tokenizer)
    deltas = []
    for past, teacher in zip(judgement.teachers, one.teachers, strict=True):
        text = guided_user_text(one.rollout.problem, [Guidance(past.skill, past.mistake)])
        ours_T, theirs_T = score(model, [plain, ScoreRow(render(tokenizer, text), one.token_ids)])
        deltas.append(torch.where(mask_T, theirs_T - ours_T, 0.0))
        assert teacher.delta_T == pytest.approx(deltas[-1].tolist(), abs=2e-5)
    # Together they pull as the loss's own gradient does.
    student_BT = torch.zeros(1, len(one.token_ids), dtype=torch.float64, requires_grad=True)
    weight_BK = torch.tensor([[teacher.weight for teacher in one.teachers]], dtype=torch.float64)
    sign = torch.tensor([1 if one.rollout.outcome == "correct" else -1])
    loss = gated_loss(
        student_BT,
        torch.stack(deltas)[None].double(),
        mask_T[None],
        sign,
        weight_BK,
        GatedSettings(),
        num_examples=1,
    ).loss
    loss.backward()
    assert student_BT.grad is not None
    assert one.pull_T == pytest.approx((-student_BT.grad[0] * mask_T.sum()).tolist(), abs=2e-5)
    assert any(one.pull_T)


def _judgements(folder: RunFolder, one: Scored) -> list[Any]:
    with Bank.open(folder.config.bank.path or "", readonly=True) as bank:
        return judgements(bank, folder.ledger_name, one.step, one.rollout.problem_id)


def test_teachers_speak_in_the_words_they_had(folders: Folders) -> None:
    folder = made(folders, train={"max_steps": 1})
    before = of(folder)
    with Bank.open(folders.bank) as bank:
        skills = [entry.id for entry in bank.entries() if entry.kind == "skill"]
        for entry_id in skills:
            curate.edit(bank, entry_id, {"title": "What is 19 ?"}, actor="ada")
        curate.retire(bank, skills, actor="ada")
        assert words_at(bank, skills[0], 1).model_dump()["title"] == "step 0"
        assert words_at(bank, skills[0], bank.revision).model_dump()["title"] == "What is 19 ?"
    assert of(folder) == before


def test_without_a_name_what_taught_most_a_success_and_a_failure(folders: Folders) -> None:
    folder = made(folders, train={"max_steps": 4})
    found = of(folder)
    with Bank.open(folders.bank, readonly=True) as bank:
        judged = [one for one in judged_rollouts(bank, folder.ledger_name) if one.step in (1, 4)]
    most = max(judged, key=lambda one: one.gate_mass)
    assert found[0].why.startswith("most gate mass")
    assert (found[0].step, found[0].rollout.problem_id) == (most.step, most.problem_id)
    by_why = {why: one for one in found for why in one.why.split(", ")}
    assert by_why["a success"].rollout.outcome == "correct"
    assert by_why["a failure"].rollout.outcome == "wrong"
    assert {one.weights_step for one in found} <= {0, 3}


@pytest.mark.parametrize("method", ["opsd", "opd"])
def test_a_teacher_whose_distribution_is_followed(folders: Folders, method: str, tmp_path: Path, tiny: Any) -> None:
    sections: dict[str, Any] = {"method": method, "opd": {"teacher": str(tiny.save(tmp_path / "other"))}}
    config = RunConfig.model_validate(
        {**folders.config().model_dump(exclude={"bank", "teacher", "method"}), **sections}
    )
    run(config, held_out=0)
    folder = open_run(Path(config.output_dir))
    chosen = notable(folder, None)
    assert [one.why for one in chosen] == ["the latest success", "the latest failure"]
    assert {one.step for one in chosen} <= {1, 4}  # of the steps whose weights are kept
    found = scored(folder, chosen, None, {problem.problem_id: problem for problem in problems()}.get)
    for one in found:
        (teacher,) = one.teachers
        assert teacher.loss_T is not None
        assert len(teacher.delta_T) == len(teacher.loss_T) == len(one.token_ids)
        assert one.pull_T is None
    assert any(abs(delta) > 1e-4 for one in found for delta in one.teachers[0].delta_T)
    assert "The teacher" in explain_page(folder, found)


def test_a_teacher_behind_a_server_says_what_it_says_here(folders: Folders, tiny: Any, tmp_path: Path) -> None:
    tiny.model(7).save_pretrained(tmp_path / "teacher")
    tiny.tokenizer().save_pretrained(tmp_path / "teacher")
    values = folders.config(train={"max_steps": 1}).model_dump(exclude={"bank", "teacher", "method", "opd"})
    opd = {"teacher": str(tmp_path / "teacher"), "dtype": "float32", "loss": "sampled"}
    run(RunConfig.model_validate({**values, "method": "opd", "opd": opd}), held_out=0)
    folder = open_run(folders.at / "run")
    here = scored(folder, notable(folder, None), None, {}.get)
    with serving(Teacher()) as url:
        served = RunConfig.model_validate({**values, "method": "opd", "opd": opd | {"server": {"urls": [url]}}})
        there = scored(RunFolder(folder.path, served), notable(folder, None), None, {}.get)
    for one, other in zip(here, there, strict=True):
        assert max(map(abs, one.teachers[0].delta_T)) > 0.1
        assert other.teachers[0].delta_T == pytest.approx(one.teachers[0].delta_T, abs=1e-4)
        assert other.teachers[0].loss_T == pytest.approx(one.teachers[0].loss_T, abs=1e-3)


def test_what_cannot_be_explained_is_one_line(folders: Folders) -> None:
    folder = made(folders, train={"max_steps": 2})
    with pytest.raises(ConfigError, match=r"no rollout x in .*run: ids stand in .*rollouts, such as p\d"):
        named(folder, "x")
    unverifiable = [r.rollout_id for _, r in folder.rollouts() if r.outcome == "unverifiable"]
    with pytest.raises(ConfigError, match=r"nobody judged rollout .*: it is unverifiable"):
        of(folder, unverifiable[0])
    grpo = RunFolder(folder.path, folder.config.model_copy(update={"method": "grpo"}))
    with pytest.raises(ConfigError, match="trained by grpo, where no teacher scores tokens: give sgsd, opsd or opd"):
        scored(grpo, notable(grpo, None), None, {}.get)
    with pytest.raises(ConfigError, match=r"is not the folder of a run .*: name an output_dir; .*run is one"):
        open_run(folder.path.parent)


# ---- the page --------------------------------------------------------------------------------------------------------


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words += data


def stands_alone(page: str) -> Elements:
    """No script, no image, no style in an element, no link that leads away."""
    elements = Elements(page)
    tags = [tag for tag, _ in elements.found]
    assert not {"script", "img", "iframe", "object", "link", "form"} & set(tags)
    assert tags.count("style") == 1
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], (tag, attributes)
        assert attributes.get("href", "#").startswith("#")
        assert "src" not in attributes
    (policy,) = [a["content"] for tag, a in elements.found if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    return elements


def test_hostile_words_are_words(folders: Folders) -> None:
    with Bank.open(folders.bank) as bank:
        for entry in bank.entries():
            if entry.kind == "skill":
                curate.edit(bank, entry.id, {"title": HOSTILE, "principle": HOSTILE}, actor="ada")
    folder = made(folders, train={"max_steps": 1})
    file = folder.path / "rollouts" / "step-000001.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line |= {"answer": HOSTILE, "reference": HOSTILE, "rollout_id": f"{line['rollout_id']}{HOSTILE}"}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = of(folder)
    tokens = tuple(f"{HOSTILE}\u202e\0\n" for _ in found[0].tokens)
    page = explain_page(folder, [Scored(**{**vars(found[0]), "tokens": tokens})])
    elements = stands_alone(page)
    assert elements.words.count("<script>") > len(tokens)
    assert "\0" not in page
    assert "␀" in page


def test_each_token_shows_its_sign_without_colour(folders: Folders) -> None:
    one = of(made(folders, train={"max_steps": 1}))[0]
    seen = set()
    for teacher in one.teachers:
        for cell, delta, counted in zip(of_teacher(one, teacher), teacher.delta_T, one.counted_T, strict=True):
            if not counted:
                assert (cell.look, cell.title.partition(": ")[2]) == ("off", "does not count")
            elif abs(delta) >= 0.05:
                assert cell.look.split()[0] == ("up" if delta > 0 else "down")
                assert f": {signed(delta)} nats, gate " in cell.title
                seen.add(cell.look.split()[0])
            else:
                assert cell.look == ""
    assert seen == {"up", "down"}
    assert one.pull_T is not None
    assert len(of_all(one, one.pull_T)) == len(one.tokens)
    assert [visible(text) for text in ("a\n", "\t", "\x1b[1m", "\r")] == ["a↵\n", "⇥\t", "␛[1m", "␍"]
    assert [signed(number) for number in (0.004, -0.004, -1.5, 2)] == ["0.00", "0.00", "−1.50", "+2.00"]


def test_the_command(folders: Folders, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    folder = made(folders, train={"max_steps": 1})
    rollout_id = verified(folder, 1)
    assert (
        main(["explain", str(folder.path), "--rollout", rollout_id, "--out", str(tmp_path / "e.html"), "--json"]) == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert said["page"] == str(tmp_path / "e.html")
    (one,) = said["rollouts"]
    (scored_again,) = of(folder, rollout_id)
    assert one["teachers"][0]["delta_T"] == pytest.approx(scored_again.teachers[0].delta_T)
    assert one["rollout"]["rollout_id"] == rollout_id
    page = (tmp_path / "e.html").read_text(encoding="utf-8")
    stands_alone(page)
    assert html.escape(rollout_id) in page
    delta = scored_again.teachers[0].delta_T[0]
    assert re.search(rf"token 1: {re.escape(signed(delta))} nats", page) or not scored_again.counted_T[0]
    assert main(["explain", str(folder.path)]) == 0
    out = capsys.readouterr().out
    assert f"page: {folder.path / 'explain.html'}" in out
    assert "3 teachers" in out
    assert (folder.path / "explain.html").is_file()


def test_a_run_keeps_the_tokens_it_drew(folders: Folders) -> None:
    folder = made(folders, train={"max_steps": 1})
    tokenizer = load_student(folder.config.model)[1]
    for rollout in read_rollouts(folder.path / "rollouts" / "step-000001.jsonl"):
        assert rollout.token_ids is not None
        assert tokenizer.decode(rollout.token_ids, skip_special_tokens=True) == rollout.completion
    file = folder.path / "rollouts" / "step-000001.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    kept = of(folder)[0]
    file.write_text("".join(json.dumps({k: v for k, v in line.items() if k != "token_ids"}) + "\n" for line in lines))
    anew = of(folder)[0]
    assert (kept.exact_tokens, anew.exact_tokens) == (True, False)
    assert "cut into tokens anew" in explain_page(folder, [anew])
