"""Damaged and random files, through everything that reads a file for a bank.

    python scripts/fuzz_bank.py --files 100000

Files are valid examples of every format of past rollouts and of exchanged banks with bytes changed, cut out, doubled or
crossed with another example's, and bytes drawn at random. Each is read as rollouts and imported (rolled back) under the
guard. Whatever happens must be a record, a counted rejection or one clear error: a traceback, a crash of the process or
a file that takes longer than `SLOW_S` is printed with the number that makes it again, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from skillbank.errors import SkillBankError
from skillbank.exchange import export_file, import_file
from skillbank.guard import Guard
from skillbank.records import Evidence, Flag, MinedPair, Mistake, ProblemText, Rollout, Skill
from skillbank.rollouts import read_rollouts, write_rollouts
from skillbank.store import Bank

CHUNK = 1000
"""Files a process reads; one that crashes costs no more."""
SLOW_S = 5.0
TOKENS = (
    b"null", b"true", b"NaN", b"1e999", b"-1", b"0.5", b"9" * 40, b'"\\ud800"', b'"\\u0000"', b"[" * 3000, b"{}", b"[]",
    b'{"a":', b'"', b"\\", b",", b"]", b"}", b"\n", b"\r\n", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"PAR1",
    b"\x1f\x8b",
    b'"kind": "pair", ', b'"status": "superseded", ', b'"superseded_by": "skill-1", ', b'"parent": 1, ', b"x" * 5000,
)  # fmt: skip


def examples(folder: Path) -> list[bytes]:
    """A small valid file of every format; those of banks several times, so that they are half of all."""
    problem = "How many eggs are 3 and 4?"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": problem}]
    plain = {"prompt": problem, "completion": "3 + 4 = 7", "reward": 1.0}
    trl = {"step": 5, "prompt": chat, "completion": [{"role": "assistant", "content": "7"}], "accuracy_reward": 1.0}
    verl = {"input": f"user\n{problem}\nassistant\n", "output": "7", "gts": "7", "score": 1.0, "step": 1, "acc": True}
    gsm8k = {"question": problem, "ground_truth": "7\nA: 7", "small": {"is_correct": False, "solution": "A: 12"}}
    step = {"step_index": 0, "action": "go", "critical_observation": "seen", "reasoning": "because"}
    task = {"original_goal": problem, "ground_truth": "7"}
    mistakes = {"mistakes_to_avoid": [{"trigger_condition": "two", "bad_action": "stop"}]}
    memory = {
        "memory_id": "mem_1",
        "tags": {"outcome": "Success"},
        "content": {"task_meta": task, "refined_trajectory": [step], "strategic_guidelines": mistakes},
    }
    native = Rollout(
        rollout_id="r", problem_id="p", problem=problem, completion="7", outcome="correct", sampling={"t": 1}
    )
    rows = [plain, {**trl, "advantage": 0.5}, verl, gsm8k, memory, native.model_dump()]
    files = [b"\n".join(json.dumps(row).encode() for row in (row, row)) for row in rows]
    files += [json.dumps([row, row], indent=1).encode() for row in rows]
    files.append(gzip.compress(files[0], mtime=0))
    write_rollouts(folder / "rollouts.parquet", [native, native])
    files.append((folder / "rollouts.parquet").read_bytes())
    files.append(_trl_parquet(folder / "trl.parquet", rows[1]))
    return files + 3 * _banks(folder)


def _trl_parquet(path: Path, row: dict[str, object]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([row, row]), path)
    return path.read_bytes()


def _banks(folder: Path) -> list[bytes]:
    place = Evidence(rollout_id="r", problem_id="p", outcome="correct", quote="so it is 3", span=(4, 14))
    skills = [Skill(title=name, principle=f"{name} means double the first") for name in ("zorp", "blen", "quix")]
    mistake = Mistake(description="taken as the sum of both", how_to_avoid="double the first")
    with Bank.create(folder / "bank") as bank:
        bank.record_problems([ProblemText(problem_id="p", problem="3 zorp 4?", reference="10")])
        pairs = [
            MinedPair(skill=skill, mistake=mistake, skill_evidence=(place,), mistake_evidence=(place,))
            for skill in skills
        ]
        bank.add_mined(pairs, actor="miner")
        with bank.change(actor="me") as change:
            change.flag(1, [Flag(rule="url", reason="a link")])
            change.merge([1], into=4)
            change.tag([4], add=["task:sums"])
            change.split(
                6, [Skill(title="quix, first", principle="double"), Skill(title="quix, then", principle="add")]
            )
        for format in ("jsonl", "parquet", "sgsd"):
            export_file(bank, folder / format, format=format)
    return [(folder / format).read_bytes() for format in ("jsonl", "jsonl", "parquet", "sgsd", "sgsd")]


def changed(rng: random.Random, files: list[bytes]) -> bytes:
    """One damaged or random file."""
    if rng.random() < 0.05:
        return rng.randbytes(rng.randrange(200))
    data = bytearray(rng.choice(files))
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(data) + 1)
        end = min(len(data), at + rng.choice((1, 1, 4, 30, 300)))
        kind = rng.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = data[at:end]
        elif kind == 3:
            data[at:at] = rng.choice(TOKENS)
        elif kind == 4:
            data[at:end] = rng.choice(TOKENS)
        else:
            other = rng.choice(files)
            start = rng.randrange(len(other))
            data[at:end] = other[start : start + rng.choice((4, 30, 300))]
    return bytes(data[: rng.randrange(len(data) + 1)] if rng.random() < 0.1 else data)


def read_as_rollouts(path: Path, _: Bank, counts: Counter[str]) -> None:
    rejected: Counter[str] = Counter()
    rollouts = 0
    try:
        for rollout in read_rollouts(path, on_reject=lambda item: rejected.update([item.reason])):
            rollout.model_dump_json().encode("utf-8")
            rollouts += 1
    finally:
        counts["rollouts"] += rollouts
        counts["rollout lines rejected"] += rejected.total()


def take_in(path: Path, bank: Bank, counts: Counter[str]) -> None:
    check = Guard(bank).check
    report = import_file(bank, path, actor="fuzz", dry_run=True, trust=path.stat().st_size % 2 == 0, check=check)
    counts["entries"] += sum(report.added.values()) + sum(report.known.values())
    counts["entry lines rejected"] += sum(report.rejected.values())


def run_chunk(start: int, count: int, seed: int, pipe: Connection) -> None:
    """Reads files `start` to `start + count`; sends the number of each before it is read, then what was counted."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = examples(folder)
        with Bank.open(folder / "bank") as bank:
            revision = bank.revision
            for number in range(start, start + count):
                pipe.send(number)
                path = folder / "file"
                path.write_bytes(changed(random.Random(f"{seed} {number}"), files))
                for read in (read_as_rollouts, take_in):
                    begun = time.perf_counter()
                    failure = attempt(path, bank, counts, read)
                    if failure is None and time.perf_counter() - begun > SLOW_S:
                        failure = f"took {time.perf_counter() - begun:.1f} s"
                    if failure is not None:
                        counts["failures"] += 1
                        print(f"file {number} of seed {seed}, {read.__name__}: {failure}", file=sys.stderr, flush=True)
            assert bank.revision == revision
    pipe.send(counts)


