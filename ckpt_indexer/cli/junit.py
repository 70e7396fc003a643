"""Results of checks as JUnit XML, which CI systems show as tests."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from ckpt_indexer.health.check import finding
from ckpt_indexer.printable import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckpt_indexer.health.check import Checked


def junit_xml(results: Sequence[Checked], seconds: Sequence[float]) -> bytes:
    """Write a test case for each result: a failure for a problem, an error where the file could not be judged.

    The class of a case is the checkpoint's folder, its name the path, its time what reading took.
    """
    kinds = ["error" if r.status == "unreadable" else "failure" if r.status != "ok" else None for r in results]
    suite = ET.Element(
        "testsuite",
        name="ckpt-indexer validate",
        tests=str(len(results)),
        failures=str(kinds.count("failure")),
        errors=str(kinds.count("error")),
        skipped="0",
        time=f"{sum(seconds):.3f}",
    )
    for result, kind, time in zip(results, kinds, seconds, strict=True):
        path = printable(result.path)
        folder = path.rpartition("/")[0] or "."
        case = ET.SubElement(suite, "testcase", classname=folder, name=path, time=f"{time:.3f}")
        text = printable(finding(result))
        if kind is not None and result.problem is not None:
            ET.SubElement(case, kind, type=result.problem.code, message=printable(result.problem.message)).text = text
        elif text:
            ET.SubElement(case, "system-out").text = text
    return ET.tostring(suite, encoding="unicode").encode("utf-8") + b"\n"  # which XML is in unless it says otherwise
