"""Which way a catalogue is built: the environment's ``CHECKPOINT_CATALOG_USE_V2``, as a pure function of its value."""

from __future__ import annotations

import hashlib
import logging
import re
from typing import Literal

ENVIRONMENT_NAME = "CHECKPOINT_CATALOG_USE_V2"
Way = Literal["index", "plain", "shadow"]
_WORDS: dict[str, Way] = {
    **dict.fromkeys(("", "1", "true", "yes", "on"), "index"),
    **dict.fromkeys(("0", "false", "no", "off"), "plain"),
    "shadow": "shadow",
}
_SHARE = re.compile(r"(\d{1,3}(?:\.\d{1,6})?)\s*%")

log = logging.getLogger("ckpt_indexer.catalog")
_warned: set[str] = set()  # values that were complained about, once a process


def way_of(value: str, who: str) -> Way:
    """Return the way that the switch's *value* means for the builder *who* is.

    >>> way_of("1", "host /outputs"), way_of("off", "host /outputs"), way_of("0%", "host /outputs")
    ('index', 'plain', 'plain')
    """
    word = value.strip().lower()
    if word in _WORDS:
        return _WORDS[word]
    match = _SHARE.fullmatch(word)
    if match is not None and float(match[1]) <= 100:
        return "index" if percent_of(who) < float(match[1]) else "plain"
    if word not in _warned:
        _warned.add(word)
        log.warning("%s=%.40r is no setting (1, 0, shadow, N%%); taken as 1", ENVIRONMENT_NAME, value)
    return "index"


def percent_of(who: str) -> float:
    """Return where *who* stands between 0 and 100: the same for ever, so that a share never flickers.

    >>> 0 <= percent_of("host /outputs") < 100
    True
    """
    digest = hashlib.sha256(who.encode("utf-8", "surrogateescape")).digest()
    return 100 * int.from_bytes(digest[:6], "big") / (1 << 48)
