"""Legacy files of torch: what is read of a storage is what stands there, wherever in the file it is."""

from __future__ import annotations

import io

import torch

from ckpt_indexer.formats.containers.identify import BUFFER_BYTES, read_facts


def saved(padding: int) -> bytes:
    buffer = io.BytesIO()
    content = {"note": "x" * padding, "loss": torch.tensor(0.625, dtype=torch.float64)}
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def test_a_value_is_the_same_wherever_it_lies_at_the_buffers_end() -> None:
    begin = len(saved(BUFFER_BYTES)) - BUFFER_BYTES - 8  # of the one storage, without the padding
    found = {}
    for distance in range(-24, 25):
        data = saved(BUFFER_BYTES - begin + distance)
        assert len(data) == BUFFER_BYTES + distance + 8
        found[distance] = read_facts(io.BytesIO(data)).metrics[""]
    assert found == {distance: {"loss": 0.625} for distance in range(-24, 25)}
