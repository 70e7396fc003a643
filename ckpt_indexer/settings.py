"""Settings: the one loader, and the daemon's table, from which flags, variables, file, ``--help`` and manual follow.

Precedence: flags, then ``CKPT_INDEXER_*``, then the YAML file, then the defaults of the table. Commands that only read
need no settings and do not import this module. The loader is our own because ``pydantic-settings`` (2.16, tried) takes
``ckpt_indexer_workers`` for ``CKPT_INDEXER_WORKERS``, passes over a file that is missing, lets an exception out for one
that is no mapping, reads no environment but the process's, and costs 0.3 s at import.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ckpt_indexer.errors import SettingInvalid, reason_of
from ckpt_indexer.paths import is_suffix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic.fields import FieldInfo

ENVIRONMENT_PREFIX = "CKPT_INDEXER_"
DEFAULT_TEXT = "default_text"  # key in a field's extras: what stands for its default, for people
_FILE_MAX = 64 << 10  # bytes

ModelT = TypeVar("ModelT", bound=BaseModel)


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _is_suffixes(value: tuple[str, ...] | None) -> tuple[str, ...] | None:
    wrong = [] if value is None else [suffix for suffix in value if not is_suffix(suffix)]
    if wrong or value == ():
        raise ValueError(f"{', '.join(wrong) or 'nothing'} is no suffix of checkpoints: use .ckpt, .pt and the like")
    return value


class Settings(BaseModel):
    """How the daemon works; each field is a flag, an environment variable and a key of the YAML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scan_interval: float = Field(
        default=60.0, ge=1.0, le=86_400.0, description="Seconds between passes over the whole tree, ±25 % jitter."
    )
    workers: int = Field(default=1, ge=1, le=64, description="Processes that read checkpoints.")
    suffixes: Annotated[tuple[str, ...] | None, BeforeValidator(_split), AfterValidator(_is_suffixes)] = Field(
        default=None,
        description="Names that end so are checkpoints (.ckpt,.pt,.safetensors); kept in the index.",
        json_schema_extra={DEFAULT_TEXT: "the index's, else .ckpt"},
    )
    sidecars: bool = Field(default=True, description="Write a .metadata.yaml beside each checkpoint.")
    sidecar_fill: bool = Field(
        default=True,
        description="Fill in, and name as filled, what is not known and older readers of sidecars insist on.",
    )
    sidecar_names: Literal["full", "both"] = Field(
        default="full", description="Write best.ckpt.metadata.yaml, or best.metadata.yaml as well."
    )
    remove_orphans: bool = Field(
        default=True, description="Remove sidecars that this program wrote when their checkpoint is gone."
    )
    wandb_api: bool = Field(
        default=False, description="Ask Weights & Biases' servers about runs whose folders are in the tree."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least level logged.")
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="JSON lines, text, or text on a terminal and JSON elsewhere."
    )


def environment_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Read the daemon's settings of this process: *flags*, its environment, and the file of ``$CKPT_INDEXER_CONFIG``.

    Raises:
        SettingInvalid: as ``load_settings``.

    """
    return load_settings(Settings, flags or {}, os.environ, os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG"))


def load_settings(
    model: type[ModelT],
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    config_file: str | os.PathLike[str] | None,
) -> ModelT:
    """Build the settings of *model* from its sources; values that are ``None`` in *flags* were not given.

    Raises:
        SettingInvalid: the file cannot be read, a key is unknown, or a value is out of its range.

    """
    values = {} if config_file is None else _read_file(os.fspath(config_file))
    for name in model.model_fields:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in environment:
            values[name] = environment[variable]
    values.update({name: value for name, value in flags.items() if value is not None})
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise SettingInvalid(setting=".".join(map(str, first["loc"])), reason=first["msg"]) from None


def default_text(field: FieldInfo) -> str:
    """Return the default of a setting, for people."""
    extra = field.json_schema_extra
    if isinstance(extra, dict):
        return str(extra[DEFAULT_TEXT])
    return "none" if field.default in (None, ()) else str(field.default)


def _read_file(path: str) -> dict[str, Any]:
    """Read a YAML file of settings by their names.

    Raises:
        SettingInvalid: it cannot be read, or is no mapping.

    """
    try:
        with open(path, "rb") as file:
            text = file.read(_FILE_MAX + 1)
        content = yaml.load(text[:_FILE_MAX], Loader=yaml.CSafeLoader)
    except OSError as error:
        raise SettingInvalid(setting=path, reason=reason_of(error)) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2026-13-45 has the form of a date
        raise SettingInvalid(setting=path, reason=f"not YAML: {' '.join(str(error).split())}") from None
    if len(text) > _FILE_MAX:
        raise SettingInvalid(setting=path, reason=f"it is larger than {_FILE_MAX >> 10} KiB")
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise SettingInvalid(setting=path, reason="it is no mapping of settings")
    return content
