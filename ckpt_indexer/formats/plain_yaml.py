"""YAML (or JSON) that somebody else wrote, as plain bounded data.

Runs in the worker process, which bounds memory and time: a billion laughs load in a millisecond as shared objects and
are cut here while they are spelled out; the deeply nested end the worker, not its owner.
"""

from __future__ import annotations

import json
from typing import Any, BinaryIO

from ckpt_indexer.errors import reason_of
from ckpt_indexer.formats.facts import YAML_MAX, YamlFacts
from ckpt_indexer.formats.pickles.plain import Plainer
from ckpt_indexer.model import Problem

NODES_MAX = 100_000  # values; a configuration of 1 MB has some 40,000


def read_yaml(file: BinaryIO) -> YamlFacts:
    """Read one document; never raises for what the file contains."""
    try:
        return YamlFacts(document=parse_yaml(file.read(YAML_MAX + 1)))
    except OSError as error:
        return YamlFacts(error=Problem.of("io-error", reason_of(error)).message, is_unread=True)
    except ValueError as error:
        return YamlFacts(error=Problem.of("sidecar-invalid", error).message)


def parse_yaml(data: bytes) -> Any:
    """Load one document, YAML or JSON: dicts with text keys, lists, text, numbers, dates as ISO text.

    Raises:
        ValueError: it is not YAML, too large, or uses tags that would make other objects.

    """
    import yaml  # 12 ms that only a worker which meets YAML pays

    if len(data) > YAML_MAX:
        raise ValueError(f"the file has {len(data)} bytes; at most {YAML_MAX} are read")
    if data[:1] in (b"{", b"["):  # JSON is nearly YAML: a tab between values and 1e-05 are something else there
        try:
            return _plain(json.loads(data))
        except (ValueError, RecursionError):
            pass
    try:
        document = yaml.load(data, Loader=yaml.CSafeLoader)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - KeyError, IndexError and AttributeError too: `!!bool maybe`, `!!int ''`
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"not YAML{where}: {getattr(error, 'problem', None) or error}") from None
    return _plain(document)


def _plain(document: Any) -> Any:
    return Plainer(lambda _: None, nodes_max=NODES_MAX, text_max=2 * YAML_MAX).plain(document)
