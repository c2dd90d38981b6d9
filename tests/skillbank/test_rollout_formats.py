"""Past rollouts as other programs write them: what each format says, and what a reward says of an attempt."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any, get_args

import pytest

from sgsd import prompts
from skillbank.errors import InvalidOption, RolloutsInvalid
from skillbank.records import Mistake, Rollout, Skill, problem_hash
from skillbank.rollouts import Format, Rejected, lines, read_rollouts, reader_for, write_rollouts
from skillbank.rollouts.chat import OWN_GUIDANCE, problem_of, shows_skills
from skillbank.rollouts.formats import FORMATS
from skillbank.rollouts.rewards import outcome_of

PROBLEM = "How many eggs are 3 and 4?"
PLAIN = {"prompt": PROBLEM, "completion": "3 + 4 = 7", "reward": 1.0}
VERL = {
    "input": f"system\nBe brief.\nuser\n{PROBLEM}\nassistant\n",
    "output": "3 + 4 = 7",
    "gts": "7",
    "score": 1.0,
    "step": 12,
    "request_id": "5d",
}
TRL = {
    "step": 5,
    "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROBLEM}],
    "completion": [{"role": "assistant", "content": "3 + 4 = 7"}],
    "accuracy_reward": 1.0,
    "think_format_reward": 0.0,
    "answer_parsed": "[7, '7']",
    "solution": "7",
    "advantage": 0.7,
}
MEMORY = {
    "memory_id": "mem_math_1",
    "tags": {"environment": "MathReasoningAgent", "outcome": "Failure"},
    "content": {
        "task_meta": {"original_goal": PROBLEM, "ground_truth": "7"},
        "refined_trajectory": None,
        "strategic_guidelines": {"strategic_guidelines": {"planning_pattern": None, "mistakes_to_avoid": []}},
        "raw_attempt": {"completion": "3 * 4 = 12", "predicted_answer": "12", "ground_truth": "7", "reward": 0.0},
    },
}


def jsonl(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def parquet(path: Path, *records: dict[str, Any]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(list(records)), path)
    return path


def read(path: Path, **options: Any) -> tuple[list[Rollout], list[Rejected]]:
    rejected: list[Rejected] = []
    return list(read_rollouts(path, on_reject=rejected.append, **options)), rejected


def one(path: Path, **options: Any) -> Rollout:
    rollouts, rejected = read(path, **options)
    assert rejected == []
    assert len(rollouts) == 1
    return rollouts[0]


def test_the_table_and_the_type_name_the_same_formats() -> None:
    assert get_args(Format) == ("auto", *FORMATS)
    with pytest.raises(InvalidOption, match="format is 'csv': choose one of auto, native"):
        read_rollouts(Path("x"), format="csv")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "record"), [("plain", PLAIN), ("verl_rollouts", VERL), ("trl_completions", TRL), ("memories", MEMORY)]
)
def test_a_format_is_known_by_its_fields_and_gives_the_same_ids_each_time(
    tmp_path: Path, name: str, record: dict[str, Any]
) -> None:
    path = jsonl(tmp_path / "any", record)
    assert reader_for(path) == name
    rollout = one(path)
    assert (rollout.problem, rollout.problem_id, rollout.source) == (PROBLEM, problem_hash(PROBLEM), name)
    assert rollout == one(path, format=name)
    assert not rollout.guided
    again, _ = read(jsonl(tmp_path / "twice", record, record))
    assert [item.rollout_id for item in again] == [rollout.rollout_id] * 2


def test_what_trl_logs(tmp_path: Path) -> None:
    unscored = {**TRL, "accuracy_reward": None}  # TRL's verifier could not parse the solution
    rollouts, rejected = read(parquet(tmp_path / "completions_00005.parquet", TRL, unscored))
    assert rejected == []
    assert [r.outcome for r in rollouts] == ["correct", "unverifiable"]
    first = rollouts[0]
    assert (first.completion, first.reference) == ("3 + 4 = 7", "7")
    assert first.sampling == {"step": 5, "rewards": {"accuracy_reward": 1.0, "think_format_reward": 0.0}}
    assert one(jsonl(tmp_path / "a", TRL), reward="think_format_reward").outcome == "wrong"


def test_of_several_rewards_none_is_guessed(tmp_path: Path) -> None:
    two = {"prompt": PROBLEM, "completion": "7", "exact": 1.0, "short": 0.0, "advantage": 0.1}
    with pytest.raises(RolloutsInvalid, match=r"no single reward, name the one .*; the rewards are: exact, short"):
        read(jsonl(tmp_path / "a", two))
    assert one(jsonl(tmp_path / "a", two), reward="exact").outcome == "correct"
    with pytest.raises(RolloutsInvalid, match="no such reward, exakt; the rewards are: exact, short"):
        read(jsonl(tmp_path / "a", two), reward="exakt")


def test_what_verl_dumps(tmp_path: Path) -> None:
    shaped = {**VERL, "score": 0.35, "acc": True, "pred": "7", "gts": ["7"]}  # DAPO's score has a penalty of length
    assert one(jsonl(tmp_path / "a", VERL)).outcome == "correct"
    rollout = one(jsonl(tmp_path / "a", shaped))
    assert (rollout.outcome, rollout.answer, rollout.reference) == ("correct", "7", "7")
    assert rollout.completion == "3 + 4 = 7"
    assert one(jsonl(tmp_path / "a", shaped), reward="score").outcome == "unverifiable"
    assert one(jsonl(tmp_path / "a", shaped), reward="score", threshold=0.5).outcome == "wrong"
    (tmp_path / "a").write_text(json.dumps({**VERL, "score": math.nan}))
    assert one(tmp_path / "a").outcome == "unverifiable"


def test_memories_with_and_without_a_transcript(tmp_path: Path) -> None:
    step = {"step_index": 0, "action": "go to shelf", "critical_observation": "A sponge.", "reasoning": "Seek."}
    skillrl = {
        "memory_id": "mem_alfworld_1",
        "contextual_description": "Unsolved.",
        "tags": {"outcome": "Success"},
        "content": {
            "task_meta": {"original_goal": "put the sponge on the cart."},
            "refined_trajectory": {"refined_trajectory": [step, {**step, "action": "take sponge"}]},
            "strategic_guidelines": {"planning_pattern": "x", "mistakes_to_avoid": []},
        },
    }
    failed = json.loads(json.dumps(skillrl))
    failed["tags"]["outcome"], failed["content"]["refined_trajectory"] = "Failure", None
    untold = {**failed, "contextual_description": ""}
    failed_told = json.loads(json.dumps(failed))
    mistake = {"trigger_condition": "One is found.", "bad_action": "Stop."}
    failed_told["content"]["strategic_guidelines"]["mistakes_to_avoid"] = [mistake]
    path = tmp_path / "memories.json"
    path.write_text(json.dumps([MEMORY, skillrl, failed, failed_told, untold], indent=2))
    rollouts, rejected = read(path)
    assert [(r.outcome, r.completion) for r in rollouts] == [
        ("wrong", "3 * 4 = 12"),
        ("correct", "go to shelf\nA sponge.\nSeek.\n\ntake sponge\nA sponge.\nSeek."),
        ("wrong", "Unsolved."),
        ("wrong", "One is found.\nStop."),
    ]
    assert (rollouts[0].answer, rollouts[0].reference) == ("12", "7")
    assert rollouts[0].rollout_id.startswith("mem_math_1-")
    assert len({r.rollout_id for r in rollouts}) == 4
    assert [(item.line, item.reason) for item in rejected] == [(5, "not a memory")]


@pytest.mark.parametrize(
    ("reward", "plain", "half"),
    [
        (1, "correct", "correct"),
        (True, "correct", "correct"),
        (1.0, "correct", "correct"),
        (0, "wrong", "wrong"),
        (-1.0, "wrong", "wrong"),
        (False, "wrong", "wrong"),
        (0.5, "unverifiable", "correct"),
        (0.3, "unverifiable", "wrong"),
        (2, "unverifiable", "correct"),
        (10**400, "unverifiable", "correct"),
        (math.nan, "unverifiable", "unverifiable"),
        (None, "unverifiable", "unverifiable"),
        ("1", "unverifiable", "unverifiable"),
        ([1], "unverifiable", "unverifiable"),
    ],
)
def test_only_a_clear_reward_tells_right_from_wrong(reward: object, plain: str, half: str) -> None:
    assert outcome_of(reward) == plain
    assert outcome_of(reward, threshold=0.5) == half


@pytest.mark.parametrize(
    "prompt",
    [
        PROBLEM,
        [{"role": "user", "content": "Hello"}, {"role": "assistant"}, {"role": "user", "content": PROBLEM}],
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": PROBLEM}]}],
        f"<|im_start|>system\nuser\n<|im_end|>\n<|im_start|>user\n{PROBLEM}<|im_end|>\n<|im_start|>assistant\n",
        f"<|start_header_id|>user<|end_header_id|>\n\n{PROBLEM}<|eot_id|><|start_header_id|>assistant<|end_header_id|>",
        f"system\nBe brief.\nuser\nHello\nassistant\nHi\nuser\n{PROBLEM}\nassistant\n<think>\n\n</think>\n\n",
        f"user\n{PROBLEM}\nassistant\n<think>\n",
    ],
)
def test_the_problem_is_what_the_user_said_last(prompt: object) -> None:
    assert problem_of(prompt) == PROBLEM


@pytest.mark.parametrize("prompt", ["Ask the\nuser\nfirst", "Who is an\nassistant\nto whom?", "is a\nassistant\n"])
def test_a_problem_that_looks_like_a_header_stays_whole(prompt: str) -> None:
    assert problem_of(prompt) == prompt


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": []}, "no problem"),
        ({"prompt": " "}, "no problem"),
        ({"prompt": None}, "not a chat"),
        ({"prompt": ["text"]}, "not a chat"),
        ({"completion": 7}, "not a chat"),
    ],
)
def test_a_prompt_without_a_problem_is_refused(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    rollouts, rejected = read(jsonl(tmp_path / "a", PLAIN, {**PLAIN, **change}))
    assert len(rollouts) == 1
    assert [(item.line, item.reason) for item in rejected] == [(2, reason)]


def test_prompts_that_showed_skills_say_so(tmp_path: Path) -> None:
    skill = Skill(title="Add", principle="Addition joins.", when_to_apply="Two amounts.")
    mistake = Mistake(description="Multiplied", how_to_avoid="Read the word.")
    assert prompts.GUIDANCE.startswith(OWN_GUIDANCE)
    guided = prompts.guided_user_text(PROBLEM, [prompts.Guidance(skill, mistake)])
    rollout = one(jsonl(tmp_path / "a", {**PLAIN, "prompt": guided}))
    assert rollout.guided
    assert rollout.problem == prompts.plain_user_text(PROBLEM)  # the lessons are no part of the problem
    assert not one(jsonl(tmp_path / "a", {**PLAIN, "prompt": prompts.plain_user_text(PROBLEM)})).guided
    system = [{"role": "system", "content": guided}, {"role": "user", "content": PROBLEM}]
    assert one(jsonl(tmp_path / "a", {**TRL, "prompt": system})).guided
    # the wording of SGSD, of SkillRL, and our shape under another headline
    assert shows_skills("You may use the following as soft guidance. Solve the current problem independently and")
    assert shows_skills("## Retrieved Relevant Experience\n\n### General Principles")
    assert shows_skills(guided.replace(prompts.GUIDANCE, "Mind this:"))
    assert not shows_skills("Skill: archery. How many arrows?")
    path = tmp_path / "native.parquet"
    write_rollouts(path, [rollout])
    assert one(path) == rollout


# --------------------------------------------------------------------------------------------------- what holds records


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.json.gz", "a.json", "a.txt"])
def test_files_are_known_by_what_is_in_them(tmp_path: Path, name: str) -> None:
    content = json.dumps([PLAIN, {**PLAIN, "reward": 0}], indent=1).encode()
    if name == "a.jsonl.gz":
        content = b"\n".join(json.dumps(record).encode() for record in json.loads(content))
    path = tmp_path / "no-suffix"
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    rollouts, rejected = read(path)
    assert [r.outcome for r in rollouts] == ["correct", "wrong"]
    assert rejected == []


def test_packed_rollouts_are_written_the_same_each_time(tmp_path: Path) -> None:
    rollout = one(jsonl(tmp_path / "a", PLAIN))
    for name in ("one.jsonl.gz", "two.jsonl.gz"):
        write_rollouts(tmp_path / name, [rollout])
        assert one(tmp_path / name) == rollout
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "two.jsonl.gz").read_bytes()


@pytest.mark.parametrize(
    ("text", "usable", "reasons"),
    [
        ("[RECORD, RECORD]", 2, []),
        ("\n [\nRECORD\n,RECORD\n]\n", 2, []),
        ("[RECORD, RECORD", 1, [(2, "the array does not end")]),
        ("[RECORD,", 1, [(2, "the array does not end")]),
        ("[RECORD,]", 1, [(2, "Expecting value at column 1")]),
        ("[RECORD, 5, RECORD]", 2, [(2, "a JSON int")]),
        ("[RECORD, {'a': 5}, RECORD]", 2, [(2, "Expecting property name enclosed in double quotes at column 2")]),
        ("[RECORD}", 1, [(2, "the array ends in }")]),
        ("[RECORD] RECORD", 1, [(2, "something follows the array")]),
    ],
)
@pytest.mark.parametrize("chunk", [1, 7, 2**20])
def test_an_array_is_read_element_by_element(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, usable: int, reasons: list[tuple[int, str]], chunk: int
) -> None:
    record = json.dumps({**PLAIN, "completion": 'a ] } , [ { " \\ " \\\\'})
    path = tmp_path / "array.json"
    path.write_text(text.replace("RECORD", record))
    monkeypatch.setattr(lines, "CHUNK_BYTES", max(chunk, 16))
    monkeypatch.setattr(lines, "_ARRAY", lines._ARRAY if chunk > 16 else lines.re.compile(b""))
    rollouts, rejected = read(path)
    assert [r.completion for r in rollouts] == ['a ] } , [ { " \\ " \\\\'] * usable
    assert [(item.line, item.detail) for item in rejected] == reasons


@pytest.mark.parametrize("shape", ["lines", "array", "parquet"])
def test_a_line_over_the_limit_is_refused_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str
) -> None:
    monkeypatch.setattr(lines, "MAX_BYTES", 5000)
    big = {**PLAIN, "completion": "x" * 20_000}
    path = tmp_path / "rollouts"
    if shape == "parquet":
        parquet(path, PLAIN, big, PLAIN)
    else:
        texts = [json.dumps(record) for record in (PLAIN, big, PLAIN)]
        path.write_text("\n".join(texts) if shape == "lines" else f"[{','.join(texts)}]")
    rollouts, rejected = read(path)
    assert len(rollouts) == 2
    assert [(item.line, item.reason) for item in rejected] == [(2, "too long")]
    assert rejected[0].detail.endswith(" bytes; at most 5,000")
    assert rejected[0].detail.startswith("20,0")
    assert len(rejected[0].raw) == lines.SHOWN_BYTES or shape == "parquet"


def test_a_damaged_packed_file_says_so_after_what_it_gave(tmp_path: Path) -> None:
    records = [json.dumps({**PLAIN, "completion": f"{n} {problem_hash(str(n))}"}).encode() for n in range(5000)]
    path = tmp_path / "cut.jsonl.gz"
    path.write_bytes(gzip.compress(b"\n".join(records))[:-2000])
    read_before = []
    with pytest.raises(RolloutsInvalid, match="damaged gzip file"):
        read_before.extend(read_rollouts(path))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")  # TRL's own default
def test_what_trl_itself_writes_is_read(tmp_path: Path, root: Path) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer
    from trl.rewards import accuracy_reward

    def length_reward(completions: list[Any], **_: Any) -> list[float]:
        return [float(len(completion[0]["content"]) % 2) for completion in completions]

    message = {"role": "user", "content": "What is 2 + 2?"}
    GRPOTrainer(
        model=str(root / "sgsd" / "arena" / "data" / "base"),
        reward_funcs=[accuracy_reward, length_reward],
        args=GRPOConfig(
            output_dir=str(tmp_path),
            log_completions=True,
            max_steps=1,
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=8,
            use_cpu=True,
            bf16=False,
            report_to=[],
            logging_steps=1,
            save_strategy="no",
        ),
        train_dataset=Dataset.from_list([{"prompt": [message], "solution": "\\boxed{4}"}] * 4),
    ).train()
    path = tmp_path / "completions" / "completions_00001.parquet"
    assert reader_for(path) == "trl_completions"
    rollouts, rejected = read(path)
    assert rejected == []
    assert [(r.problem, r.reference) for r in rollouts] == [("What is 2 + 2?", "\\boxed{4}")] * 4
    assert {r.outcome for r in rollouts} <= {"correct", "wrong"}
    assert all(set(r.sampling["rewards"]) == {"accuracy_reward", "length_reward"} for r in rollouts if r.sampling)


def test_the_published_memories_are_read_as_they_are(data_dir: Path) -> None:
    rollouts, rejected = read(data_dir / "rollouts" / "skillrl_alfworld_memories.json")
    assert rejected == []
    assert sum(r.outcome == "correct" for r in rollouts) == 113
    assert (len(rollouts), len({r.rollout_id for r in rollouts}), len({r.problem for r in rollouts})) == (223, 223, 141)
