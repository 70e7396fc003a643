"""What the tests share: real checkpoints, made once a session, and the corpus of published ones where it is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

settings.register_profile("any machine", deadline=None)  # no test depends on how busy the machine is
settings.load_profile("any machine")
pytest.register_assert_rewrite("tests.process")
pytest_plugins = ["tests.checkpoint_files"]

# In the order of how long they take, from a minute down to a quarter of one.
LONGEST = (
    "tests/web/test_page.py",
    "tests/hostile/test_hostile.py",
    "tests/test_systemd_boot.py",
    "tests/benchmarks/test_suite.py",
    "tests/watch/test_faults.py",
    "tests/web/test_manual.py",
    "tests/watch/test_training_run.py",
    "tests/web/test_openapi.py",
    "tests/watch/test_scale.py",
    "tests/catalog/test_backend.py",
    "tests/test_every_field.py",
)
CORPUS = Path(os.environ.get("CKPT_INDEXER_CORPUS", Path(__file__).parents[2] / "shared" / "corpus"))


def pytest_configure(config: pytest.Config) -> None:
    """Keep xdist from starting the files with the fewest tests last: some of these take the longest."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put the longest files first: xdist hands out whole files, and one that begins last is waited for alone."""
    places = {config.rootpath / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))


@pytest.fixture(scope="session")
def corpus() -> Path:
    if not CORPUS.is_dir():
        pytest.skip("the corpus of published checkpoints is not here")
    return CORPUS


@pytest.fixture(autouse=True)
def _older_readers_take_every_sidecar(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold each sidecar that a test made us write against the rules of the older readers."""
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None and request.node.get_closest_marker("unfilled") is None:
        from tests.older_reader import refusals_below

        assert refusals_below(folder) == []
