"""The server's settings: one table, from which flags, environment, the YAML file, ``--help`` and the README follow.

Precedence: flags, then ``CKPT_INDEXER_*``, then the YAML file, then the defaults here. The token alone is no flag: the
command line of a process is everybody's to read.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from ckpt_indexer.errors import SettingInvalid, reason_of
from ckpt_indexer.settings import ENVIRONMENT_PREFIX, read_settings_file

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN_BYTES_MIN = 16  # as many as `openssl rand -hex 8` gives; less can be tried out
_TOKEN_FILE_MAX = 4096  # bytes
_TOKEN = re.compile(r"[A-Za-z0-9._~+/=-]+")  # RFC 6750, 2.1
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\]")
_ORIGIN = re.compile(r"https?://[a-z0-9_.\[\]:-]+")


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _are_hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    values = tuple(value.lower() for value in values)
    wrong = [value for value in values if not _HOST.fullmatch(value)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: a host is a name or an address, without port, and never *")
    return values


def _are_origins(values: tuple[str, ...]) -> tuple[str, ...]:
    wrong = [value for value in values if not _ORIGIN.fullmatch(value)]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: an origin is http(s)://HOST[:PORT], and never *")
    return values


_Hosts = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_are_hosts)]
_Origins = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_are_origins)]


class ServerSettings(BaseModel):
    """How the server works; each field but the token is a flag, and all are variables and keys of the YAML file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(default="127.0.0.1", description="Address to listen at; any but loopback needs a token.")
    port: int = Field(default=8765, ge=0, le=65535, description="Port to listen at; 0 takes a free one.")
    token_file: str | None = Field(default=None, description="File that holds the token that clients must send.")
    token: SecretStr | None = Field(default=None, description="The token itself.", repr=False)
    allowed_hosts: _Hosts = Field(
        default=(), description="Further names under which the server may be asked (Host header), with commas."
    )
    cors_origins: _Origins = Field(
        default=(), description="Origins whose pages may read the answers, such as https://lab.example, with commas."
    )
    streams_max: int = Field(default=64, ge=1, le=10_000, description="Streams open at a time.")
    connections_max: int = Field(default=256, ge=2, le=100_000, description="Connections open at a time.")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def hosts(self) -> frozenset[str]:
        """The names under which the server may be asked; addresses as well, where it is not on loopback."""
        own = {"localhost", "127.0.0.1", "[::1]", f"[{self.host}]" if ":" in self.host else self.host.lower()}
        names = set() if self.is_loopback else {socket.gethostname().lower()}
        return frozenset(own | names | set(self.allowed_hosts))


NOT_FLAGS = frozenset({"token"})


def load_server_settings(
    flags: Mapping[str, Any], environment: Mapping[str, str], config_file: str | os.PathLike[str] | None
) -> ServerSettings:
    """Merge the settings; values that are ``None`` in *flags* were not given.

    Raises:
        SettingInvalid: a file cannot be read, a key is unknown, a value is out of its range, or an address that others
            can reach has no token.

    """
    values: dict[str, Any] = {} if config_file is None else read_settings_file(os.fspath(config_file))
    for name in ServerSettings.model_fields:
        if ENVIRONMENT_PREFIX + name.upper() in environment:
            values[name] = environment[ENVIRONMENT_PREFIX + name.upper()]
    values.update({name: value for name, value in flags.items() if value is not None})
    try:
        settings = ServerSettings.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise SettingInvalid(setting=".".join(map(str, first["loc"])), reason=first["msg"]) from None
    if settings.token_file is not None:
        settings = settings.model_copy(update={"token": SecretStr(_read_token(settings.token_file))})
    if settings.token is None and not settings.is_loopback:
        reason = (
            f"{settings.host} can be reached by others: it needs a token (token_file, or {ENVIRONMENT_PREFIX}TOKEN)"
        )
        raise SettingInvalid(setting="host", reason=reason)
    if settings.token is not None:
        _check_token(settings.token.get_secret_value())
    return settings


def _read_token(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(_TOKEN_FILE_MAX).strip()
    except OSError as error:
        raise SettingInvalid(setting="token_file", reason=f"{path}: {reason_of(error)}") from None


def _check_token(token: str) -> None:
    """Refuse a token that no client could send, or everybody could guess."""
    if len(token) < TOKEN_BYTES_MIN or not _TOKEN.fullmatch(token):
        reason = f"use {TOKEN_BYTES_MIN} characters or more, letters, digits and ._~+/=- only (openssl rand -hex 32)"
        raise SettingInvalid(setting="token", reason=reason)
