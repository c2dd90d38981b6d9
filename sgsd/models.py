"""Loading a student and its tokenizer: a hub name, a folder of weights, a folder of an adapter, or `arena`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sgsd.errors import ConfigError, ModelNotFound

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sgsd.config import LoraConfig, ModelConfig

ARENA = "arena"
ARENA_BASE = Path(__file__).parent / "arena" / "data" / "base"
"""The base checkpoint that comes with the package."""


def resolve_model_path(name: str) -> str:
    """A folder that exists, or a name for the hub.

    Raises ModelNotFound when `name` can only be a folder and there is no model in it.
    """
    if name == ARENA:
        return str(ARENA_BASE)
    path = Path(name).expanduser()
    if path.is_dir():
        if not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise ModelNotFound(f"{name} holds no model: neither config.json nor adapter_config.json is there")
        return str(path)
    if path.exists():
        raise ModelNotFound(f"{name} is a file: give the folder of a model, or its name on the hub")
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelNotFound(f"no model folder at {name}: give the folder of a model, its name on the hub, or `arena`")
    return name


def load_student(config: ModelConfig, *, device: str | None = None) -> tuple[Any, PreTrainedTokenizerBase]:
    """The student, in eval mode, and its tokenizer (left-padded, with a pad token and a chat template).

    A new LoRA adapter is put on when `config.lora` asks for one; in an adapter's folder that adapter is loaded, and is
    trainable when `config.lora` is given, with the same rank. `device` None takes the GPU when there is one.

    Raises ModelNotFound when there is no such model, ConfigError when tokenizer or adapter do not fit.
    """
    import torch

    path = resolve_model_path(config.name_or_path)
    adapter = _adapter_settings(path)
    base = resolve_model_path(str(adapter["base_model_name_or_path"])) if adapter else path
    tokenizer = load_tokenizer(path if (Path(path) / "tokenizer_config.json").is_file() else base, config.revision)
    model = _load_weights(base, config)
    if adapter is not None:
        model = _load_adapter(model, path, adapter, config.lora)
    elif config.lora is not None:
        model = _add_adapter(model, config.lora)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval(), tokenizer


def merge_adapter(folder: Path, out: Path) -> Path:
    """Adapter and base as one model in `out`, which AutoModelForCausalLM and vLLM load. Returns `out`.

    The sum is made in float32 and stored in the base's dtype; `out` appears whole or not at all. Raises ConfigError when
    `folder` holds no adapter, or `out` is there already.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    adapter = _adapter_settings(str(folder))
    if adapter is None:
        raise ConfigError(f"{folder} holds no adapter: a student trained with all its weights needs no merging")
    if out.exists():
        raise ConfigError(f"{out} exists already: remove it, or name another folder")
    base = resolve_model_path(str(adapter["base_model_name_or_path"]))
    stored = AutoConfig.from_pretrained(base).dtype or torch.float32
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    with tempfile.TemporaryDirectory(prefix=f"{out.name}.tmp-", dir=out.parent) as half:
        made = Path(half) / out.name
        merged.to(stored).save_pretrained(made)
        load_tokenizer(str(folder) if (folder / "tokenizer_config.json").is_file() else base).save_pretrained(made)
        made.rename(out)
    return out


def load_tokenizer(path: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises ModelNotFound, or ConfigError when it has no chat template."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, revision=revision, padding_side="left")
    except (OSError, ValueError, KeyError) as error:
        raise ModelNotFound(f"no tokenizer of {path}: {_first_line(error)}") from error
    if tokenizer.chat_template is None:
        raise ConfigError(f"the tokenizer of {path} has no chat template: take an instruction-tuned model, or add one")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def default_dtype() -> Literal["bfloat16", "float32"]:
    """bfloat16 on a GPU, float32 on a CPU, where bfloat16 is slow and saves nothing on small models."""
    import torch

    return "bfloat16" if torch.cuda.is_available() else "float32"


def _load_weights(base: str, config: ModelConfig) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(
            base,
            revision=config.revision,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelNotFound(f"no model {base}: {_first_line(error)}") from error


def _adapter_settings(path: str) -> dict[str, Any] | None:
    file = Path(path) / "adapter_config.json"
    if not file.is_file() or (Path(path) / "config.json").is_file():
        return None
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return settings


def _load_adapter(model: Any, path: str, adapter: dict[str, Any], wanted: LoraConfig | None) -> Any:
    from peft import PeftModel

    if wanted is not None and wanted.r != adapter.get("r"):
        raise ConfigError(
            f"model.lora.r = {wanted.r}, but the adapter at {path} has r = {adapter.get('r')}: make them equal"
        )
    return PeftModel.from_pretrained(model, path, is_trainable=wanted is not None)


def _add_adapter(model: Any, lora: LoraConfig) -> Any:
    import peft

    settings = peft.LoraConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
    )
    try:
        return peft.get_peft_model(model, settings)
    except ValueError as error:
        raise ConfigError(f"model.lora: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
