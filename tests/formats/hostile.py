"""Pickles that want to run something, fill the memory or take for ever, as a file that torch might have written."""

from __future__ import annotations

import pickle
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PROTO = b"\x80\x04"


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def name(module: str, qualname: str) -> bytes:
    """Push ``module.qualname``."""
    return b"c" + f"{module}\n{qualname}\n".encode()


def archive(pickled: bytes) -> bytes:
    from tests import samples

    return samples.archive_bytes({"data.pkl": pickled, "version": b"3\n"})


def good() -> bytes:
    return archive(pickle.dumps({"epoch": 7}, 2))


def calls(canary: Path) -> dict[str, bytes]:
    """Make a pickle for each way that an unpickler can be made to call something: each would create *canary*."""
    command = text(f"touch {canary}")
    system = name("os", "system")
    stack_system = text("os") + text("system") + b"\x93"
    code = text(f"open({str(canary)!r}, 'w')")
    inner = pickle.dumps(f"touch {canary}", 2)
    found = {
        "GLOBAL REDUCE": system + command + b"\x85R.",
        "GLOBAL posix": name("posix", "system") + command + b"\x85R.",
        "STACK_GLOBAL REDUCE": stack_system + command + b"\x85R.",
        "INST": b"(S" + repr(f"touch {canary}").encode() + b"\nios\nsystem\n.",
        "OBJ": b"(" + system + command + b"o.",
        "NEWOBJ": system + command + b"\x85\x81.",
        "NEWOBJ subprocess": name("subprocess", "Popen") + b"(" + text("touch") + text(str(canary)) + b"l\x85\x81.",
        "NEWOBJ_EX": name("subprocess", "Popen") + b"(" + text("touch") + text(str(canary)) + b"l\x85}\x92.",
        "eval": name("builtins", "eval") + code + b"\x85R.",
        "exec": name("builtins", "exec") + code + b"\x85R.",
        "getattr": name("builtins", "getattr") + name("os", "path") + text("os") + b"\x86R" + command + b"\x85R.",
        "dotted STACK_GLOBAL": text("os") + text("path.os.system") + b"\x93" + command + b"\x85R.",
        "dotted GLOBAL": name("os", "path.os.system") + command + b"\x85R.",
        "__import__": name("builtins", "getattr") + name("builtins", "__import__") + text("os") + b"\x85R"
        + text("system") + b"\x86R" + command + b"\x85R.",
        "BUILD": name("collections", "OrderedDict") + b")R}" + text("__setstate__") + system + b"sb" + command + b"b.",
        "BUILD twice": name("some", "Class") + b")\x81}" + text("__setstate__") + system + b"sb" + command + b"b.",
        "persistent id": system + command + b"\x85RQ.",
        "map": name("builtins", "map") + system + b"(" + command + b"l\x86R.",
        "partial": name("functools", "partial") + system + command + b"\x86R)R.",
        "append": name("some", "List") + b")R}" + text("append") + system + b"sb" + command + b"a.",
        "find_class": name("pickle", "Unpickler") + b")R}" + text("find_class") + system + b"sb.",
        "pickle in pickle": name("pickle", "loads") + b"B" + struct.pack("<I", len(inner)) + inner + b"\x85R.",
        "torch.load": name("torch", "load") + command + b"\x85R.",
        "runpy": name("runpy", "_run_code") + code + b"}\x86R.",
        "importing": name("antigravity", "fly") + b".",
    }  # fmt: skip
    return {title: PROTO + pickled for title, pickled in found.items()}


def changes() -> dict[str, bytes]:
    """Make pickles that try to change the stand-ins for the files that are read after them."""
    targets = {
        "OrderedDict": name("collections", "OrderedDict"),
        "tensor": name("torch._utils", "_rebuild_tensor_v2"),
        "typed tensor": name("torch._utils", "_rebuild_tensor_v3"),
        "parameter": name("torch._utils", "_rebuild_parameter"),
        "class": name("some", "Class"),
    }
    values = text("items") + b"N" + text("__setstate__") + b"N" + text("pairs") + b"N" + text("data") + b"N"
    states = {"state": b"}(" + values + b"u", "slots": b"N}(" + values + b"u\x86"}
    found = {f"{t} {s}": PROTO + target + state + b"b." for t, target in targets.items() for s, state in states.items()}
    # Through an object: its class, its methods, the dictionary of its class.
    for attribute in ("__class__", "__dict__", "__setstate__", "append"):
        getter = name("builtins", "getattr") + name("some", "Class") + text(attribute) + b"\x86R"
        found[f"getattr {attribute}"] = PROTO + getter + states["slots"] + b"b."
    return found


def memory_bombs() -> dict[str, bytes]:
    return {
        "ten million lists": b"\x80\x02(" + b"]" * 10_000_000 + b"l.",
        "twelve million dicts": b"\x80\x02(" + b"}" * 12_000_000 + b"l.",
    }


def nested(kind: str, depth: int) -> bytes:
    """Make a pickle of *depth* levels."""
    opening, closing = {
        "lists": (b"]", b"a"),
        "tuples": (b"", b"\x85"),
        "dicts": (b"}K\x00", b"s"),
        "objects": (name("some", "Class"), b"\x85R"),
        "parameters": (name("torch._utils", "_rebuild_parameter"), b"\x85R"),
        "states": (name("some", "Class") + b")R", b"b"),
    }[kind]
    return b"\x80\x02" + opening * depth + b"N" + closing * depth + b"."
