"""Runs that end early and go on: resuming, checkpoints that a kill or a full disk leaves, signals."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import TrainerState

import sgsd.cli
import sgsd.run
from sgsd.checkpoint import damage
from sgsd.config import RunConfig, save_config
from sgsd.errors import ConfigError, SGSDWarning, TrainingError, TrainingStopped
from sgsd.progress import MetricsFile
from sgsd.weights import TeacherWeights
from skillbank.store import Bank

from .runs import LORA, Folders, assert_same, metrics, run, weights
from .training import make_bank, mined, problems

# transformers 5.23 renames them; peft 0.21 and transformers 5.19 know the old names alone
pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning")


class Crash(Exception):
    pass


def at_step(monkeypatch: pytest.MonkeyPatch, step: int, do: Callable[[], None]) -> None:
    """Calls `do` when the rollouts of this step are about to be written, once."""
    write = sgsd.run.write_past_rollouts

    def once(path: Path, rollouts: Any, **rest: Any) -> None:
        if path.name == f"step-{step:06d}.jsonl":
            monkeypatch.setattr("sgsd.run.write_past_rollouts", write)
            do()
        write(path, rollouts, **rest)

    monkeypatch.setattr("sgsd.run.write_past_rollouts", once)


def crash() -> None:
    """As when the machine dies."""
    raise Crash


@pytest.mark.parametrize("kind", ["live", "ema", "periodic", "base", "lora-ema", "lora-base"])
def test_a_resumed_run_is_the_uninterrupted_one(folders: Folders, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    lora = {**LORA, "dropout": 0.2} if kind.startswith("lora") else None
    sections: dict[str, Any] = {
        "model": {"lora": lora},
        "teacher": {"weights": kind.removeprefix("lora-"), "ema_decay": 0.6, "period_steps": 2},
        "train": {"schedule": "linear", "warmup_steps": 2},
    }
    whole, broken = folders.config("whole", **sections), folders.config("broken", **sections)
    expected = run(whole)
    at_step(monkeypatch, 5, crash)
    with pytest.raises(Crash):
        run(broken)
    torch.manual_seed(12345)  # another process
    result = run(broken, resume=True)
    assert metrics(broken)[:-1] == metrics(whole)[:-1]  # but the summary at the end
    assert [line["step"] for line in metrics(broken) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    assert_same(weights(broken, name), weights(whole, name))
    assert (result.generated_tokens, result.polarity) == (expected.generated_tokens, expected.polarity)
    assert result.curve == expected.curve
    assert result.steps == 6
    rows = folders.usage()
    by_run = {run: [row[1:] for row in rows if row[0] == run] for run in ("whole", "broken")}
    assert by_run["broken"] == by_run["whole"]
    assert len(by_run["whole"]) > 20


def test_a_finished_run_can_be_made_longer(folders: Folders) -> None:
    lora = {"model": {"lora": LORA}}
    whole = folders.config("whole", **lora)
    run(whole)
    run(folders.config("parts", **lora, train={"max_steps": 3}), merge=True)
    longer = folders.config("parts", **lora)
    result = run(longer, resume=True, merge=True)
    assert [line for line in metrics(longer) if "loss" in line] == [line for line in metrics(whole) if "loss" in line]
    assert_same(weights(longer, "adapter_model.safetensors"), weights(whole, "adapter_model.safetensors"))
    assert yaml.safe_load((Path(longer.output_dir) / "config.yaml").read_text())["train"]["max_steps"] == 6
    assert result.merged is not None
    assert [path.name for path in result.merged.parent.glob("student*")].count("student-merged") == 1


def test_a_checkpoint_records_its_bank_and_refuses_another(folders: Folders) -> None:
    config = folders.config(train={"max_steps": 3})
    run(config, held_out=0)
    out = Path(config.output_dir)
    about = json.loads((out / "checkpoint-3" / "sgsd.json").read_text())
    with Bank.open(folders.bank) as bank:
        assert (about["bank_id"], about["bank_revision"]) == (bank.meta("bank_id"), 1)
    assert about["method"] == "sgsd"
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    make_bank(folders.at / "other")
    with pytest.raises(ConfigError, match="is not the bank that the checkpoint was trained with"):
        run(folders.config(train={"max_steps": 4}, bank={"path": str(folders.at / "other")}), resume=True)
    (out / "checkpoint-3" / "sgsd.json").write_text(json.dumps({**about, "bank_revision": 9}))
    with pytest.raises(ConfigError, match="at revision 1, the checkpoint was trained at 9"):
        run(folders.config(train={"max_steps": 4}), resume=True)
    (out / "checkpoint-3" / "sgsd.json").write_text(json.dumps(about))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before

    with Bank.open(folders.bank) as bank:
        bank.add_mined([mined(7)], actor="curator")
    with pytest.warns(UserWarning, match="went from revision 1 to 2 since the checkpoint"):
        run(folders.config(train={"max_steps": 4}), held_out=0, resume=True)
    with Bank.open(folders.bank) as bank:
        revisions = {tuple(row) for row in bank.db.rows("SELECT step > 3, revision FROM usage")}
    assert revisions == {(0, 1), (1, 2)}


@pytest.mark.parametrize("fault", ["missing", "shorter", "changed", "unlisted"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(folders: Folders, fault: str) -> None:
    config = folders.config()
    run(config, held_out=0)
    out = Path(config.output_dir)
    expected = weights(config)
    file = out / "checkpoint-6" / {"missing": "trainer_state.json", "unlisted": "sgsd.json"}.get(fault, "optimizer.pt")
    whole = file.read_bytes()
    if fault == "missing":
        file.unlink()
    elif fault == "unlisted":
        file.write_text("{}")
    else:
        file.write_bytes(whole[:-1] if fault == "shorter" else whole[:-1] + bytes([whole[-1] ^ 1]))
    (out / "checkpoint-old").mkdir()  # somebody's own
    with pytest.warns(SGSDWarning, match=rf"checkpoint-6 is damaged \({file.name} .*going on from checkpoint-3"):
        run(config, held_out=0, resume=True)
    assert_same(weights(config), expected)
    assert damage(out / "checkpoint-6") is None  # made again
    for step in (3, 6):
        (out / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match=r"nothing to resume: .*checkpoint-6 is damaged .*checkpoint-3 is damaged"):
        run(config, resume=True)


def test_a_run_that_was_killed_at_its_very_end_only_saves_its_student(folders: Folders) -> None:
    config = folders.config(model={"lora": LORA}, train={"per_device_batch_size": 1})  # 6 steps of an epoch's 4
    run(config, merge=True)
    before, logged = weights(config, "adapter_model.safetensors"), metrics(config)
    shutil.rmtree(Path(config.output_dir) / "student")
    assert run(config, resume=True, merge=True).steps == 6
    assert_same(weights(config, "adapter_model.safetensors"), before)
    assert [line for line in metrics(config) if "loss" in line] == [line for line in logged if "loss" in line]


def test_what_lies_beyond_the_checkpoint_is_replaced(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = folders.config("whole"), folders.config("broken")
    run(whole, held_out=0)
    at_step(monkeypatch, 6, crash)
    with pytest.raises(Crash):
        run(broken, held_out=0)
    out = Path(broken.output_dir)
    for left in ("step-000005-rank1.jsonl", "step-000009.jsonl", "step-000006.jsonl.tmp-77"):
        (out / "rollouts" / left).write_text("{}\n")
    (out / ".incomplete" / "checkpoint-6").mkdir(parents=True)
    with (out / "metrics.jsonl").open("ab") as file:
        file.write(b"\0\0\0\n" + b'{"step": 1, "loss"')
    run(broken, held_out=0, resume=True)
    names = [path.name for path in sorted((out / "rollouts").iterdir())]
    assert names == [f"step-{step:06d}.jsonl" for step in range(1, 7)]
    assert metrics(broken)[:-1] == metrics(whole)[:-1]
    assert not (out / ".incomplete").exists()


def test_resuming_where_there_is_no_checkpoint_begins(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that is requeued has one command, whether an earlier start of it came to a checkpoint or not."""
    whole, requeued = folders.config("whole"), folders.config("requeued")
    run(whole, held_out=0)
    with monkeypatch.context() as crashing:
        at_step(crashing, 2, crash)
        with pytest.raises(Crash), pytest.warns(SGSDWarning, match="requeued holds no checkpoint .*: the run begins"):
            run(requeued, held_out=0, resume=True)
    assert metrics(requeued)
    with pytest.warns(SGSDWarning, match="requeued holds no checkpoint to go on from: the run begins"):
        assert run(requeued, held_out=0, resume=True).steps == 6
    assert metrics(requeued)[:-1] == metrics(whole)[:-1]
    assert_same(weights(requeued), weights(whole))
    names = [path.name for path in sorted((Path(requeued.output_dir) / "rollouts").iterdir())]
    assert names == [f"step-{step:06d}.jsonl" for step in range(1, 7)]


