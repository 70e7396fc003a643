"""Plays scenarios of kind ``retries``: when checkpoints are read, and read again, on a clock that jumps.

Real are the tree, the index and the indexer; a double examines, at once, and finds each checkpoint in the state that
the scenario says. Turns are taken as the daemon does: what an event or the clock asks for is scanned, read, committed.

start: {key: state} at 0 s; a state is ok, incomplete, corrupt, unreadable, or sidecar (that cannot be written)
look_again_s: {key: seconds}: what the first reading of each asks for
events: at_s with any of
  becomes: {key: state}            what a reading finds from now on; nobody notices
  write: [key]                     its file changes; nobody notices
  remove: [key]                    it is gone; nobody notices
  event: [key]                     somebody notices
  pass: true                       everything is scanned
  another_writer_commits: {key: state}
until_s: when the play ends
expect: reads {key: [seconds]}; where they are said, entries {key: status} and forced {key: [seconds]}: those readings
  that trust no sidecar
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckpt_indexer import read_index
from ckpt_indexer.index.store import Store
from ckpt_indexer.paths import ROOT, RelPath
from tests.index.entries import entry
from tests.passes.doubles import Clock, Examiner, make_indexer

if TYPE_CHECKING:
    from pathlib import Path

    from ckpt_indexer.passes.indexer import Indexer


def run(scenario: dict[str, Any], folder: Path) -> None:
    clock = Clock()
    play = _Play(folder, clock, Examiner(clock))
    play.examiner.look_again_s.update(scenario.get("look_again_s", {}))
    start = {"at_s": 0, "becomes": scenario["start"], "write": [*scenario["start"]], "pass": True}
    events = [start, *scenario["events"]]
    with pytest.MonkeyPatch.context() as patch, make_indexer(patch, folder, play.examiner) as indexer:
        while True:
            due_s = clock.now_s + indexer.retry_due_s()
            next_s = min(due_s, *(each["at_s"] for each in events), scenario["until_s"])
            if next_s >= scenario["until_s"]:
                break
            clock.now_s = next_s
            now = [each for each in events if each["at_s"] <= next_s]
            events = [each for each in events if each["at_s"] > next_s]
            play.turn(indexer, now)
    _compare(scenario["expect"], folder, play.examiner)


class _Play:
    def __init__(self, folder: Path, clock: Clock, examiner: Examiner) -> None:
        self.folder = folder
        self.clock = clock
        self.examiner = examiner

    def turn(self, indexer: Indexer, events: list[dict[str, Any]]) -> None:
        places: set[RelPath] = set()
        for event in events:
            places |= self._happen(event)
        if not indexer.store.is_current():
            indexer.load()
        places |= indexer.pop_unverified() | indexer.pop_due_retries()
        if places:
            indexer.scan_and_plan(places)
        indexer.run_for()
        indexer.commit()

    def _happen(self, event: dict[str, Any]) -> set[RelPath]:
        """Change the world, and return the places that somebody noticed."""
        self.examiner.states.update(event.get("becomes", {}))
        for key in event.get("write", ()):
            path = self.folder / key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(bytes(path.stat().st_size + 1 if path.exists() else 1))
        for key in event.get("remove", ()):
            (self.folder / key).unlink()
        theirs = event.get("another_writer_commits", {})
        if theirs:
            Store(str(self.folder)).commit([entry(key, status=state) for key, state in theirs.items()])
        return {*event.get("event", ()), *([ROOT] if event.get("pass") else [])}


def _compare(expect: dict[str, Any], folder: Path, examiner: Examiner) -> None:
    reads: dict[str, list[float]] = {}
    forced: dict[str, list[float]] = {}
    for read in examiner.reads:
        reads.setdefault(read.key, []).append(round(read.at_s, 3))
        if read.is_forced:
            forced.setdefault(read.key, []).append(round(read.at_s, 3))
    assert reads == expect["reads"]
    if "forced" in expect:
        assert forced == expect["forced"]
    if "entries" in expect:
        assert {key: each.status for key, each in read_index(folder).entries.items()} == expect["entries"]
