"""Reading every byte of a checkpoint: one file in, ``DeepFacts`` out.

Owns the choice of the check: archives that torch writes prove themselves (``archive_proof``); all other formats have no
checksums, so their bytes become a digest for the caller to compare with one taken before. Imported by the worker
process alone, when it is first asked for: it needs numpy and isal.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from ckpt_indexer.errors import FormatProblem, reason_of
from ckpt_indexer.formats.containers.identify import LEGACY_MAGIC, LEGACY_MAGIC_TEXT, buffered, read_facts
from ckpt_indexer.formats.containers.safetensors import DTYPES, read_header
from ckpt_indexer.formats.containers.torch_legacy import read_legacy
from ckpt_indexer.formats.facts import Damage, DeepFacts, NonFinite
from ckpt_indexer.formats.pickles.unpickle import unpickle
from ckpt_indexer.formats.proof.archive import DAMAGES_MAX, ArchiveProof
from ckpt_indexer.formats.proof.nonfinite import ITEM_BYTES, Counter, Span
from ckpt_indexer.formats.proof.pieces import Pieces, read_at
from ckpt_indexer.formats.proof.torch_layout import END
from ckpt_indexer.formats.proof.weights import NONFINITE_MAX, Weights
from ckpt_indexer.model import Problem


def read_deep(file: BinaryIO) -> DeepFacts:
    """Read *file*, which is seekable and unbuffered and whose header was found good or damaged, to its end."""
    try:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        head = file.read(9)
        # By its end, too: the first byte may be the damaged one.
        if head.startswith(b"PK\x03\x04") or read_at(file, max(0, size - END.size), 4) == b"PK\x05\x06":
            return ArchiveProof(file, size).run()
        if head[8:] == b"{":
            return _read_safetensors(file, size)
        return _read_opaque(file, size)
    except FormatProblem as error:
        return DeepFacts(problem=error.problem)
    except OSError as error:
        return DeepFacts(problem=Problem.of("io-error", reason_of(error)))


def _read_opaque(file: BinaryIO, size: int) -> DeepFacts:
    """Compute the digest; where the tensors' elements lie is not followed, so none is counted."""
    tensors = read_facts(file).tensors or ()
    with Pieces(file, size, with_digest=True) as pieces:
        pieces.skip_to(size)
    uncounted = sum(tensor.dtype in ITEM_BYTES for tensor in tensors)
    facts = DeepFacts(digest=pieces.digest(), unproven_bytes=size, uncounted=uncounted)
    for name in _tensors_beyond(file, size)[:DAMAGES_MAX]:
        message = f"the tensor {name} reaches beyond its storage"
        facts.damages.append(Damage("file", None, 0, "pickle-damaged", message))
    facts.problem = facts.damages[0].problem() if facts.damages else None
    return facts


def _tensors_beyond(file: BinaryIO, size: int) -> list[str]:
    """Return the tensors of a legacy file's weights that reach beyond their storages: torch refuses the file."""
    file.seek(0)
    with buffered(file) as stream:
        if not stream.peek().startswith((LEGACY_MAGIC, LEGACY_MAGIC_TEXT)):
            return []
        try:
            unpickle(stream)  # the magic number
            return Weights(read_legacy(stream, size).pickled, is_big_endian=False).beyond
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001 - unpickling raises nearly anything, and the header's reading says why
            return []


def _read_safetensors(file: BinaryIO, size: int) -> DeepFacts:
    file.seek(0)
    with buffered(file) as stream:
        tensors, _, begin = read_header(stream, size)
    names: dict[Span, list[str]] = {}
    uncounted = 0
    for name, tensor in tensors.items():
        dtype, _ = DTYPES.get(tensor.dtype, ("", 0))
        if dtype in ITEM_BYTES:
            first, last = tensor.data_offsets
            names.setdefault(Span(first, last - first, dtype), []).append(name)
        uncounted += tensor.dtype not in DTYPES  # a newer dtype; how it encodes NaN is not known here
    counter = Counter(names)
    with Pieces(file, size, with_digest=True) as pieces:
        pieces.skip_to(begin)
        for piece in pieces.take(size - begin):
            counter.feed(piece, pieces.position - len(piece) - begin)
    facts = DeepFacts(digest=pieces.digest(), unproven_bytes=size, uncounted=uncounted)
    for span, count in counter.counts.items():
        for name in names[span]:
            facts.nan += count.nan
            facts.inf += count.inf
            if len(facts.nonfinite) < NONFINITE_MAX:
                facts.nonfinite.append(NonFinite(name, count.nan, count.inf))
    return facts
