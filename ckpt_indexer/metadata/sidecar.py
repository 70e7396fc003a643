"""The document's form on disk: block YAML in, block YAML out."""

from __future__ import annotations

import errno
from typing import Any

from pydantic import ValidationError

from ckpt_indexer.errors import SidecarInvalid
from ckpt_indexer.formats.facts import YAML_MAX
from ckpt_indexer.metadata.block_yaml import encode_block
from ckpt_indexer.metadata.fit import read_absent, write_absent
from ckpt_indexer.metadata.schema import SCHEMA_VERSION, Document

HEAD = b"# Made by ckpt-indexer from the checkpoint beside it. Not whole without its last line.\n"
END = b"...\n"  # YAML's end of a document
_MAJOR = SCHEMA_VERSION.partition(".")[0]


def parse_sidecar(content: Any) -> Document:
    """Validate what was loaded from a sidecar's YAML.

    Raises:
        SidecarInvalid: it is no document of this schema's major version; every fault is named.

    """
    if not isinstance(content, dict):
        raise SidecarInvalid(reason="it is no mapping")
    version = str(content.get("schema_version", SCHEMA_VERSION))
    if version.partition(".")[0] != _MAJOR:
        raise SidecarInvalid(reason=f"schema_version {version} is not {_MAJOR}.x")
    try:
        return read_absent(Document.model_validate(content))
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False)]
        raise SidecarInvalid(reason="; ".join(faults[:5])) from None


def encode_sidecar(document: Document, *, fill: bool = True) -> bytes:
    """Write the document as block YAML, fields in the schema's order.

    What is not known and may not be null there is left out, or with *fill* filled in: see ``fit``.

    Raises:
        OSError: it would be larger than what is read back (``YAML_MAX``).

    """
    content = document.model_dump()  # mode="json" would write infinities among the parameters as null
    if document.indexer is None:
        del content["indexer"]
    write_absent(content, fill=fill)
    dumped = HEAD + encode_block(content).encode() + END
    if len(dumped) > YAML_MAX:  # texts that need many escapes; it would never be read back
        raise OSError(errno.EFBIG, f"the sidecar would have {len(dumped)} bytes; at most {YAML_MAX} are read")
    return dumped


def is_lost(data: bytes) -> bool:
    """Return whether a sidecar's bytes are what a power cut left of one of ours: nothing, zeros, or its first part.

    It is not fsynced, because it can be made again; but then its rest must not pass for somebody else's.
    """
    return not data.strip(b"\0") or (data.startswith(HEAD) and (b"\0" in data or not data.endswith(END)))