def attempt(path: Path, bank: Bank, counts: Counter[str], read: object) -> str | None:
    """What went wrong that may not go wrong."""
    assert callable(read)
    try:
        read(path, bank, counts)
    except SkillBankError as error:
        counts[f"files refused by {read.__name__}"] += 1
        if "\n" in str(error):
            return f"an error of several lines: {error}"
    except Exception:  # noqa: BLE001 (whatever it is, it is what this script looks for)
        return traceback.format_exc()
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    begun = time.perf_counter()
    total: Counter[str] = Counter()
    last = arguments.first + arguments.files
    for start in range(arguments.first, last, CHUNK):
        receiver, sender = multiprocessing.Pipe(duplex=False)
        chunk = (start, min(CHUNK, last - start), arguments.seed, sender)
        process = multiprocessing.get_context("spawn").Process(target=run_chunk, args=chunk)
        process.start()
        sender.close()
        at: object = start
        while not isinstance(at, Counter):
            try:
                at = receiver.recv()
            except EOFError:
                break
        process.join()
        if isinstance(at, Counter):
            total += at
        else:
            total["failures"] += 1
            print(f"file {at} of seed {arguments.seed} ends the process: exit code {process.exitcode}", file=sys.stderr)
    report = {"files": arguments.files, "seconds": round(time.perf_counter() - begun, 1), **dict(sorted(total.items()))}
    print(json.dumps({"failures": 0, **report}, indent=2))
    return 1 if total["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
