"""What the answers look like, for OpenAPI. Nothing is checked against these when answers are sent: they are made of
encoded entries; the tests hold both together. An entry's model follows from ``model.Entry``.
"""

from __future__ import annotations

import types
from typing import Any, Literal, Union, get_args, get_origin

import msgspec
from pydantic import BaseModel, ConfigDict, Field, create_model

from ckpt_indexer import model
from ckpt_indexer.index import compare, summary
from ckpt_indexer.web import older


def _type_of(kind: Any) -> Any:
    """Return the type with pydantic models in place of structs."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return model_of(kind)
    arguments = tuple(_type_of(argument) for argument in get_args(kind))
    origin = get_origin(kind)
    if not arguments or origin is Literal:
        return kind
    return Union[arguments] if origin in (Union, types.UnionType) else origin[arguments]  # noqa: UP007


def model_of(struct: type[msgspec.Struct]) -> type[BaseModel]:
    """Make a pydantic model of a struct, for its description only."""
    if struct.__name__ not in _models:
        fields: dict[str, Any] = {}
        for field in msgspec.structs.fields(struct):
            default: Any = ... if field.default is msgspec.NODEFAULT else field.default
            if field.default_factory is not msgspec.NODEFAULT:
                fields[field.name] = (_type_of(field.type), Field(default_factory=field.default_factory))
            else:
                fields[field.name] = (_type_of(field.type), default)
        config = ConfigDict(protected_namespaces=())
        _models[struct.__name__] = create_model(struct.__name__, __config__=config, __doc__=struct.__doc__, **fields)
    return _models[struct.__name__]


_models: dict[str, type[BaseModel]] = {}
Entry: Any = model_of(model.Entry)
Experiment: Any = model_of(summary.Experiment)
ErrorNote: Any = model_of(summary.ErrorNote)
ComparedRow: Any = model_of(compare.Row)
OlderRecord: Any = model_of(older.OlderRecord)


EVENT: dict[str, Any] = {
    "title": "Event",
    "description": "One of the answer's server-sent events.",
    "type": "object",
    "properties": {
        "data": {"type": "string", "contentMediaType": "application/json", "description": "An object."},
        "event": {"type": "string", "enum": ["message", "ready", "change", "resync"]},
        "id": {"type": "string", "pattern": "^[0-9]+$", "description": "The generation."},
        "retry": {"type": "integer"},
    },
}


class Detail(BaseModel):
    """Why there is no answer, in a sentence."""

    detail: str


class CheckpointPage(BaseModel):
    """A page of entries."""

    checkpoints: list[Entry]
    total: int = Field(description="All that the query finds.")
    page: int
    page_size: int
    total_pages: int
    next: str | None = Field(description="The token of the next page; null on the last.")
    generation: int = Field(description="Of the index.")


class Checkpoint(Entry):  # type: ignore[misc]
    """An entry and what its sidecar says."""

    full_path: str = Field(description="The absolute path, written as a key is.")
    metadata: dict[str, Any] | None = Field(description="The sidecar's document; null where there is none.")


class Experiments(BaseModel):
    """All experiments, by name."""

    experiments: list[Experiment]
    generation: int


class Comparison(BaseModel):
    """Checkpoints side by side."""

    keys: list[str]
    rows: list[ComparedRow]
    generation: int


class DaemonReason(BaseModel):
    """Why the index may be behind the disk."""

    code: str
    message: str
    cure: str


class DaemonHealth(BaseModel):
    """The daemon, as far as it is known."""

    state: str = Field(description="starting, ok, polling, degraded, or stopped.")
    alive: bool
    reasons: list[DaemonReason]


class CatalogHealth(BaseModel):
    """How the catalog is."""

    catalog_status: Literal["healthy", "degraded", "unhealthy"]
    checkpoint_count: int
    metadata_coverage: float = Field(ge=0, le=1, description="Share of the ok checkpoints that have a sidecar.")
    last_build_time: str | None = Field(description="When the index was written last; null without one.")
    timestamp: str
    generation: int
    statuses: dict[str, int]
    daemon: DaemonHealth
    recent_errors: list[ErrorNote]
    detail: str | None = Field(description="Why the index cannot be read.")


class Alive(BaseModel):
    """The server answers."""

    status: Literal["ok"]
