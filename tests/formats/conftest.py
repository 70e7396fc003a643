from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckpt_indexer.formats.reader import Reader
from tests import made

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.samples import Run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return made.runs(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def zips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return made.zips(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str, str]]:
    return made.others(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    with Reader() as reader:
        yield reader
