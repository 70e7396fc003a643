from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests import made

if TYPE_CHECKING:
    from tests.samples import Run


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    return made.runs(tmp_path_factory.getbasetemp())
