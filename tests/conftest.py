"""What the tests share: real checkpoints, made once a session, and the corpus of published ones where it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.process")

CORPUS = Path(os.environ.get("CKPT_INDEXER_CORPUS", Path(__file__).parents[2] / "shared" / "corpus"))


@pytest.fixture(scope="session")
def corpus() -> Path:
    if not CORPUS.is_dir():
        pytest.skip("the corpus of published checkpoints is not here")
    return CORPUS
