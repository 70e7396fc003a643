"""The daemon's settings: one table, from which flags, environment, the YAML file, ``--help`` and the README follow.

Precedence: flags, then ``CKPT_INDEXER_*``, then the YAML file, then the defaults here. Commands that only read need no
settings and do not import this module.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ckpt_indexer.errors import SettingInvalid, reason_of
from ckpt_indexer.paths import is_suffix

if TYPE_CHECKING:
    from collections.abc import Mapping

ENVIRONMENT_PREFIX = "CKPT_INDEXER_"
_FILE_MAX = 64 << 10  # bytes


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
    """Read the settings of this process: *flags*, its environment, and the file that ``$CKPT_INDEXER_CONFIG`` names.

    Raises:
        SettingInvalid: as ``load_settings``.

    """
    return load_settings(flags or {}, os.environ, os.environ.get(f"{ENVIRONMENT_PREFIX}CONFIG"))


def load_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str], config_file: str | os.PathLike[str] | None
) -> Settings:
    """Merge the settings; values that are ``None`` in *flags* were not given.

    Raises:
        SettingInvalid: a file cannot be read, a key is unknown, or a value is out of its range.

    """
    values: dict[str, Any] = {}
    if config_file is not None:
        values.update(read_settings_file(os.fspath(config_file)))
    for name in Settings.model_fields:
        variable = ENVIRONMENT_PREFIX + name.upper()
        if variable in environment:
            values[name] = environment[variable]
    values.update({name: value for name, value in flags.items() if value is not None})
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise SettingInvalid(setting=".".join(map(str, first["loc"])), reason=first["msg"]) from None


def read_settings_file(path: str) -> dict[str, Any]:
    """Read a YAML file of settings by their names.

    Raises:
        SettingInvalid: it cannot be read, or is no mapping.

    """
    try:
        with open(path, "rb") as file:
            content = yaml.load(file.read(_FILE_MAX), Loader=yaml.CSafeLoader)
    except OSError as error:
        raise SettingInvalid(setting=path, reason=reason_of(error)) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: 2026-13-45 has the form of a date
        raise SettingInvalid(setting=path, reason=f"not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise SettingInvalid(setting=path, reason="it is no mapping of settings")
    return content
