"""A build on a local Ray cluster makes the bank that a build in one process makes. Skipped where Ray is absent."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from skillbank.building import build_bank
from skillbank.building.sharded import Sharded, _shared
from skillbank.errors import EndpointRefuses, InvalidOption, RolloutsNotFound
from skillbank.mine.model.client import ChatClient, ClientSettings
from skillbank.mine.model.complete import FromFunction, Reply
from skillbank.rollouts import write_rollouts

from .scripted_server import Answer, Asked, ScriptedServer, completion, refusal
from .test_build import both, rollout
from .test_spool import content

# Ray warns of its own defaults where its settings are made.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Sharded]:
    pytest.importorskip("ray.data", reason="Ray is not installed: pip install 'sgsd[ray]'")
    with Sharded(cpus=1) as engine:
        yield engine


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    files = [tmp_path / f"shard-{number}.jsonl" for number in range(3)]
    for number, file in enumerate(files):
        operation = ("zorp", "blick", "quam")[number]
        rollouts = [one for n in range(20) for one in both(operation, 3 * n + number)]
        write_rollouts(file, [*rollouts, rollout("zorp", 0, "correct"), rollout(operation, 99, "wrong")])
    with files[1].open("a") as stream:
        stream.write('{"rollout_id": "cut of\n')
    return files


def test_contrasts_mined_on_a_cluster_make_the_same_bank(cluster: Sharded, tmp_path: Path, shards: list[Path]) -> None:
    near = tmp_path / "evaluation.jsonl"
    near.write_text(json.dumps({"problem": "What is 5 zorp 7 modulo 23?", "answer": "5"}) + "\n")
    reports = [
        build_bank(shards, tmp_path / name, engine=engine, evaluations=[near])
        for name, engine in (("there", cluster), ("here", None))
    ]
    there, here = (report.model_dump(exclude={"bank", "seconds"}) for report in reports)
    assert there == here
    assert (here["pairs"], here["unusable"], here["seen_before"]) == (3, {"not JSON": 1}, 3)
    assert content(tmp_path / "there") == content(tmp_path / "here")
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("there", "here")]
    assert names[0] == names[1]


def test_a_missing_shard_is_one_clear_error(cluster: Sharded, tmp_path: Path, shards: list[Path]) -> None:
    with pytest.raises(RolloutsNotFound, match="no rollout file at"):
        build_bank([shards[0], tmp_path / "none.jsonl"], tmp_path / "bank", engine=cluster)
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name for file in shards]


def test_a_model_behind_servers_is_asked_by_workers_and_no_finished_call_twice(
    cluster: Sharded, tmp_path: Path, shards: list[Path]
) -> None:
    os.environ["NO_PROXY"] = "127.0.0.1"
    with ScriptedServer(_lesson) as one, ScriptedServer(_lesson) as other:
        settings = ClientSettings(endpoints=(one.url, other.url), model="writer", concurrency=4)
        reports = [
            build_bank(shards, tmp_path / name, engine=engine, miner="model", complete=ChatClient(settings))
            for name, engine in (("there", cluster), ("here", None))
        ]
        asked = len(one.asked) + len(other.asked)
        again = build_bank(shards, tmp_path / "there", engine=cluster, miner="model", complete=ChatClient(settings))
        assert len(one.asked) + len(other.asked) == asked
    there, here = (report.model_dump(exclude={"bank", "seconds"}) for report in reports)
    assert there == here
    assert here["calls"]["made"] == here["calls"]["calls"] > 40
    assert again.calls is not None
    assert (again.calls.made, again.added) == (0, {"skill": 0, "mistake": 0, "pair": 0})
    assert content(tmp_path / "there") == content(tmp_path / "here")


def test_a_server_that_refuses_ends_the_build_with_its_reason(
    cluster: Sharded, tmp_path: Path, shards: list[Path]
) -> None:
    with ScriptedServer(lambda asked: refusal(401, "no such key")) as server:
        client = ChatClient(ClientSettings(endpoints=(server.url,), model="writer"))
        with pytest.raises(EndpointRefuses, match="no such key"):
            build_bank(shards[:1], tmp_path / "bank", engine=cluster, miner="model", complete=client)
    assert not (tmp_path / "bank").exists()


def test_a_model_in_this_process_is_none_for_a_cluster(tmp_path: Path, shards: list[Path]) -> None:
    here = FromFunction(lambda request: Reply(text="{}"), model="m")
    with pytest.raises(InvalidOption, match="behind servers"):
        build_bank(shards, tmp_path / "bank", engine=Sharded(), miner="model", complete=here)


def test_writers_share_what_the_servers_allow() -> None:
    client = ClientSettings(endpoints=("http://a", "http://b"), model="m", concurrency=5, requests_per_minute=9)
    share = _shared(client, 2)
    assert (share.concurrency, share.requests_per_minute, share.tokens_per_minute) == (3, 4, None)
    assert len(share.endpoints) == 2


def _lesson(asked: Asked) -> Answer:
    """One lesson on the operation that the prompt is about, of the kind that it asks for."""
    operation = next(name for name in ("zorp", "blick", "quam") if f"{name} 7 modulo" in asked.prompt)
    place = [{"attempt": 1, "quote": f"{operation} means"}]
    skill = {
        "title": f"Recall {operation}",
        "principle": f"Write down what {operation} means before it is used.",
        "when_to_apply": f"The problem has {operation} in it.",
        "evidence": place,
    }
    mistake = {
        "description": f"Takes {operation} for something else.",
        "why_it_happens": "It looks familiar.",
        "how_to_avoid": f"Check the meaning of {operation}.",
        "evidence": [{**place[0], "attempt": 2}],
    }
    if '{"pairs"' in asked.prompt:
        return completion(json.dumps({"pairs": [{"skill": skill, "mistake": mistake}]}))
    if '{"skills"' in asked.prompt:
        return completion(json.dumps({"skills": [skill]}))
    return completion(json.dumps({"mistakes": [{**mistake, "evidence": place}]}))
