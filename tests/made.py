"""The checkpoints of ``samples``, made once a session and only if a test wants them: torch takes seconds to import."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.samples import Run


@functools.cache
def runs(session: Path) -> dict[str, Run]:
    from tests import samples

    return samples.make_runs(_folder(session, "runs"))


@functools.cache
def zips(session: Path) -> dict[str, Path]:
    from tests import samples

    return samples.make_zips(_folder(session, "zips"))


@functools.cache
def others(session: Path) -> dict[str, tuple[Path, str, str]]:
    from tests import samples

    return samples.make_others(_folder(session, "others"))


def _folder(session: Path, name: str) -> Path:
    folder = session / name
    folder.mkdir()
    return folder
