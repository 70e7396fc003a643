"""The daemon's log as it reaches a terminal or a journal."""

from __future__ import annotations

import pytest
import structlog

from ckpt_indexer.log import configure_log


@pytest.mark.parametrize("form", ["json", "text"])
def test_nothing_that_a_file_is_called_controls_the_terminal(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    configure_log("info", form, is_terminal=False)
    log = structlog.get_logger("ckpt_indexer")
    try:
        raise ValueError("\x1b]0;owned\x07\r\x9b31m")
    except ValueError:
        log.exception("checkpoint_failed", key="\x1b[2J\n.ckpt")
    written = capsys.readouterr().err
    assert {c for c in written if not c.isprintable()} == {"\n"}
    assert "ValueError: \\" in written
    assert "owned" in written
    assert len(written.splitlines()) == (1 if form == "json" else 5)
