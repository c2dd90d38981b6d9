"""The student's weights as an engine wants them: whole tensors under the checkpoint's names, one at a time.

An adapter is added to its base in copies; the student's own tensors are only read. Merging in place and taking it back
would leave a bfloat16 base a little different each time (docs/method.md, pitfall 17). Sharded weights (FSDP2's,
ZeRO-3's) are gathered one tensor at a time, which is a collective: every rank has to iterate.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from sgsd.errors import ConfigError


@torch.no_grad()
def merged_weights(model: nn.Module, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) of every weight of the student in `dtype`, tied ones once, an adapter's part added.

    A weight without an adapter may be the student's own tensor: do not write to it. With one it is
    W + scaling * B A (LoRA, arXiv 2106.09685), or for DoRA (arXiv 2402.09353) m * (W + scaling * B A) / |W + scaling *
    B A| by rows, computed in float32. Raises ConfigError for an adapter of another kind.
    """
    inner: Any = cast(Any, model).get_base_model() if hasattr(model, "get_base_model") else model
    check_mergeable(inner)
    seen: set[int] = set()
    for prefix, module in inner.named_modules():
        name = _checkpoint_name(prefix)
        if name is None:
            continue
        adapted = _adapter_of(prefix, inner)
        for own, parameter in module.named_parameters(recurse=False):
            merged = adapted is not None and own == "weight"
            if id(parameter) in seen:
                if merged:
                    raise ConfigError(f"{name} is tied to another weight: leave it out of the adapter's modules")
                continue
            seen.add(id(parameter))
            yield (
                f"{name}.{own}" if name else own,
                _merged(adapted, dtype) if merged else _plain(module, own, parameter, dtype),
            )


def check_mergeable(model: nn.Module) -> None:
    """Raise ConfigError when an adapter of the model cannot be added to its base in a copy."""
    from peft.tuners.lora import Linear, LoraLayer
    from peft.tuners.lora.variants import DoraLinearVariant
    from peft.tuners.tuners_utils import BaseTunerLayer

    wanted = "draw with generation.engine transformers"
    layers: list[tuple[str, Any]] = [(n, m) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in layers:
        active, kind = list(layer.active_adapters), type(layer).__name__
        if not (isinstance(layer, Linear) or (isinstance(layer, LoraLayer) and kind == "Linear4bit")):
            raise ConfigError(f"{name} is adapted by {kind}, which is not added to its base in a copy: {wanted}")
        if len(active) != 1 or layer.merged:
            state = "merged" if layer.merged else "not merged"
            raise ConfigError(f"{name} has {len(active)} active adapters, {state}; one, not merged, is read: {wanted}")
        if layer.lora_bias.get(active[0]):
            raise ConfigError(f"{name} has a LoRA bias, which is not added to its base in a copy: {wanted}")
        variant = layer.lora_variant.get(active[0])
        if variant is not None and type(variant) is not DoraLinearVariant:
            raise ConfigError(f"{name} has the LoRA variant {type(variant).__name__}, neither LoRA nor DoRA: {wanted}")


def _adapter_of(prefix: str, model: nn.Module) -> Any:
    """The adapter's layer around a module, or None."""
    parent, _, last = prefix.rpartition(".")
    return model.get_submodule(parent) if last == "base_layer" else None


def _checkpoint_name(prefix: str) -> str | None:
    """The name of a module in a checkpoint of the base; None for what only an adapter has."""
    parts = prefix.split(".")
    if "original_module" in parts or any(part.startswith("lora_") for part in parts):
        return None
    if "modules_to_save" in parts:
        at = parts.index("modules_to_save")  # modules_to_save.ADAPTER: trained in place of the original module
        if len(parts) == at + 1:
            return None
        del parts[at : at + 2]
    return ".".join(part for part in parts if part not in ("base_layer", "_checkpoint_wrapped_module"))


def _merged(layer: Any, dtype: torch.dtype) -> Tensor:
    (adapter,) = layer.active_adapters
    inner = layer.get_base_layer()
    base = _plain(inner, "weight", inner.weight).float()
    update = layer.scaling[adapter] * (
        _whole(layer.lora_B[adapter].weight).float() @ _whole(layer.lora_A[adapter].weight).float()
    )
    merged_OI = (base.T if layer.fan_in_fan_out else base) + update  # GPT-2's kind of layer keeps its weight transposed
    if adapter in layer.lora_variant:
        magnitude_O = _whole(layer.lora_magnitude_vector[adapter].weight).float()
        merged_OI = merged_OI * (magnitude_O / merged_OI.norm(dim=1))[:, None]
    merged = merged_OI.T if layer.fan_in_fan_out else merged_OI
    return cast(Tensor, merged).to(dtype)


def _plain(module: nn.Module, name: str, parameter: nn.Parameter, dtype: torch.dtype | None = None) -> Tensor:
    if name == "weight" and hasattr(parameter, "quant_state"):  # bitsandbytes: four bits a weight
        from peft.utils.integrations import dequantize_module_weight

        tensor: Tensor = dequantize_module_weight(module).detach()
        return tensor if dtype is None else tensor.to(dtype)
    return _whole(parameter, dtype)


def _whole(parameter: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The tensor without gradient, gathered from all ranks where it is sharded."""
    if hasattr(parameter, "ds_id"):  # ZeRO-3: whole within the context, a share of it afterwards
        import deepspeed

        with deepspeed.zero.GatheredParameters([parameter]):
            return parameter.detach().to(dtype or parameter.dtype, copy=True)
    tensor = parameter.detach()
    if hasattr(tensor, "full_tensor"):  # fully_shard's and tensor parallelism's DTensor
        tensor = tensor.full_tensor()
    return tensor if dtype is None else tensor.to(dtype)
