"""Plays ``kind: passes``: what a pass and the scans between find, and when the next pass begins because of it.

``interval_s`` is the setting, ``jitter`` the factor of each interval (1 if not given). ``events``: ``at_s`` with any of
``is_polling`` (events cannot be relied on), ``has_unseen`` (a folder cannot be read), ``pass_s`` (its length)
and ``scan`` (unseen: a scan of some places met what cannot be read). ``expect``: ``passes_at_s``, when each began.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ckpt_indexer.watch.schedules import PassSchedule

if TYPE_CHECKING:
    from pathlib import Path


def run(scenario: dict[str, Any], _: Path) -> None:
    """Play the events, and compare the moments at which passes begin."""
    jitter = scenario.get("jitter", 1.0)
    schedule = PassSchedule(scenario["interval_s"], jitter=lambda: jitter)
    state: dict[str, Any] = {"is_polling": False, "has_unseen": False, "pass_s": 0.0}
    now_s, passes = 0.0, list[float]()
    for event in [*scenario["events"], {"at_s": scenario["until_s"]}]:
        while (due_s := max(now_s, schedule.due_s)) < event["at_s"]:
            now_s = due_s + state["pass_s"]
            passes.append(due_s)
            schedule.report_pass(now_s, state["pass_s"], is_polling=state["is_polling"], has_unseen=state["has_unseen"])
        now_s = max(now_s, event["at_s"])
        state.update(event)
        if event.get("scan") == "unseen":
            schedule.report_unseen(now_s)
    assert passes == pytest.approx(scenario["expect"]["passes_at_s"], abs=1e-6)
