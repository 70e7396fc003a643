"""Plays ``kind: commits``: what is unwritten at which moment, and when the index is written because of it.

``events``: ``at_s`` with any of ``unwritten`` (nothing, incomplete, news, overwritten), ``is_busy`` (more is on its
way), ``disk`` (good, full) and ``write_s`` (how long a write takes from now on). ``repeat_s`` and ``until_s`` make an
event come again. ``expect``: ``written_at_s`` and ``failed_at_s``, the moments at which a write began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckpt_indexer.watch.schedules import CommitSchedule, Unwritten

if TYPE_CHECKING:
    from pathlib import Path

UNWRITTEN = {
    "nothing": Unwritten(is_dirty=False, has_news=False, is_overwritten=False),
    "incomplete": Unwritten(is_dirty=True, has_news=False, is_overwritten=False),
    "news": Unwritten(is_dirty=True, has_news=True, is_overwritten=False),
    "overwritten": Unwritten(is_dirty=True, has_news=True, is_overwritten=True),
}


def run(scenario: dict[str, Any], _: Path) -> None:
    """Play the events, and compare the moments of writing."""
    schedule, moments = CommitSchedule(0.0), {"written_at_s": list[float](), "failed_at_s": list[float]()}
    state: dict[str, Any] = {"unwritten": "nothing", "is_busy": False, "disk": "good", "write_s": 0.005}
    now_s = 0.0
    for event in [*timeline(scenario["events"]), {"at_s": scenario["until_s"]}]:
        while (due_s := max(now_s, schedule.due_s(UNWRITTEN[state["unwritten"]]))) < event["at_s"]:
            if state["disk"] == "full":
                now_s = due_s
                moments["failed_at_s"].append(due_s)
                schedule.report_failed(now_s)
            else:
                now_s = due_s + state["write_s"]
                moments["written_at_s"].append(due_s)
                state["unwritten"] = "nothing"
                schedule.report_written(now_s, state["write_s"], is_busy=state["is_busy"])
        now_s = max(now_s, event["at_s"])
        state.update(event)
        schedule.report_unwritten(now_s, UNWRITTEN[state["unwritten"]])
    expected = {"written_at_s": [], "failed_at_s": [], **scenario["expect"]}
    assert moments == {name: pytest.approx(values, abs=1e-6) for name, values in expected.items()}


def timeline(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the events in order of time, those that repeat as often as they do."""
    found = []
    for event in events:
        step_s, until_s = event.pop("repeat_s", None), event.pop("until_s", event["at_s"])
        count = 1 if step_s is None else round((until_s - event["at_s"]) / step_s) + 1
        found += [{**event, "at_s": event["at_s"] + i * (step_s or 0.0)} for i in range(count)]
    return sorted(found, key=lambda event: event["at_s"])
