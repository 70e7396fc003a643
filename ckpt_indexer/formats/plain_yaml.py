"""YAML that somebody else wrote, as plain bounded data.

Runs in the worker process, which bounds memory and time: a billion laughs load in a millisecond as shared objects and
are cut here while they are spelled out; the deeply nested end the worker, not its owner.
"""

from __future__ import annotations

from typing import Any

from ckpt_indexer.formats.plain import Plainer

YAML_MAX = 1 << 20  # bytes; a sidecar has 1-5 kB, a large Hydra config 50 kB


def parse_yaml(data: bytes) -> Any:
    """Load one document with the C safe loader: dicts with text keys, lists, text, numbers, dates as ISO text.

    Raises:
        ValueError: it is not YAML, too large, or uses tags that would make other objects.

    """
    import yaml  # 12 ms that only a worker which meets YAML pays

    if len(data) > YAML_MAX:
        raise ValueError(f"the file has {len(data)} bytes; at most {YAML_MAX} are read")
    try:
        document = yaml.load(data, Loader=yaml.CSafeLoader)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - KeyError, IndexError and AttributeError too: `!!bool maybe`, `!!int ''`
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise ValueError(f"not YAML{where}: {getattr(error, 'problem', None) or error}") from None
    return Plainer(lambda _: None).plain(document)
