"""Loading a student and its tokenizer: a hub name, a folder of weights, a folder of an adapter, or `arena`."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sgsd.errors import ConfigError, ModelNotFound

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

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


def locate_model(name: str) -> tuple[str, str]:
    """Where the model is and where its base is; they differ for an adapter. Raises ModelNotFound."""
    path = resolve_model_path(name)
    adapter = _adapter_settings(path)
    return path, resolve_model_path(str(adapter["base_model_name_or_path"])) if adapter else path


def tokenizer_of(path: str, base: str, revision: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer in the model's folder, else its base's."""
    return load_tokenizer(path if (Path(path) / "tokenizer_config.json").is_file() else base, revision)


def load_student(
    config: ModelConfig, *, device: str | None = None, training: bool = False
) -> tuple[Any, PreTrainedTokenizerBase]:
    """The student, in eval mode and without dropout, and its tokenizer (left-padded, with pad token and chat template).

    A new LoRA adapter is put on when `config.lora` asks for one; in an adapter's folder that adapter is loaded, and is
    trainable when `config.lora` is given, with the same rank. `device` None takes the GPU when there is one.

    `training` without LoRA loads float32 weights whatever `config.dtype` says; that is then what the trainer's autocast
    computes in. At 5e-6 an update is below the resolution of a bfloat16 weight (0.02 - 5e-6 is 0.02): training would
    change nothing. Adapters are float32 over a base of any dtype.

    An adapter that was trained on a 4-bit base gets that base again, whatever `config.quantization` says.

    Raises ModelNotFound when there is no such model, ConfigError when tokenizer or adapter do not fit, or the adapter
    is of a kind that cannot be scored (`check_adapter`).
    """
    import torch

    path, base = locate_model(config.name_or_path)
    adapter = _adapter_settings(path)
    quantization = base_quantization(Path(path)) or config.quantization
    if quantization and training and config.lora is None:
        raise ConfigError(f"model.quantization = {quantization} trains an adapter alone: set model.lora, or drop it")
    tokenizer = tokenizer_of(path, base, config.revision)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = "float32" if training and config.lora is None else config.dtype
    with _no_bar_over_weights():
        model = _load_weights(base, config, dtype, _four_bit(dtype, device) if quantization else {})
    if quantization:
        _keep_unpacked(model)
    if adapter is not None:
        model = _load_adapter(model, path, adapter, config.lora)
    elif config.lora is not None:
        model = _add_adapter(model, config.lora)
    return model.to(device).eval(), tokenizer


def merge_adapter(folder: Path, out: Path) -> Path:
    """Adapter and base as one model in `out`, which AutoModelForCausalLM and vLLM load. Returns `out`.

    The sum is made in float32 and stored in the base's dtype; `out` appears whole or not at all. A 4-bit base is first
    spelled out as what its four bits mean, which is what the adapter was trained on. Raises ConfigError when `folder`
    holds no adapter, or `out` is there already.
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
    with _no_bar_over_weights(), tempfile.TemporaryDirectory(prefix=f"{out.name}.tmp-", dir=out.parent) as half:
        four_bit = _four_bit("float32", "cpu") if base_quantization(folder) else {}
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, **four_bit)
        if four_bit:
            model = model.dequantize()  # type: ignore[no-untyped-call]
        with quiet_peft():
            merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
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
        reason = _first_line(error).rstrip(".")
        raise ModelNotFound(
            f"no tokenizer of {path}: {reason}; give the folder of a model, its name on the hub, or `arena`"
        ) from error
    if tokenizer.chat_template is None:
        raise ConfigError(f"the tokenizer of {path} has no chat template: take an instruction-tuned model, or add one")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    # It warns once of a text over its own limit. Ours is max_prompt_tokens, and what exceeds that is left out and told.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def default_dtype() -> Literal["bfloat16", "float32"]:
    """bfloat16 on a GPU, float32 on a CPU, where bfloat16 is slow and saves nothing on small models."""
    import torch

    return "bfloat16" if torch.cuda.is_available() else "float32"


def mixed_precision(config: ModelConfig) -> bool:
    """A half-precision dtype means mixed precision; float16 wants a gradient scaler, of which a CPU has none."""
    import torch

    return config.dtype == "bfloat16" or (config.dtype == "float16" and torch.cuda.is_available())


def check_adapter(model: Any, settings: PeftConfig | None = None) -> None:
    """Raise ConfigError for an adapter under which log-probs cannot be read as `sgsd.score` reads them.

    `settings` None takes those of the model, which may have no adapter at all.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    settings = settings or getattr(model, "active_peft_config", None)
    if settings is None:
        return
    if settings.is_prompt_learning:
        kind = str(settings.peft_type).rpartition(".")[2]
        raise ConfigError(
            f"a {kind} adapter learns a prefix, and a skill would be scored beside it, not by the weights: use LoRA "
            "(model.lora, or a peft.LoraConfig)"
        )
    if not hasattr(model, "active_peft_config"):
        return  # not put on yet
    inner = model.get_base_model()
    changed = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    if isinstance(inner.get_output_embeddings(), changed):
        raise ConfigError(
            "the adapter changes the head, which is read in chunks of plain weights so that no row of logits exists: "
            "leave lm_head out of target_modules and modules_to_save"
        )
    if inner.config.get_text_config().tie_word_embeddings and isinstance(inner.get_input_embeddings(), changed):
        raise ConfigError(
            "the adapter changes embeddings that are tied to the head, and would part them: leave embed_tokens out of "
            "target_modules and modules_to_save"
        )


