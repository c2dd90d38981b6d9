"""Configurations in and out of files: YAML in, `--set a.b=c` over it, validated; written whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from sgsd.config.sections import RunConfig
from sgsd.errors import ConfigError, refusal


def load_config(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML file, apply `a.b=c` overrides (values are YAML), validate.

    Raises ConfigError with one line that names the key, the value and the bound.
    """
    file = Path(path)
    if not file.is_file():
        what = f"{file} is a folder" if file.is_dir() else f"no configuration at {file}"
        raise ConfigError(f"{what}: give the path of a YAML file, such as configs/arena.yaml")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not readable YAML: {_first_fault(error)}") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}): check its permissions") from error
    if values is None:  # an empty file: all defaults
        values = {}
    if not isinstance(values, dict):
        what = {"str": "text", "list": "a list"}.get(type(values).__name__, repr(values))
        raise ConfigError(
            f"{file} holds {what}: a configuration is sections of keys, such as `train: {{max_steps: 50}}`"
        )
    for override in overrides or []:
        apply_override(values, override)
    return parse_config(values, where=str(file))


def _first_fault(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set `a.b=c` in nested mappings; `c` is read as YAML, so numbers, lists and null work."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r} is not of the form section.key=value, such as train.max_steps=50")
    *sections, last = key.strip().split(".")
    for section in sections:
        child = values.setdefault(section, {})
        if child is None:
            child = values[section] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {section} is a value, not a section")
        values = child
    try:
        values[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not readable YAML") from error


def parse_config(values: dict[str, Any], where: str = "configuration") -> RunConfig:
    """Validate nested mappings. Raises ConfigError naming every offending key."""
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {'; '.join(map(_complaint, error.errors()))}") from error


def _complaint(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return refusal(key, error)
    section: type[BaseModel] = RunConfig
    for part in error["loc"][:-1]:
        annotation = section.model_fields[str(part)].annotation
        candidates = getattr(annotation, "__args__", (annotation,))
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return f"{key} is not a key here; known: {', '.join(section.model_fields)}"


def save_config(config: RunConfig, path: Path) -> None:
    """Write the resolved configuration, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    part = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
