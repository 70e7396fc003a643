"""Flags from a table of settings: one for each field of a settings model.

Not in ``options``, because settings need pydantic, which most commands do not load.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import click

from ckpt_indexer.settings import ENVIRONMENT_PREFIX, default_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo


def settings_options(
    model: type[BaseModel], *, exclude: Collection[str] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds a flag for every setting of *model*; values stay ``None`` where it is not given."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for name, field in reversed(model.model_fields.items()):
            if name not in exclude:
                function = _option(name, field)(function)
        return function

    return decorate


def _option(name: str, field: FieldInfo) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    flag = "--" + name.replace("_", "-")
    text = f"{field.description} [default: {default_text(field)}; env: {ENVIRONMENT_PREFIX}{name.upper()}]"
    kind: Any = field.annotation
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", name, default=None, help=text)
    if get_origin(kind) is Literal:
        return click.option(flag, name, type=click.Choice(get_args(kind)), default=None, help=text)
    return click.option(flag, name, type=kind if kind in (int, float) else str, default=None, help=text)
