"""Weights on their way to servers: what is called of TRL's client is there, and is called as it wants."""

from __future__ import annotations

import inspect
from typing import Any

import peft
import pytest
import torch
from torch import nn

from sgsd.config import ServerConfig
from sgsd.errors import ConfigError, ServerError
from sgsd.generate import trl_server
from sgsd.generate.trl_server import WeightPusher
from sgsd.generate.weights import merged_weights

pytestmark = pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing.*is deprecated:FutureWarning")


def test_trls_client_has_what_is_called_here() -> None:
    from trl.generation.vllm_client import VLLMClient

    def names(method: Any) -> list[str]:
        return [name for name in inspect.signature(method).parameters if name != "self"]

    assert {"base_url", "group_port", "connection_timeout"} <= set(names(VLLMClient.__init__))
    assert names(VLLMClient.init_communicator) == ["device"]
    assert names(VLLMClient.update_named_params) == ["metadata", "named_params"]
    assert names(VLLMClient.reset_prefix_cache) == []
    assert names(VLLMClient.close_communicator) == []


class FakeClient:
    """Takes weights as TRL's client does: described first, then one by one in that order."""

    made: list[FakeClient]
    fails = False

    def __init__(self, *, base_url: str, group_port: int, connection_timeout: float) -> None:
        self.where = (base_url, group_port, connection_timeout)
        self.device: Any = None
        self.taken: list[dict[str, torch.Tensor]] = []
        self.resets = self.closed = 0
        FakeClient.made.append(self)

    def init_communicator(self, device: Any) -> None:
        self.device = device

    def update_named_params(self, metadata: Any, named_params: Any) -> None:
        if self.fails:
            raise Exception("Request failed: 500, no\nmemory")
        taken = {}
        for (name, dtype, shape), (own, weight) in zip(metadata, named_params, strict=True):
            assert (name, dtype, shape) == (own, str(weight.dtype).removeprefix("torch."), list(weight.shape))
            taken[name] = weight.clone()
        self.taken.append(taken)

    def reset_prefix_cache(self) -> None:
        self.resets += 1

    def close_communicator(self) -> None:
        self.closed += 1


@pytest.fixture
def clients(monkeypatch: pytest.MonkeyPatch) -> list[FakeClient]:
    FakeClient.made = []
    monkeypatch.setattr("trl.generation.vllm_client.VLLMClient", FakeClient)
    monkeypatch.setattr(trl_server, "_device_of", lambda student: torch.device("cuda", 0))
    return FakeClient.made


def adapted(tiny: Any) -> nn.Module:
    model = tiny.model()
    model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    nn.init.normal_(model.base_model.model.model.layers[0].self_attn.q_proj.lora_B.default.weight)
    return model


def test_every_server_gets_every_weight_as_it_is_now(tiny: Any, clients: list[FakeClient]) -> None:
    student = adapted(tiny)
    config = ServerConfig(urls=("http://a:8000/v1", "http://b:8000"), timeout_s=9.0, group_port=51216)
    pusher = WeightPusher(config, student, "bfloat16")
    assert [client.where for client in clients] == [("http://a:8000", 51216, 9.0), ("http://b:8000", 51217, 9.0)]
    assert [str(client.device) for client in clients] == ["cuda:0", "cuda:0"]
    pusher.push()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 1.0
    pusher.push()
    now = dict(merged_weights(student, torch.bfloat16))
    for client in clients:
        assert client.resets == 2
        assert client.taken[0].keys() == client.taken[1].keys() == now.keys()
        assert all(torch.equal(client.taken[1][name], weight) for name, weight in now.items())
        assert not torch.equal(client.taken[0]["model.norm.weight"], now["model.norm.weight"])
    pusher.close()
    assert [client.closed for client in clients] == [1, 1]


def test_a_server_that_takes_no_weights_is_one_line(
    tiny: Any, clients: list[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    pusher = WeightPusher(ServerConfig(urls=("http://a:8000",)), tiny.model(), "float32")
    monkeypatch.setattr(FakeClient, "fails", True)
    with pytest.raises(ServerError, match=r"takes? weights \(Request failed: 500, no memory\): start it as docs"):
        pusher.push()


def test_a_student_on_the_cpu_is_refused(tiny: Any) -> None:
    with pytest.raises(ConfigError, match=r"the student is on cpu, not on a GPU; set generation\.engine"):
        WeightPusher(ServerConfig(urls=("http://a:8000",)), tiny.model(), "float32")
