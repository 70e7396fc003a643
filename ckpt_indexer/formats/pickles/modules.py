"""The state dict of a model that was saved whole: its module tree, as ``torch.nn.Module.state_dict`` would list it.

Pure functions over what ``unpickle`` gives: a pickled ``torch.nn.Module`` (with torch.fx's ``GraphModule``), and the
objects of a TorchScript archive, whose parameters and buffers are declared in the source stored beside them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ckpt_indexer.formats.pickles.tensors import parse_tensor
from ckpt_indexer.formats.pickles.unpickle import Inert

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MODULES_MAX = 100_000  # in one tree
_CLASS = re.compile(r"^class (\w+)\(\w+\):\n((?:  .*\n|\n)*)", re.MULTILINE)
_DECLARED = re.compile(r"^  __(?:parameters|buffers)__ = \[(.*)\]", re.MULTILINE)
_NAME = re.compile(r'"([^"]*)"')

Own = list[tuple[str, Any]]  # names and values of what belongs to one module itself
Children = list[tuple[str, Any]]


def state_dict_of_module(root: Any) -> dict[str, Any] | None:
    """List the tensors of a pickled ``torch.nn.Module``; ``None`` where *root* is none."""
    return None if _attributes(root) is None else _walk(root, _parts)


def state_dict_of_script(root: Any, source_of: Callable[[str], str | None]) -> dict[str, Any] | None:
    """List the tensors of a TorchScript module; *source_of* gives the code of a Python module by its dotted name."""
    declared = _Declarations(source_of)

    def parts(module: Any) -> tuple[Own, Children]:
        if not isinstance(module, Inert) or not isinstance(module.state, dict):
            return [], []
        names = declared.of(type(module))
        attributes = [(k, v) for k, v in dict.items(module.state) if isinstance(k, str)]
        own = [(k, v) for k, v in attributes if (k in names if names is not None else parse_tensor(v) is not None)]
        return own, [(k, v) for k, v in attributes if isinstance(v, Inert) and parse_tensor(v) is None]

    return _walk(root, parts) if isinstance(root, Inert) and isinstance(root.state, dict) else None


def _walk(root: Any, parts: Callable[[Any], tuple[Own, Children]]) -> dict[str, Any]:
    """Go down the tree, depth first and in order, without recursion."""
    found: dict[str, Any] = {}
    waiting = [("", root)]
    for _ in range(MODULES_MAX):  # a module met twice is listed under both names, as torch does; this ends a cycle
        if not waiting:
            break
        prefix, module = waiting.pop()
        own, children = parts(module)
        found.update((prefix + name, value) for name, value in own)
        waiting += [(f"{prefix}{name}.", child) for name, child in reversed(children) if prefix.count(".") < 64]
    return found


def _attributes(module: Any) -> dict[Any, Any] | None:
    """Return a module's ``__dict__``: what the pickle set, or what torch.fx's function was to make the module from."""
    if not isinstance(module, Inert):
        return None
    candidates = (module.state, *module.args[:1])
    return next((each for each in candidates if isinstance(each, dict) and "_modules" in each), None)


def _parts(module: Any) -> tuple[Own, Children]:
    attributes = _attributes(module) or {}
    hidden = _names_of(attributes.get("_non_persistent_buffers_set"))
    buffers = [(name, value) for name, value in _items(attributes.get("_buffers")) if name not in hidden]
    return [*_items(attributes.get("_parameters")), *buffers], list(_items(attributes.get("_modules")))


def _names_of(value: Any) -> set[str]:
    """Read a set of names, also as pickle's protocols 0 to 3 write one: ``set([...])``."""
    if isinstance(value, Inert) and type(value).qualname == "set" and value.args:
        value = value.args[0]
    return {name for name in value if isinstance(name, str)} if isinstance(value, set | frozenset | list) else set()


def _items(value: Any) -> Iterator[tuple[str, Any]]:
    pairs = dict.items(value) if isinstance(value, dict) else ()
    return ((name, item) for name, item in pairs if isinstance(name, str) and item is not None)


class _Declarations:
    """Which attributes of a TorchScript class are parameters and buffers, by the archive's own code."""

    def __init__(self, source_of: Callable[[str], str | None]) -> None:
        self._source_of = source_of
        self._known: dict[str, dict[str, frozenset[str]]] = {}

    def of(self, kind: type[Inert]) -> frozenset[str] | None:
        module, _, name = kind.full_name().rpartition(".")
        if module not in self._known:
            source = self._source_of(module) or ""
            self._known[module] = {
                match[1]: frozenset(n for line in _DECLARED.findall(match[2]) for n in _NAME.findall(line))
                for match in _CLASS.finditer(source)
            }
        return self._known[module].get(name)
