"""The encoder of a checkpoint by its tensors, and whether that is what a configuration names.

Owns the order of the two ways: a published backbone to the last shape (``backbones``), else its family by its blocks
(``architecture``). Knows no file, no tensor data, no torch.

A name is written as the libraries write it, without the tag of its weights (``resnet50``, not ``resnet50.a1_in1k``):
tags have the same shapes. Those that cannot be told apart are joined: ``resnet50|resnetaa50|resnetblur50``.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from ckpt_indexer.metadata.architecture import FAMILIES, Shape, bare_name, find_families
from ckpt_indexer.metadata.backbones import find_backbones, is_part_of, load_table

if TYPE_CHECKING:
    from collections.abc import Mapping

# How libraries and hubs write whose model it is.
_LIBRARY = re.compile(r"^(?:hf[-_]hub:|(?:torchvision|timm)\.models\.(?:[a-z]+\.)?|timm[/_-]|tu-)+")
_PORTS = (("tf",), ("legacy",))  # timm's first word for the same layers with weights from elsewhere
_ADJECTIVES = frozenset({"lambda", "test", "tiny", "wide"})  # a name begins with it, but it is none
_WORD = re.compile(r"[a-z0-9]+")
_VERSION = re.compile(r"_v(?=[0-9])")  # torchvision's "efficientnet_v2_s"
_OTHER_NAMES = {"vit": ("vit", "deit")}  # of the same blocks
_PATCHES = re.compile(r"(?:patch|window|p)[0-9]+")  # what has them has positions, or windows, for one size of images
_IMAGE_SIZE = re.compile(r"[1-9][0-9]{2,3}")


def recognise_encoder(shapes: Mapping[str, Shape]) -> str | None:
    """Name the encoder of a state dict, given the shape of each tensor; ``None`` is "not certain".

    Encoders of different names in one state dict (teacher and student) give no name: none of them is *the* encoder.

    >>> recognise_encoder({"decoder.conv1.weight": (64, 3, 7, 7)}) is None
    True
    """
    return _recognise(tuple(shapes.items()))


@functools.lru_cache(maxsize=4)  # the checkpoints of a run, read one after the other, have the same tensors
def _recognise(shapes: tuple[tuple[str, Shape], ...]) -> str | None:
    tensors = {bare_name(name): shape for name, shape in shapes}
    exact = find_backbones(tensors)
    names = set(exact.values()) | find_families(tensors, lambda root: not is_part_of(root, exact))
    return names.pop() if len(names) == 1 else None


def is_same_encoder(one: str, other: str) -> bool | None:
    """Return whether two names can mean one encoder; *one* may be several, as ``recognise_encoder`` gives them.

    How libraries and hubs decorate a name does not matter, nor does the size of images: a model may be built for
    another one than its name says. A name that is only more general, as a family's is, is the same.

    >>> several = "resnet50|resnetaa50"
    >>> [is_same_encoder(several, name) for name in ("resnet50", "timm-resnet50", "resnet50.a1_in1k", "tu-resnet50")]
    [True, True, True, True]
    >>> is_same_encoder("convnext", "convnext_tiny.in12k")
    True
    >>> is_same_encoder("vit_base_patch16_384", "vit_base_patch16_224")
    True
    >>> is_same_encoder("resnet18", "resnet50"), is_same_encoder("convnext", "convnextv2_tiny")
    (False, False)

    ``None`` is "not certain": a name that no library has, such as that of somebody's own class, contradicts nothing.

    >>> is_same_encoder("resnet18", "MyBackbone") is None, is_same_encoder("MyBackbone", "MyBackbone")
    (True, True)
    """
    wanted, names = _words(other), one.split("|")
    if any(_words(name) == wanted for name in names):
        return True
    if not is_known(other) or not any(map(is_known, names)):
        return None
    if one not in _sets():  # a family's rule, which sees a trunk cut short, cannot tell these either
        names = [each for joined in _sets() if one in joined.split("|") for each in joined.split("|")] or names
    return any(_can_be(_words(name), wanted) for name in names)


def is_known(name: str) -> bool:
    """Return whether a library has this encoder, or others whose names begin so.

    >>> is_known("tu-resnet34"), is_known("vit_base"), is_known("MyBackbone")
    (True, True, False)
    """
    return "".join(_words(name)) in _known_beginnings()


def _words(name: str) -> tuple[str, ...]:
    name = _LIBRARY.sub("", name.strip().lower()).partition(".")[0]
    words = tuple(_WORD.findall(_VERSION.sub("v", name.replace("-", "_"))))
    return words[1:] if words[:1] in _PORTS else words


def _can_be(recognised: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    """Return whether the words of two names can mean the same model."""
    joined = "".join(recognised)
    if joined in FAMILIES:
        return any(word in _OTHER_NAMES.get(joined, (joined,)) for word in wanted)
    if joined == "".join(wanted) or _without_size(recognised) == _without_size(wanted):
        return True
    is_beginning = recognised[: len(wanted)] == wanted or ("".join(recognised[:1]).rstrip("0123456789"),) == wanted
    return is_beginning and "".join(wanted) not in _published()


def _without_size(words: tuple[str, ...]) -> tuple[str, ...]:
    has_size = any(map(_PATCHES.fullmatch, words)) and _IMAGE_SIZE.fullmatch(words[-1])
    has_unit_width = words[-1:] == ("100",)  # in hundredths: timm's mobilenetv2_100 is everybody's mobilenet_v2
    return words[:-1] if has_size or has_unit_width else words


@functools.cache
def _sets() -> frozenset[str]:
    return frozenset(load_table().names.values())


@functools.cache
def _published() -> dict[str, tuple[str, ...]]:
    """Return the words of each published name by what they are together."""
    return {"".join(words): words for joined in _sets() for words in map(_words, joined.split("|"))}


@functools.cache
def _known_beginnings() -> frozenset[str]:
    """Return the published names, and what they begin with: ``resnet``, ``vit`` and ``vit_base``, too."""
    known = set(FAMILIES)
    for words in _published().values():
        known |= {"".join(words[:count]) for count in range(1, len(words) + 1)}
        known.add(words[0].rstrip("0123456789"))
    return frozenset(known - _ADJECTIVES)
