"""Which published backbone the encoder in a state dict is, to the last shape: a table made from the libraries' models.

Owns the table (``backbones.json``) and the digest by which it is read; ``tests/metadata/make_backbones.py`` makes the
table with the functions of this module, so that the two cannot disagree.

Promises: a name is given only if every tensor of the encoder has the name and the shape that the library gives it. The
prefix does not matter, nor do a classifier, a decoder or a loss around the encoder, nor the number of input channels.
Names that shapes cannot tell apart are given together, as in ``resnet50|resnetaa50``. Time is linear in the number of
names.

Theory of operation: the table's *anchors* are names of tensors of which each encoder has one, and which are rare
elsewhere. What stands before an anchor in a name is the *root* of an encoder. The parts below a root (``layer1``,
``patch_embed``) that some model of the table has outside its classifier are digested, all together, and the digest is
looked up. A part too many, too few or of another shape gives another digest, and so no name.

The running statistics count: they tell batch from group norm. A state dict of parameters only, as some averages of
weights are, has none; the table knows it by a digest of its own.

Deliberately unknown: a trunk without its last stage, other libraries' names (Hugging Face), positions for an image
size that no published model has, blocks wrapped by LoRA or quantisation.
"""

import functools
import hashlib
import json
from collections.abc import Container, Iterable, Mapping
from importlib import resources  # the table is a part of the program: nobody else's file, read once, never written
from typing import Any, NamedTuple

from ckpt_indexer.metadata.architecture import Shape

# Without limits, hostile names could make the work quadratic.
PLACES_MAX = 16  # of one anchor: more encoders than a model holds; it is then just a frequent name
ROOTS_MAX = 32  # real models have up to 4 places
TENSORS_MAX = 5000  # of one encoder; the largest of the table has 3108

# Saved by some versions of the same model and not by others.
_NOT_COUNTED = ("num_batches_tracked", "relative_position_index", "relative_coords_table", "attn_mask")


class BackboneTable(NamedTuple):
    """The published backbones by digest."""

    anchors: Mapping[str, tuple[str, ...]]  # by their last two parts, for speed
    parts: Mapping[str, frozenset[str]]  # by anchor: the modules and parameters directly below such a root
    all_parts: frozenset[str]
    inputs: frozenset[str]  # weights whose second dimension is the number of input channels
    names: Mapping[str, str]  # by digest; those that cannot be told apart are joined by "|", the shortest first


def find_backbones(tensors: Mapping[str, Shape]) -> dict[str, str]:
    """Find the published backbones in a state dict; its names must be bare (``bare_name``).

    Returns the name or the names of each, by the root below which it stands; a root is empty or ends in a dot. What is
    a part of another backbone is left out. There are none if one may begin at more than ``ROOTS_MAX`` places.

    >>> find_backbones({"decoder.conv1.weight": (64, 3, 7, 7)})
    {}
    """
    table = load_table()
    roots = find_roots(tensors, table)
    found: dict[str, str] = {}
    for root in sorted(roots, key=len) if len(roots) <= ROOTS_MAX else ():
        if not is_part_of(root, found):
            names = table.names.get(digest(trunk(root, tensors, roots[root], table.inputs)))
            if names is not None:
                found[root] = names
    return found


def is_part_of(root: str, backbones: Iterable[str]) -> bool:
    """Whether what begins at *root* stands inside one of the *backbones*, or is one; all of them are roots.

    >>> is_part_of("encoder.patch_embed.backbone.", ["encoder."]), is_part_of("student.", [""])
    (True, False)
    """
    parts = load_table().all_parts
    return any(
        root == outer or (root.startswith(outer) and root[len(outer) :].partition(".")[0] in parts)
        for outer in backbones
    )


def find_roots(tensors: Iterable[str], table: BackboneTable) -> dict[str, set[str]]:
    """Find where an encoder may begin, and by which parts it is known there."""
    found: dict[str, set[str]] = {}
    for name in tensors:
        for anchor in table.anchors.get(last_two(name), ()):
            if f".{name}".endswith(f".{anchor}"):
                found.setdefault(anchor, set()).add(name.removesuffix(anchor))
    roots: dict[str, set[str]] = {}
    for anchor, places in found.items():
        if len(places) <= PLACES_MAX:
            for root in places:
                roots.setdefault(root, set()).update(table.parts[anchor])
    return roots


def last_two(name: str) -> str:
    """Return the last two parts of a tensor's name.

    >>> last_two("encoder.conv1.weight"), last_two("weight")
    ('conv1.weight', 'weight')
    """
    return name[name.rfind(".", 0, max(name.rfind("."), 0)) + 1 :]


def trunk(root: str, tensors: Mapping[str, Shape], parts: Container[str], inputs: Container[str]) -> dict[str, Shape]:
    """Return the tensors of the encoder that begins at *root*, without the root in their names; none if too many."""
    found: dict[str, Shape] = {}
    start = len(root)
    for name, shape in tensors.items():
        if name.startswith(root) and not name.endswith(_NOT_COUNTED):
            inner = name[start:]
            part = inner.partition(".")[0]
            # Modules that only have numbers are one sequence: one more of them makes it another.
            if part in parts or part.isdigit():
                found[inner] = (*shape[:1], 0, *shape[2:]) if inner in inputs else shape
                if len(found) > TENSORS_MAX:
                    return {}
    return found


def digest(tensors: Mapping[str, Shape]) -> str:
    """Return a digest of names and shapes, in any order.

    Its 48 bits make a chance match of a model with the whole table a matter of one in 10^11.

    >>> digest({"a": (1, 2), "b": ()}) == digest({"b": (), "a": (1, 2)}) != digest({"a": (12,), "b": ()})
    True
    """
    text = repr(sorted(tensors.items()))
    return hashlib.blake2b(text.encode("ascii", "backslashreplace"), digest_size=6).hexdigest()


@functools.cache
def load_table() -> BackboneTable:
    """Read the table, once."""
    return read_table(json.loads(resources.files(__package__).joinpath("backbones.json").read_text("utf-8")))


def read_table(content: Mapping[str, Any]) -> BackboneTable:
    """Build the table from what its file says: the digests of each set of names that cannot be told apart."""
    anchors: dict[str, tuple[str, ...]] = {}
    for anchor in content["anchors"]:
        anchors[last_two(anchor)] = (*anchors.get(last_two(anchor), ()), anchor)
    parts = {anchor: frozenset(each) for anchor, each in content["anchors"].items()}
    names = {each: joined for joined, digests in content["names"].items() for each in digests}
    return BackboneTable(anchors, parts, frozenset().union(*parts.values()), frozenset(content["inputs"]), names)