def test_what_a_folder_holds_is_not_overwritten(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folders.config(train={"max_steps": 3})
    with monkeypatch.context() as crashing:
        at_step(crashing, 2, crash)
        with pytest.raises(Crash):
            run(config)
    with pytest.raises(ConfigError, match="ended before its first checkpoint: add --resume to begin it anew, or set"):
        run(config)
    shutil.rmtree(config.output_dir)
    run(config, held_out=0)
    with pytest.raises(ConfigError, match="already holds a run: add --resume"):
        run(config)
    shutil.rmtree(Path(config.output_dir) / "checkpoint-3")
    before = weights(config)
    for resume in (False, True):
        with pytest.raises(ConfigError, match="holds a student and no checkpoint to go on from: set another"):
            run(config, resume=resume)
    assert_same(weights(config), before)
    (folders.at / "file").write_text("")
    with pytest.raises(ConfigError, match="file is a file: name a folder"):
        run(folders.config("file"))


# ---- signals ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def interrupt_heard() -> Iterator[None]:
    """Ctrl-C as in the foreground: what a shell puts into the background, tests too, inherits it as ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupt_heard")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_saves_the_step_under_way_and_ends_the_run(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    whole, broken = folders.config("whole"), folders.config("broken")
    run(whole)
    before = signal.getsignal(number)
    at_step(monkeypatch, 4, lambda: signal.raise_signal(number))
    with pytest.raises(TrainingStopped, match=rf"{number.name}: stopped after step 4 of 6, saved in .*checkpoint-4"):
        run(broken)
    assert f"{number.name}: this step is finished and saved" in capfd.readouterr().err
    assert signal.getsignal(number) is before
    out = Path(broken.output_dir)
    assert {path.name for path in out.iterdir()} >= {"checkpoint-3", "checkpoint-4"}
    assert not (out / "student").exists()
    run(broken, resume=True)
    assert f"going on from {out}/checkpoint-4" in capfd.readouterr().err
    assert metrics(broken)[:-1] == metrics(whole)[:-1]
    assert_same(weights(broken), weights(whole))


@pytest.mark.usefixtures("interrupt_heard")
def test_a_second_signal_ends_at_once(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folders.config()

    def twice() -> None:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGINT)

    at_step(monkeypatch, 4, twice)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert {path.name for path in Path(config.output_dir).glob("checkpoint-*")} == {"checkpoint-3"}
    assert len(list((Path(config.output_dir) / "rollouts").iterdir())) == 3


def test_a_signal_in_the_last_step_changes_nothing(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folders.config()
    at_step(monkeypatch, 6, lambda: signal.raise_signal(signal.SIGTERM))
    assert run(config, held_out=0).student.is_dir()


def test_a_signal_that_is_ignored_stays_ignored(folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    config = folders.config(train={"max_steps": 2})
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for what it puts into the background
    try:
        at_step(monkeypatch, 1, lambda: signal.raise_signal(signal.SIGINT))
        assert run(config, held_out=0).steps == 2
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_exit_code_is_that_of_the_signal(
    folders: Folders, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sgsd.cli.sources.load_source", lambda config: list(problems()))
    config = folders.config()
    save_config(config, folders.at / "run.yaml")
    at_step(monkeypatch, 2, lambda: signal.raise_signal(signal.SIGTERM))
    assert sgsd.cli.main(["train", str(folders.at / "run.yaml")]) == 143
    assert capsys.readouterr().err.splitlines()[-1].startswith("sgsd: SIGTERM: stopped after step 2 of 6, saved in")
    assert sgsd.cli.main(["train", str(folders.at / "run.yaml"), "--resume"]) == 0


# ---- disks that are full ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 40 MB."""
    at = tmp_path / "disk"
    at.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(at)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield at
    subprocess.run(["umount", "--lazy", str(at)], check=True)


def on_disk(folders: Folders, disk: Path, **sections: Any) -> RunConfig:
    config = folders.config(**sections)
    return config.model_copy(update={"output_dir": str(disk / "run")})


def fill(disk: Path, leave: int) -> Path:
    ballast = disk / "ballast"
    with ballast.open("ab") as file:
        file.write(b"x" * (shutil.disk_usage(disk).free - leave))
    return ballast


def test_a_full_disk_is_told_before_training(folders: Folders, small_disk: Path) -> None:
    config = on_disk(folders, small_disk)
    fill(small_disk, leave=2**20)
    with pytest.raises(TrainingError, match=r"has 1.0 MB free, a checkpoint takes about 33\.\d MB: free some"):
        run(config)
    assert list((small_disk / "run").iterdir()) == []


def test_a_disk_that_takes_no_files_is_told_before_training(folders: Folders, small_disk: Path) -> None:
    config = on_disk(folders, small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(TrainingError, match=r"folder could not be written \(Read-only file system; "):
        run(config)


@pytest.mark.parametrize("when", ["before", "within"])
def test_a_disk_that_fills_up_costs_no_checkpoint(
    folders: Folders, small_disk: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    whole, config = folders.config("whole"), on_disk(folders, small_disk)
    run(whole, held_out=0)
    save = TeacherWeights.save

    def fill_first(weights: TeacherWeights, folder: Path) -> None:
        if folder.name == "checkpoint-6":
            fill(small_disk, leave=100_000)
        save(weights, folder)

    if when == "within":
        monkeypatch.setattr(TeacherWeights, "save", fill_first)
        message = (
            r"checkpoint-6 could not be written \((No space left on device|the disk took no more).*checkpoint-3 is"
        )
    else:
        at_step(monkeypatch, 6, lambda: fill(small_disk, leave=100_000) and None)
        message = r"run has 0\.\d MB free, a checkpoint takes about 0\.\d MB"
    with pytest.raises(TrainingError, match=message) as caught:
        run(config, held_out=0)
    assert "\n" not in str(caught.value)
    out = Path(config.output_dir)
    assert {path.name for path in out.iterdir()} == {"config.yaml", "metrics.jsonl", "rollouts", "checkpoint-3"}
    (small_disk / "ballast").unlink()
    monkeypatch.setattr(TeacherWeights, "save", save)
    run(config, held_out=0, resume=True)
    assert_same(weights(config), weights(whole))
    assert metrics(config)[:-1] == metrics(whole)[:-1]


def test_room_is_made_of_checkpoints_that_would_go_anyway(
    folders: Folders, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = on_disk(folders, small_disk, train={"save_every": 1, "keep_checkpoints": 2})
    at_step(monkeypatch, 5, lambda: fill(small_disk, leave=200_000) and None)
    run(config, held_out=0)
    assert {path.name for path in (small_disk / "run").glob("checkpoint-*")} == {"checkpoint-5", "checkpoint-6"}


def test_a_full_disk_leaves_no_half_rollouts(
    folders: Folders, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = on_disk(folders, small_disk)
    at_step(monkeypatch, 5, lambda: fill(small_disk, leave=0) and None)
    with pytest.raises(TrainingError, match=r"folder could not be written \(No space left .*checkpoint-3 is"):
        run(config, held_out=0)
    names = [path.name for path in sorted((small_disk / "run" / "rollouts").iterdir())]
    assert names == [f"step-{step:06d}.jsonl" for step in range(1, 5)]


def test_a_full_disk_leaves_no_half_line_of_metrics(tmp_path: Path) -> None:
    metrics, state = MetricsFile(tmp_path / "metrics.jsonl"), TrainerState(global_step=1)
    metrics.on_log(None, state, None, {"loss": 0.5})
    before = metrics.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))  # a file takes ten bytes more
    try:
        with pytest.raises(OSError, match=r"No space left on device: .*metrics\.jsonl"):
            metrics.on_log(None, state, None, {"loss": 0.25})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert metrics.path.read_bytes() == before


# ---- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kills_while_saving_lose_nothing_that_was_saved() -> None:
    script = Path(__file__).parents[2] / "scripts" / "torture_checkpoints.py"
    done = subprocess.run(
        [sys.executable, str(script), "--kills", "5", "--seed", "1", "--json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert (report["kills"], report["failures"]) == (5, [])
    assert report["resumed"] > 0
