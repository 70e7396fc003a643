"""Fixtures: checkpoints of every kind, written by the real frameworks, once a session; and a reader."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckpt_indexer.sandbox.owner import Reader
from tests import made

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.formats.made_files import Folder
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
def legacy(tmp_path_factory: pytest.TempPathFactory, zips: dict[str, Path]) -> dict[str, Path]:
    from tests.formats import made_files

    return made_files.make_legacy(tmp_path_factory.mktemp("legacy"), zips)


@pytest.fixture(scope="session")
def pickles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.formats import made_files

    return made_files.make_pickles(tmp_path_factory.mktemp("pickles"))


@pytest.fixture(scope="session")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.formats import made_files

    return made_files.make_scripts(tmp_path_factory.mktemp("scripts"))


@pytest.fixture(scope="session")
def tensor_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.formats import made_files

    return made_files.make_safetensors(tmp_path_factory.mktemp("safetensors"))


@pytest.fixture(scope="session")
def dcp_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    from tests.formats import made_files

    return made_files.make_dcp(tmp_path_factory.mktemp("dcp"))


@pytest.fixture(scope="session")
def deepspeed_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Folder]:
    from tests.formats import made_files

    return made_files.make_deepspeed(tmp_path_factory.mktemp("deepspeed"))


@pytest.fixture(scope="session")
def reader() -> Iterator[Reader]:
    with Reader() as reader:
        yield reader
