"""The index over HTTP: one more reader of it, with no say in what it holds.

    index.follow ─▶ api, stream ─▶ guard ─▶ server
    (the tables     (answers,      (who     (sockets,
    of the index)   events)        may ask) signals)

``create_router`` puts the routes into a FastAPI application that is already there, ``create_app`` makes one of its own,
with the page and everything that guards it. Nothing here writes, walks the tree, or imports ``watch``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ckpt_indexer.web.api import create_router
    from ckpt_indexer.web.app import create_app

__all__ = ["create_app", "create_router"]


def __getattr__(name: str) -> Any:
    """Import FastAPI only for those who want it: the settings are read without it."""
    if name == "create_router":
        from ckpt_indexer.web.api import create_router

        return create_router
    if name == "create_app":
        from ckpt_indexer.web.app import create_app

        return create_app
    raise AttributeError(name)
