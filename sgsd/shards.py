"""Weights of which each process holds a part: torch's `fully_shard` (FSDP2) and DeepSpeed's ZeRO-3.

Each forward pass of such a model gathers its layers one by one from all processes, so every process has to make the
same number of passes. Where it cannot know how many the others make, it asks (`idle_passes`), or has the weights
gathered once for many passes (`whole`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def sharded(model: nn.Module) -> bool:
    """Whether a pass of `model` is a collective operation."""
    return any(isinstance(p, DTensor) or zero3(p) for p in model.parameters()) or _fsdp_modules(model) != []


def zero3(parameter: Tensor) -> bool:
    """Whether DeepSpeed's ZeRO-3 keeps this parameter."""
    return hasattr(parameter, "ds_id")


def idle_passes(model: nn.Module, own: int) -> int:
    """Passes that another process makes beyond this one's `own`; 0 for a model that is whole. All must call it."""
    if not sharded(model):
        return 0
    most = torch.tensor([own], device=next(model.parameters()).device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    return int(most) - own


def reshard(model: nn.Module) -> None:
    """Give up what FSDP keeps gathered after a pass: the next one gathers the weights as they are then."""
    for module in _fsdp_modules(model):
        module.reshard()


@contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Within, every process has all weights, and passes are its own affair. Every process must enter it.

    `model` is as training calls it, DeepSpeed's engine included. Takes the memory of the whole model, without
    gradients and optimiser.
    """
    modules = [(module, _reshards_after_forward(module)) for module in _fsdp_modules(model)]
    if modules:
        for module, _ in modules:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        try:
            yield
        finally:
            for module, again in modules:
                module.set_reshard_after_forward(again, recurse=False)
                module.reshard()
    elif any(map(zero3, model.parameters())):
        from deepspeed.runtime.zero import unwrap_model_for_generation

        with unwrap_model_for_generation(model):
            yield
    else:
        yield


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, sharing its memory; the tensor itself where it is whole."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def laid_out_as(tensor: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor, the same in every process, on the device and in the shards of `pattern`; its dtype stays."""
    tensor = tensor.detach().to(pattern.device)
    if not isinstance(pattern, DTensor):
        return tensor
    return distribute_tensor(tensor, pattern.device_mesh, pattern.placements, src_data_rank=None)


def gathered(tensor: Tensor) -> Tensor:
    """The whole of a tensor. Every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _fsdp_modules(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _reshards_after_forward(module: Any) -> bool:
    state = module._get_fsdp_state()  # torch has a setter for it, and no getter
    groups = getattr(state, "_fsdp_param_groups", None) or [state._fsdp_param_group]  # before torch 2.11 there was one
    return any(group is not None and group.post_forward_mesh_info is not None for group in groups)