BASE_FILE = "base.json"
"""In the folder of an adapter that was trained on a quantised base: how that was quantised."""


def note_base(model: Any, folder: Path) -> None:
    """Beside an adapter's weights, say that its base had four bits: on another base it is another model."""
    if getattr(model, "is_loaded_in_4bit", False):
        (folder / BASE_FILE).write_text(json.dumps({"quantization": "4bit"}), encoding="utf-8")


def base_quantization(folder: Path) -> str | None:
    """How the base of the adapter in a folder was quantised; None when it was not, or there is no adapter."""
    file = folder / BASE_FILE
    return str(json.loads(file.read_text(encoding="utf-8"))["quantization"]) if file.is_file() else None


def _four_bit(dtype: str, device: str) -> dict[str, Any]:
    """QLoRA's storage (arXiv 2305.14314): NF4 with quantised scales, products in `dtype`."""
    from importlib.util import find_spec

    import torch
    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise ConfigError('model.quantization = 4bit needs bitsandbytes: pip install "sgsd[quantized]"')
    settings = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
    return {"quantization_config": settings, "device_map": {"": device}}


def _keep_unpacked(model: Any) -> None:
    """On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks a weight at its first pass without gradient, with scales
    rounded to bfloat16, and the gradients of later passes are wrong or missing."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _load_weights(base: str, config: ModelConfig, dtype: str, quantized: dict[str, Any]) -> Any:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        settings = AutoConfig.from_pretrained(base, revision=config.revision)
        _without_dropout(settings)
        model = AutoModelForCausalLM.from_pretrained(
            base,
            config=settings,
            revision=config.revision,
            dtype=getattr(torch, dtype),
            attn_implementation=config.attention,
            **quantized,
        )
    except ImportError as error:
        raise ConfigError(f"model.attention = {config.attention} cannot be had: {_first_line(error)}") from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelNotFound(f"no model {base}: {_first_line(error)}") from error
    if settings.tie_word_embeddings and model._tied_weights_keys:
        # A checkpoint holds a tied tensor once; without this the trainer warns of the other name when it resumes.
        model._keys_to_ignore_on_save = set(model._tied_weights_keys)
    return model


def _without_dropout(settings: PretrainedConfig) -> None:
    """Every rate of dropout in a model's configuration becomes 0: the student has dropout only where `lora.dropout`
    asks for it."""
    for part in {id(part): part for part in (settings, settings.get_text_config())}.values():
        for name, value in part.to_dict().items():
            if "drop" in name and isinstance(value, float) and value > 0:
                setattr(part, name, 0.0)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """PEFT asks the model for `is_gradient_checkpointing`, which transformers 5.23 renamed and warns about."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


@contextmanager
def _no_bar_over_weights() -> Iterator[None]:
    """Without the bar that transformers draws over the tensors it reads or writes, on a terminal or not.

    The hub's bars, which show a download on a terminal, stay as they are.
    """
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    if not is_progress_bar_enabled():
        yield
        return
    hub_has_bars = not are_progress_bars_disabled()
    disable_progress_bar()  # type: ignore[no-untyped-call]
    if hub_has_bars:
        enable_progress_bars()
    try:
        yield
    finally:
        if hub_has_bars:  # else both stay off: turning on only the first is not offered
            enable_progress_bar()  # type: ignore[no-untyped-call]


def _adapter_settings(path: str) -> dict[str, Any] | None:
    file = Path(path) / "adapter_config.json"
    if not file.is_file() or (Path(path) / "config.json").is_file():
        return None
    try:
        settings: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelNotFound(f"{file} is not readable JSON: {_first_line(error)}") from error
    if not isinstance(settings, dict) or not settings.get("base_model_name_or_path"):
        raise ModelNotFound(f"{file} names no base model: it needs base_model_name_or_path")
    return dict(settings)


def _load_adapter(model: Any, path: str, adapter: dict[str, Any], wanted: LoraConfig | None) -> Any:
    from peft import PeftConfig, PeftModel

    settings = PeftConfig.from_pretrained(path)
    check_adapter(model, settings)
    for key, name in (("r", "r"), ("dora", "use_dora"), ("rslora", "use_rslora")):
        if wanted is not None and getattr(wanted, key) != adapter.get(name):
            raise ConfigError(
                f"model.lora.{key} = {getattr(wanted, key)}, but the adapter at {path} has {name} = "
                f"{adapter.get(name)}: make them equal"
            )
    with quiet_peft():
        loaded = PeftModel.from_pretrained(model, path, is_trainable=wanted is not None)
    check_adapter(loaded)
    return loaded


def _add_adapter(model: Any, lora: LoraConfig) -> Any:
    import peft

    settings = peft.LoraConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        use_dora=lora.dora,
        use_rslora=lora.rslora,
    )
    try:
        return put_on(model, settings)
    except ValueError as error:
        raise ConfigError(f"model.lora: {_first_line(error)}") from error


def put_on(model: Any, settings: PeftConfig) -> Any:
    """The model with a new adapter. Raises ConfigError for one that cannot be scored."""
    from peft import get_peft_model

    check_adapter(model, settings)
    with quiet_peft():
        adapted = get_peft_model(model, settings)
    check_adapter(adapted)
    return adapted


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__
