"""A session as a process: what it says of itself before it is ready, and how soon it stops."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from ckpt_indexer import paths
from ckpt_indexer.daemon_state import DaemonState, read_state
from tests.process import TIMEOUT_S

if TYPE_CHECKING:
    from pathlib import Path

FOLDERS = 200
# The daemon, which stops itself while it lists a certain folder of the tree for the n-th time; it prints what it says
# of itself at that moment, whether the pid is its own, and how many folders it listed in all.
PROGRAM = """
import os, signal, sys

from ckpt_indexer.cli import main
from ckpt_indexer.daemon_state import describe

root, stop_at = sys.argv[1], int(sys.argv[2])
real, listed = os.scandir, 0

def scandir(path="."):
    global listed
    if os.fsdecode(path).startswith(root):
        listed += 1
        if listed == stop_at:
            status = describe(root)
            print(status.is_alive, status.state, status.pid == os.getpid())
            os.kill(os.getpid(), signal.SIGTERM)
    return real(path)

os.scandir = scandir
sys.argv[1:] = ["watch", root, "--json"]
try:
    main()
finally:
    print(listed)
"""


@pytest.mark.parametrize("stop_at", [FOLDERS // 2, FOLDERS + FOLDERS // 2], ids=["watching", "scanning"])
def test_a_stop_during_the_first_pass_takes_effect_at_the_next_folder(tmp_path: Path, stop_at: int) -> None:
    root = tmp_path / "outputs"
    for i in range(FOLDERS - 1):
        (root / f"{i}").mkdir(parents=True)
    (root / paths.DAEMON_STATE_NAME).write_text('{"state": "stopped", "pid": 1}')
    command = [sys.executable, "-c", PROGRAM, str(root), str(stop_at)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    said, listed = done.stdout.splitlines()
    assert (done.returncode, said) == (0, "True starting True"), done.stderr
    assert stop_at <= int(listed) <= stop_at + 2  # the folder at hand, and the root where scanning begins
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert (events[-1], "pass_finished" in events) == ("daemon_stopped", False)
    state = read_state(root)
    assert state is not None
    assert state.state == DaemonState().state == "stopped"
